"""Products of matrices and triangular systems in C.

Small ones are plain loops, large ones are left to the BLAS that is in the process already.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from .formulas import Operation, Unknown, apply, like
from .loops import Array, Steps

aten = torch.ops.aten

# Columns that a row of a product may have to be kept in registers while it is made; and products
# of numbers from which on a library is faster than plain loops.
_NARROW, _LARGE = 64, 1 << 17
# Rows of a matrix from which on a library finds its factor faster.
_TALL = 80
# Numbers whose products are added up one by one, which compilers unroll.
_SHORT = 8


def product(steps: Steps, out: Array, a: Array, b: Array, *, adds: bool = False) -> None:
    """out (m, n) = a (m, k) b (k, n), or that added to what is there."""
    steps.lines(_product(out, a, b, adds), out, a, b)


def _product(out: Array, a: Array, b: Array, adds: bool) -> str:
    """The lines of a product of matrices, by whichever way runs along its memory."""
    (m, k), n = a.shape, b.shape[1]
    if m * n * k >= _LARGE and min(m, n, k) > 1 and all(map(_is_dense, (out, a, b))):
        return _by_library(out, a, b, adds)
    if n == 1 and a.strides[0] < a.strides[1]:
        # The rows of a transposed matrix lie close together: turn the product over.
        return _product(_turned(out), _turned(b), _turned(a), adds)
    loop = "for (i64 {0} = 0; {0} < {1}; {0}++)".format
    first, second, cell = a.at(["i", "l"]), b.at(["l", "j"]), out.at(["i", "j"])
    sign = "+=" if adds else "="
    if b.strides[1] != 1 or n == 1:
        lines = [f"{loop('i', m)} {loop('j', n)} {{ {out.type} sum = 0;"]
        lines += ["#pragma omp simd reduction(+:sum)"] if k > _SHORT else []
        lines += [f"{loop('l', k)} sum += {first} * {second};"]
        lines += [f"{cell} {sign} sum; }}"]
    elif n <= _NARROW:
        lines = [f"{loop('i', m)} {{ {out.type} row[{n}] = {{0}};", f"{loop('l', k)} {{"]
        lines += [f"const {out.type} x = {first};", "#pragma omp simd"]
        lines += [f"{loop('j', n)} row[j] += x * {second}; }}"]
        lines += [f"{loop('j', n)} {cell} {sign} row[j]; }}"]
    else:
        lines = [] if adds else [f"{loop('i', m)} {loop('j', n)} {cell} = 0;"]
        lines += [f"{loop('i', m)} {loop('l', k)} {{ const {out.type} x = {first};"]
        lines += ["#pragma omp simd", f"{loop('j', n)} {cell} += x * {second}; }}"]
    return "\n".join(lines)


def _is_dense(matrix: Array) -> bool:
    """Whether rows or columns lie one element after another."""
    (rows, columns), (down, along) = matrix.shape, matrix.strides
    return (along == 1 and down >= columns) or (down == 1 and along >= rows)


def _by_library(out: Array, a: Array, b: Array, adds: bool) -> str:
    """A product by the process's own BLAS, which reads columns where C has rows."""
    if out.strides[1] != 1:
        return _by_library(_turned(out), _turned(b), _turned(a), adds)
    (m, k), n = a.shape, b.shape[1]
    ways = ["N" if matrix.strides[1] == 1 else "T" for matrix in (b, a)]
    leads = [max(matrix.strides) for matrix in (b, a, out)]
    places = [f"&{matrix.at(['0', '0'])}" for matrix in (b, a, out)]
    name = "sgemm" if out.dtype == torch.float32 else "dgemm"
    return (
        f"const int sizes[] = {{{n}, {m}, {k}, {', '.join(map(str, leads))}}};\n"
        f"const {out.type} one = 1, before = {int(adds)};\n"
        f'{name}("{ways[0]}", "{ways[1]}", sizes, sizes + 1, sizes + 2, &one, {places[0]}, '
        f"sizes + 3, {places[1]}, sizes + 4, &before, {places[2]}, sizes + 5);"
    )


def _turned(matrix: Array) -> Array:
    """The matrix, or each of several, with rows for columns."""
    *batch, rows, columns = range(len(matrix.shape))
    return matrix.moved([*batch, columns, rows])


def _column(x: Array) -> Array:
    """A vector as a matrix of one column."""
    return x._replace(shape=(*x.shape, 1), strides=(*x.strides, 0))


def _matrix_vector(steps: Steps, out: Array, a: Array, x: Array) -> None:
    product(steps, _column(out), a, _column(x))


def _dot(steps: Steps, out: Array, a: Array, b: Array) -> None:
    apply(steps, out, "{0} * {1}", a, b, adds=True)


def _batch_product(steps: Steps, out: Array, a: Array, b: Array) -> None:
    _each_matrix(steps, lambda out, a, b: _product(out, a, b, False), out, a, b)


