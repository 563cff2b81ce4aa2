"""What surrounds a run changes none of its numbers, and comes back after it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import zoo

Y = [0.5, 1.0, 2.0]


def model(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def draws(method, seed=0, data=Y):
    some = {"svi": {"steps": 300}, "nuts": {"draws": 60, "warmup": 50, "chains": 2}}.get(
        method, {}
    )
    run = zoo.run(model, method=method, data={"y": data}, seed=seed, **some)
    return run.idata["posterior"]["mu"].values


@contextmanager
def default_device():
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def trusting():
    with pyro.validation_enabled(False):
        yield


AROUND = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "condition": lambda: poutine.condition(data={"mu": torch.tensor(7.0)}),
    "block": lambda: poutine.block(hide=["y"]),
    "scale": lambda: poutine.scale(scale=3.0),
    "seed": lambda: poutine.seed(rng_seed=1),
    "plate": lambda: pyro.plate("outer", 3),
    "device": default_device,
    "validation": trusting,
    "errstate": lambda: np.errstate(all="raise"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("method", ["laplace", "svi", "nuts"])
def test_the_callers_state_changes_no_number(name, method):
    expected = draws(method)
    with AROUND[name]():
        found = draws(method)
    np.testing.assert_array_equal(found, expected)


def test_the_callers_handlers_and_modes_come_back():
    with poutine.trace() as traced, torch.no_grad():
        draws("laplace")
        pyro.sample("after", dist.Normal(0.0, 1.0))
        assert not torch.is_grad_enabled()
    assert list(traced.trace.nodes) == ["after"]


def test_data_made_in_inference_mode_are_data():
    with torch.inference_mode():
        y = torch.tensor(Y, dtype=torch.float64)
    np.testing.assert_array_equal(draws("svi", data=y), draws("svi"))


@pytest.mark.parametrize("method", ["laplace", "svi", "nuts"])
def test_runs_in_threads_have_their_own_draws(method):
    expected = [draws(method, seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: draws(method, seed), range(4)))
    for one, other in zip(found, expected):
        np.testing.assert_array_equal(one, other)
