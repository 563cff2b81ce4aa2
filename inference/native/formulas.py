"""Formulas in C of arrays and numbers: what operations are written with.

`@@` after the name of a function stands for the suffix of its type.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

from .loops import TYPES, Array, Steps


class Unknown(Exception):
    """An operation, or an argument of one, that has no form in C; names it."""


# What a form raises for arguments that it does not foresee.
UNFORESEEN = (Unknown, TypeError, KeyError, ValueError, IndexError)
# Arguments of operations that say what their output is like, which is known from the output.
OF_OUTPUT = {"dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking"}

# An operation: writes the steps that fill its output, of its arguments.
Operation = Callable[..., None]


def literal(value: float | bool, dtype: torch.dtype) -> str:
    """A number in C."""
    if not dtype.is_floating_point:
        return str(int(value))
    value = float(value)
    if math.isnan(value):
        return '__builtin_nan("")'
    if math.isinf(value):
        return f"({'-' if value < 0 else ''}__builtin_inf())"
    return f"({TYPES[dtype]}){value!r}"


def apply(
    steps: Steps,
    out: Array,
    text: str,
    *values: Any,
    dtype: torch.dtype | None = None,
    adds: bool = False,
) -> None:
    """A formula of arrays and numbers: see `Steps.write`."""
    dtype = dtype or out.dtype
    arrays = [value for value in values if isinstance(value, Array)]
    places = iter(range(len(arrays)))
    words = [f"{{{next(places)}}}" if isinstance(v, Array) else literal(v, dtype) for v in values]
    steps.write(out, text.format(*words), *arrays, dtype=dtype, adds=adds)


def like(steps: Steps, array: Array) -> Array:
    """A new array of the same shape and type."""
    return steps.new(array.dtype, array.shape)
