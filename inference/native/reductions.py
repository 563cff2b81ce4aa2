"""Operations in C along dimensions: sums, extremes, softmax."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import torch

from .formulas import Operation, apply, like
from .loops import Array, Steps

aten = torch.ops.aten

# Elements that are folded one after another, without a loop.
_FEW = 8


def _dims(x: Array, dim: Any) -> list[int]:
    """The dimensions that are meant; none means all."""
    chosen = [dim] if isinstance(dim, int) else list(dim or range(len(x.shape)))
    return sorted(d % max(len(x.shape), 1) for d in chosen)


def _spread(out: Array, dims: Sequence[int], rank: int) -> Array:
    """A reduced array with its dimensions of size one, whether or not they were kept."""
    if len(out.shape) == rank:
        return out
    shape, strides = list(out.shape), list(out.strides)
    for dim in dims:
        shape.insert(dim, 1)
        strides.insert(dim, 0)
    return out._replace(shape=tuple(shape), strides=tuple(strides))


def _sum(
    steps: Steps, out: Array, x: Array, dim: Any = None, keepdim: bool = False, **_: Any
) -> None:
    dims = _dims(x, dim)
    if len(dims) == len(x.shape):
        return steps.write(out, "{0}", x, adds=True)
    return _folded(steps, _spread(out, dims, len(x.shape)), "{0} + {1}", "0", x, dims)


def _mean(steps: Steps, out: Array, x: Array, dim: Any = None, keepdim: bool = False) -> None:
    _sum(steps, out, x, dim, keepdim)
    count = math.prod(x.shape[d] for d in _dims(x, dim))
    apply(steps, out, "{0} / {1}", out, count)


def _folded(
    steps: Steps, out: Array, text: str, start: str, x: Array, dims: Sequence[int]
) -> None:
    """An array folded along dimensions.

    Args:
        steps: to which it is added.
        out: of the same rank, with sizes of one.
        text: `{0}` what there is so far and `{1}` the next element.
        start: what there is at first.
        x: what is folded.
        dims: along these.
    """
    strides = tuple(0 if d in dims else stride for d, stride in enumerate(out.strides))
    out = out._replace(shape=x.shape, strides=strides)
    kept = [d for d in range(len(x.shape)) if d not in dims]
    names = [f"i{d}" for d in range(len(x.shape))]
    loop = "for (i64 {0} = 0; {0} < {1}; {0}++) {{".format
    if math.prod(x.shape[d] for d in dims) <= _FEW:
        return _folded_at_once(steps, out, text, start, x, dims)
    inner = min(range(len(x.shape)), key=lambda d: (x.shape[d] == 1, abs(x.strides[d])))
    step = f"sum = {text.format('sum', x.read(names, out.dtype))};"
    if inner in dims:
        lines = [loop(names[d], x.shape[d]) for d in kept]
        lines += [f"{out.type} sum = {start};"]
        rest = sorted(dims, key=lambda d: -abs(x.strides[d]))
        nest = [loop(names[d], x.shape[d]) for d in rest]
        if text == "{0} + {1}":
            nest.insert(-1, "#pragma omp simd reduction(+:sum)")
        lines += [*nest, step, "}" * len(rest), f"{out.at(names)} = sum;", "}" * len(kept)]
    else:
        others = [d for d in kept if d != inner]
        step = f"{out.at(names)} = {text.format(out.at(names), x.read(names, out.dtype))};"
        lines = [loop(names[d], x.shape[d]) for d in others]
        lines += [loop(names[inner], x.shape[inner]), f"{out.at(names)} = {start};", "}"]
        lines += [loop(names[d], x.shape[d]) for d in dims]
        lines += ["#pragma omp simd", loop(names[inner], x.shape[inner]), step]
        lines += ["}" * (1 + len(dims) + len(others))]
    steps.lines("\n".join(lines), out, x)


def _folded_at_once(
    steps: Steps, out: Array, text: str, start: str, x: Array, dims: Sequence[int]
) -> None:
    """An array folded along short dimensions, without loops over these: see `_folded`."""
    names = [f"i{d}" for d in range(len(x.shape))]
    kept = [d for d in range(len(x.shape)) if d not in dims]
    loops = [f"for (i64 {names[d]} = 0; {names[d]} < {x.shape[d]}; {names[d]}++)" for d in kept]
    loops[-1:] = ["#pragma omp simd", *loops[-1:]] if loops else []
    lines = [f"{out.type} sum = {start};"]
    for place in product(*(range(x.shape[d]) for d in dims)):
        for d, i in zip(dims, place):
            names[d] = str(i)
        lines.append(f"sum = {text.format('sum', x.read(names, out.dtype))};")
    body = "\n".join([*lines, f"{out.at(names)} = sum;"])
    steps.lines("\n".join([*loops, f"{{ {body} }}"]), out, x)


_LARGER = "{1} > {0} || {1} != {1} ? {1} : {0}"
_SMALLER = "{1} < {0} || {1} != {1} ? {1} : {0}"


# Of whole numbers: the smallest and the largest of each type.
_ENDS = {
    torch.int64: ("(-9223372036854775807LL - 1)", "9223372036854775807LL"),
    torch.int32: ("(-2147483647 - 1)", "2147483647"),
    torch.uint8: ("0", "255"),
    torch.bool: ("0", "1"),
}


def _extreme(text: str, sign: int) -> Operation:
    def operation(
        steps: Steps, out: Array, x: Array, dim: Any = None, keepdim: bool = False
    ) -> None:
        start = _ENDS.get(out.dtype, ("-__builtin_inf()", "__builtin_inf()"))[sign > 0]
        dims = _dims(x, dim)
        _folded(steps, _spread(out, dims, len(x.shape)), text, start, x, dims)

    return operation


_largest = _extreme(_LARGER, -1)
_smallest = _extreme(_SMALLER, 1)


def _extreme_along(sign: str) -> Operation:
    """The largest elements (`>`) or the smallest, and where they are: the first of equal ones."""

    def operation(
        steps: Steps, outs: Sequence[Array], x: Array, dim: int, keepdim: bool = False
    ) -> None:
        value, place = (_spread(out, _dims(x, dim), len(x.shape)) for out in outs)
        _found(steps, value, place, x, dim, sign)

    return operation


def _place_of_extreme(sign: str) -> Operation:
    """Where the largest element is (`>`), or the smallest, along a dimension or among all."""

    def operation(
        steps: Steps, out: Array, x: Array, dim: int | None = None, keepdim: bool = False
    ) -> None:
        if dim is None:
            x, dim = _flat(steps, x), 0
        place = _spread(out, [dim % max(len(x.shape), 1)], len(x.shape)) if x.shape else out
        value = steps.new(x.dtype, place.shape)
        _found(steps, value, place, x, dim, sign)

    return operation


def _flat(steps: Steps, x: Array) -> Array:
    """A copy of an array as a vector."""
    copy = like(steps, x)
    apply(steps, copy, "{0}", x)
    return copy._replace(shape=(x.size,), strides=(1,))


def _found(steps: Steps, value: Array, place: Array, x: Array, dim: int, sign: str) -> None:
    """The first of the extremes along a dimension; a NaN is one."""
    dim = dim % max(len(x.shape), 1)
    if not x.shape:
        apply(steps, value, "{0}", x)
        return apply(steps, place, "0")
    names = [f"i{d}" for d in range(len(x.shape))]
    outer = ["0" if d == dim else name for d, name in enumerate(names)]
    loop = "for (i64 {0} = {1}; {0} < {2}; {0}++) {{".format
    lines = [loop(name, 0, n) for d, (name, n) in enumerate(zip(names, x.shape)) if d != dim]
    lines += [f"{x.type} best = {x.at(outer)}; i64 at = 0;", loop(names[dim], 1, x.shape[dim])]
    lines += [f"const {x.type} next = {x.at(names)};"]
    lines += [f"if (best == best && (next {sign} best || next != next)) {{"]
    lines += [f"best = next; at = {names[dim]}; }} }}"]
    lines += [f"{value.at(outer)} = best; {place.at(outer)} = at;", "}" * (len(names) - 1)]
    return steps.lines("\n".join(lines), value, place, x)


def _product(
    steps: Steps, out: Array, x: Array, dim: Any = None, keepdim: bool = False, **_: Any
) -> None:
    dims = _dims(x, dim)
    _folded(steps, _spread(out, dims, len(x.shape)), "{0} * {1}", "1", x, dims)


def _any(steps: Steps, out: Array, x: Array, dim: Any = None, keepdim: bool = False) -> None:
    dims = _dims(x, dim)
    _folded(steps, _spread(out, dims, len(x.shape)), "{0} || {1}", "0", x, dims)


def _all(steps: Steps, out: Array, x: Array, dim: Any = None, keepdim: bool = False) -> None:
    dims = _dims(x, dim)
    _folded(steps, _spread(out, dims, len(x.shape)), "{0} && {1}", "1", x, dims)


def _log_sum_exp(steps: Steps, out: Array, x: Array, dim: Any, keepdim: bool = False) -> None:
    dims = _dims(x, dim)
    wide = _spread(out, dims, len(x.shape))
    most, powers = steps.new(out.dtype, wide.shape), like(steps, x)
    _folded(steps, most, _LARGER, "-__builtin_inf()", x, dims)
    apply(steps, most, "{0} == {1} || {0} == {2} ? 0 : {0}", most, math.inf, -math.inf)
    apply(steps, powers, "{0} - {1}", x, most)
    apply(steps, powers, "exp@@({0})", powers)
    total = like(steps, most)
    _folded(steps, total, "{0} + {1}", "0", powers, dims)
    apply(steps, total, "log@@({0})", total)
    apply(steps, wide, "{0} + {1}", total, most)


def _log_softmax(steps: Steps, out: Array, x: Array, dim: int, half: bool) -> None:
    level = steps.new(out.dtype, [1 if d in _dims(x, dim) else n for d, n in enumerate(x.shape)])
    _log_sum_exp(steps, level, x, dim, True)
    apply(steps, out, "{0} - {1}", x, level)


def _softmax(steps: Steps, out: Array, x: Array, dim: int, half: bool) -> None:
    _log_softmax(steps, out, x, dim, half)
    apply(steps, out, "exp@@({0})", out)


def _log_softmax_backward(
    steps: Steps, out: Array, slope: Array, log: Array, dim: int, dtype: Any
) -> None:
    total = steps.new(
        out.dtype, [1 if d in _dims(log, dim) else n for d, n in enumerate(log.shape)]
    )
    _sum(steps, total, slope, dim, True)
    powers = like(steps, out)
    apply(steps, powers, "exp@@({0})", log)
    apply(steps, out, "{0} - {1} * {2}", slope, powers, total)


def _softmax_backward(
    steps: Steps, out: Array, slope: Array, share: Array, dim: int, dtype: Any
) -> None:
    weighted = like(steps, out)
    apply(steps, weighted, "{0} * {1}", slope, share)
    total = steps.new(
        out.dtype, [1 if d in _dims(share, dim) else n for d, n in enumerate(share.shape)]
    )
    _sum(steps, total, weighted, dim, True)
    apply(steps, out, "{0} - {1} * {2}", weighted, share, total)


def _running_rows(steps: Steps, out: Array, x: Array, dim: int, sign: str) -> None:
    """A running sum (`+`) or product (`*`) of rows, each of which lies close together."""
    size = out.shape[dim]
    apply(steps, out.part(dim, 0, min(size, 1)), "{0}", x.part(dim, 0, min(size, 1)))
    order = [
        dim,
        *sorted((d for d in range(len(x.shape)) if d != dim), key=lambda d: -x.strides[d]),
    ]
    names = [f"i{d}" for d in range(len(x.shape))]
    before = [f"(i{d} - 1)" if d == dim else f"i{d}" for d in range(len(x.shape))]
    loops = [f"for (i64 i{d} = {int(d == dim)}; i{d} < {x.shape[d]}; i{d}++)" for d in order]
    body = f"{out.at(names)} = {out.at(before)} {sign} {x.read(names, out.dtype)};"
    steps.lines("\n".join([*loops[:-1], "#pragma omp simd", loops[-1], body]), out, x)


def _running(start: str, text: str, given: str = "", simple: str = "") -> Operation:
    """What all elements so far are folded to, along a dimension.

    Args:
        start: the variables of the fold, before the first element.
        text: the statements for an element `next`, which end with the new value of `so_far`.
        given: further outputs at each element, as C expressions of the variables.
        simple: the operation between two elements, if the fold is no more than that.
    """

    def operation(steps: Steps, out: Any, x: Array, dim: int, **_: Any) -> None:
        if x.shape and simple and x.strides[dim] > min(x.strides):
            return _running_rows(steps, out, x, dim % len(x.shape), simple)
        outs = [out] if isinstance(out, Array) else out
        values = ["so_far", *given.split()]
        names = [f"i{d}" for d in range(len(x.shape))]
        at = names[dim] if names else "0"
        others = [d for d in range(len(names)) if d != dim % len(names)]
        loop = "for (i64 {0} = 0; {0} < {1}; {0}++) {{".format
        lines = [loop(names[d], x.shape[d]) for d in others]
        lines += [start.format(type=outs[0].type), loop(at, x.shape[dim]) if names else "{"]
        lines += [f"const {outs[0].type} next = {x.read(names, outs[0].dtype)};"]
        lines += [text.format(at=at)]
        lines += [f"{array.at(names)} = {value};" for array, value in zip(outs, values)]
        steps.lines("\n".join(["{", *lines, "}" * (len(others) + 1), "}"]), *outs, x)

    return operation


# The logarithm of a sum of powers, scaled by the largest one.
_LOG_SUM = """
if (next > most || next != next) {{ total = most == -__builtin_inf() ? 1 :
  total * exp(most - next) + 1; most = next; }}
