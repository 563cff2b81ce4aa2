"""Models as functions of an unconstrained vector: supports that depend on latents."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import problem_from
from scipy import stats

from inference.program.program import Program


def test_supports_may_depend_on_other_latents():
    def model():
        top = pyro.sample("top", dist.Uniform(1.0, 2.0))
        pyro.sample("inside", dist.Uniform(0.0, top))

    program = Program(problem_from(model))
    u = torch.tensor([0.4, -0.3])
    values = program.constrain(u)
    top, inside = values["top"].item(), values["inside"].item()
    assert 0 < inside < top
    s = stats.logistic.cdf([0.4, -0.3])
    assert (top, inside) == pytest.approx((1 + s[0], top * s[1]))
    jacobian = np.log(s * (1 - s)).sum() + np.log(top)
    expected = -np.log(top) + jacobian
    assert program.log_density(u).item() == pytest.approx(expected, rel=1e-10)


def test_a_change_hands_on_what_is_still_true():
    def model(y):
        top = pyro.sample("top", dist.LogNormal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Uniform(0.0, top), obs=y)

    program = Program(problem_from(model, {"y": torch.tensor([0.5, 2.0, 1.0])}))
    wide = program.unnarrowed()
    assert wide.prototype is program.prototype
    assert "top" in program.bounds and not wide.bounds
    assert program.changed(identified=False).prototype is program.prototype
    other = program.changed(tensors={"y": torch.tensor([7.0])})
    assert other.bounds["top"][0].item() == pytest.approx(7.0)
    assert program.first(1).bounds["top"][0].item() == pytest.approx(0.5)
