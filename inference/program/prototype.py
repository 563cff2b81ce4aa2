"""What a few runs tell of a model before anything is inferred, beside its sites.

*Moving* sites: their support, or the value that is observed, depends on other latents.

*Latents under a mask* are what a model has in the place of observations that are not there:
`pyro.sample(..., obs=y, obs_mask=seen)` gives the missing values a latent of the whole shape,
which has no density where the value is seen. As coordinates of the density such entries are flat,
and no sampler can settle in them. If nothing else depends on the latent, it is left out of the
density and drawn from its distribution afterwards; if something does (a covariate that is missing
in some rows), the entries that are seen, which nothing looks at, get the density of the others.
Neither changes the distribution of anything else.

*Bounds* that observations put on latents: under `y ~ Uniform(0, top)` no `top` below the largest
`y` has a density. A sampler that meets such an edge steps back from it, and a guide that reaches
over it has an ELBO of minus infinity; so the latent is given the support that the data leave it,
wherever the edge is a bound on one latent.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from . import supports
from .discrete import Summed
from .handlers import OnSites, Start, StartRule, condition, factors, graphless, run, start_value
from .sites import Bounds, Message, Site, Tensors, Trace, Values, is_site, role_of, sites_of, split

# Further runs that show which latents anything depends on: the labels and the width of each.
_RUNS = ((0, 1.0), (-1, 1.0), (1, 3.0), (2, 3.0), *[(None, 1.0), (None, 3.0)] * 2)
# Steps of Newton's method (a linear bound needs one), the step at which it ends and the difference
# up to which two bounds are the same, both relative and in units of the last place.
_STEPS, _SETTLED, _SAME = 50, 16.0, 1e4
# How far beyond a bound, relative to it, is looked for what the rows allow.
_BEYOND = (1e-3, 0.1, 0.5, 1.0, 2.0, 5.0, 30.0, 1000.0)
# Most elements of a matrix of slopes.
_MOST = 10_000_000


class Prototype:
    """A run of a model at starting values of its latents, and what further runs tell of it.

    Of many rows it takes seconds.

    Args:
        model: Pyro function.
        tensors: its data.
        rule: gives starting values of latents; None draws them uniformly (see `start_value`).

    Attributes:
        trace: the run.
        moving: site to what its support, or what is observed, depends on.
        unseen: the latents under a mask.
        summed: the discrete latents summed out, once a way is proved (see `labels`).
    """

    def __init__(self, model: Callable, tensors: Tensors, rule: StartRule | None):
        self._model, self._tensors, self._rule = model, tensors, rule
        self.trace = self._run()
        self.moving = self._moving()
        self.unseen = self._unseen()
        self.summed: Summed | None = None

    @property
    def params(self) -> list[str]:
        """Names of the model's own parameters (`pyro.param`)."""
        return [name for name, node in self.trace.nodes.items() if node["type"] == "param"]

    @property
    def has_factor(self) -> bool:
        """Whether the model has a `pyro.factor`, a likelihood without a distribution."""
        return any(isinstance(n.get("fn"), dist.Unit) for n in self.trace.nodes.values())

    @property
    def masked(self) -> set[str]:
        """The sites of which a mask takes away density that something depends on."""
        return _under_mask(self.trace) - self.unseen.whole

    def _at(self, values: Values) -> Trace:
        """A run at values of the latents; others are drawn."""
        return run(self._model, self._tensors, condition(values))

    def _run(self, seed: int = 0, label: int | None = None, width: float = 1.0) -> Trace:
        """A run of the model, which leaves nothing behind.

        Args:
            seed: of all that is drawn.
            label: which of their values discrete latents take (see `Start`).
            width: how far out continuous latents start.
        """
        start = Start(partial(start_value, width=width, rule=self._rule), label)

        def from_seed() -> Trace:
            with (
                torch.random.fork_rng(devices=[]),
                poutine.block(),
                pyro.get_param_store().scope(),
            ):
                torch.manual_seed(seed)
                return run(self._model, self._tensors, start)

        return graphless(from_seed)

    def _moving(self) -> dict[str, str]:
        """The sites whose support, or observed value, is another at other values of the latents.

        Those that depend on discrete latents are told apart, by two runs that differ in them.
        """
        data, nodes = self._tensors.values(), self.trace.nodes
        possible = [name for name, node in nodes.items() if _may_move(node, data)]
        if not possible:
            return {}
        try:
            first, last = (self._run(seed=1, label=label).nodes for label in (0, -1))
            by_labels = {name for name in possible if _moved(first[name], last[name])}
            moving = {name for name in possible if _moved(nodes[name], first[name])}
        except Exception:  # a model that fails at some values of its latents, or has other sites
            by_labels, moving = set(), set(possible)
        return dict.fromkeys(moving, "latents") | dict.fromkeys(by_labels, "labels")

    def _unseen(self) -> "Unseen":
        """The latents that lie under a mask and need another treatment."""
        sites = sites_of(self.trace, {}, {}).values()
        latents = [site.name for site in sites if site.role in ("latent", "discrete")]
        later, whole = {}, set()
        under_mask = [name for name in latents if name in _under_mask(self.trace)]
        if not under_mask:
            return Unseen({}, frozenset())
        # A latent may matter at some values of the others alone.
        runs = [self.trace, *(self._run(seed + 1, *how) for seed, how in enumerate(_RUNS))]
        points = [{name: trace.nodes[name]["value"] for name in latents} for trace in runs]
        before = [factors(trace) for trace in runs]

        def matters(name: str, changes: Sequence[Tensor]) -> bool:
            """Whether another value of a latent changes the density of any other site in a run."""
            changed = ({**point, name: value} for point, value in zip(points, changes))
            pairs = zip(before, changed)
            return any(_differ(scored, factors(self._at(point)), name) for scored, point in pairs)

        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            for name in under_mask:
                nodes = [trace.nodes[name] for trace in runs]
                changes = [_another(node) for node in nodes]
                if not matters(name, changes):
                    later[name] = nodes[0]["value"]
                    continue
                pairs = zip(nodes, changes)
                if not matters(name, [_where_masked(n, new) for n, new in pairs]):
                    whole.add(name)
        return Unseen(later, frozenset(whole))

    def bounds(self) -> Bounds:
        """What the observations leave of the latents' supports, where these are intervals.

        Anew each time: data may be replaced in place.
        """
        nodes = self.trace.nodes.items()
        edges = [n for n, v in nodes if self.moving.get(n) == "latents" and v["is_observed"]]
        latents = [n for n, v in nodes if is_site(v) and _is_line(v)]
        if not edges or not latents:
            return {}

        def slack(values: Values) -> Tensor:
            seen = self._at(values).nodes
            return torch.cat([_slack(seen[name]) for name in edges])

        runs = [self.trace, *(self._run(seed=seed, label=0) for seed in (1, 2))]
        try:
            return limits(slack, [{n: trace.nodes[n]["value"] for n in latents} for trace in runs])
        except Exception:  # no bounds are known of a model that has no such slopes
            return {}

    def sites(self, bounds: Bounds) -> dict[str, Site]:
        """The sites by name, latents with the supports that these bounds leave them."""
        sites = sites_of(self.trace, self.moving, bounds)
        return sites | {k: replace(sites[k], role="unseen") for k in self.unseen.later}


