"""Discrete latents summed out of the density, and recovered from their exact posterior.

Two ways, which can be combined (`labels.py` chooses and proves):

- *side by side* (`Parallel`): each latent has all its values along a dimension of its own, which
  supposes that the labels of a plate do not look at each other. Where all latents stand in the
  same plates, all is done on the table of log factors over their joint values; other structures (a
  chain, labels at two levels) are summed out by Pyro's tensor contraction and recovered by its
  `infer_discrete`;
- *jointly* (`Summed.joint`): all labels of a plate at once, one run of the model for each joint
  value (a *cell*). The model may do with the labels what it likes.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import infer_discrete
from pyro.infer.mcmc.util import TraceEinsumEvaluator
from torch import Tensor

from models.contract import Refused

from .handlers import Batch, Factors, OnSites, condition, factors, run
from .sites import Message, Site, Tensors, Trace, Values

# Joint values of the discrete latents of one row above which Pyro's contraction takes over.
_MAX_CELLS = 4096


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


# -- side by side ------------------------------------------------------------------------------


def _marked(msg: Message) -> dict[str, Any]:
    """A mark for Pyro's parallel enumeration, in place of those that the model has for it."""
    own = {k: v for k, v in msg["infer"].items() if k not in ("num_samples", "expand")}
    return {"infer": {**own, "enumerate": "parallel"}}


