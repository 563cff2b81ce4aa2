"""Compiled densities are Pyro's, on every model of the zoo and on those of other people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import HOUSE

import models
from inference.core import machine
from inference.core.compiled import c_compiler
from inference.program.graphs import compiled, way_of
from inference.program.prepare import program_of
from inference.workflow.plan import Request
from inference.workflow.run import plan_of
from models.contract import Refused

pytestmark = pytest.mark.skipif(c_compiler() is None, reason="there is no C compiler here")

# Without a continuous latent, with a density that is random, with a gradient that is lost.
REFUSED = {"discrete_exact", "subsample", "lost_gradient"}
CASES = sorted(path.parent for path in HOUSE.glob("tests/cases/*/model.py"))
CASES = [folder for folder in CASES if folder.name not in REFUSED]
NUMBERS = np.random.default_rng(0).normal(size=40)
USERS = {
    "eight_schools": {"y": [28.0, 8.0, -3.0, 7.0], "sigma": [15.0, 10.0, 16.0, 11.0]},
    "mixture": {"y": NUMBERS},
    "flat_regression": {"x": NUMBERS, "y": 2 * NUMBERS[::-1], "count": np.arange(40), "offset": 1},
}


def program(model: str | Path, data: Any = None):
    """The program that nuts would sample from."""
    plan = plan_of(Request(model=model, data=data, method="nuts"))
    with machine.numbers("float64"):
        return program_of(plan.entry, plan.options, plan.data)


def check_density(program) -> None:
    """Value and gradient at ten points, from near zero to far in the tail."""
    with machine.numbers("float64"), torch.random.fork_rng():
        torch.manual_seed(0)
        u = program.start()
        native = compiled(program.density_and_gradient, [(u,), (5 * u,)])
        assert way_of(native) == "native" and not native.by_torch
        points = [scale * torch.randn(program.size) for scale in torch.logspace(-1, 1, 10)]
        theirs = [program.density_and_gradient(point) for point in points]
        largest = max(float(slope[slope.isfinite()].abs().max()) for _, slope in theirs)
        for point, (value, slope) in zip(points, theirs):
            ours, ours_slope = native(point)
            torch.testing.assert_close(ours, value, rtol=1e-10, atol=1e-10)
            near = {"rtol": 1e-10, "atol": 1e-10 * largest, "equal_nan": True}
            torch.testing.assert_close(ours_slope, slope, **near)


@pytest.mark.parametrize("name", models.names())
def test_of_the_zoo(name):
    try:
        found = program(name)
    except Refused as refusal:
        pytest.skip(str(refusal)[:80])
    if not found.size or found.unfitted:
        pytest.skip("it has parameters of its own, or no continuous latent")
    check_density(found)


@pytest.mark.parametrize("folder", CASES, ids=lambda path: path.name)
def test_of_other_people(folder):
    (data,) = [path for path in folder.iterdir() if path.stem == "d"]
    check_density(program(folder / "model.py", str(data)))


@pytest.mark.parametrize("name", USERS)
def test_of_users(name):
    check_density(program(HOUSE / "tests" / "user" / f"{name}.py", USERS[name]))
