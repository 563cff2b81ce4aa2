"""Is my model sound? Each mistake that would make its posterior wrong or a method fail, by name.

A check that fails does not stop the others; one that fails for the same reason says so instead of
repeating it. Nothing is fitted: the model is run at draws from the prior, and its density at
random points of the unconstrained space.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import pyro

from ..core.problem import Guide, Problem
from ..core.seeds import FIT, seeded
from . import numerics, structure
from .checked import MOST, Check, Checked, note, raised
from .model_view import ModelView


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
        for question in _QUESTIONS:
            lines[question.name] = _answer(question, view, lines)
    return Checked(tuple(line for part in lines.values() for line in part))


class _Question(NamedTuple):
    """A check.

    Attributes:
        answer: gives its lines; none where the model passes.
        passed: the words of a model that passes.
        causes: earlier checks whose failure explains this one's.
    """

    answer: Callable[[ModelView], Iterator[Check]]
    passed: str
    causes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the check: that of its function."""
        return self.answer.__name__


def _answer(
    question: _Question, view: ModelView, earlier: Mapping[str, Sequence[Check]]
) -> list[Check]:
    """The lines of a check, given those of the checks before it."""
    if question.name != "runs" and not view.runs:
        return [Check(question.name, None, "not checked, the model does not run")]
    with seeded(view.seed, FIT):
        try:
            lines = list(question.answer(view)) or [Check("", True, question.passed)]
        except Exception as error:
            lines = [raised("this could not be computed", error)]
    causes = [name for name in question.causes if _has_failed(earlier[name])]
    if causes and _has_failed(lines):
        lines = [note(f"fails too, which follows from {causes[0]}")]
    return [replace(line, name=question.name) for line in _shortened(lines)]


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
_GRADIENT = (*_DENSITY, "gradient")
_QUESTIONS = tuple(
    _Question(answer, passed, causes)
    for answer, passed, causes in (
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
        (numerics.traced, "the traced density equals Pyro's, also far out", _GRADIENT),
        (numerics.guide, "the guide has the latents of the model", _SITES),
        (numerics.predictive, "the prior predicts data", _VALUES),
    )
)
