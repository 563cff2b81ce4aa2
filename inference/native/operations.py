"""Torch's operations in C: how each becomes steps (see `loops`)."""

from typing import Any

from . import elementwise, indexing, matrices, reductions
from .aten import plain
from .composed import composed
from .formulas import UNFORESEEN, Operation, Unknown
from .loops import Steps

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
    base = _plain(function)
    form = OPERATIONS.get(base)
    if form is None:
        return composed(base, _form)

    def write(steps: Steps, *args: Any, **kwargs: Any) -> None:
        before = len(steps.steps)
        try:
            form(steps, *args, **kwargs)
        except UNFORESEEN:
            del steps.steps[before:]
            composed(base, _form)(steps, *args, **kwargs)

    return write


def _form(function: Any) -> Operation:
    """The form of an operation that is composed of no others.

    Raises:
        Unknown: it has none.
    """
    base = _plain(function)
    if base not in OPERATIONS:
        raise Unknown(str(function))
    return OPERATIONS[base]


def _plain(function: Any) -> Any:
    """An operation that gives what another one writes in place; of others itself."""
    if not function._schema.is_mutable or function in OPERATIONS:
        return function
    return plain(function)
