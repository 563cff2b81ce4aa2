"""Sums, extremes and softmax along dimensions."""

from __future__ import annotations

import pytest
import torch
from compared import ODD, agree, gradient, matrix

FUNCTIONS = {
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
}
SMOOTH = [name for name in FUNCTIONS if name not in ("any", "all")]


@pytest.mark.parametrize("laid", ["rows", "columns"])
def test_along_dimensions(laid):
    agree(FUNCTIONS, matrix(laid), within=1e-12)
    agree(
        {k: gradient(lambda x, k=k: FUNCTIONS[k](x) ** 2) for k in SMOOTH},
        matrix(laid),
        within=1e-12,
    )


def test_of_odd_numbers():
    x = torch.tensor(ODD)[:, None].expand(len(ODD), 2).clone()
    functions = {k: FUNCTIONS[k] for k in ("amax", "amin", "logsumexp", "sum_rows", "cumsum")}
    agree(functions, x, within=1e-12)


def test_a_long_sum_is_as_exact_as_torchs():
    torch.manual_seed(0)
    x = torch.rand(1_000_000)
    agree({"sum": torch.sum, "square": lambda x: (x * x).sum()}, x, within=1e-14)
