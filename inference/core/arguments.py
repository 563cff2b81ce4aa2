"""The arguments of the verbs, in Python and on the command line alike: checked before any work."""

import inspect
import math
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

from models.contract import UsageError

P = ParamSpec("P")
T = TypeVar("T")

# One more than the largest seed: what a file, another language or a GPU can hold.
_SEEDS = 2**64


def checked(verb: Callable[P, T]) -> Callable[P, T]:
    """Decorate a verb so that its arguments are checked (`check_arguments`) at each call.

    Raises:
        UsageError: of the call: an argument is of another type, or out of range.
    """
    signature = inspect.signature(verb)

    @wraps(verb)
    def call(*positional: P.args, **named: P.kwargs) -> T:
        bound = signature.bind(*positional, **named)
        bound.arguments.update(check_arguments(bound.arguments))
        return verb(*bound.args, **bound.kwargs)

    return call


def check_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, each as the verbs take it: `seed` an int, `out` a path, and so on.

    Raises:
        UsageError: one is of another type, or out of range.
    """
    checked = {k: check(k, arguments[k]) for k, check in _CHECKS.items() if k in arguments}
    return {**arguments, **checked}


def _whole(least: int, limit: float, problem: str, name: str, value: Any) -> int:
    """A whole number of any type from `least` to below `limit`; True and False are none."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or not least <= number < limit:
        raise UsageError(f"{name}={value!r} {problem}")
    return number


def _path(name: str, value: Any) -> Any:
    """Text or a `pathlib.Path`, or None."""
    try:
        text = "." if value is None else os.fspath(value)
    except TypeError:
        text = None
    if not isinstance(text, str) or not text or "\0" in text:
        raise UsageError(f"{name}={value!r} is no path; give text or a pathlib.Path")
    return value


def _word(name: str, value: Any) -> Any:
    """Text, or None."""
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{name}={value!r} is no name; give text")
    return value


def _several(name: str, value: Any) -> Any:
    """What can be iterated over."""
    if not isinstance(value, Iterable):
        raise UsageError(f"{name}={value!r} are not several; give a list")
    return value


_CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "seed": partial(_whole, 0, _SEEDS, "is no seed; give a whole number from 0 to 2**64 - 1"),
    "jobs": partial(_whole, 1, math.inf, "is no number of fits at once; give 1 or more"),
    "out": _path,
    "folder": _path,
    "method": _word,
    "device": _word,
    "guide": lambda name, value: value if callable(value) else _path(name, value),
    "init": lambda name, value: value if hasattr(value, "record") else _path(name, value),
    "callbacks": _several,
}


def recordable(value: Any, name: str = "") -> Any:
    """A value as a record can hold it: numbers, words, lists and mappings of these.

    Args:
        value: also numbers and arrays of NumPy or torch, and paths.
        name: what the value is called, in an error.

    Raises:
        UsageError: no record can hold it, so that it could not be asked for again.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(k): recordable(v, f"{name}.{k}" if name else str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [recordable(item, name) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # of NumPy or torch
        return recordable(value.tolist(), name)
    kind = type(value).__name__
    raise UsageError(f"{name} is a {kind}, which no record can hold; give numbers or words")
