"""Operations in C that fill, join, pick and spread parts of arrays."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from .formulas import Operation, Unknown, apply, like, literal
from .loops import Array, Steps, contiguous

aten = torch.ops.aten


def _joined(steps: Steps, out: Array, parts: Sequence[Array], dim: int = 0) -> None:
    at, dim = 0, dim % max(len(out.shape), 1)
    for part in parts:
        if part.shape == (0,):
            continue  # torch lets an empty vector stand among arrays of any rank
        length = part.shape[dim]
        place = out.part(dim, at, length)
        if not steps.lay_into(part, place):
            apply(steps, place, "{0}", part)
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


def _reshaped(steps: Steps, out: Array, x: Array, _: Any) -> None:
    copy = out._replace(shape=x.shape, strides=contiguous(x.shape))
    apply(steps, copy, "{0}", x)


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
        scaled = like(steps, source)
        apply(steps, scaled, "{0} * {1}", source, alpha)
        source = scaled
    wide = _along(index, dim % len(x.shape), len(x.shape)).expanded(source.shape)
    _scattered(steps, out, x, dim, wide, source, sign="+=")


class _Picked(NamedTuple):
    """How the elements of `x[:, i, j, ...]` are found.

    Attributes:
        at: the indices of each in x, in C.
        names: those of its place among what is picked.
        shape: of what is picked.
        arrays: the indices.
    """

    at: list[str]
    names: list[str]
    shape: tuple[int, ...]
    arrays: list[Array]

    @property
    def loops(self) -> list[str]:
        """Over all that is picked."""
        sizes = zip(self.names, self.shape)
        return [f"for (i64 {i} = 0; {i} < {n}; {i}++)" for i, n in sizes]


def _by_indices(x: Array, indices: Sequence[Any]) -> _Picked:
    """How elements are picked by whole numbers; those apart from each other come first."""
    where = [d for d, index in enumerate(indices) if index is not None]
    beside = where == list(range(where[0], where[0] + len(where)))
    shape = torch.broadcast_shapes(*(indices[d].shape for d in where))
    places = [f"k{d}" for d in range(len(shape))]
    at, arrays = [f"i{d}" for d in range(len(x.shape))], []
    for d in where:
        arrays.append(indices[d].expanded(shape))
        index = arrays[-1].at(places)
        at[d] = f"({index} < 0 ? {index} + {x.shape[d]} : {index})"
    rest = [d for d in range(len(x.shape)) if d not in where]
    first = where[0] if beside else 0
    names = [f"i{d}" for d in rest]
    sizes = [x.shape[d] for d in rest]
    names = [*names[:first], *places, *names[first:]]
    return _Picked(at, names, (*sizes[:first], *shape, *sizes[first:]), arrays)


def _numbered(steps: Steps, indices: Sequence[Any], count: int) -> list[Any]:
    """Indices, with whole numbers in the place of a mask: where it is true.

    Args:
        steps: to which is added what finds them.
        indices: of which one may be a mask.
        count: how often it is true.

    Raises:
        Unknown: there is a mask beside another index.
    """
    if not any(map(_is_mask, indices)):
        return list(indices)
    (at,) = [d for d, index in enumerate(indices) if index is not None]
    mask = indices[at]
    names = [f"i{d}" for d in range(len(mask.shape))]
    found = [steps.new(torch.int64, (count,)) for _ in names]
    loops = [f"for (i64 {i} = 0; {i} < {n}; {i}++)" for i, n in zip(names, mask.shape)]
    puts = [f"{array.at(['n'])} = {name};" for array, name in zip(found, names)]
    body = f"if ({mask.at(names)} && n < {count}) {{ {' '.join(puts)} n++; }}"
    steps.lines("\n".join(["i64 n = 0;", *loops, body]), mask, *found)
    return [*indices[:at], *found, *indices[at + 1 :]]


def _is_mask(index: Any) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def _indexed(steps: Steps, out: Array, x: Array, indices: Sequence[Any]) -> None:
    first = next(d for d, index in enumerate(indices) if index is not None)
    picked = _by_indices(x, _numbered(steps, indices, out.shape[first]))
    body = f"{out.at(picked.names)} = {x.at(picked.at)};"
    steps.lines("\n".join([*picked.loops, body]), out, x, *picked.arrays)


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
    if any(map(_is_mask, indices)):
        return _put_masked(steps, out, indices, values, accumulate)
    return _put_at(steps, out, indices, values, accumulate)


def _put_at(
    steps: Steps, out: Array, indices: Sequence[Any], values: Array, accumulate: bool
) -> None:
    picked = _by_indices(out, indices)
    value = values.expanded(picked.shape).at(picked.names)
    body = f"{out.at(picked.at)} {'+=' if accumulate else '='} {value};"
    steps.lines("\n".join([*picked.loops, body]), out, values, *picked.arrays)


def _put_masked(
    steps: Steps, out: Array, indices: Sequence[Any], values: Array, accumulate: bool
) -> None:
    """Values put where a mask is true: one for all its places, or one after another."""
    (at,) = [d for d, index in enumerate(indices) if index is not None]
    mask, rank = indices[at], len(indices[at].shape)
    missing = len(out.shape) - rank + 1 - len(values.shape)
    shape, strides = (1,) * missing + values.shape, (0,) * missing + values.strides
    if shape[at] != 1:
        found = _numbered(steps, indices, shape[at])
        return _put_at(steps, out, found, values, accumulate)
    shape, strides = (
        a[:at] + (one,) * rank + a[at + 1 :] for a, one in ((shape, 1), (strides, 0))
    )
    after = len(out.shape) - at - rank
    mask = mask._replace(shape=mask.shape + (1,) * after, strides=mask.strides + (0,) * after)
    text = "{1} ? {0} + {2} : {0}" if accumulate else "{1} ? {2} : {0}"
    values = values._replace(shape=shape, strides=strides)
    return apply(steps, out, text, out, mask, values)


def _counted(steps: Steps, out: Array, start: float, end: float = 0, step: float = 1) -> None:
    """Numbers in equal steps from a start on."""
    first, each = literal(start, out.dtype), literal(step, out.dtype)
    _walk(steps, out, f"{{out}} = {first} + i0 * {each};")


def _searched(
    steps: Steps,
    out: Array,
    edges: Array,
    x: Array,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Any = None,
) -> None:
    """How many of the edges (n) or (..., n) lie below each number, or not above it (`right`)."""
    if sorter is not None:
        raise Unknown("edges in another order")
    names = [f"i{d}" for d in range(len(x.shape))]
    row = [*names[:-1], "m"] if len(edges.shape) > 1 else ["m"]
    loops = [f"for (i64 {i} = 0; {i} < {n}; {i}++)" for i, n in zip(names, x.shape)]
    beyond = "!({0} > {1})" if right or side == "right" else "!({0} >= {1})"
    body = (
        f"{{ i64 low = 0, high = {edges.shape[-1]};\n"
        f"while (low < high) {{ const i64 m = (low + high) / 2;\n"
        f"if ({beyond.format(edges.at(row), x.at(names))}) low = m + 1; else high = m; }}\n"
        f"{out.at(names)} = low; }}"
    )
    steps.lines("\n".join([*loops, body]), out, edges, x)


def _bucketed(steps: Steps, out: Array, x: Array, edges: Array, **how: Any) -> None:
    _searched(steps, out, edges, x, **how)


def _triangle(sign: str) -> Operation:
    def operation(steps: Steps, out: Array, x: Array, diagonal: int = 0) -> None:
        rank = len(x.shape)
        row, column = f"i{rank - 2}", f"i{rank - 1}"
        _walk(steps, out, f"{{out}} = {column} {sign} {row} + {diagonal} ? {{0}} : 0;", x)

    return operation


# Memory in any layout: what torch gave for an example has it.
_EMPTY = (
    *(aten.empty.memory_format, aten.empty_like.default, aten.empty_strided.default),
    *(aten.empty_permuted.default, aten.new_empty.default, aten.new_empty_strided.default),
)

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
    aten.scalar_tensor.default: lambda steps, out, value: apply(steps, out, "{0}", value),
    **dict.fromkeys(_EMPTY, _left),
    aten.arange.start_step: _counted,
    aten.arange.start: _counted,
    aten.arange.default: lambda steps, out, _: _counted(steps, out, 0),
    aten.searchsorted.Tensor: _searched,
    aten.bucketize.Tensor: _bucketed,
    aten.slice_backward.default: _slice_backward,
    aten.select_backward.default: _select_backward,
    aten.copy.default: _copied,
    aten.reshape.default: _reshaped,
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
