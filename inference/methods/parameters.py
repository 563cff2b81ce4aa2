"""The parameters of a fit: a store of their own, and one vector of which all are views."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import transform_to

from ..core.problem import Graphs


@contextmanager
def store() -> Iterator[None]:
    """A parameter store of the fit's own, after which modules hold the values they had before."""
    with pyro.get_param_store().scope(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        pyro.clear_param_store()
        try:
            yield
        finally:
            for param in pyro.get_param_store().get_state()["params"].values():
                param.data = vars(param).pop("lent", param.data)


def _lend(param: Tensor, data: Tensor) -> None:
    """Give a parameter, which modules of the user's may hold, other values until `store` ends."""
    if not hasattr(param, "lent"):
        param.lent = param.data
    param.data = data


def set_values(values: Mapping[str, Any]) -> None:
    """Parameters of the store take the (constrained) values of their name and shape, if any."""
    state = pyro.get_param_store().get_state()
    for name, param in state["params"].items():
        to_space = transform_to(state["constraints"][name])
        if name in values and to_space(param).shape == tuple(values[name].shape):
            value = torch.as_tensor(values[name]).to(param)
            _lend(param, to_space.inv(value).detach())


def unconstrained(trace: poutine.Trace) -> list[Tensor]:
    """The unconstrained parameters that a run has asked for, each once."""
    params = [node["value"] for node in trace.nodes.values() if node["type"] == "param"]
    params = [param.unconstrained() for param in params if hasattr(param, "unconstrained")]
    return list({id(param): param for param in params}.values())


def flatten(params: Sequence[Tensor], graphs: Graphs | None) -> Tensor:
    """One vector of all parameters, of which each becomes a view: one update moves them all.

    Args:
        params: unconstrained parameters, of any shapes.
        graphs: in whose memory the vector is to lie; None takes new memory.

    Returns:
        The vector (d,), d the number of all their scalars.
    """
    flat = torch.cat([param.detach().flatten() for param in params])
    flat = flat if graphs is None else graphs.memory("parameters", flat)
    start = 0
    for param in params:
        _lend(param, flat[start : start + param.numel()].view(param.shape))
        start += param.numel()
    return flat


def module_of(guide: Any) -> nn.Module | None:
    """The module that a guide is, under its options and handlers; None where it is a function."""
    guide = inspect.unwrap(guide)
    if isinstance(guide, partial):
        return module_of(guide.func)
    return guide if isinstance(guide, nn.Module) else None


@contextmanager
def in_mode(guide: Callable, training: bool) -> Iterator[None]:
    """Set what a guide that is a module of torch does in training alone: dropout and the like."""
    module = module_of(guide)
    before = {} if module is None else {part: part.training for part in module.modules()}
    if module is not None:
        module.train(training)
    try:
        yield
    finally:
        for part, was_training in before.items():
            part.training = was_training
