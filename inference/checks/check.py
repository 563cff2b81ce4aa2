"""Is my model sound? Each mistake that would make its posterior wrong or a method fail, by name.

A check that fails does not stop the others; one that fails for the same reason says so instead of
repeating it. Nothing is fitted: the model is run at draws from the prior, and its density at
random points of the unconstrained space.

Before a run `prove` asks for less: that the log density is the same each time, and its gradient
right. No sampler or optimiser can see that a density is random (rows picked at random), or that a
latent lost its gradient on the way (`torch.tensor([a, b])`): each would go on, and end anywhere or
never. One more evaluation and one central difference tell. The refusal is then that of `check`.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pyro
import torch
from torch import Tensor

from models.contract import Refused

from ..core.problem import Guide, Problem
from ..core.seeds import FIT, seeded
from ..program.kinks import difference
from ..program.program import Program
from . import numerics, structure
from .checked import MOST, Check, Checked, note, raised
from .model_view import ModelView

# Numbers of one run of the model above which it is looked at on some of the rows, and how many.
_LARGE, _ROWS = 100_000, 256
# Directions of which one must agree.
_DIRECTIONS = 3


def check(
    problem: Problem, *, seed: int = 0, guide: str | Guide | Callable | None = None
) -> Checked:
    """All checks of a model and its data.

    Args:
        problem: as it came in; it need not be prepared, or even run.
        seed: seed of the draws and points at which the model is looked at.
        guide: a guide to check in place of the model's own ones.

    Returns:
        A line or more for each check; no exception, whatever the model does.
    """
    store = pyro.get_param_store()
    with warnings.catch_warnings(), store.scope(), pyro.validation_enabled(False):
        warnings.simplefilter("ignore")
        view, lines = ModelView(problem, seed, guide), {}
        for answer, passed, causes in _QUESTIONS:
            failed = [name for name in causes if _has_failed(lines[name])]
            lines[answer.__name__] = _answer(view, answer, passed, failed)
    return Checked(tuple(line for part in lines.values() for line in part))


def _answer(
    view: ModelView,
    answer: Callable[[ModelView], Iterator[Check]],
    passed: str,
    causes: Sequence[str],
) -> list[Check]:
    """The lines of a check, named as its function.

    Args:
        view: the model.
        answer: gives the lines; none where the model passes.
        passed: the words of a model that passes.
        causes: earlier checks that failed, which would explain that this one does.
    """
    name = answer.__name__
    if name != "runs" and not view.runs:
        return [Check(name, None, "not checked, the model does not run")]
    with seeded(view.seed, FIT):
        try:
            lines = list(answer(view)) or [Check("", True, passed)]
        except Exception as error:
            lines = [raised("this could not be computed", error)]
    if causes and _has_failed(lines):
        lines = [note(f"fails too, which follows from {causes[0]}")]
    return [replace(line, name=name) for line in _shortened(lines)]


def _has_failed(lines: Sequence[Check]) -> bool:
    return any(line.ok is False for line in lines)


def _shortened(lines: list[Check]) -> list[Check]:
    """The gravest lines, and how many more there are."""
    if len(lines) <= MOST:
        return lines
    gravest = sorted(lines, key=lambda line: (False, None, True).index(line.ok))
    return [*gravest[:MOST], note(f"and {len(lines) - MOST} more of the kind")]


# Checks whose failures explain later ones.
_SITES = ("runs", "structure")
_VALUES = (*_SITES, "shapes", "plates", "once", "parameters", "support", "discrete")
_DENSITY = (*_VALUES, "density")
# Of each check: what answers it, the words of a model that passes, and checks whose failure
# explains that it fails.
_QUESTIONS = (
    (structure.runs, "the model runs on the data", ()),
    (structure.structure, "the sites and their shapes are the same in all draws", ()),
    (structure.shapes, "what is observed has the shape of its distribution", _SITES),
    (structure.plates, "every batch dimension lies in a plate", _SITES),
    (structure.once, "no observation is counted twice", _SITES),
    (structure.parameters, "the parameters of all distributions are valid", _SITES),
    (structure.support, "what is observed lies in its distribution's support", _SITES),
    (structure.priors, "every latent has a prior", _SITES),
    (structure.discrete, "the discrete latents can be summed out", ()),
    (structure.observed, "there is an observed site", _SITES),
    (numerics.density, "log density and gradient are finite", _VALUES),
    (numerics.gradient, "the gradient equals central differences", _DENSITY),
    (numerics.likelihood, "adds up to log joint minus log prior", _DENSITY),
    (numerics.traced, "the traced density equals Pyro's, also far out", (*_DENSITY, "gradient")),
    (numerics.guide, "the guide has the latents of the model", _SITES),
    (numerics.predictive, "the prior predicts data", _VALUES),
)


# -- before a run ------------------------------------------------------------------------------


def prove(program: Program) -> None:
    """Refuse a random density, and a wrong gradient.

    Raises:
        Refused: with the line of the model, as far as it is known.
    """
    with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope():
        torch.manual_seed(0)
        if program.elements_of_run > _LARGE and (program.problem.n or 0) > _ROWS:
            program = program.first(_ROWS)
        if not program.size:
            return
        u = program.start()
        first, again = program.log_density(u).detach(), program.log_density(u).detach()
        if not torch.isclose(again, first, rtol=1e-10, atol=1e-10):
            random = "the log density is another each time at the same values of the latents"
            raise _refusal(program.problem, random)
        if not _has_right_slope(program, u):
            raise _refusal(program.problem, "the gradient of the log density is wrong")


def _has_right_slope(program: Program, u: Tensor) -> bool:
    """Whether the gradient at `u` equals central differences along one of some directions.

    Along others a kink may spoil them; a wrong gradient is wrong along all. Where the density is
    steep a step is short: near a pole it is steep as 1 / |u|, and would be stepped over.
    """
    value, gradient = program.density_and_gradient(u)
    parts = (1e-5, 1e-9, 1e-6) if u.dtype == torch.float64 else (2e-3, 1e-4, 1e-3)
    steep = gradient.abs()
    usual = steep[steep > 0].median() if steep.any() else torch.ones(())
    unknown = True  # an edge on all sides, which tells nothing
    for _ in range(_DIRECTIONS):
        signs = torch.randint(0, 2, u.shape) * 2.0 - 1
        direction = signs * (0.5 + torch.rand(u.shape)) * usual / (usual + steep)
        sizes = (float((gradient * direction).abs().sum()), float(value.abs()), 1.0)
        error = sum(part * size for part, size in zip(parts, sizes))
        slope = float(gradient @ direction)
        numeric = difference(program.log_density, u, direction, slope, error)
        if abs(numeric - slope) <= error:
            return True
        unknown &= not math.isfinite(numeric)
    return unknown


def _refusal(problem: Problem, otherwise: str) -> Refused:
    """The refusal that names the problem `check` finds in the density, or else these words."""
    for line in check(problem).failed:
        if line.name in ("plates", "density", "gradient"):
            return Refused(str(line))
    return Refused(f"{otherwise}; see what `zoo.py check` says")
