"""A Pyro model with its data as functions of one unconstrained vector, label by label.

Continuous latents are packed into one unconstrained vector `u` of length d, site by site in the
order of the model: `x = T(u)` with T the bijection onto the site's support. The support is read at
each evaluation, so that it may depend on other latents (`Uniform(0, sigma)`), which Pyro's own
`initialize_model` freezes at its first value.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import biject_to

from ..core import user_code
from ..core.problem import Problem
from . import handlers
from .discrete import Summed
from .handlers import Assign, Batch, condition, factors, run, start_value, sum_of_factors
from .predictors import linearised
from .prototype import Prototype
from .sampling import is_improper
from .sites import Message, Site, Tensors, Trace, Values, support_within
from .supports import elementwise, is_inside, outside, shape_before

# Fields of a problem that change what is known of it from its first runs.
_TRACED = {"model", "tensors", "latent_keys", "params", "start", "linear_at"}
# Numbers of a run, and products of latents and rows, above which it is long.
_LARGE, _PRODUCTS = 100_000, 1_000_000


class TracedModel:
    """A problem whose sites are known, and runs of its model at values of all its latents.

    Args:
        problem: the model and its data.
        narrowed: whether latents have the supports that the observations leave them, so that no
            edge is met; else those of their priors.
        prototype: what first runs told of the same model, data and parameters; None runs it.

    Attributes:
        tensors: the data, by key.
        model: the Pyro function, the model's own parameters fitted; linear in its latents where
            the problem says so.
        plain: the same without that, for what the prior or the latents alone determine.
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

    def __init__(
        self, problem: Problem, *, narrowed: bool = True, prototype: Prototype | None = None
    ):
        self.problem = problem
        self.tensors: Tensors = problem.tensors
        fitted = handlers.Fitted(problem.params)(problem.model)
        self.plain = handlers.freed(problem.latent_keys)(fitted)
        self.prototype = prototype or Prototype(self.plain, problem.tensors, problem.start)
        self.bounds = self.prototype.bounds() if narrowed else {}
        self.sites = self.prototype.sites(self.bounds)
        self.edges = [site.name for site in self.of("observed") if site.moves]
        self.model = self._with_density()
        self.own, self.has_factor = self.prototype.params, self.prototype.has_factor
        self.unfitted = [name for name in self.own if name not in problem.params]
        self.layout, self.size = {}, 0
        for site in self.of("latent"):
            shape = shape_before(biject_to(site.support), site.shape)
            part = slice(self.size, self.size + math.prod(shape))
            self.layout[site.name] = (part, shape)
            self.size = part.stop

    def _with_density(self) -> Callable:
        """The model with the density that is inferred from."""
        model = self.plain
        if self.problem.linear_at is not None:
            model = linearised(model, self.problem.linear_at)
        model = self.prototype.unseen.without(model)
        return handlers.excluding(self.edges)(model) if self.edges else model

    def changed(self, **fields: Any) -> Self:
        """The same of a problem with some fields changed (`params`, `tensors`, `linear_at`).

        What the first runs told is handed on, where the change leaves it true.
        """
        same = all(self._stays(name, value) for name, value in fields.items())
        problem = replace(self.problem, **fields)
        return type(self)(problem, prototype=self.prototype if same else None)

    def _stays(self, field: str, value: Any) -> bool:
        """Whether another value of a field leaves what the first runs told."""
        before = getattr(self.problem, field)
        if field == "params":  # those of guides are no matter of the model
            return all(value.get(name) is before.get(name) for name in self.own)
        return value is before or field not in _TRACED

    def first(self, rows: int) -> Self:
        """The same of the first so many rows."""
        return type(self)(self.problem.first(rows))

    def unnarrowed(self) -> Self:
        """The same where latents have the supports of their priors."""
        return type(self)(self.problem, narrowed=False, prototype=self.prototype)

    def kept(self, guide: Callable) -> Callable:
        """A guide in which parameters of the model's, already fitted, are what they are there."""
        shared = {k: v for k, v in self.problem.params.items() if k in self.own}
        return handlers.Fitted(shared)(guide) if shared else guide

    def of(self, *roles: str) -> list[Site]:
        """The sites of the given roles."""
        return [site for site in self.sites.values() if site.role in roles]

    @property
    def n(self) -> int:
        """Number of rows; one where no rows are known."""
        return self.problem.n or 1

    @property
    def plate(self) -> str:
        """Name of the row plate; empty where no rows are known."""
        return self.problem.rows.plate if self.problem.rows else ""

    @property
    def row_data(self) -> dict[str, Tensor]:
        """The data of the rows by key; empty where no rows are known."""
        keys = self.problem.rows.keys if self.problem.rows else ()
        return {key: self.tensors[key] for key in keys}

    @property
    def bounded(self) -> list[str]:
        """The continuous latents that do not take all values."""
        latents = self.of("latent")
        return [s.name for s in latents if elementwise(s.support) is not constraints.real]

    @property
    def elements_of_run(self) -> int:
        """Scalars of all sites, at one value of the labels."""
        return sum(site.value.numel() for site in self.sites.values())

    @property
    def is_large(self) -> bool:
        """Whether a run is long, so that proofs make do with few runs, or with some of the rows.

        It has many numbers, or (as a network) many products of latents and rows.
        """
        return self.elements_of_run > _LARGE or self.size * self.n > _PRODUCTS

    @cached_property
    def max_plate_nesting(self) -> int:
        """Number of batch dimensions, of plates or none, left of which enumeration begins."""
        plates = (-p.dim for site in self.sites.values() for p in site.plates)
        sites = self.of("latent", "discrete", "observed")
        return max((*plates, *(len(site.batch_shape) for site in sites)), default=0)

    def parts(self, u: Tensor) -> dict[str, Tensor]:
        """The unconstrained vector (d,) as latent name to value, in its unconstrained shape."""
        return {name: u[part].reshape(shape) for name, (part, shape) in self.layout.items()}

    def continuous(self, values: Values) -> dict[str, Tensor]:
        """The values of the continuous latents alone."""
        return {name: values[name] for name in self.layout}

    def assign(self, parts: Values) -> Assign:
        """The handler that gives latents the values of their unconstrained parts."""
        return Assign(parts, self.bounds)

    def constrain(self, u: Tensor, labels: Values | None = None) -> dict[str, Tensor]:
        """Unconstrained vector (d,) to continuous latent name and value.

        Args:
            u: unconstrained vector.
            labels: discrete latent to its labels, where supports depend on them; others are drawn.
        """
        nodes = self.trace_at(u, labels).nodes
        return {name: nodes[name]["value"] for name in self.layout}

    def unconstrain(self, values: Values) -> Tensor:
        """Values of the continuous latents to the unconstrained vector (d,)."""
        at = condition(self.continuous(values))
        return self.unconstrained_of(run(self.model, self.tensors, at))

    def unconstrained_of(self, trace: Trace) -> Tensor:
        """The continuous latents of a run as a vector (d,)."""
        nodes = [trace.nodes[name] for name in self.layout]
        parts = [biject_to(self.support(n)).inv(n["value"]).flatten() for n in nodes]
        return torch.cat(parts).detach()

    def support(self, site: Message) -> Any:
        """The support of a latent (a Pyro message), as far as the data leave it."""
        return support_within(site, self.bounds)

    def supports(self, u: Tensor) -> dict[str, Any]:
        """The supports of the latents at the unconstrained vector (d,)."""
        nodes = self.trace_at(u).nodes
        return {name: self.support(nodes[name]) for name in self.layout}

    def start_of(self, site: Message, width: float = 1.0) -> Tensor:
        """A random value of a latent (a Pyro message) to start from, by the problem's own rule."""
        return start_value(site, width, self.problem.start)

    def random_start(self) -> Tensor:
        """A random unconstrained vector (d,), whatever the density is there."""
        if self.problem.start is None:
            return torch.rand(self.size) * 4 - 2
        u = torch.zeros(self.size)
        for site in self.of("latent"):
            value = self.start_of({"name": site.name, "fn": site.fn})
            u[self.layout[site.name][0]] = biject_to(site.support).inv(value).flatten()
        return u

    def drawn_start(self) -> Tensor:
        """The unconstrained vector (d,) of a draw from the prior."""
        return self.unconstrained_of(run(self.plain, self.tensors))

    def trace_at(self, u: Tensor, labels: Values | None = None) -> Trace:
        """A run at `u` (d,) and these labels; others are drawn from their priors."""
        at_labels = condition(labels or {})
        return run(self.model, self.tensors, at_labels, self.assign(self.parts(u)))

    def plain_at(self, values: Values) -> Trace:
        """A run of the plain model at values of its latents; others are drawn."""
        return run(self.plain, self.tensors, condition(values))

    def log_joint_at(self, u: Tensor, labels: Values, way: Summed | None = None) -> Tensor:
        """Log density at `u` (d,) and labels of all discrete latents, with log |dT/du|.

        Args:
            u: unconstrained vector.
            labels: discrete latent to its labels.
            way: a sum over labels, which is restricted to these; None runs the plain model.
        """
        rows, assign = Batch(self.tensors), self.assign(self.parts(u))
        if way is not None:
            return way.log_prob(rows, assign, only=labels) + assign.log_jacobian
        trace = run(self.model, rows.tensors, condition(labels), assign)
        return sum_of_factors(trace, rows) + assign.log_jacobian

    def factors_at(self, u: Tensor, labels: Values) -> dict[str, Tensor]:
        """The log density of each site at `u` (d,) and labels, of all plates' dimensions, nats."""
        log_probs = {}
        for name, node in factors(self.trace_at(u, labels)).items():
            shape = [1] * self.max_plate_nesting
            for frame in node["cond_indep_stack"]:
                if frame.vectorized:
                    shape[frame.dim] = int(frame.size)
            shape = np.broadcast_shapes(shape, node["log_prob"].shape)
            log_probs[name] = node["log_prob"].expand(shape)
        return log_probs

    def excluded(self, values: Values) -> str | None:
        """The first observation that the latents exclude, in words with its line; None: none."""
        with torch.no_grad():
            nodes = self.plain_at(values).nodes
        for name in self.edges:
            if excluded := outside(nodes[name]["fn"], nodes[name]["value"], name):
                return ", ".join(filter(None, [excluded, self.line(name)]))
        return None

    def barred(self, u: Tensor) -> str | None:
        """The first site whose log density is not finite at `u`, where one alone is to blame."""
        nodes = factors(self.trace_at(u)).items()
        return next((n for n, node in nodes if not node["log_prob"].isfinite().all()), None)

    def inside(self, values: Values) -> dict[str, Tensor]:
        """Whether each latent that has bounds is within those of its prior, a bool each."""
        nodes = self.plain_at(values).nodes
        return {name: is_inside(nodes[name]["fn"], values[name]) for name in self.bounded}

    def line(self, name: str) -> str | None:
        """Where in the user's file a site is written."""
        lines = user_code.Lines()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            run(self.plain, self.tensors, handlers.Start(self.start_of), lines)
        return lines.lines.get(name)

    def improper(self) -> list[str]:
        """The latents whose prior cannot be sampled: flat ones, and those that are masked."""
        under_mask = self.prototype.masked
        return [s.name for s in self.of("latent") if is_improper(s.fn) or s.name in under_mask]
