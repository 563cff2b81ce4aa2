"""Torch's operations in C: how each becomes steps (see `loops`)."""

from typing import Any

import torch

from . import elementwise, indexing, matrices, reductions
from .formulas import Operation, Unknown

OPERATIONS = {
    **elementwise.OPERATIONS,
    **reductions.OPERATIONS,
    **matrices.OPERATIONS,
    **indexing.OPERATIONS,
}


def operation(function: Any) -> Operation:
    """How an operation of torch's is written in C; one that works in place as the other one.

    Raises:
        Unknown: it has no form in C.
    """
    known = OPERATIONS.get(function)
    if known is not None:
        return known
    if function._schema.is_mutable:
        name = function._schema.name.partition("::")[2].removesuffix("_")
        plain = getattr(getattr(torch.ops.aten, name, None), function._overloadname, None)
        if plain in OPERATIONS:
            return OPERATIONS[plain]
    raise Unknown(str(function))
