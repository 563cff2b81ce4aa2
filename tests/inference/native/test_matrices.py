"""Products of matrices, factors and triangular systems, small and large."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from compared import agree, gradient, matrix

FUNCTIONS = {
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
    "cholesky_upper": lambda x: torch.linalg.cholesky(x @ x.T + torch.eye(3), upper=True),
    "addmm_scaled": lambda x: torch.addmm(x[:, :3], x, x.T, beta=0.5, alpha=2.0),
    "baddbmm": lambda x: torch.baddbmm(
        x[:, :3].expand(2, 3, 3), x.expand(2, 3, 4), x.T.expand(2, 4, 3)
    ),
    "solve_ones": lambda x: torch.linalg.solve_triangular(
        x[:, :3], x, upper=False, unitriangular=True
    ),
    "determinant": lambda x: torch.linalg.det(x[:, :3]),
    "log_determinant": lambda x: torch.linalg.slogdet(x[:, :3]).logabsdet,
    "determinants": lambda x: torch.linalg.det(torch.stack([x[:, :3], x[:, 1:]])),
    "inverse": lambda x: torch.linalg.inv(x[:, :3]),
    "inverses": lambda x: torch.linalg.inv(torch.stack([x[:, :3], x[:, 1:]])),
    "solved": lambda x: torch.linalg.solve(x[:, :3].clone(), x),
    "solved_vector": lambda x: torch.linalg.solve(x[:, :3].clone(), x[:, 3]),
    "solved_right": lambda x: torch.linalg.solve(x[:, :3].clone(), x.T, left=False),
    "solved_by_factor": lambda x: torch.cholesky_solve(x, (x[:, :3].tril() + 3 * torch.eye(3))),
    "inverse_by_factor": lambda x: torch.cholesky_inverse(x[:, :3].tril() + 3 * torch.eye(3)),
    "distances": lambda x: torch.cdist(x, x[1:] + 1),
    "distances_1": lambda x: torch.cdist(x, x[1:] + 1, p=1),
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
}


@pytest.mark.parametrize("laid", ["rows", "columns"])
def test_small_ones(laid):
    agree(FUNCTIONS, matrix(laid), within=1e-12)
    slopes = {k: gradient(lambda x, f=f: f(x) ** 2) for k, f in FUNCTIONS.items()}
    agree(slopes, matrix(laid), within=1e-10)


@pytest.mark.parametrize("sizes", [(70, 80, 90), (1, 300, 500), (300, 500, 1), (64, 64, 64)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_large_products_by_a_library(sizes, dtype):
    torch.manual_seed(0)
    m, k, n = sizes
    a, b = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)
    functions = {
        "plain": lambda a, b: a @ b,
        "turned": lambda a, b: b.T @ a.T,
        "linear": lambda a, b: F.linear(a, b.T.contiguous(), b[0]),
        "left": lambda a, b: a.T @ (a @ b),
        "right": lambda a, b: (a @ b) @ b.T,
    }
    scale = float((a.abs() @ b.abs()).max()) ** 2
    agree(functions, a, b, within=scale * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_large_factors_by_a_library(dtype):
    torch.manual_seed(0)
    x = torch.randn(100, 120, dtype=dtype)
    functions = {
        "lower": lambda x: torch.linalg.cholesky(x @ x.T),
        "upper": lambda x: torch.linalg.cholesky(x @ x.T, upper=True),
        "several": lambda x: torch.linalg.cholesky(torch.stack([x @ x.T, 2 * x @ x.T])),
        "none": lambda x: torch.linalg.cholesky_ex(x @ x.T - 300 * torch.eye(100)).info,
        "slope": gradient(lambda x: torch.linalg.cholesky(x @ x.T).diagonal().log()),
    }
    agree(functions, x, within=1e-10 if dtype == torch.float64 else 1e-3)


def test_a_matrix_that_is_not_positive_definite_has_no_factor():
    x = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    agree({"info": lambda x: torch.linalg.cholesky_ex(x).info}, x, within=0)
