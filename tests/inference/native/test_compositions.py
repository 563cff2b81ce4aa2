"""Our own compositions give what torch's operations do."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from compared import agree, gradient, matrix

FUNCTIONS = {
    "diagonal": lambda x: x.diagonal(1),
    "diagonal_of_several": lambda x: x.expand(2, 3, 4).diagonal(0, 2, 1),
    "diag_embed": lambda x: torch.diag_embed(x, -1),
    "diag_embed_first": lambda x: torch.diag_embed(x, 1, 0, 2),
    "select_scatter": lambda x: x.select_scatter(x[0] * 2, 0, 1),
    "slice_scatter": lambda x: x.slice_scatter(x[:, :2] * 2, 1, 0, 4, 2),
    "diagonal_scatter": lambda x: x.diagonal_scatter(x[:, 0] * 2),
    "roll": lambda x: x.roll(1, 0),
    "roll_both": lambda x: x.roll((1, -6), (0, 1)),
    "roll_flat": lambda x: x.roll(2),
    "pad": lambda x: F.pad(x, (1, 2)),
    "pad_both": lambda x: F.pad(x, (1, -2, 0, 1), value=1.5),
    "put": lambda x: x.put(torch.tensor([0, 3]), x[0, :2]),
    "put_more": lambda x: x.put(torch.tensor([3, 3]), x[0, :2], accumulate=True),
    "scatter_reduce": lambda x: torch.ones(3, 4).scatter_reduce(
        0, torch.tensor([[2, 0, 1, 1]]).expand(3, 4), x, "sum"
    ),
    "trace": lambda x: x[:, :3].trace(),
    "covariance": lambda x: x.cov(),
    "var_of_several": lambda x: x.expand(2, 3, 4).var((0, 2)),
    "var_and_mean": lambda x: sum(torch.var_mean(x, 1)),
    "distances_of_batches": lambda x: torch.cdist(x.expand(2, 3, 4), x[1:] + 1),
}


@pytest.mark.parametrize("laid", ["rows", "columns"])
def test_values_and_gradients(laid):
    agree(FUNCTIONS, matrix(laid), within=1e-12)
    slopes = {k: gradient(lambda x, f=f: f(x) ** 2) for k, f in FUNCTIONS.items()}
    agree(slopes, matrix(laid), within=1e-11)


def test_singular_matrices_and_few_numbers():
    x = torch.ones(3, 4)
    functions = {
        "determinant": lambda x: torch.linalg.det(x[:, :3]),
        "sign": lambda x: torch.linalg.slogdet(x[:, :3]).sign,
        "logarithm": lambda x: torch.linalg.slogdet(x[:, :3]).logabsdet,
    }
    agree(functions, x, within=0)


def test_a_view_made_in_place():
    def function(x):
        y = x.cos()[:, :1]
        y.squeeze_(1)
        return y * 2

    agree({"squeezed": function}, matrix("rows"), within=1e-15)
