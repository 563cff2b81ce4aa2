"""Operations in C along dimensions: sums, extremes, softmax."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .formulas import Operation, Unknown, apply, like
from .loops import Array, Steps

aten = torch.ops.aten


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


_LARGER = "{1} > {0} || {1} != {1} ? {1} : {0}"
_SMALLER = "{1} < {0} || {1} != {1} ? {1} : {0}"


def _extreme(text: str, start: str) -> Operation:
    def operation(
        steps: Steps, out: Array, x: Array, dim: Any = None, keepdim: bool = False
    ) -> None:
        if not out.dtype.is_floating_point:
            raise Unknown("the largest of whole numbers")
        dims = _dims(x, dim)
        _folded(steps, _spread(out, dims, len(x.shape)), text, start, x, dims)

    return operation


_largest = _extreme(_LARGER, "-__builtin_inf()")
_smallest = _extreme(_SMALLER, "__builtin_inf()")


def _largest_along(
    steps: Steps, outs: Sequence[Array], x: Array, dim: int, keepdim: bool = False
) -> None:
    """The largest elements and where they are: the first of equal ones."""
    raise Unknown("where the largest element is")


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
    apply(steps, powers, "exp@@({0} - {1})", x, most)
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


def _running_sum(steps: Steps, out: Array, x: Array, dim: int, **_: Any) -> None:
    """The sum of all elements so far, along a dimension."""
    if not x.shape:
        return apply(steps, out, "{0}", x)
    dim %= len(x.shape)
    names = [f"i{d}" for d in range(len(x.shape))]
    others = [d for d in range(len(x.shape)) if d != dim]
    loop = "for (i64 {0} = 0; {0} < {1}; {0}++) {{".format
    lines = [loop(names[d], x.shape[d]) for d in others]
    lines += [f"{out.type} sum = 0;", loop(names[dim], x.shape[dim])]
    lines += [f"sum += {x.read(names, out.dtype)};", f"{out.at(names)} = sum;"]
    return steps.lines("\n".join([*lines, "}" * len(names)]), out, x)


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
    aten.cumsum.default: _running_sum,
}
