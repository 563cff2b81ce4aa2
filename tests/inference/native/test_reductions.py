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
    "prod": torch.prod,
    "prod_rows": lambda x: x.prod(0),
    "cumprod": lambda x: x.cumprod(1),
    "cumprod_rows": lambda x: x.cumprod(0),
    "logcumsumexp": lambda x: x.logcumsumexp(1),
    "logcumsumexp_rows": lambda x: x.logcumsumexp(0),
    "max": lambda x: x.max(0).values,
    "min": lambda x: x.min(1, keepdim=True).values,
    "cummax": lambda x: x.cummax(1).values,
    "cummin": lambda x: x.cummin(0).values,
    "var": torch.var,
    "var_rows": lambda x: x.var(0, correction=0),
    "std": lambda x: x.std(1, keepdim=True),
    "norm": torch.linalg.vector_norm,
    "norm_rows": lambda x: torch.linalg.vector_norm(x, dim=0),
    "norm_1": lambda x: torch.linalg.vector_norm(x, 1, dim=1),
    "norm_inf": lambda x: torch.linalg.vector_norm(x, float("inf"), dim=1),
}
PLACES = {
    "argmax": lambda x: x.argmax(1),
    "argmin": lambda x: x.argmin(0, keepdim=True),
    "argmax_of_all": lambda x: x.T.argmax(),
    "place_of_max": lambda x: x.max(0).indices,
    "place_of_min": lambda x: x.min(1).indices,
    "places_of_cummax": lambda x: x.cummax(0).indices,
    "places_of_cummin": lambda x: x.cummin(1).indices,
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


@pytest.mark.parametrize("laid", ["rows", "columns"])
def test_places(laid):
    agree(PLACES, matrix(laid), within=0)
    agree(PLACES, matrix(laid).round(), within=0)


def test_of_odd_numbers():
    x = torch.tensor(ODD)[:, None].expand(len(ODD), 2).clone()
    names = ("amax", "amin", "logsumexp", "sum_rows", "cumsum", "cumprod", "logcumsumexp_rows")
    agree({k: FUNCTIONS[k] for k in (*names, "max", "cummax", "cummin")}, x, within=1e-12)
    agree(PLACES, x.flip(0), within=0)
    agree({"log": lambda x: x[:-1].flip(0).logcumsumexp(0)}, x, within=1e-12)


def test_of_one_number_and_of_none():
    functions = {k: f for k, f in FUNCTIONS.items() if k not in ("var", "std", "var_rows")}
    agree(functions, torch.full((1, 1), 0.7), within=1e-12)
    names = ("sum", "sum_rows", "prod", "prod_rows", "cumsum", "cumprod", "logcumsumexp")
    agree({k: FUNCTIONS[k] for k in (*names, "norm")}, torch.zeros(0, 3), within=0)
    agree({"sum": torch.sum, "cumsum": lambda x: x.cumsum(0)}, torch.tensor(2.0), within=0)


def test_a_long_sum_is_as_exact_as_torchs():
    torch.manual_seed(0)
    x = torch.rand(1_000_000)
    agree({"sum": torch.sum, "square": lambda x: (x * x).sum()}, x, within=1e-14)
