"""Arrays filled, joined, picked from and spread."""

from __future__ import annotations

import pytest
import torch
from compared import agree, gradient, matrix

FUNCTIONS = {
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
    "filled": lambda x: torch.full_like(x, 2.0) + torch.zeros_like(x) + torch.ones_like(x),
}


@pytest.mark.parametrize("laid", ["rows", "columns"])
def test_parts_of_arrays(laid):
    agree(FUNCTIONS, matrix(laid), within=1e-12)
    slopes = {k: gradient(lambda x, f=f: f(x) ** 2) for k, f in FUNCTIONS.items()}
    agree(slopes, matrix(laid), within=1e-12)


def test_indices_that_are_computed():
    index = torch.tensor([2, 0, -1, 1])
    functions = {
        "rows": lambda i: torch.arange(12.0).view(4, 3)[i * 1],
        "spread": lambda i: torch.zeros(5).index_add(0, i + 1, torch.arange(4.0)),
    }
    agree(functions, index, within=0)
