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

from .. import guide as shared_guide
from ..core.problem import Guide
from ..program.program import Program
from .guides import Init, parse


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
