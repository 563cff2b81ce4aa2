"""Operations in C give what torch gives: broadcasting, odd numbers, strides."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from inference.native.parts import in_c
from inference.program.record import record

ODD = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1e-320, 1e-30, 30.0, -30.0, 750.0, -750.0, 1e300]
ODD += [float("inf"), -float("inf"), float("nan")]

# Of one argument, over all of its range.
UNARY = {
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "log": torch.log,
    "log2": torch.log2,
    "log10": torch.log10,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "asin": torch.asin,
    "acos": torch.acos,
    "atan": torch.atan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": torch.tanh,
    "asinh": torch.asinh,
    "acosh": torch.acosh,
    "atanh": torch.atanh,
    "erf": torch.erf,
    "erfc": torch.erfc,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
    "round": torch.round,
    "abs": torch.abs,
    "neg": torch.neg,
    "sign": torch.sign,
    "sgn": torch.sgn,
    "lgamma": torch.lgamma,
    "digamma": torch.digamma,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "softplus_steep": partial(F.softplus, beta=3.0, threshold=5.0),
    "logsigmoid": F.logsigmoid,
    "gelu": F.gelu,
    "clamp": lambda x: x.clamp(-1.0, 2.0),
    "clamp_min": lambda x: x.clamp_min(0.5),
    "clamp_max": lambda x: x.clamp_max(0.5),
    "square": lambda x: x**2,
    "cube": lambda x: x**3,
    "root": lambda x: x**0.5,
    "power": lambda x: x.abs() ** 1.7,
    "base": lambda x: 2.0**x,
    "isnan": lambda x: x.isnan().double(),
    "not": lambda x: (~(x > 0)).double(),
    "between": lambda x: ((x > -1) & (x <= 1)).double(),
    "either": lambda x: ((x < -1) | (x == 1) | (x != x)).double(),
    "rsub": lambda x: 1 - x,
    "scaled": lambda x: torch.add(x, x, alpha=2),
    "filled": lambda x: x.masked_fill(x < 0, 3.0),
    "as_float": lambda x: x.float().double(),
}

BINARY = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "pow": lambda a, b: a.abs().pow(b),
    "atan2": torch.atan2,
    "hypot": torch.hypot,
    "xlogy": torch.special.xlogy,
    "xlog1py": torch.special.xlog1py,
    "logaddexp": torch.logaddexp,
    "where": lambda a, b: torch.where(a > b, a, b + 1),
    "equal": lambda a, b: (a == b).double(),
    "cross_entropy": lambda a, b: F.binary_cross_entropy_with_logits(
        a, b.expand(a.shape), reduction="none"
    ),
}

# Of a matrix (3, 4), or of three of them.
SHAPES = {
    "sum": torch.sum,
    "sum_rows": lambda x: x.sum(0),
    "sum_columns": lambda x: x.sum(1, keepdim=True),
    "sum_turned": lambda x: x.T.sum(0),
    "sum_several": lambda x: x.expand(2, 3, 4).sum((0, 2)),
    "mean": lambda x: x.mean(1),
    "amax": lambda x: x.amax(1),
    "amin": lambda x: x.amin(0, keepdim=True),
    "any": lambda x: (x > 1).any(1).double(),
    "all": lambda x: (x > -1).all(0).double(),
    "logsumexp": lambda x: x.logsumexp(0),
    "log_softmax": lambda x: x.log_softmax(1),
    "softmax": lambda x: x.softmax(0),
    "cumsum": lambda x: x.cumsum(1),
    "cumsum_rows": lambda x: x.cumsum(0),
    "flip": lambda x: x.flip(0, 1),
    "cat": lambda x: torch.cat([x, x[:1], 2 * x], 0),
    "cat_columns": lambda x: torch.cat([x, x], 1),
    "stack": lambda x: torch.stack([x, x * 2], 1),
    "turned": lambda x: x.T.contiguous() * 2,
    "slice": lambda x: x[1:, ::2] + 1,
    "select": lambda x: x[1] * x[:, 2].sum(),
    "unsqueeze": lambda x: x[:, None] * x[None],
    "index": lambda x: x[torch.tensor([2, 0, -1])],
    "index_pairs": lambda x: x[torch.tensor([2, 0]), torch.tensor([-1, 1])],
    "index_column": lambda x: x[:, torch.tensor([[3, 0], [1, 1]])],
    "index_select": lambda x: x.index_select(1, torch.tensor([1, 1, 3])),
    "index_add": lambda x: torch.zeros(2, 4).index_add(0, torch.tensor([1, 0, 1]), x),
    "gather": lambda x: x.gather(1, torch.tensor([[0, 3], [1, 1], [2, 0]])),
    "scatter_add": lambda x: torch.zeros(3, 2).scatter_add(1, torch.zeros(3, 4).long(), x),
    "index_put": lambda x: x.index_put((torch.tensor([0, 0]),), x[1:], accumulate=True),
    "tril": lambda x: x.tril(),
    "triu": lambda x: x.triu(1),
    "mm": lambda x: x @ x.T,
    "mm_turned": lambda x: x.T @ x,
    "mv": lambda x: x @ x[0],
    "mv_turned": lambda x: x.T @ x[:, 0],
    "dot": lambda x: x[0] @ x[1],
    "bmm": lambda x: torch.stack([x, x + 1]) @ torch.stack([x.T, x.T]),
    "addmm": lambda x: F.linear(x, x * 2, x[:, 0]),
    "cholesky": lambda x: torch.linalg.cholesky(x @ x.T + torch.eye(3)),
    "solve": lambda x: torch.linalg.solve_triangular(
        torch.linalg.cholesky(x @ x.T + torch.eye(3)), x, upper=False
    ),
    "solve_upper": lambda x: torch.linalg.solve_triangular(
        torch.linalg.cholesky(x @ x.T + torch.eye(3)).mT, x, upper=True
    ),
    "cholesky_of_several": lambda x: torch.linalg.cholesky(
        torch.stack([x @ x.T, 2 * x @ x.T]) + torch.eye(3)
    ),
    "solve_several": lambda x: torch.linalg.solve_triangular(
        torch.stack([x[:, :3], x[:, 1:]]).tril() + 9 * torch.eye(3),
        torch.stack([x, x + 1]),
        upper=False,
    ),
    "solve_several_from_the_right": lambda x: torch.linalg.solve_triangular(
        torch.stack([x[:, :3], x[:, 1:]]).triu() + 9 * torch.eye(3),
        x.T[None].expand(2, 4, 3),
        upper=True,
        left=False,
    ),
    "in_place": lambda x: (x * 1).masked_fill_(x > 0, 2.0).add_(x),
}


def _agree(function, *inputs: Tensor, names, exact: float) -> None:
    native = in_c(record(function, inputs), inputs).whole
    assert native is not None
    for name, ours, theirs in zip(names, native(*inputs), function(*inputs), strict=True):
        torch.testing.assert_close(
            ours, theirs, rtol=exact, atol=exact, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("laid", ["one after another", "apart"])
def test_functions_of_one_number(dtype, laid):
    torch.manual_seed(0)
    x = torch.cat([torch.tensor(ODD), 3 * torch.randn(1000), torch.logspace(-20, 20, 41)])
    x = x.to(dtype)
    x = x if laid == "one after another" else torch.stack([x, x], 1)[:, 1]
    # Torch's own gelu of infinity is NaN in single precision.
    left_out = () if dtype == torch.float64 else ("as_float", "gelu")
    ops = {name: op for name, op in UNARY.items() if name not in left_out}

    def all_of(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(op(x) for op in ops.values())

    _agree(all_of, x, names=ops, exact=1e-12 if dtype == torch.float64 else 2e-5)


def test_functions_of_two_numbers():
    torch.manual_seed(0)
    a = torch.tensor(ODD)[:, None].expand(len(ODD), len(ODD))
    b = torch.tensor(ODD)[None]

    def all_of(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        return tuple(op(a, b) for op in BINARY.values())

    _agree(all_of, a, b, names=BINARY, exact=1e-12)
    _agree(all_of, torch.randn(700, 3), torch.randn(3), names=BINARY, exact=1e-12)


@pytest.mark.parametrize("laid", ["rows", "columns"])
def test_shapes_and_products(laid):
    torch.manual_seed(0)
    x = torch.randn(3, 4) if laid == "rows" else torch.randn(4, 3).T

    def all_of(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(op(x) for op in SHAPES.values())

    _agree(all_of, x, names=SHAPES, exact=1e-12)


def test_gradients():
    torch.manual_seed(0)
    ops = [*UNARY.values()]
    ops += [lambda x, op=op: op(x, x + 1) for op in BINARY.values()]

    def all_of(x: Tensor) -> tuple[Tensor, ...]:
        slopes = []
        for op in ops:
            at = x.detach().requires_grad_()
            value = op(at).sum() + 0 * at.sum()  # some are flat
            slopes.append(torch.autograd.grad(value, at, materialize_grads=True)[0])
        return tuple(slopes)

    _agree(all_of, torch.rand(700) * 0.9 + 0.05, names=range(len(ops)), exact=1e-10)


@pytest.mark.parametrize("sizes", [(70, 80, 90), (1, 300, 500), (300, 500, 1), (64, 64, 64)])
def test_large_products_by_a_library(sizes):
    torch.manual_seed(0)
    m, k, n = sizes
    a, b = torch.randn(m, k), torch.randn(k, n)

    def all_of(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        return a @ b, b.T @ a.T, F.linear(a, b.T.contiguous(), b[0]), a.T @ (a @ b), (a @ b) @ b.T

    _agree(all_of, a, b, names=range(5), exact=1e-11)


def test_what_has_no_form_in_c_is_done_by_torch_and_named():
    x = torch.rand(3)
    found = in_c(record(lambda x: (x.exp().sort().values.log(),), (x,)), (x,))
    assert found.whole is None and found.by_torch == ["aten.sort.default"]
    (value,) = found.graph(x, *found.functions)
    torch.testing.assert_close(value, x.sort().values)
