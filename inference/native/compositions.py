"""Operations that torch itself does not compose of others, and some better than it does."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def _variance(
    x: Tensor, dim: Any = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    return _variance_and_mean(x, dim, correction=correction, keepdim=keepdim)[0]


def _deviation(
    x: Tensor, dim: Any = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    return _variance(x, dim, correction=correction, keepdim=keepdim).sqrt()


def _variance_and_mean(
    x: Tensor, dim: Any = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    dims = list(dim or range(x.ndim)) if not isinstance(dim, int) else [dim]
    mean = x.mean(dims, keepdim=True)
    count = x.numel() // max(mean.numel(), 1) - (1 if correction is None else correction)
    total = (x - mean).square().sum(dims, keepdim=keepdim)
    variance = total / count if count > 0 else total / 0.0
    return variance, mean if keepdim else mean.reshape(variance.shape)


def _diagonal_backward(slope: Tensor, sizes: list[int], offset: int, *dims: int) -> Tensor:
    out = slope.new_zeros(sizes)
    out.diagonal(offset, *dims).copy_(slope)
    return out


def _diagonal_matrix(x: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    size = x.shape[-1] + abs(offset)
    out = x.new_zeros((*x.shape[:-1], size, size))
    out.diagonal(offset, -2, -1).copy_(x)
    return out.movedim((-2, -1), (dim1, dim2))


def _into(view: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An array with other values in a part of it."""

    def function(x: Tensor, source: Tensor, *where: Any, **further: Any) -> Tensor:
        out = x.clone()
        view(out, *where, **further).copy_(source)
        return out

    return function