def _each_matrix(steps: Steps, lines: Callable[..., str], out: Array, *others: Array) -> None:
    """Lines of C for each matrix of arrays that hold several, (..., m, n)."""
    arrays = [out, *others]
    batch = out.shape[:-2]
    names = [f"z{d}" for d in range(len(batch))]
    wide = [array.expanded((*batch, *array.shape[-2:])) for array in arrays]
    matrices = [
        array._replace(
            memory=f"({' + '.join([array.memory, *map('{}*{}'.format, names, array.strides)])})",
            shape=array.shape[-2:],
            strides=array.strides[-2:],
        )
        for array in wide
    ]
    loops = [f"for (i64 {z} = 0; {z} < {n}; {z}++)" for z, n in zip(names, batch)]
    steps.lines("\n".join([*loops, f"{{\n{lines(*matrices)}\n}}"]), *arrays)


def _plus_product(
    steps: Steps, out: Array, c: Array, a: Array, b: Array, *, beta: float = 1, alpha: float = 1
) -> None:
    if alpha != 1:
        scaled = like(steps, a)
        apply(steps, scaled, "{0} * {1}", a, alpha)
        a = scaled
    apply(steps, out, "{0} * {1}" if beta else "0", *([c, beta] if beta else []))
    if len(b.shape) == 1:
        return product(steps, _column(out), a, _column(b), adds=True)
    return product(steps, out, a, b, adds=True)


def _cholesky(
    steps: Steps, outs: Sequence[Array], x: Array, *, upper: bool = False, **_: Any
) -> None:
    """The lower factor of each matrix; NaN where one is not positive definite."""
    out, info = outs
    if upper:
        out, x = _turned(out), _turned(x)
    wide = info._replace(shape=(*info.shape, 1, 1), strides=(*info.strides, 0, 0))
    _each_matrix(steps, _factor, out, wide, x)


def _factor(out: Array, info: Array, x: Array) -> str:
    n, factor, failed = x.shape[0], out.at, info.at(["0", "0"])
    if n >= _TALL and _is_dense(out):
        return _factor_by_library(out, failed, x)
    root = f"sqrt{'f' if out.dtype == torch.float32 else ''}"
    return (
        f"{failed} = 0;\n"
        f"for (i64 j = 0; j < {n}; j++) {{ for (i64 i = 0; i < j; i++) {factor(['i', 'j'])} = 0;\n"
        f"for (i64 i = j; i < {n}; i++) {{ {out.type} sum = {x.at(['i', 'j'])};\n"
        f"for (i64 k = 0; k < j; k++) sum -= {factor(['i', 'k'])} * {factor(['j', 'k'])};\n"
        f"if (i == j && !(sum > 0) && !{failed}) {failed} = j + 1;\n"
        f"{factor(['i', 'j'])} = i == j ? {root}(sum) : sum / {factor(['j', 'j'])}; }} }}"
    )


def _factor_by_library(out: Array, failed: str, x: Array) -> str:
    """The lower factor by the process's own LAPACK, which reads columns where C has rows."""
    n, cell = x.shape[0], out.at(["i", "j"])
    name, half = ("spotrf" if out.dtype == torch.float32 else "dpotrf"), "LU"[out.strides[1] == 1]
    loops = f"for (i64 i = 0; i < {n}; i++) for (i64 j = 0; j < {n}; j++)"
    return (
        f"{loops} {cell} = j <= i ? {x.at(['i', 'j'])} : 0;\n"
        f"const int sizes[] = {{{n}, {max(out.strides)}}}; int wrong = 0;\n"
        f'{name}("{half}", sizes, &{out.at(["0", "0"])}, sizes + 1, &wrong);\n{failed} = wrong;\n'
        f'if (wrong) {loops} if (j <= i) {cell} = __builtin_nan("");'
    )


def _solved(
    steps: Steps,
    out: Array,
    a: Array,
    b: Array,
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
) -> None:
    """x of a x = b (or x a = b) for triangular matrices a."""
    if not left:
        a, b, out, upper = _turned(a), _turned(b), _turned(out), not upper
    _each_matrix(steps, partial(_solution, upper, unitriangular), out, a, b)


