"""Point estimates: closed forms, and the three ends of an optimisation told apart."""

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

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 3)) @ np.diag([1.0, 50.0, 0.02])
Y = X @ [1.0, 0.04, -30.0] + 0.5 * RNG.normal(size=30)


def regression(x, y, *, scale=2.0):
    w = pyro.sample("w", dist.Normal(0.0, scale).expand([x.shape[1]]).to_event(1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def fit(method, model, seed=0, **tensors):
    problem = problem_from(model, {k: torch.as_tensor(v) for k, v in tensors.items()})
    return method(Program(problem), seed=seed, context=QUIET)


def test_map_is_ridge_and_mle_is_least_squares_also_on_wild_scales():
    ridge = np.linalg.solve(X.T @ X / 0.25 + np.eye(3) / 4, X.T @ Y / 0.25)
    np.testing.assert_allclose(fit(point.map_, regression, x=X, y=Y).point["w"], ridge, rtol=1e-9)
    least_squares = np.linalg.lstsq(X, Y, rcond=None)[0]
    np.testing.assert_allclose(
        fit(point.mle, regression, x=X, y=Y).point["w"], least_squares, rtol=1e-9
    )


def test_a_scale_has_its_closed_form():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 100.0))
        sigma = pyro.sample("sigma", dist.HalfCauchy(10.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mu, sigma), obs=y)

    found = fit(point.mle, model, y=Y)
    assert found.point["mu"].item() == pytest.approx(Y.mean(), rel=1e-9)
    assert found.point["sigma"].item() == pytest.approx(Y.std(), rel=1e-9)
    assert found.findings == []
    assert found.draws["sigma"].shape == (1, 1)


def test_equal_under_a_flat_prior():
    def model(y):
        mu = pyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.StudentT(4.0, mu, 1.0), obs=y)

    both = [fit(method, model, y=Y).point["mu"].item() for method in (point.map_, point.mle)]
    assert both[0] == pytest.approx(both[1], rel=1e-10)


def test_collinear_columns_have_no_single_maximum():
    doubled = np.column_stack([X, 2 * X[:, 0]])
    with pytest.raises(Refused, match="singular in w"):
        fit(point.mle, regression, x=doubled, y=Y)
    assert fit(point.map_, regression, x=doubled, y=Y).point["w"].isfinite().all()


def test_separable_classes_have_no_finite_maximiser():
    def model(x, y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=w * x), obs=y)

    x = np.array([-2.0, -1.0, 0.5, 3.0])
    with pytest.raises(Refused, match="w runs to infinity"):
        fit(point.mle, model, x=x, y=(x > 0).astype(float))
    overlap = fit(point.mle, model, x=x, y=np.array([0.0, 1.0, 0.0, 1.0]))
    assert overlap.point["w"].isfinite()


def test_a_scale_that_goes_to_zero_is_unbounded():
    def model(y):
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
        pyro.sample("y", dist.Normal(0.0, sigma), obs=y)

    with pytest.raises(Refused, match="unbounded as sigma"):
        fit(point.mle, model, y=torch.tensor(0.0))

    def funnel(y):
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("school", len(y)):
            theta = pyro.sample("theta", dist.Normal(0.0, tau))
            pyro.sample("y", dist.Normal(theta, 10.0), obs=y)

    for seed in range(4):  # the optimiser stops in other places near the peak
        with pytest.raises(Refused, match="unbounded as tau"):
            fit(point.map_, funnel, seed=seed, y=torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12]))


def test_a_border_at_zero_is_told_with_the_others_at_their_best():
    def model(y):
        rate = pyro.sample("rate", dist.Exponential(1.0))
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.factor("other", -((mu - 3.0) ** 2) / 2)
        pyro.sample("y", dist.Poisson(rate), obs=y)

    found = fit(point.map_, model, y=torch.tensor(0.0))
    assert found.point["rate"].item() == 0.0
    assert found.point["mu"].item() == pytest.approx(1.5, rel=1e-8)
    assert found.findings[0].level == "warn"
    assert "rate = 0" in found.findings[0].what


def test_the_best_of_several_modes_is_found():
    def model():
        x = pyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
        bumps = torch.stack([-((x + 1.5) ** 2) / 0.1, 1 - ((x - 1.5) ** 2) / 0.1])
        pyro.factor("bumps", bumps.logsumexp(0))

    found = [fit(point.map_, model, seed=seed).point["x"].item() for seed in range(3)]
    assert found == pytest.approx([1.5] * 3, abs=1e-6)