else total += next == -__builtin_inf() ? 0 : next == most ? 1 : exp(next - most);
so_far = most == -__builtin_inf() || most == __builtin_inf() ? most : most + log(total);
"""
_EXTREME = "if ({{at}} == 0 || next != next || (so_far == so_far && next {} so_far))"
_EXTREME += " {{{{ so_far = next; place = {{at}}; }}}}"


OPERATIONS: Mapping[Any, Operation] = {
    **dict.fromkeys([aten.sum.default, aten.sum.dim_IntList], _sum),
    **dict.fromkeys([aten.mean.default, aten.mean.dim], _mean),
    **dict.fromkeys([aten.amax.default, aten.max.default], _largest),
    **dict.fromkeys([aten.amin.default, aten.min.default], _smallest),
    **dict.fromkeys([aten.any.default, aten.any.dim, aten.any.dims], _any),
    **dict.fromkeys([aten.all.default, aten.all.dim, aten.all.dims], _all),
    aten.logsumexp.default: _log_sum_exp,
    aten._log_softmax.default: _log_softmax,
    aten._softmax.default: _softmax,
    aten._log_softmax_backward_data.default: _log_softmax_backward,
    aten._softmax_backward_data.default: _softmax_backward,
    **dict.fromkeys([aten.prod.default, aten.prod.dim_int], _product),
    aten.max.dim: _extreme_along(">"),
    aten.min.dim: _extreme_along("<"),
    aten.argmax.default: _place_of_extreme(">"),
    aten.argmin.default: _place_of_extreme("<"),
    aten.cumsum.default: _running("{type} so_far = 0;", "so_far += next;", simple="+"),
    aten.cumprod.default: _running("{type} so_far = 1;", "so_far *= next;", simple="*"),
    aten.logcumsumexp.default: _running(
        "double most = -__builtin_inf(), total = 0; {type} so_far;", _LOG_SUM
    ),
    aten.cummax.default: _running(
        "{type} so_far = 0; i64 place = 0;", _EXTREME.format(">="), "place"
    ),
    aten.cummin.default: _running(
        "{type} so_far = 0; i64 place = 0;", _EXTREME.format("<="), "place"
    ),
}