class Unseen(NamedTuple):
    """Latents under a mask.

    Attributes:
        later: those that nothing depends on, with a value that they have meanwhile.
        whole: those whose masked entries nothing depends on, and whose mask is taken away.
    """

    later: Values
    whole: frozenset[str]

    def without(self, model: Callable) -> Callable:
        """The model whose density has these latents no more, or whole."""
        names = {*self.later, *self.whole}
        return OnSites(names, self._set_aside)(model) if names else model

    def _set_aside(self, msg: Message) -> dict[str, Any]:
        """A fixed value without a density, or a density in all entries."""
        if msg["name"] in self.whole:
            return {"mask": None}
        value = self.later[msg["name"]]
        shape = msg["fn"].shape()[-value.ndim :]  # of a batch of rows, beside labels' values
        value = value[tuple(slice(n) for n in shape)] if value.ndim else value
        return {"value": value, "is_observed": True, "mask": False}


def _another(node: Message) -> Tensor:
    """Another value of a latent, drawn at random."""
    return node["fn"].sample() if node["fn"].support.is_discrete else start_value(node)


def _where_masked(node: Message, new: Tensor) -> Tensor:
    """A latent's value, those elements replaced that a mask takes out of the density."""
    seen = supports.over_events(node["mask"], node["fn"].event_dim)
    return torch.where(seen, node["value"], new)


def _under_mask(trace: Trace) -> set[str]:
    """The sites of which a mask takes away (part of) the density."""
    nodes = ((k, node.get("mask")) for k, node in trace.nodes.items() if node["type"] == "sample")
    return {k for k, mask in nodes if mask is not None and not torch.as_tensor(mask).all()}


def _differ(before: Mapping[str, Message], after: Mapping[str, Message], name: str) -> bool:
    """Whether the density of a site other than the named one differs between two runs."""
    pairs = [(before[k]["log_prob"], after[k]["log_prob"]) for k in before.keys() - {name}]
    return not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def _may_move(node: Message, data: Collection[Any]) -> bool:
    """Whether a site's support, or the value that is observed, can depend on latents at all.

    Not where the support has no numbers, and the value is one of the data.
    """
    role = role_of(node) if is_site(node) else None
    if role not in ("latent", "observed"):
        return False
    given = role == "latent" or any(node["value"] is value for value in data)
    return not given or bool(_support_numbers(node))


