"""Laplace: exact on a Gaussian, right off it, refused where there is no Gaussian."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import QUIET, problem_from
from scipy import stats

from inference.methods.laplace import laplace
from inference.program.program import Program
from models.contract import Refused

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(25, 3)), RNG.normal(size=25)


def regression(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def test_a_gaussian_posterior_is_met_exactly():
    problem = problem_from(regression, {"x": torch.as_tensor(X), "y": torch.as_tensor(Y)})
    fit = laplace(Program(problem), seed=0, context=QUIET, draws=20_000)
    covariance = np.linalg.inv(X.T @ X / 0.25 + np.eye(3) / 4)
    mean = covariance @ X.T @ Y / 0.25
    root = fit.params["scale_tril"]
    np.testing.assert_allclose(fit.point["w"], mean, rtol=1e-8)
    np.testing.assert_allclose(root @ root.T, covariance, rtol=1e-8)
    evidence = stats.multivariate_normal.logpdf(Y, cov=0.25 * np.eye(25) + 4 * X @ X.T)
    assert fit.metrics["log_evidence"] == pytest.approx(evidence, abs=1e-8)
    np.testing.assert_allclose(fit.log_ratios, evidence, atol=1e-8)
    error = 5 * np.sqrt(np.diag(covariance) / 20_000)
    assert (np.abs(fit.draws["w"][0].mean(0).numpy() - mean) < error).all()


def test_log_q_is_the_density_of_the_constrained_draws():
    def model():
        pyro.sample("rate", dist.Gamma(3.0, 2.0))

    fit = laplace(Program(problem_from(model)), seed=0, context=QUIET, draws=200)
    loc, scale = fit.params["loc"].item(), fit.params["scale_tril"].item()
    assert np.exp(loc) == pytest.approx(
        3 / 2
    )  # mode of log rate: shape / rate, not (shape-1)/rate
    expected = stats.lognorm.logpdf(fit.draws["rate"][0], s=scale, scale=np.exp(loc))
    np.testing.assert_allclose(fit.log_q[0], expected, rtol=1e-10)
    joint = stats.gamma.logpdf(fit.draws["rate"][0], 3, scale=0.5)
    np.testing.assert_allclose(fit.log_p[0], joint, rtol=1e-10)


def test_no_mode_no_gaussian():
    def heavy():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("away", x**2)

    with pytest.raises(Refused, match="no mode"):
        laplace(Program(problem_from(heavy)), seed=0, context=QUIET)

    def flat():
        x = pyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        pyro.factor("undo", (x**2).sum() / 2 - x[0] ** 2)

    with pytest.raises(Refused, match="not negative definite"):
        laplace(Program(problem_from(flat)), seed=0, context=QUIET)