def _solution(upper: bool, ones: bool, out: Array, a: Array, b: Array) -> str:
    """The solution of a triangular system, whose diagonal may be `ones`, whatever stands there."""
    n, m = b.shape
    rows = f"for (i64 i = {n} - 1; i >= 0; i--)" if upper else f"for (i64 i = 0; i < {n}; i++)"
    known = f"for (i64 k = i + 1; k < {n}; k++)" if upper else "for (i64 k = 0; k < i; k++)"
    columns = f"for (i64 j = 0; j < {m}; j++)"
    given, cell, other = b.at(["i", "j"]), out.at(["i", "j"]), out.at(["k", "j"])
    factor, divided = a.at(["i", "k"]), "" if ones else f" / {a.at(['i', 'i'])}"
    if out.strides[1] == 1 and m > 1:
        return (
            f"{rows} {{ {columns} {cell} = {given};\n{known} {{ const {out.type} x = {factor};\n"
            f"#pragma omp simd\n{columns} {cell} -= x * {other}; }}\n"
            f"{columns} {cell} = {cell}{divided}; }}"
        )
    return (
        f"{columns} {rows} {{ {out.type} sum = {given};\n"
        f"{known} sum -= {factor} * {other};\n{cell} = sum{divided}; }}"
    )


def _lu(steps: Steps, outs: Sequence[Array], x: Array, *, pivot: bool = True, **_: Any) -> None:
    """L and U of each square matrix in one, the rows that were swapped (from 1), and failures."""
    out, places, info = outs
    if not pivot or x.shape[-1] != x.shape[-2]:
        raise Unknown("L and U without swaps, or of a matrix that is not square")
    apply(steps, out, "{0}", x)
    wide = info._replace(shape=(*info.shape, 1, 1), strides=(*info.strides, 0, 0))
    _each_matrix(steps, _swapped_factors, out, _column(places), wide)


def _swapped_factors(out: Array, places: Array, info: Array) -> str:
    n, failed, at, place = out.shape[0], info.at(["0", "0"]), out.at, places.at(["j", "0"])
    size = f"{'__builtin_fabsf' if out.dtype == torch.float32 else '__builtin_fabs'}"
    return (
        f"{failed} = 0; for (i64 j = 0; j < {n}; j++) {{ i64 p = j;\n"
        f"for (i64 i = j + 1; i < {n}; i++)"
        f" if ({size}({at(['i', 'j'])}) > {size}({at(['p', 'j'])})) p = i;\n"
        f"{place} = p + 1;\n"
        f"if ({at(['p', 'j'])} == 0) {{ if (!{failed}) {failed} = j + 1; continue; }}\n"
        f"for (i64 k = 0; p != j && k < {n}; k++) {{ {out.type} kept = {at(['j', 'k'])};\n"
        f"{at(['j', 'k'])} = {at(['p', 'k'])}; {at(['p', 'k'])} = kept; }}\n"
        f"for (i64 i = j + 1; i < {n}; i++) {{\n"
        f"const {out.type} x = {at(['i', 'j'])} /= {at(['j', 'j'])};\n"
        f"for (i64 k = j + 1; k < {n}; k++) {at(['i', 'k'])} -= x * {at(['j', 'k'])}; }} }}"
    )


def _solved_by_lu(
    steps: Steps,
    out: Array,
    lu: Array,
    places: Array,
    b: Array,
    *,
    left: bool = True,
    adjoint: bool = False,
) -> None:
    """x of a x = b (or x a = b), of a or of a transposed (`adjoint`), by L and U of a."""
    if not left:
        b, out, adjoint = _turned(b), _turned(out), not adjoint
    if adjoint:
        _solved(steps, out, _turned(lu), b, upper=False)
        _solved(steps, out, _turned(lu), out, upper=True, unitriangular=True)
        return _each_matrix(steps, partial(_swapped, True), out, _column(places))
    apply(steps, out, "{0}", b)
    _each_matrix(steps, partial(_swapped, False), out, _column(places))
    _solved(steps, out, lu, out, upper=False, unitriangular=True)
    return _solved(steps, out, lu, out, upper=True)


def _swapped(back: bool, out: Array, places: Array) -> str:
    """Rows swapped as they were for L and U, or swapped back."""
    n, m = out.shape
    loop = f"for (i64 i = {n} - 1; i >= 0; i--)" if back else f"for (i64 i = 0; i < {n}; i++)"
    return (
        f"{loop} {{ const i64 p = {places.at(['i', '0'])} - 1;\n"
        f"for (i64 j = 0; p != i && j < {m}; j++) {{ {out.type} kept = {out.at(['i', 'j'])};\n"
        f"{out.at(['i', 'j'])} = {out.at(['p', 'j'])}; {out.at(['p', 'j'])} = kept; }} }}"
    )


OPERATIONS: Mapping[Any, Operation] = {
    aten.mm.default: product,
    aten.mv.default: _matrix_vector,
    **dict.fromkeys([aten.dot.default, aten.vdot.default], _dot),
    aten.bmm.default: _batch_product,
    **dict.fromkeys([aten.addmm.default, aten.addmv.default], _plus_product),
    aten.linalg_cholesky_ex.default: _cholesky,
    aten.linalg_solve_triangular.default: _solved,
    aten.linalg_lu_factor_ex.default: _lu,
    aten.linalg_lu_solve.default: _solved_by_lu,
}
