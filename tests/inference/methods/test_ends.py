"""Ends of a maximisation: a refusal gives the reason that is true, and only where there is one."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import QUIET, problem_from
from pyro.distributions import constraints

from inference.methods import point
from inference.program.program import Program
from models.contract import Refused

FLAT = dist.ImproperUniform(constraints.real, (), ())
FIVE = np.array([0.3, 1.1, 1.6, 2.9, 7.0])


def fit(method, model, **tensors):
    problem = problem_from(model, {k: torch.as_tensor(v) for k, v in tensors.items()})
    return method(Program(problem), seed=0, context=QUIET)


def median(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Laplace(mu, 1.0), obs=y)


def test_between_two_medians_there_is_no_unique_maximum():
    with pytest.raises(Refused, match=r"no unique maximum.* mu: it is as high at mu = [23]\.\d"):
        fit(point.mle, median, y=[1.0, 2.0, 4.0, 9.0])
    assert fit(point.map_, median, y=[1.0, 2.0, 4.0, 9.0]).point["mu"].item() == 2.0


def test_a_maximum_flatter_than_a_parabola_is_no_plateau():
    def quartic(y):
        x = pyro.sample("x", FLAT)
        z = pyro.sample("z", FLAT)
        pyro.factor("f", -((x - y) ** 4) - (z - x) ** 2)

    found = fit(point.map_, quartic, y=3.0)
    assert found.point["x"].item() == pytest.approx(3.0, abs=0.02)
    assert found.findings[0].level in ("warn", "fail")


def test_a_hidden_kink_is_told_with_its_place():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        pyro.factor("f", -((y - mu) ** 2).sqrt().sum())

    with pytest.raises(Refused, match=r"a kink at its maximum, near mu = 1\.6"):
        fit(point.map_, model, y=FIVE)


def test_a_density_that_jumps_is_refused_with_the_line():
    def model(t, y):
        tau = pyro.sample("tau", dist.Normal(10.0, 8.0))
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.Normal(torch.where(t < tau, 1.0, 3.0), 0.3), obs=y)

    t = np.arange(20.0)
    with pytest.raises(Refused, match=r"jumps where a comparison changes \(test_ends.py, line"):
        fit(point.map_, model, t=t, y=np.where(t < 12, 1.0, 3.0))


def test_a_density_that_rises_for_ever():
    def model(y):
        a = pyro.sample("a", FLAT)
        pyro.factor("f", -torch.exp(-a * y))

    with pytest.raises(Refused, match="a runs to infinity"):
        fit(point.map_, model, y=3.0)


@pytest.mark.parametrize("family", [dist.Normal, dist.Laplace, dist.Cauchy])
def test_effects_and_their_scale_have_no_joint_mode_though_a_lower_one_is_near(family):
    """Data so strong that every ascent ends at a local mode with tau near 10."""

    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        tau = pyro.sample("tau", dist.HalfNormal(10.0))
        with pyro.plate("n", len(y)):
            effect = pyro.sample("effect", family(mu, tau))
            pyro.sample("y", dist.Normal(effect, 0.1), obs=y)

    with pytest.raises(Refused, match="unbounded as tau"):
        fit(point.map_, model, y=10 * np.random.default_rng(0).normal(size=8))


def test_a_prior_that_vanishes_at_zero_has_its_mode():
    def model(y):
        tau = pyro.sample("tau", dist.InverseGamma(3.0, 1.0))
        with pyro.plate("n", len(y)):
            effect = pyro.sample("effect", dist.Normal(0.0, tau))
            pyro.sample("y", dist.Normal(effect, 0.1), obs=y)

    found = fit(point.map_, model, y=FIVE)
    assert found.findings == [] and found.point["tau"] > 0.5


def test_supports_are_read_at_the_values_found():
    def model(y):
        top = pyro.sample("top", dist.Gamma(3.0, 1.0))
        mu = pyro.sample("mu", dist.Uniform(0.0, top))
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    # On mu = top the density is t exp(-t) exp(-(2 - t)^2 / 2): t^2 - t - 1 = 0.
    found = fit(point.map_, model, y=2.0)
    golden = (1 + 5**0.5) / 2
    assert found.point["top"].item() == pytest.approx(golden, rel=1e-6)
    assert found.point["mu"].item() == pytest.approx(golden, rel=1e-6)
    assert "border of the support (mu = 1.618" in found.findings[0].what
    low = fit(point.map_, model, y=-3.0)
    assert low.point["mu"].item() == 0.0
    assert low.point["top"].item() == pytest.approx(1.0, rel=1e-6)


def test_an_edge_that_the_data_set_is_given_and_told():
    def model(y):
        top = pyro.sample("top", dist.Pareto(1.0, 2.0))
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.Uniform(0.0, top), obs=y)

    for method in (point.map_, point.mle):
        found = fit(method, model, y=FIVE)
        assert found.point["top"].item() == pytest.approx(7.0, rel=1e-9)
        assert found.findings[0].level == "warn" and "at an edge" in found.findings[0].what
    assert found.metrics["log_likelihood"] == pytest.approx(-5 * np.log(7.0), rel=1e-9)


def test_two_edges_meet():
    def model(y):
        width = pyro.sample("width", dist.HalfNormal(100.0))
        low = pyro.sample("low", dist.Normal(0.0, 1.0))
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.Uniform(low - 5, low + width), obs=y)

    y = np.array([0.5, 2.0, 7.0, 3.0])
    found = fit(point.mle, model, y=y)
    assert found.point["low"].item() == pytest.approx(5.5, rel=1e-8)
    assert found.point["width"].item() == pytest.approx(1.5, rel=1e-8)
    assert found.findings[0].level == "warn" and "at an edge" in found.findings[0].what
    # Along low + width = 7 the density is (12 - low)^-4 exp(-low^2 / 2 - (7 - low)^2 / 20000).
    low = fit(point.map_, model, y=y).point["low"].item()
    assert 4 / (12 - low) - low + (7 - low) / 1e4 == pytest.approx(0, abs=1e-8)
