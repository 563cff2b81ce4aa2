"""A Pyro model with its data as plain tensor functions; the only place that runs effect handlers.

Continuous latents are packed into one unconstrained vector `u` of length d, site by site in the
order of the model: `x = T(u)` with T the bijection onto the site's support. The support is read at
each evaluation, so that it may depend on other latents (`Uniform(0, sigma)`), which Pyro's own
`initialize_model` freezes at its first value. Discrete latents are summed out (`discrete.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from scipy import optimize
from torch import Tensor, nn
from torch.distributions import biject_to

from models.contract import Fault, Refused

from ..core import user_code
from ..core.problem import Problem
from . import discrete, labels
from .edges import limits, narrowed
from .outputs import linearised
from .sampling import Sampling, base_of, masked, over_draws, vectorises
from .supports import (
    alike,
    bounds_of,
    elementwise,
    ends,
    is_inside,
    numbers,
    outside,
    support_of,
    violation,
    within,
)
from .unseen import Unseen, under_mask, unseen

# Further runs that show which latents anything depends on: the labels and the width of each.
_RUNS = ((0, 1.0), (-1, 1.0), (1, 3.0), (2, 3.0), *[(None, 1.0), (None, 3.0)] * 2)
# How far out a start is looked for where the usual ones have no density, and by how many searches.
_FURTHER, _SEARCHES = (4.0, 8.0, 16.0), 4
# Scalars of draws that are made to see a tail better.
_MOST_HELD = 100_000_000


class Plate(NamedTuple):
    """A vectorised plate around a site; `dim` counts from the right of the batch shape."""

    name: str
    dim: int
    size: int


@dataclass(frozen=True)
class Site:
    """What is static about a sample site.

    `support` is that of a latent as far as the data leave it, at the start where it moves. `moves`
    says of a latent's or observed site whether its support (or the value that is observed) depends
    on other latents, and on `labels`, discrete ones. `seen` tells of an observed value which of
    its elements count; None where all do.
    """

    name: str
    role: Literal["latent", "discrete", "observed", "deterministic", "unseen"]
    fn: Any
    shape: tuple[int, ...]
    event_dim: int
    plates: tuple[Plate, ...]
    value: Tensor
    seen: Tensor | None = None
    support: Any = None
    moves: Literal["latents", "labels"] | None = None

    @property
    def unconstrained_shape(self) -> tuple[int, ...]:
        """Shape of the site's part of the unconstrained vector."""
        return tuple(biject_to(self.support).inverse_shape(self.shape))

    @property
    def data(self) -> Tensor:
        """What is observed: its value, NaN where a mask takes it out of the density."""
        if self.seen is None:
            return self.value
        return self.value.to(torch.get_default_dtype()).where(self.seen, torch.nan)

    @property
    def base(self) -> Any:
        """The distribution without `to_event`, `expand` and `mask` around it."""
        return base_of(self.fn)


class _Free(Messenger):
    """Turns the named observed sites into latent ones."""

    def __init__(self, names: tuple[str, ...]):
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: dict) -> None:
        if not msg["is_observed"] or _is_deterministic(msg):
            return
        if msg["name"] in self.names:
            msg.update(is_observed=False, value=None, done=False)


class _Assign(Messenger):
    """Gives each latent the value of its part of the vector `u` and adds up log |dT/du|."""

    def __init__(self, parts: Mapping[str, Tensor], bounds: Mapping[str, tuple[Tensor, Tensor]]):
        super().__init__()
        self.parts, self.bounds = parts, bounds

    def __enter__(self) -> Any:
        self.log_jacobian = torch.zeros(())  # of one run
        return super().__enter__()

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] not in self.parts:
            return
        u = self.parts[msg["name"]]
        transform = biject_to(_support(msg, self.bounds))
        msg["value"] = transform(u)
        msg["done"] = True
        self.log_jacobian = (
            self.log_jacobian + transform.log_abs_det_jacobian(u, msg["value"]).sum()
        )


def _support(site: Mapping[str, Any], bounds: Mapping[str, tuple[Tensor, Tensor]]) -> Any:
    """The support of a latent (a Pyro message), as far as the data leave it."""
    support = support_of(site["fn"])
    return narrowed(support, *bounds[site["name"]]) if site["name"] in bounds else support


class _WithoutPrior(Messenger):
    """Drops the log density of the named sites, and keeps that of all others."""

    def __init__(self, names: Mapping[str, Any]):
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] in self.names:
            msg["mask"] = False


