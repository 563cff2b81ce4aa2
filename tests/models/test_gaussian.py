"""The two Gaussians: the right conditional, mean field too narrow, full covariance right."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import models
import zoo
from models import gaussian
from models.contract import Refused

GAP = -0.5 * np.log(1 - 0.9**2)  # 0.8304 nats between evidence and the mean-field ELBO


@pytest.mark.parametrize(("source", "latent"), [("y=1.5", "x"), ("x=-0.4", "y")])
def test_the_conditional_is_that_of_the_joint_by_quadrature(source, latent):
    truth = gaussian.exact(gaussian.data(source), rho=0.6)
    given = float(source[2:])
    grid = np.linspace(-8, 8, 100_001)
    joint = stats.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]])
    density = joint.pdf(np.column_stack([grid, np.full_like(grid, given)]))
    evidence = np.trapezoid(density, grid)
    mean = np.trapezoid(grid * density, grid) / evidence
    variance = np.trapezoid((grid - mean) ** 2 * density, grid) / evidence
    assert truth.marginals[latent].mean() == pytest.approx(mean, abs=1e-9)
    assert truth.marginals[latent].std() == pytest.approx(np.sqrt(variance), abs=1e-9)
    assert truth.log_evidence == pytest.approx(np.log(evidence), abs=1e-9)


def test_mean_field_is_too_narrow_and_the_verdict_says_so():
    run = zoo.run("gaussian", guide="normal")
    sds = run.summary()["sd"]
    assert sds.to_numpy() == pytest.approx(np.sqrt(1 - 0.9**2), abs=0.02)
    assert run.verdict.status == "warn"
    assert "too narrow" in run.verdict.reasons[0]
    assert any("k-hat" in reason for reason in run.verdict.reasons)
    assert "Trust its means. Do not trust its intervals." in run.verdict.headline
    assert run.metrics["khat"] >= 0.7
    error = 5 * run.metrics["elbo_se"] + 0.005  # Monte Carlo error, and the fit's own residue
    assert run.metrics["elbo"] == pytest.approx(-GAP, abs=error)


def test_a_full_covariance_fits():
    run = zoo.run("gaussian", guide="mvn")
    assert run.summary()["sd"].to_numpy() == pytest.approx(1, abs=0.03)
    assert run.metrics["khat"] < 0.5
    assert run.metrics["elbo"] == pytest.approx(0, abs=0.01)
    assert run.verdict.status == "pass"


def test_nuts_and_laplace_agree_with_the_truth():
    run = zoo.run("gaussian", method="nuts")
    for _, row in run.summary().iterrows():
        assert abs(row["mean"]) < 5 * row["mcse_mean"]
        assert abs(row["sd"] - 1) < 5 * row["mcse_sd"]
    laplace = zoo.run("gaussian", method="laplace")
    covariance = laplace.params["scale_tril"] @ laplace.params["scale_tril"].T
    np.testing.assert_allclose(covariance, [[1, 0.9], [0.9, 1]], rtol=1e-8)
    assert laplace.metrics["log_evidence"] == pytest.approx(0, abs=1e-8)
    assert laplace.metrics["khat"] < 0.1


def test_map_given_y_and_mle_differ_by_the_prior():
    assert zoo.run("gaussian", method="map", data="y=1.5").record["point"]["x"] == (
        pytest.approx(0.9 * 1.5)
    )
    assert zoo.run("gaussian", method="mle", data="y=1.5").record["point"]["x"] == (
        pytest.approx(1.5 / 0.9)
    )


@pytest.mark.parametrize(("source", "reason"), [(None, "nothing is observed"), ("x=1", "flat")])
def test_mle_is_refused_without_a_likelihood(source, reason):
    with pytest.raises(Refused, match=reason):
        zoo.run("gaussian", method="mle", data=source)


@pytest.mark.parametrize("source", ["z=1", "y=", "y=nan", "x=1,y=2", "y=1;2"])
def test_other_data_are_named(source):
    with pytest.raises(models.BadInput):
        gaussian.data(source)
