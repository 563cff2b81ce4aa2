"""The guide that was asked for: a shared one by its name, the model's own, or a function."""

import inspect
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide, AutoLaplaceApproximation, AutoNormalizingFlow
from torch import nn

from models.contract import BadSetting

from .. import guide as shared_guide
from ..core.problem import Context, Finding, Guide
from ..core.seeds import FIT, seeded
from ..program.program import Program
from .guides import Init, parse
from .mode import mode

# Random points from which `begin=map` searches the mode.
_STARTS = 4


def resolve(guide: str | Guide | Callable, program: Program, init: Init | None = None) -> Guide:
    """The `Guide` of that name (or function): the model's own first, then the shared ones.

    One of Pyro's automatic guides is copied, as it was made: what it learns stays with the run.

    Args:
        guide: a name, with an argument after a colon where it takes one; or a function.
        program: the model that it is for.
        init: where the location of a shared guide begins; None takes the problem's own rule.

    Raises:
        UsageError: no guide has that name. BadSetting: its argument is none, or out of range.
    """
    init = program.start_of if init is None else init
    if isinstance(guide, Guide):
        return replace(guide, guide=_anew(guide.guide))
    if isinstance(guide, str) and guide not in program.problem.guides:
        name, argument = parse(guide)
        return shared_guide(name)(program, init, **argument)
    objective = program.problem.objectives.get(guide) if isinstance(guide, str) else None
    return Guide(program.kept(_anew(_function(guide, program))), objective=objective)


def is_laplace(guide: str | Guide | Callable, program: Program) -> bool:
    """Whether a guide is Pyro's `AutoLaplaceApproximation`, which is a point while it trains."""
    return isinstance(module_of(_function(guide, program)), AutoLaplaceApproximation)


def module_of(guide: Any) -> nn.Module | None:
    """The module that a guide is, under its options and handlers; None where it is a function."""
    guide = inspect.unwrap(guide)
    if isinstance(guide, partial):
        return module_of(guide.func)
    return guide if isinstance(guide, nn.Module) else None


def _function(guide: str | Guide | Callable, program: Program) -> Any:
    """The function behind the name of one of the model's own guides; others as they are."""
    if isinstance(guide, str):
        name, _ = parse(guide, program.problem.guides)
        return program.problem.guides.get(name)
    return guide.guide if isinstance(guide, Guide) else guide


def _anew(guide: Any) -> Any:
    """A copy of one of Pyro's automatic guides as if it had never been called; others themselves.

    These take their shapes from the data of their first call, and learn ever further.
    """
    if isinstance(guide, partial):
        return partial(_anew(guide.func), *guide.args, **guide.keywords)
    if not isinstance(guide, AutoGuide):
        return guide
    parts = [part for part in guide.modules() if isinstance(part, AutoGuide)]
    known = [(part._model, part.master) for part in parts]
    # What a first call makes is not copied.
    made = [vars(part).get(name) for part in parts for name in ("prototype_trace", "plates")]
    flows = [part for part in parts if isinstance(part, AutoNormalizingFlow)]
    made += [flow.transform for flow in flows]
    instead = {id(part): None for part in made if part is not None}
    instead |= {id(flow._prototype_tensor): torch.zeros(()) for flow in flows}
    copied = deepcopy(guide, instead)
    twins = [part for part in copied.modules() if isinstance(part, AutoGuide)]
    for part, twin, (model, master) in zip(parts, twins, known):  # a copy takes these off
        part._model, part.master = model, master
        twin._model = model
    return copied


def at_mode(
    guide: str | Guide | Callable, program: Program, seed: int, context: Context
) -> tuple[Guide, list[Finding]]:
    """A shared guide whose location begins at the mode of the unconstrained density.

    Args:
        guide: the name of a shared guide.
        program: the model that it is for.
        seed: of the points from which the mode is searched.
        context: the device.

    Returns:
        The guide, and a note where there is no mode, so that it begins at random.

    Raises:
        BadSetting: a guide that is not shared, or a run on a GPU.
    """
    if not isinstance(guide, str) or guide in program.problem.guides:
        raise BadSetting(
            "begin=map is for the shared guides, others begin as written; leave it out"
        )
    if context.device != "cpu":
        raise BadSetting(
            "begin=map runs on the processor alone; leave it out, or use --device cpu"
        )
    parse(guide, program.problem.guides)  # a wrong name is refused before the search
    with seeded(seed, FIT):
        end = mode(program, [program.start() for _ in range(_STARTS)], jacobian=True)
    if end.escaped.any() or not end.u.isfinite().all():
        text = "the unconstrained density has no mode to begin at, so the guide began at random"
        return resolve(guide, program), [Finding("note", text)]
    values = program.constrain(end.u)
    return resolve(guide, program, lambda site: values[site["name"]].clone()), []
