"""A model as a check looks at it: run at draws from the prior, with the line of every site.

`structure.py` and `numerics.py` look at it, for `check.py`.
"""

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from torch.distributions import biject_to, constraints

from ..core import user_code
from ..core.problem import Problem
from ..core.seeds import PRIOR, seeded
from ..program.graphs import faster
from ..program.handlers import run, start_value
from ..program.prepare import observed_keys, ready
from ..program.program import Program
from ..program.sampling import base_of, shape_of
from ..program.sites import Site

# Draws from the prior, and points of the unconstrained space, at which a model is looked at.
DRAWS = 20
# Points at which gradients, log likelihoods and the traced graph are compared.
POINTS = 3


class Watch(user_code.Lines):
    """Notes where each site is written, and the first parameter that its distribution forbids."""

    def __init__(self):
        super().__init__()
        self.invalid: tuple[str, str, str] | None = None

    def _pyro_sample(self, msg: dict) -> None:
        super()._pyro_sample(msg)
        if self.invalid is None and not isinstance(msg["fn"], _Subsample | dist.Unit):
            self.invalid = _invalid(msg["name"], base_of(msg["fn"]))

    def _pyro_param(self, msg: dict) -> None:
        self.lines[msg["name"]] = user_code.here()


class Proper(poutine.messenger.Messenger):
    """Gives latents of an improper prior, which cannot be drawn, a random value."""

    def _pyro_sample(self, msg: dict) -> None:
        improper = isinstance(base_of(msg["fn"]), dist.ImproperUniform)
        if improper and msg["value"] is None and not msg["is_observed"]:
            msg["value"], msg["done"] = start_value(msg), True


class Draw(NamedTuple):
    """The model run once at a draw from the prior; without a trace where it failed."""

    watch: Watch
    trace: poutine.Trace | None
    error: Exception | None

    @property
    def nodes(self) -> dict[str, Mapping[str, Any]]:
        """The sample sites, without plates and factors."""
        return {
            name: node
            for name, node in self.trace.nodes.items()
            if node["type"] == "sample" and not isinstance(node["fn"], _Subsample | dist.Unit)
        }

    def values(self, program: Program) -> dict[str, Tensor]:
        """The latents, discrete ones too."""
        return {s.name: self.nodes[s.name]["value"] for s in program.of("latent", "discrete")}

    def unconstrained(self, program: Program) -> Tensor:
        """The continuous latents as the unconstrained vector (d,)."""
        nodes = [self.nodes[name] for name in program.layout]
        parts = [biject_to(n["fn"].support).inv(n["value"]).flatten() for n in nodes]
        return torch.cat([torch.zeros(0), *parts])


class ModelView:
    """A model with what several checks look at, each computed when it is first asked for.

    Args:
        problem: as it came in.
        seed: of the draws at which the model is looked at.
        guide: a guide to check, in place of the model's own.
    """

    def __init__(self, problem: Problem, seed: int, guide: Any):
        self.raw, self.seed, self.guide = problem, seed, guide

    @cached_property
    def program(self) -> Program:
        """The model made ready, as any method would see it, but for what a check will name."""
        dtype = torch.get_default_dtype()
        return ready(self.raw, dtype=dtype, checked=False)

    @cached_property
    def runs(self) -> bool:
        """Whether there is a model to look at."""
        try:
            return bool(self.draws)
        except Exception:
            return False

    @cached_property
    def attempts(self) -> list[Draw]:
        """The model at draws from the prior, also where it fails."""
        with seeded(self.seed, PRIOR), torch.no_grad():
            return [self.attempt() for _ in range(DRAWS)]

    @property
    def draws(self) -> list[Draw]:
        """Those that did not fail."""
        return [draw for draw in self.attempts if draw.trace is not None]

    def attempt(self, *, validate: bool = False) -> Draw:
        """One more draw."""
        watch, program = Watch(), self.program
        tensors = program.problem.tensors
        try:
            trace = run(program.model, tensors, watch, Proper(), validate=validate)
        except Exception as error:
            return Draw(watch, None, error)
        return Draw(watch, trace, None)

    @cached_property
    def keys(self) -> dict[str, str]:
        """Observed site to the data key it observes."""
        keys = observed_keys(self.program.sites, self.program.problem.tensors)
        return {site.name: keys.get(site.name, site.name) for site in self.observed}

    @property
    def observed(self) -> list[Site]:
        """The observed sites."""
        return self.program.of("observed")

    def line(self, name: str) -> str | None:
        """Where a site is written."""
        watches = (draw.watch for draw in self.attempts)
        return next((w.lines[name] for w in watches if name in w.lines), None)

    @cached_property
    def untraced(self) -> Exception | None:
        """Why the density cannot be traced, or that its graph differs; None where all is well."""
        points = [*self.points, 5 * self.points[0]]
        try:
            faster(self.program.density_and_gradient, [(u,) for u in points])
        except Exception as error:
            return error
        return None

    @cached_property
    def points(self) -> list[Tensor]:
        """Random unconstrained vectors (d,) at which the density is finite."""
        return [self.program.start() for _ in range(POINTS)]


def _invalid(name: str, fn: Any) -> tuple[str, str, str] | None:
    """Site, the parameter of its distribution, and a value of it that is forbidden."""
    try:
        ranges = fn.arg_constraints
    except (NotImplementedError, AttributeError):  # of the user's own, which states none
        return None
    for parameter, constraint in ranges.items():
        lazy = parameter not in vars(fn) and f"_{parameter}" not in vars(fn)
        if constraints.is_dependent(constraint) or lazy:
            continue
        while hasattr(constraint, "base_constraint"):  # of a vector: look at its elements
            constraint = constraint.base_constraint
        value = torch.as_tensor(getattr(fn, parameter)).detach()
        inside = constraint.check(value)
        if not inside.all():
            wrong = value[~inside] if inside.shape == value.shape else value
            shown = f"{wrong.flatten()[0].item():.4g}"
            wanted = _range_of(constraint)
            return name, f"{parameter} of {name} ~ {type(fn).__name__}", f"{shown}, not {wanted}"
    return None


def _range_of(constraint: Any) -> str:
    """A constraint in words: `> 0` for torch's GreaterThan(lower_bound=0.0)."""
    low, high = (getattr(constraint, f"{end}_bound", None) for end in ("lower", "upper"))
    if low is not None and high is not None:
        return f"between {low:g} and {high:g}"
    equal = "=" if "Eq" in type(constraint).__name__ else ""
    if low is not None:
        return f">{equal} {low:g}"
    if high is not None:
        return f"<{equal} {high:g}"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(constraint).__name__.strip("_")).lower()


def expected_shape(site: Site) -> tuple[int, ...]:
    """The shape that the distribution gives its values, its plates included."""
    return shape_of(site.fn, site.value)
