"""Is my model sound? Each mistake that would make its posterior wrong or a method fail, by name.

A list of checks, each with a tick, a cross (what, where, and a mend) or, where it does not apply,
neither. A check that fails does not stop the others; those that fail for the same reason say so
instead of repeating it. Nothing is fitted: all is done at draws from the prior and at random
points of the unconstrained space.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pyro

from ..core.html import filled
from ..core.problem import Guide, Problem
from ..core.seeds import FIT, seeded
from . import numerics, structure
from .model_view import MOST, Case, Check, from_error, note

# -- the report --------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Checked:
    """What was checked of a model, line by line.

    Attributes:
        checks: the lines, in order.
        model: name of the model.
        data: where its data came from.
    """

    checks: tuple[Check, ...]
    model: str = ""
    data: str = ""

    @property
    def crosses(self) -> list[Check]:
        """The checks that failed, the first the most telling."""
        return [check for check in self.checks if check.ok is False]

    @property
    def ok(self) -> bool:
        """Whether there is no cross."""
        return not self.crosses

    @property
    def failure(self) -> str:
        """How many checks failed, and the first cause; empty where none did."""
        failed = len({check.name for check in self.crosses})
        judged = len({check.name for check in self.checks if check.ok is not None})
        return f"{failed} of {judged} checks failed: {self.crosses[0]}" if failed else ""

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        kept = ("name", "ok", "what", "mend")
        checks = [{key: getattr(check, key) for key in kept} for check in self.checks]
        return {"model": self.model, "data": self.data, "checks": checks}

    def __repr__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        lines = [f"{check.mark} {check.name:{width}}  {check}" for check in self.checks]
        return "\n".join([f"{self.model}   data: {self.data}", *lines])

    def _repr_html_(self) -> str:
        return filled(_HTML, model=self.model, data=self.data, checks=self.checks)


_HTML = """<p><b>{{ model }}</b> data: {{ data }}</p><table>
{%- for check in checks %}<tr><td>{{ check.mark }}</td><td>{{ check.name }}</td>
{#- #}<td style='text-align:left'>{{ check }}</td></tr>{% endfor %}</table>"""


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
        case, found = Case(problem, seed, guide), {}
        for name, one in _CHECKS.items():
            found[name] = _carried_out(name, one, case, found)
    return Checked(tuple(line for part in found.values() for line in part))


class _One(NamedTuple):
    """A check: what it finds (nothing for a tick), the words of the tick, and the checks whose
    cross explains its own."""

    find: Callable[[Case], Iterator[Check]]
    title: str
    follows: tuple[str, ...] = ()


def _carried_out(
    name: str, one: _One, case: Case, found: Mapping[str, Sequence[Check]]
) -> list[Check]:
    """The lines of one check, given those of the checks before it."""
    if name != "runs" and not case.runs:
        return [Check(name, None, "not checked, the model does not run")]
    with seeded(case.seed, FIT):
        said = _found(one, case)
    crossed = [cause for cause in one.follows if any(c.ok is False for c in found[cause])]
    if crossed and any(line.ok is False for line in said):
        said = [note(f"fails too, which follows from {crossed[0]}")]
    return [replace(line, name=name) for line in _shortened(said)]


def _found(one: _One, case: Case) -> list[Check]:
    try:
        return list(one.find(case)) or [Check("", True, one.title)]
    except Exception as error:
        return [from_error("this could not be computed", error)]


def _shortened(said: list[Check]) -> list[Check]:
    """The gravest lines, and how many more there are."""
    if len(said) <= MOST:
        return said
    gravest = sorted(said, key=lambda line: (False, None, True).index(line.ok))
    return [*gravest[:MOST], note(f"and {len(said) - MOST} more of the kind")]


# Checks whose crosses explain later ones.
_SITES = ("runs", "structure")
_VALUES = (*_SITES, "shapes", "plates", "once", "parameters", "support", "discrete")
_DENSITY = (*_VALUES, "density")
_CHECKS = {
    "runs": _One(structure.runs, "the model runs on the data"),
    "structure": _One(structure.structure, "the sites and their shapes are the same in all draws"),
    "shapes": _One(structure.shapes, "what is observed has the shape of its distribution", _SITES),
    "plates": _One(structure.plates, "every batch dimension lies in a plate", _SITES),
    "once": _One(structure.once, "no observation is counted twice", _SITES),
    "parameters": _One(
        structure.parameters, "the parameters of all distributions are valid", _SITES
    ),
    "support": _One(
        structure.support, "what is observed lies in its distribution's support", _SITES
    ),
    "priors": _One(structure.priors, "every latent has a prior", _SITES),
    "discrete": _One(structure.discrete, "the discrete latents can be summed out"),
    "observed": _One(structure.observed, "there is an observed site", _SITES),
    "density": _One(numerics.density, "log density and gradient are finite", _VALUES),
    "gradient": _One(numerics.gradient, "the gradient equals central differences", _DENSITY),
    "likelihood": _One(numerics.likelihood, "adds up to log joint minus log prior", _DENSITY),
    "traced": _One(
        numerics.traced, "the traced density equals Pyro's, also far out", (*_DENSITY, "gradient")
    ),
    "guide": _One(numerics.guide, "the guide has the latents of the model", _SITES),
    "predictive": _One(numerics.predictive, "the prior predicts data", _VALUES),
}
