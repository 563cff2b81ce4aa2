"""Discrete latents summed out of the density, and recovered from their exact posterior.

Two ways, which can be combined (`labels.py` chooses and proves):

- *side by side* (`parallel.py`): each latent has all its values along a dimension of its own,
  which supposes that the labels of a plate do not look at each other;
- *jointly* (`Summed.joint`): all labels of a plate at once, one run of the model for each joint
  value (a *cell*). The model may do with the labels what it likes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from models.contract import Refused

from .handlers import Batch, condition
from .parallel import Parallel, drawn_cell
from .sites import Site, Tensors, Values


def check(site: Site) -> None:
    """Refuse a discrete latent that cannot be summed out.

    Raises:
        Refused: its support is not finite.
    """
    if site.fn.has_enumerate_support:
        return
    latent = f"the discrete latent {site.name} ~ {type(site.base).__name__}"
    if site.base.has_enumerate_support:
        raise Refused(
            f"{latent} stands under to_event, which lists no joint values; write it in a plate "
            "instead"
        )
    raise Refused(
        f"{latent} has no finite list of values and cannot be summed out; bound it (Categorical) "
        "or make it continuous"
    )


class Summed:
    """A model whose discrete latents are summed out: some jointly, the others side by side.

    Attributes:
        joint: the sites whose labels are summed out all together, by name.
        parallel: the others, given the labels of the joint ones.
        cells: number of joint values of the labels in `joint`.
        vectorised: whether one run of the model takes all of them; else there is a run for each.
    """

    def __init__(self, parallel: Parallel, joint: Sequence[Site] = ()):
        self.parallel = parallel
        self.joint = {site.name: site for site in joint}
        self.cells = cells_of(joint)
        self._labels = all_labels(joint) if joint else {}
        self.vectorised = True

    def log_prob(self, batch: Batch, *handlers: Any, only: Values | None = None) -> Tensor:
        """Log density of everything else under the handlers, the discrete latents summed out.

        Args:
            batch: the data, or rows that stand for all.
            handlers: effect handlers, the first innermost.
            only: labels of the latents, to which the sum is restricted; None sums over all.

        Raises:
            Refused: a batch of rows, and labels that need all of them.
        """
        if not self.joint:
            return self.parallel.log_prob(batch, *handlers, only=only)
        if batch.weight != 1.0 and any(site.is_in(batch.plate) for site in self.joint.values()):
            raise Refused(
                f"the labels {', '.join(self.joint)} of the rows depend on each other and need "
                "all rows; leave batch_size out"
            )

        def given(labels: Values) -> Tensor:
            return self.parallel.log_prob(batch, condition(labels), *handlers, only=only)

        each = self._at_cells(given)
        if only is not None:
            each = each.where(self._equal(only), -math.inf)
        return each.logsumexp(0)

    def _at_cells(self, function: Callable[[Values], Tensor]) -> Tensor:
        """A function of the joint labels at all of them, (cells,)."""
        if self.vectorised:
            return torch.func.vmap(function, randomness="different")(self._labels)
        each = [{k: v[i] for k, v in self._labels.items()} for i in range(self.cells)]
        return torch.stack([function(labels) for labels in each])

    def _equal(self, only: Values) -> Tensor:
        """Which cell the labels are, (cells,) of bool."""
        same = [(v == only[k]).reshape(self.cells, -1).all(1) for k, v in self._labels.items()]
        return torch.stack(same).all(0)

    def sample(self, tensors: Tensors, values: Values) -> dict[str, Tensor]:
        """One draw of the discrete latents from their posterior given the continuous ones."""
        if not self.joint:
            return self.parallel.sample(tensors, condition(values))
        logits = self._at_cells(
            lambda labels: self.parallel.log_prob(Batch(tensors), condition({**values, **labels}))
        )
        cell = drawn_cell(logits)
        labels = {name: value[cell] for name, value in self._labels.items()}
        both = condition({**values, **labels})
        return labels | self.parallel.sample(tensors, both)

    def by_row(self, observed: Sequence[Site]) -> bool:
        """Whether the latents are labels of the rows, so that rows can be scored one by one."""
        return not self.joint and self.parallel.by_row(observed)


def cells_of(sites: Sequence[Site]) -> int:
    """Number of joint values of all labels of the sites."""
    return math.prod(len(site.choices) ** _labels_in(site) for site in sites)


def _labels_in(site: Site) -> int:
    return math.prod(site.batch_shape)


def all_labels(sites: Sequence[Site]) -> dict[str, Tensor]:
    """All joint labels of the sites, (cells, *shape) each."""
    sizes = [len(site.choices) for site in sites for _ in range(_labels_in(site))]
    index = torch.stack(torch.unravel_index(torch.arange(math.prod(sizes)), sizes), 1)
    parts = index.split([_labels_in(site) for site in sites], dim=1)
    return {s.name: s.choices[part].reshape(-1, *s.shape) for s, part in zip(sites, parts)}