def _sliced(x: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Tensor:
    return x[(slice(None),) * (dim % x.ndim) + (slice(start, end, step),)]


def _rolled(x: Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> Tensor:
    if not dims:
        return _rolled(x.flatten(), shifts, [0]).view(x.shape)
    for shift, dim in zip(shifts, dims):
        size = x.shape[dim]
        cut = (size - shift) % max(size, 1)
        x = torch.cat([x.narrow(dim, cut, size - cut), x.narrow(dim, 0, cut)], dim)
    return x


def _padded(x: Tensor, pad: Sequence[int], value: float = 0) -> Tensor:
    sides = list(zip(pad[::2], pad[1::2]))[::-1]
    sides = [(0, 0)] * (x.ndim - len(sides)) + sides
    for dim, (before, after) in enumerate(sides):
        cut = x.shape[dim] + min(before, 0) + min(after, 0)
        x = x.narrow(dim, max(-before, 0), cut)
    out = x.new_full([n + max(b, 0) + max(a, 0) for n, (b, a) in zip(x.shape, sides)], value)
    inner = out
    for dim, (before, _) in enumerate(sides):
        inner = inner.narrow(dim, max(before, 0), x.shape[dim])
    inner.copy_(x)
    return out


def _put(x: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    values = source.reshape(index.shape)
    return x.flatten().index_put((index,), values, accumulate).view(x.shape)


def _scatter_reduced(
    x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    if reduce != "sum" or not include_self:
        raise NotImplementedError(reduce)
    return x.scatter_add(dim, index, source)


def _sign_of_swaps(pivots: Tensor) -> Tensor:
    """Minus one to the number of rows that were swapped, (...)."""
    still = torch.arange(1, pivots.shape[-1] + 1, dtype=pivots.dtype)
    return torch.where(pivots == still, 1.0, -1.0).prod(-1)


def _factors(a: Tensor) -> tuple[Tensor, Tensor]:
    """L and U, and the swaps; of a transposed where torch's gradient takes them to be."""
    return torch.linalg.lu_factor_ex(a.mT if a.is_contiguous() else a)[:2]


def _determinant(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    lu, pivots = _factors(a)
    return lu.diagonal(0, -2, -1).prod(-1) * _sign_of_swaps(pivots).to(a.dtype), lu, pivots


def _log_determinant(a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    lu, pivots = _factors(a)
    diagonal = lu.diagonal(0, -2, -1)
    sign = diagonal.sign().prod(-1) * _sign_of_swaps(pivots).to(a.dtype)
    return sign, diagonal.abs().log().sum(-1), lu, pivots


def _solution(
    a: Tensor, b: Tensor, *, left: bool = True, check_errors: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    lu, pivots, info = torch.linalg.lu_factor_ex(a)
    vector = b.ndim == 1 or (b.ndim == a.ndim - 1 and b.shape == a.shape[:-1])
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[: -1 if vector else -2])
    wide = (b.unsqueeze(-1) if vector else b).expand(*batch, -1, -1)
    x = aten.linalg_lu_solve(lu, pivots, wide, left=left)
    return x.squeeze(-1) if vector else x, lu, pivots, info


def _inverse(a: Tensor, *, check_errors: bool = False) -> tuple[Tensor, Tensor]:
    lu, pivots, info = torch.linalg.lu_factor_ex(a)
    ones = torch.eye(a.shape[-1], dtype=a.dtype).expand(a.shape)
    return aten.linalg_lu_solve(lu, pivots, ones), info


def _solved_by_factor(b: Tensor, root: Tensor, upper: bool = False) -> Tensor:
    root = root.mT if upper else root
    half = torch.linalg.solve_triangular(root, b, upper=False)
    return torch.linalg.solve_triangular(root.mT, half, upper=True)


def _inverse_by_factor(root: Tensor, upper: bool = False) -> Tensor:
    ones = torch.eye(root.shape[-1], dtype=root.dtype).expand(root.shape)
    return _solved_by_factor(ones, root, upper)


def _factor(a: Tensor, upper: bool = False) -> Tensor:
    return torch.linalg.cholesky_ex(a, upper=upper)[0]


def _solved_triangle(
    b: Tensor, a: Tensor, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> tuple[Tensor, Tensor]:
    a = a.expand(*b.shape[:-2], -1, -1)
    side = a.mT if transpose else a
    x = torch.linalg.solve_triangular(
        side, b, upper=upper != transpose, unitriangular=unitriangular
    )
    return x, a.clone()


def _distances(x: Tensor, y: Tensor, p: float, mode: Any) -> Tensor:
    return torch.linalg.vector_norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, dim=-1)


def _distances_backward(
    slope: Tensor, x: Tensor, y: Tensor, p: float, distances: Tensor
) -> Tensor:
    gap = x.unsqueeze(-2) - y.unsqueeze(-3)
    if p == 1:
        return (slope.unsqueeze(-1) * gap.sign()).sum(-2)
    if p != 2:
        raise NotImplementedError(p)
    share = torch.where(distances == 0, 0.0, slope / distances)
    return (share.unsqueeze(-1) * gap).sum(-2)


def _shrunk_backward(slope: Tensor, x: Tensor, width: float) -> Tensor:
    return torch.where((x >= -width) & (x <= width), 0.0, slope)


def _hard_sigmoid_backward(slope: Tensor, x: Tensor) -> Tensor:
    # Torch has a sixth in single precision, whatever the type.
    return torch.where((x > -3) & (x < 3), slope * 0.1666666716337204, 0.0)


COMPOSITIONS: Mapping[Any, Callable[..., Any]] = {
    aten.var.correction: _variance,
    aten.std.correction: _deviation,
    aten.var_mean.correction: _variance_and_mean,
    aten.diagonal_backward.default: _diagonal_backward,
    aten.diag_embed.default: _diagonal_matrix,
    aten.select_scatter.default: _into(Tensor.select),
    aten.slice_scatter.default: _into(_sliced),
    aten.diagonal_scatter.default: _into(Tensor.diagonal),
    aten.roll.default: _rolled,
    aten.constant_pad_nd.default: _padded,
    aten.put.default: _put,
    aten.scatter_reduce.two: _scatter_reduced,
    aten._linalg_det.default: _determinant,
    aten._linalg_slogdet.default: _log_determinant,
    aten._linalg_solve_ex.default: _solution,
    aten.linalg_inv_ex.default: _inverse,
    aten.cholesky_solve.default: _solved_by_factor,
    aten.cholesky_inverse.default: _inverse_by_factor,
    aten.cholesky.default: _factor,
    aten.triangular_solve.default: _solved_triangle,
    aten._cdist_forward.default: _distances,
    aten._cdist_backward.default: _distances_backward,
    aten.hardshrink_backward.default: _shrunk_backward,
    aten.hardsigmoid_backward.default: _hard_sigmoid_backward,
    aten.softshrink_backward.default: _shrunk_backward,
}
