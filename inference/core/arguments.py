"""What the verbs are given, in Python and on the command line alike: checked before any work."""

from __future__ import annotations

import inspect
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, TypeVar

from models.contract import UsageError

Verb = TypeVar("Verb", bound=Callable[..., Any])

# One more than the largest seed: what a file, another language or a GPU can hold.
_SEEDS = 2**64


def checked(verb: Verb) -> Verb:
    """The function, its arguments held against what those of their names take.

    Raises:
        UsageError: of the call: one that is of another kind, or out of range.
    """
    form = inspect.signature(verb)

    @wraps(verb)
    def call(*positional: Any, **named: Any) -> Any:
        bound = form.bind(*positional, **named)
        bound.arguments.update(held(bound.arguments))
        return verb(*bound.args, **bound.kwargs)

    return call


def held(named: Mapping[str, Any]) -> dict[str, Any]:
    """What was given by name, held against what arguments of these names take.

    Raises:
        UsageError: one that is of another kind, or out of range.
    """
    checks = {name: _CHECKS.get(name, _anything) for name in named}
    return {name: check(name, named[name]) for name, check in checks.items()}


def _anything(_: str, value: Any) -> Any:
    return value


def _seed(name: str, value: Any) -> int:
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if not 0 <= number < _SEEDS:
        raise UsageError(f"{name}={value!r} is no seed; give a whole number from 0 to 2**64 - 1")
    return number


def _path(name: str, value: Any) -> Any:
    if value is None:
        return None
    try:
        text = os.fspath(value)
    except TypeError:
        text = None
    if not isinstance(text, str) or not text or "\0" in text:
        raise UsageError(f"{name}={value!r} is no path; give text or a pathlib.Path")
    return value


def _word(name: str, value: Any) -> Any:
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{name}={value!r} is no name; give text")
    return value


def _guide(name: str, value: Any) -> Any:
    return value if callable(value) else _path(name, value)


def _run(name: str, value: Any) -> Any:
    return value if hasattr(value, "record") else _path(name, value)


def _jobs(name: str, value: Any) -> int:
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise UsageError(f"{name}={value!r} is no number of fits at once; give 1 or more")
    return number


def _several(name: str, value: Any) -> Any:
    if not isinstance(value, Iterable):
        raise UsageError(f"{name}={value!r} are not several; give a list")
    return value


_CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "seed": _seed,
    "out": _path,
    "folder": _path,
    "method": _word,
    "device": _word,
    "guide": _guide,
    "init": _run,
    "jobs": _jobs,
    "callbacks": _several,
}


def recordable(value: Any, what: str = "") -> Any:
    """A value as it can be written in a record: numbers, words, lists and mappings of these.

    Args:
        value: numbers of NumPy and arrays too.
        what: what it is called.

    Raises:
        UsageError: it cannot be written, and so not be asked for again.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(k): recordable(v, f"{what}.{k}" if what else str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [recordable(one, what) for one in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # of NumPy or torch
        return recordable(value.tolist(), what)
    kind = type(value).__name__
    raise UsageError(f"{what} is a {kind}, which no record can hold; give numbers or words")