class Parallel:
    """Latents that are summed out side by side.

    A *factor* is the log density of one site, with a dimension for each enumerated latent to the
    left of the plate dimensions; a *table* is the sum of factors that share the latents' plates.

    Args:
        model: in which the latents stand.
        latents: the discrete sites to sum out.
        max_plate_nesting: number of batch dimensions that plates take.
        homes: where labels are looked up (`loc[label[group]]`), each factor that depends on
            labels, and of each of its elements the element of the latents' plates that it depends
            on (one at most). Then the factors at any labels are those of the runs in which the
            labels of all elements are equal.

    Attributes:
        latents: the sites by name.
        plates: of the first latent, and of all where there is a table, by name.
        nesting: number of batch dimensions that plates take.
        tabular: whether all latents stand in the same plates and their joint values fit a table.
    """

    def __init__(
        self,
        model: Callable,
        latents: Sequence[Site],
        max_plate_nesting: int,
        homes: Values | None = None,
    ):
        self.latents = {site.name: site for site in latents}
        self.model = model
        self.marked = OnSites(self.latents, _marked)(model)
        self.nesting = max_plate_nesting
        self.homes = homes or {}
        plates = latents[0].plates if latents else ()
        self.plates = {plate.name: plate for plate in plates}
        self._evaluator: TraceEinsumEvaluator | None = None
        # Each latent has a dimension of its own, to the left of the plates.
        self._axes = {name: -1 - self.nesting - i for i, name in enumerate(self.latents)}
        cells = math.prod(len(site.choices) for site in latents)
        alike = len({site.plates for site in latents}) <= 1
        self.tabular = alike and cells <= _MAX_CELLS

    def _with_values(self, msg: Message) -> dict[str, Any]:
        """A latent with all its values, along its own dimension.

        What Pyro's `enum` handler does, without reading values, which `torch.func.vmap` forbids.
        """
        values = msg["fn"].enumerate_support(expand=False)
        return {"value": self._along(msg["name"], values, msg["fn"].event_shape), "done": True}

    def _along(self, name: str, values: Tensor, event_shape: Sequence[int]) -> Tensor:
        """The values of a latent, along its own dimension."""
        ones = (1,) * (-self._axes[name] - 1)
        return values.reshape(-1, *ones, *event_shape)

    def _trace(self, tensors: Tensors, *handlers: Any) -> Trace:
        """A run in which each latent has all its values."""
        if self.tabular:
            return run(self.model, tensors, *handlers, OnSites(self._axes, self._with_values))
        enumerated = partial(poutine.enum, first_available_dim=-1 - self.nesting)
        return run(self.marked, tensors, *handlers, enumerated)

    def _factors(self, tensors: Tensors, *handlers: Any) -> Factors:
        """The factors at all values of the latents, which fit a table."""
        if not self.homes:
            return factors(self._trace(tensors, *handlers))
        nodes: Factors = {}

        def at(labels: Values) -> dict[str, Tensor]:
            nodes.update(factors(run(self.model, tensors, condition(labels), *handlers)))
            return {name: node["log_prob"] for name, node in nodes.items()}

        sites = list(reversed(self.latents.values()))
        sizes = [len(site.choices) for site in sites]
        index = torch.unravel_index(torch.arange(math.prod(sizes)), sizes)
        equal = {site.name: site.everywhere(which) for site, which in zip(sites, index)}
        each = torch.func.vmap(at, randomness="different")(equal)
        for name, log_prob in each.items():
            ones = (1,) * (self.nesting - log_prob.ndim + 1)
            table = log_prob.reshape(*sizes, *ones, *log_prob.shape[1:])
            nodes[name] |= {"log_prob": table if name in self.homes else log_prob[0]}
        for name, site in self.latents.items():
            nodes[name] |= {"value": self._along(name, site.choices, site.fn.event_shape)}
        return nodes

    def by_row(self, observed: Sequence[Site]) -> bool:
        """Whether the latents are labels of the rows, so that rows can be scored one by one."""
        same = all({p.name for p in site.plates} == set(self.plates) for site in observed)
        return self.tabular and bool(self.plates) and same and not self.homes

    def log_prob(self, batch: Batch, *handlers: Any, only: Values | None = None) -> Tensor:
        """Log density of everything else under the handlers, the latents summed out.

        Args:
            batch: the data, or rows that stand for all.
            handlers: effect handlers, the first innermost.
            only: labels of the latents, to which the sum is restricted; None sums over all.

        Raises:
            Refused: a batch of rows, and discrete latents that fit no table.
        """
        if not self.tabular:
            if batch.weight != 1.0:
                raise Refused("these discrete latents need all rows; leave batch_size out")
            return self._contract(self._trace(batch.tensors, *handlers), only)
        nodes = self._factors(batch.tensors, *handlers)
        if only is not None:
            self._restrict(nodes, only)
        enumerated, plain = [], torch.zeros(())
        for node in nodes.values():
            if self._is_enumerated(node):
                enumerated.append(node)
            else:
                plain = plain + node["log_prob"].sum() * batch.weigh(node)
        # Labels of the rows are summed out first and weighed then; those of the whole model see
        # the rows weighed inside their table.
        of_rows = batch.plate in self.plates
        table = self._table(enumerated, None if of_rows else batch)
        return plain + self._sum_out(table).sum() * (batch.weight if of_rows else 1.0)

    def _restrict(self, nodes: Factors, only: Values) -> None:
        """Give all values of the latents but those of `only` the probability zero."""
        for name, site in self.latents.items():
            node = nodes[name]
            same = node["value"] == only[name]
            same = same.flatten(same.ndim - site.event_dim).all(-1) if site.event_dim else same
            node["log_prob"] = node["log_prob"].where(same, -math.inf)

    def _contract(self, trace: Trace, only: Values | None) -> Tensor:
        """The log density of a run in which each latent has all its values, summed over them."""
        nodes = factors(trace)
        if only is not None:
            self._restrict(nodes, only)
        with pyro.validation_enabled(False):
            if self._evaluator is None:
                self._evaluator = TraceEinsumEvaluator(trace, True, self.nesting)
            return self._evaluator.log_prob(trace)

    def _is_enumerated(self, node: Message) -> bool:
        """Whether a factor depends on a latent."""
        return node["log_prob"].ndim > self.nesting

    def _table(self, nodes: Sequence[Message], batch: Batch | None = None) -> Tensor:
        """Sum of factors, (values of the latents..., plates...).

        A factor is summed first over the dimensions of plates that are not the latents'.
        """
        total = torch.zeros((1,) * self.nesting)
        for node in nodes:
            factor = node["log_prob"] * (1.0 if batch is None else batch.weigh(node))
            if node["name"] in self.homes:
                total = total + self._brought_home(factor, self.homes[node["name"]])
                continue
            names = {frame.dim: frame.name for frame in node["cond_indep_stack"]}
            own = [p.dim for p in self.plates.values() if names.get(p.dim, p.name) == p.name]
            inner = [dim for dim in range(-min(self.nesting, factor.ndim), 0) if dim not in own]
            total = total + (factor.sum(inner, keepdim=True) if inner else factor)
        return total

    def _brought_home(self, factor: Tensor, homes: Tensor) -> Tensor:
        """A factor's elements added up where the labels stand that they depend on.

        Args:
            factor: (values of the latents..., *batch_shape).
            homes: of each element the number of its label, through the plates (*batch_shape).
        """
        values = factor.shape[: factor.ndim - self.nesting]
        flat = factor.expand(*values, *homes.shape).reshape(*values, -1)
        shape = [1] * self.nesting
        for plate in self.plates.values():
            shape[plate.dim] = plate.size
        home = torch.zeros(*values, math.prod(shape), dtype=factor.dtype)
        return home.index_add(-1, homes.flatten(), flat).reshape(*values, *shape)

    def _sum_out(self, table: Tensor) -> Tensor:
        """A table summed over all values of the latents, as probabilities: (plates...)."""
        axes = tuple(range(table.ndim - self.nesting))
        return table.logsumexp(axes) if axes else table

    def log_likelihood(self, tensors: Tensors, values: Values, observed: Sequence[str]) -> Values:
        """Log likelihood of each row given the continuous latents, its labels summed out.

        log p(y_i | theta) = log sum_z f(z, y_i) - log sum_z f(z), f the product of the factors
        with and without the observed ones. Several observed sites that share labels are scored
        together, under their names joined by `+`.

        Args:
            tensors: the data.
            values: continuous latent to its value.
            observed: names of the observed sites.

        Returns:
            Of each row, (rows,), nats.
        """
        nodes = self._factors(tensors, condition(values))
        seen = [nodes[name] for name in observed]
        return {"+".join(observed): self._ratio(nodes, observed, seen)}

    def log_chances(self, tensors: Tensors, values: Values, name: str, labels: Tensor) -> Tensor:
        """The same were the observed site each of the labels (C,), from one run: (C, rows).

        Args:
            tensors: the data.
            values: continuous latent to its value.
            name: of the observed site.
            labels: its possible values.
        """
        nodes = self._factors(tensors, condition(values))
        node, ratios = nodes[name], []
        for label in labels:
            log_prob = node["fn"].log_prob(label.expand(node["value"].shape))
            log_prob = scale_and_mask(log_prob, node["scale"], node["mask"])
            ratios.append(self._ratio(nodes, [name], [{**node, "log_prob": log_prob}]))
        return torch.stack(ratios)

    def _ratio(self, nodes: Factors, observed: Sequence[str], seen: Sequence[Message]) -> Tensor:
        """What the observed factors add to the sum over all others, by row, nats.

        Args:
            nodes: all factors.
            observed: names of those observed.
            seen: the observed factors that are asked for, in their place.
        """
        hidden = [n for k, n in nodes.items() if k not in observed and self._is_enumerated(n)]
        ratio = self._sum_out(self._table([*hidden, *seen])) - self._sum_out(self._table(hidden))
        plates = sorted(seen[0]["cond_indep_stack"], key=lambda f: f.dim)
        return ratio.reshape([plate.size for plate in plates])

    def sample(self, tensors: Tensors, *handlers: Any) -> dict[str, Tensor]:
        """One draw of the latents from their posterior, given what the handlers say of others.

        Args:
            tensors: the data.
            handlers: that give all other latents their values, the first innermost.
        """
        if not self.latents:
            return {}
        if not self.tabular:
            drawn = partial(infer_discrete, first_available_dim=-1 - self.nesting, temperature=1)
            nodes = run(self.marked, tensors, *handlers, drawn).nodes
            return {name: nodes[name]["value"] for name in self.latents}
        nodes = self._factors(tensors, *handlers).values()
        table = self._table([node for node in nodes if self._is_enumerated(node)])
        sizes = table.shape[: table.ndim - self.nesting]
        logits = table.reshape(-1, *table.shape[len(sizes) :]).movedim(0, -1)
        index = torch.unravel_index(_drawn_cell(logits), sizes)
        return {
            name: site.choices[index[table.ndim + self._axes[name]].reshape(site.batch_shape)]
            for name, site in self.latents.items()
        }


def _drawn_cell(logits: Tensor) -> Tensor:
    """The number of a cell drawn by its log odds (..., cells)."""
    return torch.distributions.Categorical(logits=logits, validate_args=False).sample()


# -- both together -----------------------------------------------------------------------------


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
        cell = _drawn_cell(logits)
        labels = {name: value[cell] for name, value in self._labels.items()}
        both = condition({**values, **labels})
        return labels | self.parallel.sample(tensors, both)

    def by_row(self, observed: Sequence[Site]) -> bool:
        """Whether the latents are labels of the rows, so that rows can be scored one by one."""
        return not self.joint and self.parallel.by_row(observed)
