"""Operations in C that fill, join, pick and spread parts of arrays."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from .formulas import Operation, Unknown, apply, literal
from .loops import Array, Steps

aten = torch.ops.aten


def _joined(steps: Steps, out: Array, parts: Sequence[Array], dim: int = 0) -> None:
    at, dim = 0, dim % max(len(out.shape), 1)
    for part in parts:
        if part.shape == (0,):
            continue  # torch lets an empty vector stand among arrays of any rank
        length = part.shape[dim]
        apply(steps, out.part(dim, at, length), "{0}", part)
        at += length


def _stacked(steps: Steps, out: Array, parts: Sequence[Array], dim: int = 0) -> None:
    for i, part in enumerate(parts):
        apply(
            steps, out.part(dim % len(out.shape), i, 1).without(dim % len(out.shape)), "{0}", part
        )


def _filled(steps: Steps, out: Array, *_: Any, value: float = 0, **__: Any) -> None:
    apply(steps, out, "{0}", value)


def _left(*_: Any, **__: Any) -> None:
    """Memory that is filled later."""


def _filled_with(steps: Steps, out: Array, _: Any, value: Any, **__: Any) -> None:
    apply(steps, out, "{0}", value)


def _slice_backward(
    steps: Steps, out: Array, slope: Array, _: Any, dim: int, start: int, end: int, step: int
) -> None:
    apply(steps, out, "0")
    size = out.shape[dim]
    first, last, _ = slice(start, end, step).indices(size)
    length = len(range(first, last, step))
    apply(steps, out.part(dim, first, length, step), "{0}", slope)


def _select_backward(steps: Steps, out: Array, slope: Array, _: Any, dim: int, index: int) -> None:
    apply(steps, out, "0")
    dim %= len(out.shape)
    apply(steps, out.part(dim, index % out.shape[dim], 1).without(dim), "{0}", slope)


def _copied(steps: Steps, out: Array, _: Array, source: Array, *__: Any) -> None:
    apply(steps, out, "{0}", source)


def _flipped(steps: Steps, out: Array, x: Array, dims: Sequence[int]) -> None:
    for dim in dims:
        dim %= len(x.shape)
        strides = tuple(-s if d == dim else s for d, s in enumerate(x.strides))
        x = x._replace(strides=strides, offset=x.offset + (x.shape[dim] - 1) * x.strides[dim])
    _walk(steps, out, "{out} = {0};", x)


def _walk(steps: Steps, out: Array, text: str, *others: Array, **elsewhere: str) -> None:
    """A statement for each element of `out`, or of the first of the others, in any order."""
    names = [f"i{d}" for d in range(len(out.shape))]
    loops = [f"for (i64 {i} = 0; {i} < {n}; {i}++)" for i, n in zip(names, out.shape)]
    values = [other.expanded(out.shape).at(names) for other in others]
    body = text.format(*values, out=out.at(names), **elsewhere)
    steps.lines("\n".join([*loops, body]), out, *others)


def _index(name: str, array: Array, size: int) -> str:
    """An index that may count from the end."""
    return f"const i64 {name} = {array} < 0 ? {array} + {size} : {array};"


def _gathered(steps: Steps, out: Array, x: Array, dim: int, index: Array, **_: Any) -> None:
    names = [f"i{d}" for d in range(len(out.shape))]
    at = x.at([("at" if d == dim % len(names) else n) for d, n in enumerate(names)])
    _walk_with(steps, out, x, index, f"const i64 at = {{0}}; {{out}} = {at};")


def _walk_with(steps: Steps, out: Array, x: Array, index: Array, body: str) -> None:
    """A statement with an index for each element of `out`; `x` is read or written there."""
    names = [f"i{d}" for d in range(len(out.shape))]
    loops = [f"for (i64 {i} = 0; {i} < {n}; {i}++)" for i, n in zip(names, out.shape)]
    text = body.format(index.expanded(out.shape).at(names), out=out.at(names))
    steps.lines("\n".join([*loops, f"{{ {text} }}"]), out, x, index)


def _scattered(
    steps: Steps, out: Array, x: Array, dim: int, index: Array, source: Any, *, sign: str
) -> None:
    """The array with values put (`=`) or added (`+=`) where an index says."""
    if x.memory != out.memory:
        apply(steps, out, "{0}", x)
    names = [f"i{d}" for d in range(len(index.shape))]
    at = out.at([("at" if d == dim % max(len(names), 1) else n) for d, n in enumerate(names)])
    value = source.at(names) if isinstance(source, Array) else literal(source, out.dtype)
    _walk_with(steps, index, out, index, f"const i64 at = {{0}}; {at} {sign} {value};")
    if isinstance(source, Array):
        steps.lines("", source)


def _rows(steps: Steps, out: Array, x: Array, dim: int, index: Array) -> None:
    """The rows of an array that an index names."""
    wide = _along(index, dim % len(x.shape), len(x.shape))
    _gathered(steps, out, x, dim, wide)


def _along(index: Array, dim: int, rank: int) -> Array:
    """A vector that varies along one of several dimensions."""
    shape = tuple(index.shape[0] if d == dim else 1 for d in range(rank))
    strides = tuple(index.strides[0] if d == dim else 0 for d in range(rank))
    return index._replace(shape=shape, strides=strides)


def _rows_added(
    steps: Steps, out: Array, x: Array, dim: int, index: Array, source: Array, *, alpha: float = 1
) -> None:
    if alpha != 1:
        raise Unknown("scaled rows that are added")
    wide = _along(index, dim % len(x.shape), len(x.shape)).expanded(source.shape)
    _scattered(steps, out, x, dim, wide, source, sign="+=")


def _by_indices(x: Array, indices: Sequence[Any]) -> tuple[list[str], list[Array], int, int]:
    """How `x[..., i, j, ...]` is read: indices in C, the arrays of these, first one and rank."""
    at = [d for d, index in enumerate(indices) if index is not None]
    if at != list(range(at[0], at[0] + len(at))):
        raise Unknown("indices apart")
    arrays = [indices[d] for d in at]
    if any(index.dtype not in (torch.int64, torch.int32) for index in arrays):
        raise Unknown("an index of yes and no")
    shape = torch.broadcast_shapes(*(index.shape for index in arrays))
    arrays = [index.expanded(shape) for index in arrays]
    places = [f"k{d}" for d in range(len(shape))]
    rest = len(x.shape) - at[0] - len(at)
    names = [f"i{d}" for d in range(at[0])]
    names += [
        f"({index.at(places)} < 0 ? {index.at(places)} + {size} : {index.at(places)})"
        for index, size in zip(arrays, x.shape[at[0] :])
    ]
    names += [f"j{d}" for d in range(rest)]
    return names, arrays, at[0], len(shape)


def _loops_of(shape: Sequence[int], first: int, rank: int) -> tuple[list[str], list[str]]:
    names = [f"i{d}" for d in range(first)] + [f"k{d}" for d in range(rank)]
    names += [f"j{d}" for d in range(len(shape) - len(names))]
    return names, [f"for (i64 {i} = 0; {i} < {n}; {i}++)" for i, n in zip(names, shape)]


def _indexed(steps: Steps, out: Array, x: Array, indices: Sequence[Any]) -> None:
    at, arrays, first, rank = _by_indices(x, indices)
    names, loops = _loops_of(out.shape, first, rank)
    steps.lines("\n".join([*loops, f"{out.at(names)} = {x.at(at)};"]), out, x, *arrays)


def _put(
    steps: Steps,
    out: Array,
    x: Array,
    indices: Sequence[Any],
    values: Array,
    accumulate: bool = False,
    *_: Any,
) -> None:
    if x.memory != out.memory:
        apply(steps, out, "{0}", x)
    at, arrays, first, rank = _by_indices(x, indices)
    middle = arrays[0].shape
    shape = (*x.shape[:first], *middle, *x.shape[first + len(arrays) :])
    names, loops = _loops_of(shape, first, rank)
    sign = "+=" if accumulate else "="
    body = f"{out.at(at)} {sign} {values.expanded(shape).at(names)};"
    steps.lines("\n".join([*loops, body]), out, values, *arrays)


def _triangle(sign: str) -> Operation:
    def operation(steps: Steps, out: Array, x: Array, diagonal: int = 0) -> None:
        rank = len(x.shape)
        row, column = f"i{rank - 2}", f"i{rank - 1}"
        _walk(steps, out, f"{{out}} = {column} {sign} {row} + {diagonal} ? {{0}} : 0;", x)

    return operation


OPERATIONS: Mapping[Any, Operation] = {
    aten.cat.default: _joined,
    aten.stack.default: _stacked,
    **dict.fromkeys(
        [aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default, aten.zero.default],
        _filled,
    ),
    **dict.fromkeys(
        [aten.ones.default, aten.ones_like.default, aten.new_ones.default],
        partial(_filled, value=1),
    ),
    **dict.fromkeys(
        [aten.full.default, aten.full_like.default, aten.fill.Scalar, aten.fill.Tensor],
        _filled_with,
    ),
    aten.empty.memory_format: _left,
    aten.slice_backward.default: _slice_backward,
    aten.select_backward.default: _select_backward,
    aten.copy.default: _copied,
    aten.flip.default: _flipped,
    aten.gather.default: _gathered,
    **dict.fromkeys([aten.scatter.src, aten.scatter.value], partial(_scattered, sign="=")),
    aten.scatter_add.default: partial(_scattered, sign="+="),
    aten.index_select.default: _rows,
    aten.index_add.default: _rows_added,
    aten.index.Tensor: _indexed,
    aten.index_put.default: _put,
    aten.tril.default: _triangle("<="),
    aten.triu.default: _triangle(">="),
}
