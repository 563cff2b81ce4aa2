"""A model, whatever it is written as: its parameters, its code, and a copy for each run.

A model may be a function, a class, a module of torch or Pyro, any object that is called, a method;
a `functools.partial` of these, or one under Pyro's handlers (`poutine.scale(model, scale=2)`,
`@poutine.reparam(...)`), stacked too. `inner` takes off one layer, and all else is built on it.
"""

from __future__ import annotations

import copy
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from pyro.nn import PyroModule
from pyro.nn.module import to_pyro_module_
from pyro.poutine.messenger import _bound_partial, _context_wrap
from pyro.poutine.reparam_messenger import ReparamHandler
from pyro.poutine.trace_messenger import TraceHandler
from torch import nn

# Values that an option keeps as its default.
_PLAIN = bool | int | float | str | None
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Layer(NamedTuple):
    """What lies under one layer of a callable, and what the layer adds to it.

    Attributes:
        under: the callable under it.
        args, keywords: arguments that are bound.
        handler: Pyro's effect handler; None where the layer is none.
    """

    under: Callable
    args: tuple = ()
    keywords: Mapping[str, Any] = {}
    handler: Any = None


def inner(model: Callable) -> Layer | None:
    """The outermost layer of a callable; None of a function, a class, a module or an object."""
    if isinstance(model, Model):
        return Layer(model.of)
    if isinstance(model, _bound_partial):
        model = model.func
    if isinstance(model, functools.partial) and model.func is _context_wrap:
        handler, under, *args = model.args
        return Layer(under, tuple(args), model.keywords, handler)
    if isinstance(model, functools.partial):
        return Layer(model.func, model.args, model.keywords)
    if isinstance(model, ReparamHandler | TraceHandler):
        return Layer(model.fn, handler=model.msngr)
    if inspect.ismethod(model):
        return Layer(model.__func__, (model.__self__,))
    wrapped = None if isinstance(model, nn.Module) else getattr(model, "__wrapped__", None)
    return None if wrapped is None else Layer(wrapped)


def heart(model: Callable) -> Callable:
    """The function whose code a model is: of a class or module `forward`, else `__call__`."""
    while (layer := inner(model)) is not None:
        model = layer.under
    if inspect.isfunction(model) or inspect.isbuiltin(model):
        return model
    method = _called(model if inspect.isclass(model) else type(model))
    return model if method is None else heart(method)


def _called(kind: type) -> Callable | None:
    """The method by which objects of a class are called; None where Python itself has it."""
    method = getattr(kind, "forward" if issubclass(kind, nn.Module) else "__call__", None)
    return method if inspect.isfunction(method) or inner(method) is not None else None


def signature(model: Callable) -> inspect.Signature:
    """The parameters that a model is called with, those that are bound left out.

    An option (keyword-only) that is bound to a plain value keeps that as its default.

    Raises:
        ValueError: Python does not know them.
    """
    layer = inner(model)
    if layer is not None and inspect.isclass(layer.under):
        raise ValueError(f"it makes objects of {layer.under.__name__}, and is none: call it")
    if layer is not None:
        return _bound(signature(layer.under), layer.args, layer.keywords)
    if inspect.isclass(model):
        if (called := _called(model)) is None:
            raise ValueError(f"{model.__name__} has no forward and no __call__")
        return _bound(signature(called), (None,), {})
    if inspect.isroutine(model):
        return inspect.signature(model)
    return signature(model.forward if isinstance(model, nn.Module) else model.__call__)


def _bound(
    whole: inspect.Signature, args: tuple, keywords: Mapping[str, Any]
) -> inspect.Signature:
    """What is left of a signature when some arguments are given."""
    left, waiting = [], len(args)
    for parameter in whole.parameters.values():
        value = keywords.get(parameter.name)
        if parameter.kind in POSITIONAL and waiting:
            waiting -= 1
        elif parameter.name not in keywords:
            left.append(parameter)
        elif parameter.kind is parameter.KEYWORD_ONLY and isinstance(value, _PLAIN):
            left.append(parameter.replace(default=value))
    return inspect.Signature(left)


