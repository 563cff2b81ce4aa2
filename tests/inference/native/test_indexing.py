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
    "index_apart": lambda x: x.expand(2, 3, 4)[torch.tensor([0, 1]), :, torch.tensor([3, -1])],
    "mask": lambda x: x[torch.arange(12).view(3, 4) % 5 > 1],
    "mask_of_rows": lambda x: x[torch.tensor([True, False, True])],
    "mask_of_columns": lambda x: x[:, torch.tensor([True, False, True, True])],
    "put_where": lambda x: x.index_put((x > 0.1,), torch.tensor(2.0)),
    "put_at_mask": lambda x: x.index_put(
        (torch.arange(12).view(3, 4) % 5 > 1,), x.flatten()[:6], accumulate=True
    ),
    "put_in_columns": lambda x: x.index_put(
        (torch.tensor([0]), torch.tensor([True, False, True, True]).nonzero()[:, 0]), x[1, :3]
    ),
    "put_in_batch": lambda x: torch.ops.aten.index_put(
        x.expand(2, 3, 4), [None, torch.arange(12).view(3, 4) % 5 > 1], x[0, :2, None], True
    ),
    "set_item": lambda x: changed(x, lambda y: y.__setitem__((slice(None), 1), x[:, 0] * 2)),
    "set_mask": lambda x: changed(x, lambda y: y.__setitem__(y < 0, 0.5)),
    "index_add_scaled": lambda x: torch.zeros(2, 4).index_add(
        0, torch.tensor([1, 0, 1]), x, alpha=2.5
    ),
    "tril": lambda x: x.tril(),
    "triu": lambda x: x.triu(1),
    "filled": lambda x: torch.full_like(x, 2.0) + torch.zeros_like(x) + torch.ones_like(x),
}


def changed(x, change):
    """The squares of a copy that was changed in place."""
    copy = x * 1
    change(copy)
    return copy * copy


@pytest.mark.parametrize("laid", ["rows", "columns"])
def test_parts_of_arrays(laid):
    agree(FUNCTIONS, matrix(laid), within=1e-12)
    slopes = {k: gradient(lambda x, f=f: f(x) ** 2) for k, f in FUNCTIONS.items()}
    agree(slopes, matrix(laid), within=1e-12)


def test_what_is_joined_is_made_in_its_place_and_may_still_change():
    def joined(x):
        part, other = x.exp(), x.sin()
        both = torch.cat([part.flatten(), other.flatten(), part.flatten()])
        before = both * 1
        part.add_(1)
        return torch.cat(
            [before, both[3:9] + part.flatten()[:6], torch.cat([other, other]).flatten()]
        )

    agree(
        {"joined": joined, "twice": lambda x: torch.cat([x.exp()] * 2)},
        matrix("rows"),
        within=1e-14,
    )


def test_indices_that_are_computed():
    index = torch.tensor([2, 0, -1, 1])
    functions = {
        "rows": lambda i: torch.arange(12.0).view(4, 3)[i * 1],
        "spread": lambda i: torch.zeros(5).index_add(0, i + 1, torch.arange(4.0)),
    }
    agree(functions, index, within=0)


def test_numbers_are_found_among_edges():
    edges, odd = torch.tensor([-1.0, 0.0, 0.0, 2.0]), torch.tensor([-2.0, 0.0, 2.0, float("nan")])
    functions = {
        "below": lambda x: torch.searchsorted(edges, x),
        "not_above": lambda x: torch.searchsorted(edges, x, side="right"),
        "in_rows": lambda x: torch.searchsorted(x.cumsum(-1).abs().cumsum(-1), x),
        "bucket": lambda x: torch.bucketize(x, edges, right=True),
        "counted": lambda x: torch.arange(2, 10, 2) + x[0, :4].long(),
    }
    agree(functions, torch.stack([odd, torch.randn(4)]), within=0)


def test_a_view_of_an_array_that_is_laid_out_anew():
    agree({"flat": lambda x: (x.T * 1).T.view(12) + x.flatten()}, matrix("rows"), within=0)


def test_changes_in_place_of_views():
    def views(x):
        y = (x * 1).view(3, 4)
        y[1].mul_(2)
        y.T[2].add_(x[:3])
        y[:, ::2].exp_()
        y.diagonal().zero_()
        y[0, 1:].copy_(x[:3])
        y[y > 1] = 0.5
        return y

    def rows_by_rows(x):
        y = torch.zeros(4, 3)
        for i in range(4):
            y[i] = x.view(4, 3)[i] + (y[i - 1].clone() if i else 0)
        return y

    functions = {"views": views, "rows": rows_by_rows, "slope": gradient(rows_by_rows)}
    agree(functions, torch.randn(12), within=1e-15)