def _support_numbers(node: Message) -> list[Tensor]:
    """The tensors that a site's support is made of."""
    return supports.numbers(supports.support_of(node["fn"]))


def _moved(first: Message, second: Message) -> bool:
    """Whether a site's support, or what is observed, differs between two runs."""
    ours, theirs = _support_numbers(first), _support_numbers(second)
    if first["is_observed"]:
        ours += supports.numbers(first["value"])
        theirs += supports.numbers(second["value"])
    return len(ours) != len(theirs) or not all(map(torch.equal, ours, theirs))


# -- bounds ------------------------------------------------------------------------------------


def _is_line(node: Message) -> bool:
    """Whether a site is a latent whose elements lie on the line, or on a part of it."""
    support = supports.elementwise(supports.support_of(node["fn"]))
    return role_of(node) == "latent" and supports.bounds_of(support) is not None


def _slack(node: Message) -> Tensor:
    """By how much each observed element is inside of its support, above and below, flat.

    Negative outside, infinite where a mask takes the element out of the density.
    """
    value, fn = torch.as_tensor(node["value"]), node["fn"]
    low, high = supports.ends(fn)
    both = torch.stack(torch.broadcast_tensors(value - low, high - value))
    for mask in [m for m in (node["mask"], getattr(fn, "_mask", None)) if isinstance(m, Tensor)]:
        both = torch.where(supports.over_events(mask, fn.event_dim), both, torch.inf)
    return both.flatten()


def limits(slack: Callable[[Values], Tensor], starts: Sequence[Values]) -> Bounds:
    """The bounds that observations put on single elements of the latents.

    Args:
        slack: by how much each observation is inside of its support, (rows,); negative outside.
        starts: several values of the latents. A row counts whose slack depends on one and the same
            element at all of them, and a bound that is the same from each, with nothing beyond.

    Returns:
        Latent to its lower and upper bounds, in its shape, infinite where there is none; those
        alone that have one.
    """

    def rows(x: Tensor) -> Tensor:
        return slack(split(x, starts[0]))

    points = [torch.cat([v.detach().flatten() for v in start.values()]) for start in starts]
    if points[0].numel() * rows(points[0]).numel() > _MOST:
        return {}
    depends = torch.stack([_slopes(rows, x) != 0 for x in points]).any(0)  # (rows, d)
    owned = depends & (depends.sum(1, keepdim=True) == 1)
    low, high = (split(_agreed(rows, points, owned, sign), starts[0]) for sign in (1.0, -1.0))
    ends = {name: (low[name], high[name]) for name in low}
    return {n: pair for n, pair in ends.items() if any(end.isfinite().any() for end in pair)}


def _unit(values: Tensor) -> Tensor:
    """One in the last place, of 1 at least."""
    return torch.finfo(values.dtype).eps * (1 + values.abs())


def _slopes(rows: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The slopes of all rows in all elements, (rows, d)."""
    return cast(Tensor, torch.autograd.functional.jacobian(rows, x, vectorize=True))


def _agreed(
    rows: Callable[[Tensor], Tensor], points: Sequence[Tensor], owned: Tensor, sign: float
) -> Tensor:
    """The greatest value of each element that its rows demand (`sign` 1), or the least (-1).

    Args:
        rows: the slack of each row, (rows,), at a flat point (d,).
        points: the flat starts, at all of which a bound must be the same.
        owned: which rows depend on which element alone, (rows, d) of bool.
        sign: 1 for lower bounds, -1 for upper ones.

    Returns:
        (d,), infinite where no bound is sure.
    """
    first, *others = [_bound(rows, x, owned, sign) for x in points]
    agreed = first.isfinite()
    for other in others:
        agreed &= (other - first).abs() <= _SAME * _unit(first)
    for x in points[:2]:
        for distance in _BEYOND:
            beyond = torch.where(agreed, first - sign * distance * (1 + first.abs()), x)
            with torch.no_grad():
                inside = rows(beyond)[:, None] >= 0
            agreed &= (owned & ~inside).any(0)
    return torch.where(agreed, first, -sign * torch.inf)


def _bound(rows: Callable[[Tensor], Tensor], x: Tensor, owned: Tensor, sign: float) -> Tensor:
    """The same from one point by Newton's method, for all elements at once: (d,).

    No number where it does not settle, infinite where no row demands anything.
    """
    end, none = x, torch.tensor(-sign * torch.inf)
    for _ in range(_STEPS):
        slopes = _slopes(rows, end)
        roots = end - rows(end).detach()[:, None] / slopes
        roots = torch.where(owned & (sign * slopes > 0), roots, none)
        new = roots.amax(0) if sign > 0 else roots.amin(0)
        settled = new.isinf() | ((new - end).abs() <= _SETTLED * _unit(end))
        end = torch.where(new.isinf(), end, new)
        if settled.all() or not end.isfinite().all():
            break
    return torch.where(new.isinf(), none, torch.where(settled, end, torch.nan))