class Model:
    """A model that is no plain function, as one: with a signature, a name and code.

    `inspect.signature` and `inspect.unwrap` see the parameters and the function at its heart.

    Attributes:
        of: the model as it was given; of an object a copy, which no run has changed; of a module
            one whose parts are PyroModules, so that Pyro knows every parameter by its name, and
            in which parameters that need no gradient are buffers.
    """

    def __init__(self, of: Callable):
        self.of = of
        with suppress(Exception):  # it holds what cannot be copied: then it is shared
            self.of = _renewed(of)
        if isinstance(held := object_of(self.of), nn.Module):
            _freeze(held)
            _pyro_alone(held)
        self.__wrapped__, self.__signature__ = heart(of), signature(of)
        self.__name__ = self.__qualname__ = _name_of(of)
        self.__module__, self.__doc__ = self.__wrapped__.__module__, self.__wrapped__.__doc__

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """The model run."""
        return self.of(*args, **keywords)

    def __deepcopy__(self, _: dict) -> Model:
        """The model for one run: of an object a copy, of a module in the current number type."""
        fresh = Model(self.of)
        if isinstance(held := object_of(fresh.of), nn.Module):
            held.to(torch.get_default_dtype())
        return fresh


def as_function(model: Callable, *, whole: bool = False) -> Callable:
    """A function or class as it is, a model of another kind as a `Model`.

    Args:
        model: or a guide.
        whole: whether a module is left as it is.

    Raises:
        ValueError: its parameters cannot be known.
    """
    plain = inspect.isfunction(model) and inner(model) is None
    allowed = (type, Model, nn.Module) if whole else (type, Model)
    return model if plain or isinstance(model, allowed) else Model(model)


def _name_of(model: Callable) -> str:
    while not inspect.isfunction(model) and (layer := inner(model)) is not None:
        model = layer.under
    return getattr(model, "__name__", type(model).__name__)


def _renewed(model: Callable) -> Callable:
    """A model under the same layers, its object copied; a function as it is."""
    layer = inner(model)
    if layer is None or inspect.isfunction(model):
        return copy.deepcopy(model)
    args = [copy.deepcopy(arg) if _is_of(arg, layer) else arg for arg in layer.args]
    if inspect.ismethod(model):
        return types.MethodType(layer.under, *args)
    under = _renewed(layer.under)
    under = under if layer.handler is None else layer.handler(under)
    return functools.partial(under, *args, **layer.keywords) if args or layer.keywords else under


def _is_of(argument: Any, layer: Layer) -> bool:
    """Whether the function under a layer is a method of an object that is bound."""
    name = getattr(layer.under, "__name__", "")
    return bool(name) and hasattr(type(argument), name)


def object_of(model: Callable) -> Any:
    """The module or object that a model is, or whose method it is; None of a function."""
    while (layer := inner(model)) is not None:
        first = next(iter(layer.args), None)
        model = first if _is_of(first, layer) else layer.under
    return None if inspect.isroutine(model) or inspect.isclass(model) else model


def _freeze(module: nn.Module) -> None:
    """Make constants of parameters that need no gradient, which Pyro would have trained."""
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None and not parameter.requires_grad:
                del part._parameters[name]
                part.register_buffer(name, parameter.detach())


def _pyro_alone(module: nn.Module) -> None:
    """Make PyroModules of a module and its parts, unless it is one that holds them rightly.

    A part inside a plain module would not know its name, and a plain module's parameters would be
    constants that nobody fits. What ran before has no say: its parts get a name anew.
    """
    parts = list(module.modules())
    mixed = any(
        not isinstance(part, PyroModule)
        and any(isinstance(child, PyroModule) for child in part.children())
        for part in parts
    )
    if isinstance(module, PyroModule) and not mixed:
        return
    for part in parts:
        if isinstance(part, PyroModule):
            part._pyro_context = type(part._pyro_context)()
    to_pyro_module_(module)