class _Fitted(Messenger):
    """Gives the model's own parameters the values that were fitted, while the model runs.

    Modules look at their own tensors alone: these hold the values as long, and then their own.
    """

    def __init__(self, params: Mapping[str, Tensor]):
        super().__init__()
        self.params = params
        self.before: list[tuple[nn.Parameter, Tensor]] = []

    def _pyro_param(self, msg: dict) -> None:
        if msg["name"] not in self.params:
            return
        msg["value"] = self.params[msg["name"]]
        msg["done"] = True
        own = msg["args"][1] if len(msg["args"]) > 1 else None
        if isinstance(own, nn.Parameter):
            self.before.append((own, own.data))
            own.data = msg["value"].detach().to(own)

    def __exit__(self, *error: Any) -> None:
        while self.before:
            own, data = self.before.pop()
            own.data = data
        super().__exit__(*error)


class _Excluding(Messenger):
    """Makes the density of the named sites zero where it is: outside of their supports."""

    def __init__(self, names: Collection[str]):
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] in self.names and msg["is_observed"]:
            msg["fn"] = within(msg["fn"])


class Batch(NamedTuple):
    """Some rows of the data, that stand for all of them.

    Attributes:
        tensors: the data keys, those of the rows cut to the batch.
        plate: the row plate.
        weight: N / B, by which the density of what lies in the plate is multiplied.
    """

    tensors: Mapping[str, Any]
    plate: str | None = None
    weight: float = 1.0

    @classmethod
    def of(cls, problem: Problem, tensors: Mapping[str, Any]) -> Batch:
        """A problem's data of which the row keys may be those of some rows."""
        if problem.rows is None:
            return cls(tensors)
        plate, keys = problem.rows
        return cls(tensors, plate, problem.n / len(tensors[keys[0]]))

    def weigh(self, node: Mapping[str, Any]) -> float:
        """The factor of a site's log density."""
        inside = any(frame.name == self.plate for frame in node["cond_indep_stack"])
        return self.weight if inside else 1.0


class Weighted(Messenger):
    """Multiplies the log density of what lies in the row plate by the weight of the batch."""

    def __init__(self, batch: Batch):
        super().__init__()
        self.batch = batch

    def _pyro_sample(self, msg: dict) -> None:
        msg["scale"] = msg["scale"] * self.batch.weigh(msg)


class _Start(Messenger):
    """Starts continuous latents by a function of their site; discrete ones at one of their values.

    Args:
        start: gives the value of a continuous latent.
        label: which of their values discrete latents take, 0 the first, -1 the last, others in
            turn; None draws.
    """

    def __init__(self, start: Callable[[Mapping[str, Any]], Tensor], label: int | None = None):
        super().__init__()
        self.start, self.label = start, label

    def _pyro_sample(self, msg: dict) -> None:
        fn = msg["fn"]
        if msg["is_observed"] or msg["value"] is not None or isinstance(fn, _Subsample):
            return
        if not fn.support.is_discrete and not isinstance(fn, dist.Delta):
            msg["value"], msg["done"] = self.start(msg), True
        elif self.label is not None and fn.has_enumerate_support:
            values = fn.enumerate_support(expand=False)
            value = values[self.label % len(values)]
            msg["value"], msg["done"] = value.expand(fn.shape()), True


def start_value(site: Mapping[str, Any], width: float = 1.0) -> Tensor:
    """A value inside the support of a site, uniform in (-2, 2) unconstrained, as Stan starts.

    Args:
        site: a Pyro message.
        width: how many times as wide.
    """
    transform = biject_to(support_of(site["fn"]))
    shape = transform.inverse_shape(site["fn"].shape())
    return transform((torch.rand(shape) * 4 - 2) * width)


def _another(node: Mapping[str, Any]) -> Tensor:
    """Another value of a latent."""
    if node["fn"].support.is_discrete:
        return node["fn"].sample()
    return start_value(node)


def _can_be_drawn(fn: Any) -> bool:
    try:
        fn.sample()
    except (NotImplementedError, AttributeError, TypeError):
        return False
    return True


def _is_deterministic(msg: Mapping[str, Any]) -> bool:
    return bool(msg["infer"].get("_deterministic")) or isinstance(base_of(msg["fn"]), dist.Delta)


def _role(node: Mapping[str, Any]) -> str:
    if _is_deterministic(node):
        return "deterministic"
    if node["is_observed"]:
        return "observed"
    return "discrete" if node["fn"].support.is_discrete else "latent"


def _may_move(node: Mapping[str, Any], data: Collection[Any]) -> bool:
    """Whether a site's support, or the value that is observed, can depend on latents at all."""
    if node["type"] != "sample" or isinstance(node["fn"], _Subsample | dist.Unit):
        return False
    role = _role(node)
    if role not in ("latent", "observed"):
        return False
    given = role == "latent" or any(node["value"] is value for value in data)
    return not given or bool(_support_numbers(node))


def _support_numbers(node: Mapping[str, Any]) -> list[Tensor]:
    return numbers(support_of(node["fn"]))


