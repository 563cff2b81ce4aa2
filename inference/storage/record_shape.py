"""What a run's record holds, and of what kind: a record that is whole may still be no run's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from ..core.problem import Finding

_NUMBER = int | float | None
_TEXT = str | None
# A shape is a type; a set of values; a list with the shape of all of its items; a tuple of the
# shapes of each; a mapping of names to shapes, or of `str` to that of all values; or a dataclass
# that is made of what is held.
_ASKED = {"source": _TEXT, "in_python": bool, "options": dict}
_BEGUN: Mapping[str, Any] = {
    "status": frozenset({"running", "interrupted", "drawing", "done", "failed"}),
    "name": str,
    "model": str,
    "method": str,
    "guide": _TEXT,
    "model_in_python": bool,
    "guide_in_python": bool,
    "device": str,
    "seed": int,
    "options": dict,
    "settings": dict,
    "versions": {str: _TEXT},
    "data": {"source": str, "n": _NUMBER, "sha256": str, "notes": [str], "asked": _ASKED},
}
_WITH_VERDICT: Mapping[str, Any] = {
    "verdict": {"status": frozenset({"pass", "warn", "fail"}), "reasons": [str]},
    "timing": {str: _NUMBER},
    "files": {str: str},
}
_WITH_DRAWS: Mapping[str, Any] = {
    "metrics": {str: _NUMBER},
    "findings": [Finding],
    "point": {str: int | float | list},
    "exact": dict,
    "latent_keys": [str],
    "data": {"shapes": {str: list}, "predicted": [str], "units": dict, "rows": list | None},
}
# What the verdict was given to say, by purpose: an answer and why. Older runs have none.
_GIVEN = {"given": {str: (str, str)}}


def odd(record: Mapping[str, Any]) -> str | None:
    """The first part of a record that a run's does not have so, such as `data.notes`."""
    shapes = [_BEGUN]
    shapes += [_GIVEN] if "given" in record else []
    if "verdict" in record or record.get("status") in ("done", "drawing"):
        shapes += [_WITH_VERDICT] if "calibration" in record else [_WITH_VERDICT, _WITH_DRAWS]
    return next((where for shape in shapes for where in _odd(record, shape, "")), None)


def _odd(value: Any, shape: Any, where: str) -> Iterator[str]:
    """Where a value is not of a shape."""
    if isinstance(shape, list | tuple):
        fits = isinstance(value, list) and (isinstance(shape, list) or len(value) == len(shape))
        parts = dict(enumerate(value)) if fits else None
    elif isinstance(shape, Mapping):
        parts = value if isinstance(value, Mapping) else None
    else:
        parts = {} if _is_of(value, shape) else None
    if parts is None:
        yield where
        return
    for name, kind in _kinds(parts, shape).items():
        at = f"{where}.{name}" if where else str(name)
        yield from _odd(parts[name], kind, at) if name in parts else (at,)


def _kinds(parts: Mapping[Any, Any], shape: Any) -> Mapping[Any, Any]:
    """The shape of each part."""
    if isinstance(shape, tuple):
        return dict(enumerate(shape))
    if isinstance(shape, list):
        return dict.fromkeys(parts, shape[0])
    if isinstance(shape, Mapping):
        return dict.fromkeys(parts, shape[str]) if str in shape else shape
    return {}


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is one of a set, can make a dataclass, or is of a type."""
    if isinstance(kind, frozenset):
        return isinstance(value, str) and value in kind
    if is_dataclass(kind):
        known = {field.name: field.default is MISSING for field in fields(kind)}
        needed = {name for name, is_needed in known.items() if is_needed}
        return isinstance(value, Mapping) and needed <= set(value) <= set(known)
    return isinstance(value, kind)
