"""Options and settings as functions declare them: keyword-only parameters with defaults.

A range stands in the annotation, as the words a user reads: `Annotated[float, "> 0"]`,
`Annotated[int, ">= 1", "<= 15"]`, a choice as `Literal["normal", "laplace"]`; and whether other
models than networks do not have it: `Annotated[int, ">= 1", "of networks"]`.
"""

import ast
import inspect
import math
import operator
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from models.contract import BadSetting, nearest

OF_NETWORKS = "of networks"


@dataclass(frozen=True)
class Setting:
    """One keyword-only parameter.

    Attributes:
        name: its name, the key of `--set`.
        default: its default value.
        kind: its type without the bounds; Any where nothing is declared.
        bounds: comparisons that a value must meet, such as `> 0`.
        of_networks: whether it is for networks alone.
    """

    name: str
    default: Any
    kind: Any
    bounds: tuple[str, ...] = ()
    of_networks: bool = False

    @property
    def range(self) -> str:
        """What is allowed, in words."""
        if get_origin(self.kind) is Literal:
            return " | ".join(map(str, get_args(self.kind)))
        return " and ".join(self.bounds)


def declared(function: Callable) -> dict[str, Setting]:
    """The keyword-only parameters of a function that have a default, by name."""
    settings = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty:
            kind, words = _kind(function, parameter)
            bounds = tuple(word for word in words if word != OF_NETWORKS)
            alone = len(bounds) < len(words)
            settings[name] = Setting(name, parameter.default, kind, bounds, alone)
    return settings


def _kind(function: Callable, parameter: inspect.Parameter) -> tuple[Any, tuple[str, ...]]:
    """The type of a parameter, by its annotation or else its default, and the words beside it."""
    annotation = parameter.annotation
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, _names(function))
        except NameError:  # a type imported for type checkers only
            annotation = parameter.empty
    if get_origin(annotation) is Annotated:
        kind, *bounds = get_args(annotation)
        return kind, tuple(bounds)
    if annotation is not parameter.empty:
        return annotation, ()
    return (Any if parameter.default is None else type(parameter.default)), ()


def _names(function: Callable) -> dict[str, Any]:
    """The names that a function's annotations are written in; of a class those of its module."""
    if inspect.isclass(function):
        return vars(sys.modules[function.__module__])
    return inspect.unwrap(function).__globals__


def check(setting: Setting, value: Any) -> Any:
    """A value (text from the command line, or a Python value) in the setting's type and range.

    Raises:
        BadSetting: naming the setting and what it may be.
    """
    converted = _convert(setting, value)
    bounds = setting.bounds if isinstance(converted, int | float) else ()
    if not all(_holds(converted, bound) for bound in bounds):
        raise _bad(setting, value)
    return converted


def _convert(setting: Setting, value: Any) -> Any:
    """A value in the first of the setting's types that it fits."""
    for kind in _members(setting.kind):
        try:
            return _as(kind, value)
        except (ValueError, TypeError, KeyError, OverflowError):
            continue
    raise _bad(setting, value)


def _members(kind: Any) -> tuple:
    """The types of a union, or the one type that it is."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _as(kind: Any, value: Any) -> Any:
    """`value` as `kind`; an error of Python's own if it is none."""
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError
        return value
    if kind is bool:
        return value if isinstance(value, bool) else _BOOLEANS[str(value).lower()]
    if kind is int and not isinstance(value, bool) and float(value) == int(float(value)):
        return int(float(value))
    if kind is float and not isinstance(value, bool) and math.isfinite(float(value)):
        return float(value)
    if kind in (types.NoneType, None) and value in (None, "none", "None"):
        return None
    if kind is str and isinstance(value, str):
        return value
    if kind is Any:
        return _literal(value)
    if isinstance(kind, type) and isinstance(value, kind):
        return value
    if not isinstance(kind, type) and callable(value):
        return value
    raise ValueError


_BOOLEANS = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}


def _literal(value: Any) -> Any:
    """The Python value that a text spells, or else the text."""
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        return value


_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


def _holds(value: float, bound: str) -> bool:
    """Whether a number meets a bound such as `>= 1`."""
    sign, _, limit = bound.partition(" ")
    return _COMPARE[sign](value, float(limit))


def _bad(setting: Setting, value: Any) -> BadSetting:
    """The refusal of a value, with what the setting may be."""
    kind = getattr(setting.kind, "__name__", "") if not get_args(setting.kind) else ""
    names = {"int": "a whole number", "float": "a number", "bool": "yes or no", "str": "a word"}
    wanted = f"{names.get(kind, '')} {setting.range}".strip() or "another value"
    return BadSetting(
        f"{setting.name}={value} is out of range; it must be {wanted} (default {setting.default})"
    )


def share_out(
    given: Mapping[str, Any], homes: Mapping[str, Mapping[str, Setting]]
) -> dict[str, dict[str, Any]]:
    """Each given value to the home that declares its name, checked.

    Args:
        given: setting name to value.
        homes: home (`model`, `data`, `method`) to what it declares.

    Raises:
        BadSetting: a name that no home declares (with the nearest), or a value out of range.
    """
    shares: dict[str, dict[str, Any]] = {home: {} for home in homes}
    for name, value in given.items():
        home = next((home for home, settings in homes.items() if name in settings), None)
        if home is None:
            known = [name for settings in homes.values() for name in settings]
            raise BadSetting(f"there is no setting '{name}' here; {nearest(name, known)}")
        shares[home][name] = check(homes[home][name], value)
    return shares


def bound(guide: Callable, options: Mapping[str, Any]) -> Callable:
    """A guide of the model's own, with those of the model's options that it declares too."""
    own = declared(guide)
    return partial(guide, **{k: v for k, v in options.items() if k in own})
