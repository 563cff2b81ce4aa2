"""Discrete latents: summed out of the density, recovered from their exact posterior.

Where all of them stand in the same plates (a label per row, or none: one for the whole model), all
is done on the table of log factors over their joint values. Other structures (a chain, labels at
two levels) are summed out by Pyro's tensor contraction and recovered by its `infer_discrete`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import config_enumerate, infer_discrete
from pyro.infer.mcmc.util import TraceEinsumEvaluator
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ._bits import Bits
from ._problem import Refused

if TYPE_CHECKING:
    from .program import Batch, Site


def check(site: Site) -> None:
    """Refuse a discrete latent that cannot be summed out.

    Raises:
        Refused: its support is not finite.
    """
    if not site.fn.has_enumerate_support:
        raise Refused(
            f"the discrete latent {site.name} ~ {type(site.base).__name__} has no finite list of "
            "values and cannot be summed out; bound it (Categorical) or make it continuous"
        )


class _AllValues(Messenger):
    """Gives each discrete latent all its values, along a dimension of its own.

    What Pyro's `enum` handler does, without reading values, which `torch.func.vmap` forbids.
    """

    def __init__(self, axes: Mapping[str, int]):
        super().__init__()
        self.axes = axes

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] in self.axes:
            fn = msg["fn"]
            values = fn.enumerate_support(expand=False).reshape(-1, *fn.event_shape)
            ones = (1,) * (-self.axes[msg["name"]] - 1)
            msg["value"] = values.reshape(-1, *ones, *fn.event_shape)
            msg["done"] = True


class Summed:
    """A model whose discrete latents are summed out.

    A *factor* is the log density of one site, with a dimension for each enumerated latent to the
    left of the plate dimensions; a *table* is the sum of factors that share the latents' plates.
    """

    def __init__(self, model: Callable, latents: Sequence[Site], max_plate_nesting: int):
        self.latents = {site.name: site for site in latents}
        self.model = model
        self.marked = config_enumerate(model, default="parallel")
        self.nesting = max_plate_nesting
        self.plate_dims = {plate.dim for plate in latents[0].plates}
        self.plate_names = {plate.name for plate in latents[0].plates}
        self._evaluator: TraceEinsumEvaluator | None = None
        # Each latent has a dimension of its own, to the left of the plates.
        self._axes = {name: -1 - self.nesting - i for i, name in enumerate(self.latents)}

    def _trace(self, tensors: Mapping[str, Any], *handlers: Any) -> poutine.Trace:
        model = self.model if self.tabular else self.marked
        for handler in handlers:
            model = handler(model)
        if self.tabular:
            model = _AllValues(self._axes)(model)
        else:
            model = poutine.enum(model, first_available_dim=-1 - self.nesting)
        with pyro.validation_enabled(False):
            return poutine.trace(model).get_trace(**tensors)

    def by_row(self, observed: Sequence[Site]) -> bool:
        """Whether the latents are labels of the rows, so that rows can be scored one by one."""
        same = all({p.name for p in site.plates} == self.plate_names for site in observed)
        return self.tabular and bool(self.plate_dims) and same

    @property
    def tabular(self) -> bool:
        """Whether all latents stand in the same plates and their joint values fit a table."""
        return self._alike and self._cells <= _MAX_CELLS

    @cached_property
    def _alike(self) -> bool:
        return len({site.plates for site in self.latents.values()}) == 1

    @cached_property
    def _cells(self) -> int:
        return math.prod(len(_values(site)) for site in self.latents.values())

    def log_prob(self, batch: Batch, *handlers: Any) -> Tensor:
        """Log density of everything else under the handlers, the discrete latents summed out.

        Raises:
            Refused: a batch of rows, and discrete latents that fit no table.
        """
        trace = self._trace(batch.tensors, *handlers)
        if not self.tabular:
            if batch.weight != 1.0:
                raise Refused("these discrete latents need all rows; leave batch_size out")
            return self._contract(trace)
        enumerated, plain = [], torch.zeros(())
        for node in factors(trace).values():
            if self._is_enumerated(node):
                enumerated.append(node)
            else:
                plain = plain + node["log_prob"].sum() * batch.weigh(node)
        # Labels of the rows are summed out first and weighed then; those of the whole model see
        # the rows weighed inside their table.
        of_rows = batch.plate in self.plate_names
        table = self._table(enumerated, None if of_rows else batch)
        return plain + self._sum_out(table).sum() * (batch.weight if of_rows else 1.0)

    def _contract(self, trace: poutine.Trace) -> Tensor:
        with pyro.validation_enabled(False):
            if self._evaluator is None:
                self._evaluator = TraceEinsumEvaluator(trace, True, self.nesting)
            return self._evaluator.log_prob(trace)

    def _is_enumerated(self, node: Mapping[str, Any]) -> bool:
        return node["log_prob"].ndim > self.nesting

    def _table(self, nodes: Sequence[Mapping[str, Any]], batch: Batch | None = None) -> Tensor:
        """Sum of factors, those of inner plates summed over them: (values..., plates)."""
        total = torch.zeros((1,) * self.nesting)
        for node in nodes:
            inner = [f.dim for f in node["cond_indep_stack"] if f.vectorized]
            inner = [dim for dim in inner if dim not in self.plate_dims]
            factor = node["log_prob"] * (batch.weigh(node) if batch else 1.0)
            total = total + (factor.sum(inner, keepdim=True) if inner else factor)
        return total

    def _sum_out(self, table: Tensor) -> Tensor:
        axes = tuple(range(table.ndim - self.nesting))
        return table.logsumexp(axes) if axes else table

    def log_likelihood(
        self, tensors: Mapping[str, Any], values: Mapping[str, Tensor], observed: Sequence[str]
    ) -> dict[str, Tensor]:
        """Log likelihood of each row given the continuous latents, its labels summed out.

        log p(y_i | theta) = log sum_z f(z, y_i) - log sum_z f(z), f the product of the factors
        with and without the observed ones. Several observed sites that share labels are scored
        together, under their names joined by `+`.
        """
        nodes = factors(self._trace(tensors, poutine.condition(data=dict(values))))
        seen = [nodes[name] for name in observed]
        return {"+".join(observed): self._ratio(nodes, observed, seen)}

    def log_chances(
        self, tensors: Mapping[str, Any], values: Mapping[str, Tensor], name: str, labels: Tensor
    ) -> Tensor:
        """The same were the observed site each of the labels (C,), from one run: (C, rows)."""
        nodes = factors(self._trace(tensors, poutine.condition(data=dict(values))))
        node = nodes[name]
        found = []
        for label in labels:
            log_prob = node["fn"].log_prob(label.expand(node["value"].shape))
            log_prob = scale_and_mask(log_prob, node["scale"], node["mask"])
            found.append(self._ratio(nodes, [name], [{**node, "log_prob": log_prob}]))
        return torch.stack(found)

    def _ratio(
        self,
        nodes: Mapping[str, Mapping[str, Any]],
        observed: Sequence[str],
        seen: Sequence[Mapping[str, Any]],
    ) -> Tensor:
        """What the observed factors add to the sum over all others, by row."""
        hidden = [n for k, n in nodes.items() if k not in observed and self._is_enumerated(n)]
        ratio = self._sum_out(self._table([*hidden, *seen])) - self._sum_out(self._table(hidden))
        plates = sorted(seen[0]["cond_indep_stack"], key=lambda f: f.dim)
        return ratio.reshape([plate.size for plate in plates])

    def sample(
        self, tensors: Mapping[str, Any], values: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """One draw of the discrete latents from their posterior given the continuous ones."""
        condition = poutine.condition(data=dict(values))
        if not self.tabular:
            model = infer_discrete(
                condition(self.marked), first_available_dim=-1 - self.nesting, temperature=1
            )
            trace = poutine.trace(model).get_trace(**tensors)
            return {name: trace.nodes[name]["value"] for name in self.latents}
        trace = self._trace(tensors, condition)
        table = self._table([n for n in factors(trace).values() if self._is_enumerated(n)])
        sizes = table.shape[: table.ndim - self.nesting]
        logits = table.reshape(-1, *table.shape[len(sizes) :]).movedim(0, -1)
        cell = torch.distributions.Categorical(logits=logits, validate_args=False).sample()
        index = dict(zip(range(len(sizes)), torch.unravel_index(cell, sizes)))
        draws = {}
        for name, site in self.latents.items():
            axis = table.ndim + self._axes[name]
            chosen = index[axis].reshape(site.shape[: len(site.shape) - site.event_dim])
            draws[name] = _values(site)[chosen]
        return draws


# Joint values of the discrete latents of one row above which Pyro's contraction takes over.
_MAX_CELLS = 4096


def _values(site: Site) -> Tensor:
    """The possible values of a discrete latent, (k, *event)."""
    return site.fn.enumerate_support(expand=False).reshape(-1, *site.fn.event_shape)


def factors(trace: poutine.Trace) -> dict[str, Mapping[str, Any]]:
    """The sample sites of a trace by name, each scored under its key `log_prob`."""
    with pyro.validation_enabled(False), Bits():
        trace.compute_log_prob()
    return {
        name: node
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and "log_prob" in node
    }