def _moved(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a site's support, or what is observed, differs between two runs."""
    same = alike(_support_numbers(one), _support_numbers(other))
    return not same or (one["is_observed"] and not alike(one["value"], other["value"]))


def _is_line(node: Mapping[str, Any]) -> bool:
    """Whether a site is a latent whose elements lie on the line, or on a part of it."""
    if isinstance(node["fn"], _Subsample | dist.Unit) or _role(node) != "latent":
        return False
    return bounds_of(elementwise(support_of(node["fn"]))) is not None


def _slack(node: Mapping[str, Any]) -> Tensor:
    """By how much each observed element is inside of its support, above and below, flat."""
    value, fn = torch.as_tensor(node["value"]), node["fn"]
    low, high = ends(fn)
    both = torch.stack(torch.broadcast_tensors(value - low, high - value))
    masks = [m for m in (node["mask"], getattr(fn, "_mask", None)) if isinstance(m, Tensor)]
    for mask in masks:
        shape = (*mask.shape, *(1,) * fn.event_dim)
        both = torch.where(mask.reshape(shape), both, torch.inf)
    return both.flatten()


def _sites(
    trace: poutine.Trace, moving: Mapping[str, str], bounds: Mapping[str, tuple[Tensor, Tensor]]
) -> dict[str, Site]:
    sites = {}
    for name, node in trace.nodes.items():
        if node["type"] != "sample" or isinstance(node["fn"], _Subsample):
            continue
        if isinstance(node["fn"], dist.Unit):  # pyro.factor: a term of the density, no quantity
            continue
        frames = [f for f in node["cond_indep_stack"] if f.vectorized]
        sites[name] = Site(
            name=name,
            role=_role(node),
            fn=node["fn"],
            shape=tuple(node["value"].shape),
            # `pyro.deterministic` calls every dimension an event; its plates know better.
            event_dim=0 if _is_deterministic(node) else getattr(node["fn"], "event_dim", 0),
            plates=tuple(Plate(f.name, f.dim, int(f.size)) for f in sorted(frames, key=_by_dim)),
            value=node["value"],
            seen=_seen(node) if node["is_observed"] else None,
            support=_support(node, bounds) if _role(node) == "latent" else None,
            moves=moving.get(name),
        )
    return sites


def _seen(node: Mapping[str, Any]) -> Tensor | None:
    """Which elements of an observed value no mask takes out of the density; None: all of them."""
    value, fn = node["value"], node["fn"]
    masks = [(node["mask"], getattr(fn, "event_dim", 0))]
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        masks += [(fn._mask, fn.event_dim)] if isinstance(fn, dist.MaskedDistribution) else []
        fn = fn.base_dist
    seen = torch.ones_like(value, dtype=torch.bool)
    for mask, event_dim in masks:
        if mask is not None:
            mask = torch.as_tensor(mask)
            seen = seen & mask.reshape(mask.shape + (1,) * event_dim)
    return None if seen.shape != value.shape or seen.all() else seen


def _by_dim(frame: Any) -> int:
    return frame.dim


# The run that tells the sites of a problem, which of them move, and which stand for what was not
# seen: of many rows it takes seconds.
_PROTOTYPES: WeakKeyDictionary[Problem, tuple[poutine.Trace, dict, Unseen]] = WeakKeyDictionary()


class Program:
    """The log density of a problem and what can be computed at its draws.

    Args:
        problem: the model and its data.
        narrowed: whether latents have the supports that the observations leave them, so that no
            edge is met; else those of their priors.

    Attributes:
        model: the Pyro function, the model's own parameters fitted; linear in its latents where
            the problem says so, but not for what the prior or the latents alone determine.
        sites: every sample site by name, in the order of the model; `unseen` ones stand for what
            was not observed, have no part in the density, and are drawn afterwards.
        layout: continuous latent to its slice of the unconstrained vector and its shape there.
        size: d, the number of unconstrained dimensions.
        edges: observed sites whose support, or value, depends on latents.
        bounds: latent to the least and greatest values that the observations leave it.
        own: names of the model's own parameters (`pyro.param`).
        unfitted: those of them that have only their initial values.
        has_factor: whether the model has a `pyro.factor`, a likelihood without a distribution.
    """

    def __init__(self, problem: Problem, *, narrowed: bool = True):
        self.problem = problem
        self.model = self._own = _Free(problem.latent_keys)(_Fitted(problem.params)(problem.model))
        if problem.linear_at is not None:
            self.model = linearised(self.model, problem.linear_at)
        if problem not in _PROTOTYPES:
            trace = self._prototype()
            _PROTOTYPES[problem] = trace, self._moving(trace), self._unseen(trace)
        trace, moving, aside = _PROTOTYPES[problem]
        self.model = aside.without(self.model)
        # Anew each time: data may be replaced in place.
        self.bounds = self._bounds(trace, moving) if narrowed else {}
        self.sites = _sites(trace, moving, self.bounds)
        self.sites |= {k: replace(self.sites[k], role="unseen") for k in aside.later}
        self._masked = under_mask(trace) - aside.whole
        self.edges = [site.name for site in self.of("observed") if site.moves]
        if self.edges:
            self.model = _Excluding(self.edges)(self.model)
        params = [name for name, node in trace.nodes.items() if node["type"] == "param"]
        self.own, self.unfitted = params, [k for k in params if k not in problem.params]
        self.has_factor = any(isinstance(n.get("fn"), dist.Unit) for n in trace.nodes.values())
        self.layout, self.size = {}, 0
        for site in self.of("latent"):
            shape = site.unconstrained_shape
            part = slice(self.size, self.size + math.prod(shape))
            self.layout[site.name] = (part, shape)
            self.size = part.stop

    def _unseen(self, trace: poutine.Trace) -> Unseen:
        """The latents of a run that lie under a mask."""
        sites = _sites(trace, {}, {})
        latents = {k: v for k, v in sites.items() if v.role in ("latent", "discrete")}

        def rerun(values: Mapping[str, Tensor]) -> poutine.Trace:
            return run(self._own, self.problem.tensors, poutine.condition(data=dict(values)))

        if not latents.keys() & under_mask(trace):
            return Unseen({}, frozenset())
        runs = [trace, *(self._prototype(seed + 1, *how) for seed, how in enumerate(_RUNS))]
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            return unseen(runs, latents, rerun, _another)

    def _prototype(
        self, seed: int = 0, label: int | None = None, width: float = 1.0
    ) -> poutine.Trace:
        """A run of the model, which leaves nothing behind."""
        return graphless(lambda: self._run_at_start(seed, label, width))

    def _run_at_start(self, seed: int, label: int | None, width: float) -> poutine.Trace:
        with torch.random.fork_rng(devices=[]), poutine.block(), pyro.get_param_store().scope():
            torch.manual_seed(seed)
            start = partial(self.start_of, width=width)
            return run(self._own, self.problem.tensors, _Start(start, label))

    def _moving(self, trace: poutine.Trace) -> dict[str, str]:
        """The sites whose support, or observed value, is another at other values of the latents.

        Those that depend on discrete latents are told apart, by two runs that differ in them.
        """
        data = self.problem.tensors.values()
        doubtful = [name for name, node in trace.nodes.items() if _may_move(node, data)]
        if not doubtful:
            return {}
        try:
            first, last = (self._prototype(seed=1, label=label).nodes for label in (0, -1))
            by_labels = {name for name in doubtful if _moved(first[name], last[name])}
            moving = {name for name in doubtful if _moved(trace.nodes[name], first[name])}
        except Exception:  # a model that fails at some values of its latents, or has other sites
            by_labels, moving = set(), set(doubtful)
        return dict.fromkeys(moving, "latents") | dict.fromkeys(by_labels, "labels")

    def _bounds(
        self, trace: poutine.Trace, moving: Mapping[str, str]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """What the observations leave of the latents' supports, where these are intervals."""
        nodes = trace.nodes.items()
        edges = [n for n, v in nodes if moving.get(n) == "latents" and v["is_observed"]]
        latents = [n for n, v in nodes if v["type"] == "sample" and _is_line(v)]
        if not edges or not latents:
            return {}

        def slack(values: Mapping[str, Tensor]) -> Tensor:
            seen = run(self._own, self.problem.tensors, poutine.condition(data=dict(values))).nodes
            return torch.cat([_slack(seen[name]) for name in edges])

        runs = [trace, *(self._prototype(seed=seed, label=0) for seed in (1, 2))]
        try:
            return limits(slack, [{n: one.nodes[n]["value"] for n in latents} for one in runs])
        except Exception:  # no bounds are known of a model that has no such slopes
            return {}

    def kept(self, guide: Callable) -> Callable:
        """A guide in which parameters of the model's, already fitted, are what they are there."""
        shared = {k: v for k, v in self.problem.params.items() if k in self.own}
        return _Fitted(shared)(guide) if shared else guide

    def of(self, *roles: str) -> list[Site]:
        """The sites of the given roles."""
        return [site for site in self.sites.values() if site.role in roles]

    @property
    def bounded(self) -> list[str]:
        """The continuous latents that do not take all values."""
        latents = self.of("latent")
        return [s.name for s in latents if elementwise(s.support) is not constraints.real]

    @property
    def elements(self) -> int:
        """What one evaluation holds in memory: scalars of all sites, at all joint labels."""
        return self.elements_of_run * (1 if self.summed is None else self.summed.cells)

    @property
    def elements_of_run(self) -> int:
        """Scalars of all sites."""
        return sum(site.value.numel() for site in self.sites.values())

    @cached_property
    def max_plate_nesting(self) -> int:
        """Number of batch dimensions, of plates or none, left of which enumeration begins."""
        plates = (-p.dim for site in self.sites.values() for p in site.plates)
        sites = self.of("latent", "discrete", "observed")
        return max((*plates, *(len(batch_shape(site)) for site in sites)), default=0)

    @cached_property
    def summed(self) -> discrete.Summed | None:
        return labels.summed(self)

    # -- densities ---------------------------------------------------------------------------

    def log_density(self, u: Tensor, *, jacobian: bool = True, prior: bool = True) -> Tensor:
        """Log density at the unconstrained vector `u` (d,), nats, discrete latents summed out.

        Args:
            u: unconstrained vector, shape (d,).
            jacobian: with log |dT/du|, the density of u; without, that of the constrained values.
            prior: without, the priors of the continuous latents are dropped (the likelihood).
        """
        return self._log_density(self.parts(u), jacobian, prior)

    def density_and_gradient(
        self, u: Tensor, *, jacobian: bool = True, prior: bool = True
    ) -> tuple[Tensor, Tensor]:
        """`log_density` and its gradient (d,), both detached."""
        # Leaves of their own: the gradient of a slice is a vector of zeros with a slice in it.
        leaves = {k: part.detach().requires_grad_() for k, part in self.parts(u).items()}
        value = self._log_density(leaves, jacobian, prior)
        slopes = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
        return value.detach(), torch.cat([slope.flatten() for slope in slopes])

    def parts(self, u: Tensor) -> dict[str, Tensor]:
        """The unconstrained vector (d,) cut into latent name and unconstrained value."""
        return {name: u[part].reshape(shape) for name, (part, shape) in self.layout.items()}

    def _log_density(self, parts: Mapping[str, Tensor], jacobian: bool, prior: bool) -> Tensor:
        assign = self.assign(parts)
        handlers = [assign] if prior else [assign, _WithoutPrior(self.layout)]
        total = self._log_prob(*handlers)
        return total + assign.log_jacobian if jacobian else total

    def log_joint(
        self, values: Mapping[str, Tensor], batch: Batch | None = None, *, prior: bool = True
    ) -> Tensor:
        """Log joint density of the data and the continuous latents, discrete ones summed out.

        Args:
            values: the latents; those of the rows for the rows of the batch.
            batch: rows that stand for all; None takes all.
            prior: without, the priors of the continuous latents are dropped.
        """
        handlers = [poutine.condition(data=self.continuous(values))]
        handlers += [] if prior else [_WithoutPrior(self.layout)]
        return self._log_prob(*handlers, batch=batch)

    def batch(self, tensors: Mapping[str, Any]) -> Batch:
        """Data of which the row keys may be those of some rows, which stand for all."""
        return Batch.of(self.problem, tensors)

    def _log_prob(self, *handlers: Any, batch: Batch | None = None) -> Tensor:
        batch = batch or Batch(self.problem.tensors)
        if self.summed is not None:
            return self.summed.log_prob(batch, *handlers) - self._log_units
        return sum_of_factors(run(self.model, batch.tensors, *handlers), batch) - self._log_units

    @cached_property
    def _log_units(self) -> float:
        """log |d user's value / d model's value| of all observations."""
        observed = {site.name: site.value.numel() for site in self.of("observed")}
        return sum(observed[k] * log for k, log in self.problem.log_units.items() if k in observed)

    @cached_property
    def log_units_of_row(self) -> float:
        """The same for the observations of one row."""
        return self._log_units / (self.problem.n or 1) if self.problem.log_units else 0.0

    def continuous(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values of the continuous latents alone."""
        return {name: values[name] for name in self.layout}

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        """Unconstrained vector (d,) to continuous latent name and value."""
        trace = run(self.model, self.problem.tensors, self.assign(self.parts(u)))
        return {name: trace.nodes[name]["value"] for name in self.layout}

    def unconstrain(self, values: Mapping[str, Tensor]) -> Tensor:
        """Values of the continuous latents to the unconstrained vector (d,)."""
        given = poutine.condition(data=self.continuous(values))
        return self._unconstrained(run(self.model, self.problem.tensors, given))

    def assign(self, parts: Mapping[str, Tensor]) -> Messenger:
        """The handler that gives latents the values of their unconstrained parts."""
        return _Assign(parts, self.bounds)

    def supports(self, u: Tensor) -> dict[str, Any]:
        """The supports of the latents at the unconstrained vector (d,)."""
        nodes = run(self.model, self.problem.tensors, self.assign(self.parts(u))).nodes
        return {name: self.support(nodes[name]) for name in self.layout}

    def start(self, tries: int = 100) -> Tensor:
        """A random unconstrained vector (d,) at which density and gradient are finite.

        First those uniform in (-2, 2); where none of these will do, draws from the prior, points
        further out, and ends of a search for latents that the observations do not exclude.

        Raises:
            Refused: an observation is outside of its support at every point that was tried.
            Fault: no point had a finite log density, for another reason.
        """
        if not self.size:
            return torch.zeros(0)
        for u in self._starts(tries):
            value, gradient = self.density_and_gradient(u)
            if value.isfinite() and gradient.isfinite().all():
                return u
        values = self.constrain(u)
        found = self.excluded(values)
        if found is not None:
            raise Refused(
                f"{found} at every starting point that was tried; correct the data, or the priors "
                "of the latents that bound them"
            )
        raise Fault(
            f"none of {tries} random starting points has a finite log density; "
            "check the supports of the priors against the data"
        )

    def support(self, site: Mapping[str, Any]) -> Any:
        """The support of a latent (a Pyro message), as far as the data leave it."""
        return _support(site, self.bounds)

    def _starts(self, tries: int) -> Iterator[Tensor]:
        for _ in range(tries):
            yield self.random_start()
        for _ in range(0 if self.improper() else tries // 4):
            yield self.drawn_start()
        for scale in _FURTHER:
            for _ in range(tries // 4):
                yield (torch.rand(self.size) * 2 - 1) * scale
        for _ in range(_SEARCHES if self.edges else 0):
            yield self._search(self.random_start())

    def _unconstrained(self, trace: poutine.Trace) -> Tensor:
        """The continuous latents of a run as a vector (d,)."""
        nodes = [trace.nodes[name] for name in self.layout]
        parts = [biject_to(self.support(n)).inv(n["value"]).flatten() for n in nodes]
        return torch.cat(parts).detach()

    def _search(self, u: Tensor) -> Tensor:
        """Where a descent from `u` ends that brings observations inside of their supports."""

        def outwards(u: Tensor) -> Tensor:
            with torch.random.fork_rng(devices=[]):  # the same labels each time
                torch.manual_seed(0)
                nodes = run(self._own, self.problem.tensors, self.assign(self.parts(u))).nodes
            seen = [nodes[name] for name in self.edges]
            return sum(violation(node["fn"], node["value"]) for node in seen) + 0 * u.sum()

        def negative(x: Any) -> tuple[float, Any]:
            value, slope = value_and_grad(outwards, torch.as_tensor(x).to(u))
            return value.item(), slope.numpy(force=True).astype(float)

        found = optimize.minimize(negative, u.numpy(force=True), jac=True, method="L-BFGS-B")
        return torch.as_tensor(found.x).to(u)

    def excluded(self, values: Mapping[str, Tensor]) -> str | None:
        """The first observation that the latents exclude, in words with its line; None: none."""
        with torch.no_grad():
            trace = run(self._own, self.problem.tensors, poutine.condition(data=dict(values)))
        for name in self.edges:
            node = trace.nodes[name]
            said = outside(node["fn"], node["value"], name)
            if said is not None:
                return f"{said}, {line}" if (line := self.line(name)) else said
        return None

    def barred(self, u: Tensor) -> str | None:
        """The first site whose log density is not finite at `u`, where one alone is to blame."""
        handlers = self.assign(self.parts(u))
        nodes = discrete.factors(run(self.model, self.problem.tensors, handlers)).items()
        return next((n for n, node in nodes if not node["log_prob"].isfinite().all()), None)

    def inside(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whether each latent that has bounds is within those of its prior."""
        trace = run(self._own, self.problem.tensors, poutine.condition(data=dict(values)))
        return {name: is_inside(trace.nodes[name]["fn"], values[name]) for name in self.bounded}

    def line(self, name: str) -> str | None:
        """Where in the user's file a site is written."""
        lines = user_code.Lines()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            run(self._own, self.problem.tensors, _Start(self.start_of), lines)
        return lines.lines.get(name)

    def start_of(self, site: Mapping[str, Any], width: float = 1.0) -> Tensor:
        """A random value of a latent (a Pyro message) to start from, by the problem's own rule."""
        if self.problem.start is None:
            return start_value(site, width)
        return self.problem.start(site["name"], tuple(site["fn"].shape()))

    def random_start(self) -> Tensor:
        """A random unconstrained vector (d,), whatever the density is there."""
        if self.problem.start is None:
            return torch.rand(self.size) * 4 - 2
        u = torch.zeros(self.size)
        for site in self.of("latent"):
            value = self.start_of({"name": site.name, "fn": site.fn})
            u[self.layout[site.name][0]] = biject_to(site.support).inv(value).flatten()
        return u

    # -- at labels of the discrete latents ----------------------------------------------------

    def drawn_start(self) -> Tensor:
        """The unconstrained vector (d,) of a draw from the prior."""
        return self._unconstrained(run(self._own, self.problem.tensors))

    def trace_at(self, u: Tensor, given: Mapping[str, Tensor] | None = None) -> poutine.Trace:
        """A run at `u` (d,) and these labels; others are drawn from their priors."""
        handlers = [poutine.condition(data=dict(given or {})), self.assign(self.parts(u))]
        return run(self.model, self.problem.tensors, *handlers)

    def log_joint_at(
        self, u: Tensor, given: Mapping[str, Tensor], way: discrete.Summed | None = None
    ) -> Tensor:
        """Log density at `u` (d,) and labels of all discrete latents, with log |dT/du|.

        Args:
            u: unconstrained vector.
            given: discrete latent to its labels.
            way: a sum over labels, which is restricted to these; None runs the plain model.
        """
        everything, assign = Batch(self.problem.tensors), self.assign(self.parts(u))
        if way is not None:
            return way.log_prob(everything, assign, only=given) + assign.log_jacobian
        trace = run(self.model, everything.tensors, poutine.condition(data=dict(given)), assign)
        return sum_of_factors(trace, everything) + assign.log_jacobian

    def factors_at(self, u: Tensor, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The log density of each site there, of all plates' dimensions."""
        found = {}
        for name, node in discrete.factors(self.trace_at(u, given)).items():
            shape = [1] * self.max_plate_nesting
            for frame in node["cond_indep_stack"]:
                if frame.vectorized:
                    shape[frame.dim] = int(frame.size)
            shape = np.broadcast_shapes(shape, node["log_prob"].shape)
            found[name] = node["log_prob"].expand(shape)
        return found

    def values_at(self, u: Tensor, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The continuous latents there."""
        nodes = self.trace_at(u, given).nodes
        return {name: nodes[name]["value"] for name in self.layout}

    # -- at draws ----------------------------------------------------------------------------

    def complete(self, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Continuous draws (S, *shape) with discrete latents recovered and deterministics added.

        Discrete latents are drawn from their exact posterior given the continuous ones, and what
        was not seen from its distribution, from torch's current random state.
        """
        draws = dict(draws)
        if self.summed is not None:
            draws |= over_draws(self._recover, draws, self.elements)
        if self.of("deterministic", "unseen"):
            draws |= over_draws(self.deterministics, draws, self.elements)
        return {name: draws[name] for name in self.sites if name in draws}

    def _recover(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.summed.sample(self.problem.tensors, self.continuous(values))

    def deterministics(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The deterministic sites at one draw of all latents, and what was not seen, drawn."""
        trace = run(self._own, self.problem.tensors, poutine.condition(data=dict(values)))
        sites = self.of("deterministic", "unseen")
        return {site.name: trace.nodes[site.name]["value"] for site in sites}

    def log_likelihood(
        self, values: Mapping[str, Tensor], tensors: Mapping[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """Log likelihood of each observation, observed site to tensor (plates), nats.

        Discrete latents of the rows are summed out, others are taken at their drawn values.

        Args:
            values: latents, the discrete ones too where they are not summed out.
            tensors: other data in the place of the problem's.
        """
        tensors = self.problem.tensors if tensors is None else tensors
        if self.sums_rows:
            observed = [site.name for site in self.of("observed")]
            scores = self.summed.parallel.log_likelihood(
                tensors, self.continuous(values), observed
            )
            units = sum(self.problem.log_units.get(name, 0.0) for name in observed)
            return {name: score - units for name, score in scores.items()}
        trace = run(self.model, tensors, poutine.condition(data=dict(values)))
        scored = discrete.factors(trace)
        return {
            site.name: scored[site.name]["log_prob"].expand(batch_shape(site))
            - self.problem.log_units.get(site.name, 0.0)
            for site in self.of("observed")
        }

    @property
    def sums_rows(self) -> bool:
        """Whether discrete latents of the rows are summed out where a row is scored."""
        return self.summed is not None and self.summed.by_row(self.of("observed"))

    def log_chances(self, values: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Log probability that a row's one observation is each of the labels (C,), (C, rows).

        The discrete latents of the rows are summed out (see `sums_rows`).
        """
        (site,) = self.of("observed")
        return self.summed.parallel.log_chances(
            self.problem.tensors, self.continuous(values), site.name, labels
        )

    def predictive(
        self, values: Mapping[str, Tensor], *, new_rows: bool = False
    ) -> dict[str, Tensor]:
        """New observations given one draw of the latents.

        Labels of rows are drawn afresh; with `new_rows` so is every latent of the row plate.
        """
        kept = {name: values[name] for name in values if not self._fresh(name, new_rows)}
        free = _Free(self._drawn)(self.model)
        trace = run(free, self.problem.tensors, poutine.condition(data=kept))
        return {name: trace.nodes[name]["value"] for name in self._drawn}

    def _fresh(self, name: str, new_rows: bool) -> bool:
        """Whether a site is drawn anew (or recomputed) for new observations."""
        site = self.sites[name]
        rows = self.problem.rows
        in_rows = rows is not None and any(plate.name == rows[0] for plate in site.plates)
        if site.role in ("deterministic", "observed", "unseen"):
            return True
        return in_rows and (new_rows or site.role == "discrete")

    def prior(self, _: Any = None) -> dict[str, Tensor]:
        """One joint draw of all latents, deterministics and observations from the prior."""
        trace = run(_Free(self._drawn)(self._own), self.problem.tensors)
        return {k: trace.nodes[k]["value"] for k in self.sites if k not in self.undrawn}

    @cached_property
    def undrawn(self) -> list[str]:
        """The observed sites whose distribution has no `sample`: a density needs none."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return [site.name for site in self.of("observed") if not _can_be_drawn(site.fn)]

    @cached_property
    def _drawn(self) -> tuple[str, ...]:
        """The observed sites that can be drawn."""
        return tuple(s.name for s in self.of("observed") if s.name not in self.undrawn)

    def improper(self) -> list[str]:
        """The latents whose prior cannot be sampled: flat ones, and those that are masked."""
        return [
            site.name
            for site in self.of("latent")
            if isinstance(site.base, dist.ImproperUniform)
            or masked(site.fn)
            or site.name in self._masked
        ]


def graphless(function: Callable[[], Any]) -> Any:
    """What a function gives, without gradients: a graph of all rows may not fit the memory."""
    try:
        with torch.no_grad():
            return function()
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        return function()  # the model differentiates something itself


def run(
    model: Callable, tensors: Mapping[str, Any], *handlers: Any, validate: bool = False
) -> poutine.Trace:
    """One traced run of a model under handlers, the first innermost; validation off by default."""
    for handler in (*handlers, Sampling()):
        model = handler(model)
    with pyro.validation_enabled(validate):
        return poutine.trace(model).get_trace(**tensors)


def sum_of_factors(trace: poutine.Trace, batch: Batch) -> Tensor:
    """Log density of all sites of a run, those of the row plate by the weight of the batch."""
    factors = discrete.factors(trace).values()
    terms = (node["log_prob"].sum() * batch.weigh(node) for node in factors)
    return sum(terms, torch.zeros(()))


def batch_shape(site: Site) -> tuple[int, ...]:
    """Shape of a site's value without its event dimensions."""
    return site.shape[: len(site.shape) - site.event_dim]


def value_and_grad(function: Callable[[Tensor], Tensor], u: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient of a scalar function at `u`, both detached."""
    u = u.detach().requires_grad_()
    value = function(u)
    (gradient,) = torch.autograd.grad(value, u)
    return value.detach(), gradient


def difference(
    function: Callable[[Tensor], Tensor], u: Tensor, way: Tensor, slope: float, error: float
) -> float:
    """The central difference of a function at `u` along `way`, of the first step that agrees.

    A kink within a step (an absolute value, a rectifier) spoils the larger ones, rounding the
    smallest; both errors together are least at about the cube root of the rounding unit.

    Args:
        function: of `u` (d,), a scalar.
        u: where.
        way: a direction (d,).
        slope: the derivative that it should equal.
        error: by which it may differ.
    """
    numeric, usual = math.nan, 1.65 * torch.finfo(u.dtype).eps ** (1 / 3)
    for step in (usual, 10 * usual, usual / 10):
        with torch.no_grad():
            rise = function(u + step * way) - function(u - step * way)
        numeric = float(rise) / (2 * step)
        if abs(numeric - slope) <= error:
            break
    return numeric


class Differentiable(torch.autograd.Function):
    """A value whose gradient is already known, as autograd sees it."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, pair: Callable) -> Tensor:
        value, gradient = pair(u)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None


def further_draws(program: Program, function: Callable, draws: Mapping[str, Tensor]) -> int:
    """How many draws k-hat is estimated from: 100,000 where `function` is quick to evaluate.

    That is, where it vectorises over the few `draws` given and the model's data are small. Of very
    many scalars no more than are given.
    """
    given = len(next(iter(draws.values())))
    few = {name: value[:2] for name, value in draws.items()}
    if not vectorises(function, few):
        return given
    size = max(program.elements, 1)
    return max(given, min(4000, _MOST_HELD // size), min(100_000, 10_000_000 // size))
