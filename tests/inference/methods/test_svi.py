"""SVI: closed-form optima, objectives, guides of the user's own, faults of guide and optimiser."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import QUIET, problem_from, problem_of
from pyro.distributions import constraints

import zoo
from inference.core.problem import Guide
from inference.methods.svi import svi
from inference.program.program import Program
from models.contract import Fault, Refused

RNG = np.random.default_rng(0)
X = RNG.normal(size=(25, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]])
Y = X @ [1.0, -1.0] + 0.5 * RNG.normal(size=25)
DATA = {"x": torch.as_tensor(X), "y": torch.as_tensor(Y)}
PRECISION = X.T @ X / 0.25 + np.eye(2) / 4
MEAN = np.linalg.solve(PRECISION, X.T @ Y / 0.25)


def regression(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def test_mean_field_scales_are_those_of_the_precision_diagonal():
    fit = svi(Program(problem_from(regression, DATA)), seed=0, context=QUIET, guide="normal")
    scales = 1 / np.sqrt(np.diag(PRECISION))
    np.testing.assert_allclose(fit.params["AutoNormal.scales.w"], scales, rtol=0.05)
    np.testing.assert_allclose(fit.params["AutoNormal.locs.w"], MEAN, atol=0.1 * scales.max())
    assert fit.findings == []


def test_the_elbo_is_below_the_evidence():
    problem = problem_from(regression, DATA)
    from inference.methods.laplace import laplace

    evidence = laplace(Program(problem), seed=0, context=QUIET).metrics["log_evidence"]
    fits = {g: svi(Program(problem), seed=0, context=QUIET, guide=g) for g in ("normal", "mvn")}
    gaps = {g: evidence - fit.log_ratios.mean().item() for g, fit in fits.items()}
    correlation = PRECISION / np.sqrt(np.outer(np.diag(PRECISION), np.diag(PRECISION)))
    exact_gap = -0.5 * np.log(np.linalg.det(correlation))
    assert gaps["normal"] == pytest.approx(exact_gap, abs=0.03)
    assert 0 <= gaps["mvn"] < 0.01


def test_too_few_steps_are_a_failure_and_a_wild_rate_is_told_with_its_step():
    fit = svi(Program(problem_from(regression, DATA)), seed=0, context=QUIET, steps=50, draws=10)
    assert [f.level for f in fit.findings] == ["fail"]
    with pytest.raises(Fault, match=r"not finite in step \d+"):
        svi(Program(problem_from(regression, DATA)), seed=0, context=QUIET, lr=1e6)


def test_a_rate_that_wrecks_the_first_steps_is_named_as_the_cause():
    fit = svi(Program(problem_of("linear")), seed=0, context=QUIET, lr=20.0, draws=50)
    assert any("the learning rate of 20 is too large" in f.what for f in fit.findings)
    assert {f.level for f in fit.findings} == {"fail"}


def test_a_fit_that_breaks_off_keeps_the_last_good_state():
    def guide(y):
        scale = pyro.param("scale", torch.tensor(1.0))
        pyro.sample("mu", dist.Normal(0.0, scale))

    def falling(model, guide, batch):
        scale = pyro.param("scale")
        return -scale + 0 * scale.log()  # no number once the scale is negative

    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    chosen = {"guide": Guide(guide, objective=falling), "lr": 0.004, "draws": 50}
    fit = svi(Program(problem_from(model, {"y": DATA["y"]})), seed=0, context=QUIET, **chosen)
    assert fit.status == "failed"
    (finding,) = fit.findings
    assert (
        "not finite in step 2" in finding.what and "kept is the state after step" in finding.what
    )
    assert fit.params["scale"].item() == pytest.approx(0.2, abs=0.01)
    assert fit.draws["mu"].isfinite().all()


def test_the_models_own_parameters_are_fitted_too():
    def model(y):
        loc = pyro.param("loc", torch.tensor(0.0))
        z = pyro.sample("z", dist.Normal(loc, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    fit = svi(Program(problem_from(model, {"y": DATA["y"]})), seed=0, context=QUIET)
    # The evidence is largest where the prior mean is the data's.
    assert fit.params["loc"].item() == pytest.approx(Y.mean(), abs=0.1)


def test_fitted_parameters_stay_in_force_for_all_that_follows():
    import zoo

    def model(y):
        scale = pyro.param("scale", torch.tensor(1.0), constraints.positive)
        m = pyro.sample("m", dist.Normal(0.0, 10.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(m, scale), obs=y)

    y = 4.5 * np.random.default_rng(0).normal(size=60)
    run = zoo.run(model, method="svi", data={"y": y})
    assert run.params["scale"].item() == pytest.approx(y.std(), rel=0.05)
    predicted = run.idata["posterior_predictive"]["y"].values
    assert predicted.std() == pytest.approx(y.std(), rel=0.1)
    assert run.metrics["elpd_loo"] == pytest.approx(run.metrics["elbo"], abs=8)
    assert run.predict(rows=3)["sd"].to_numpy() == pytest.approx(y.std(), rel=0.1)
    with pytest.raises(Refused, match=r"parameters of its own \(scale\), which laplace"):
        zoo.run(model, method="laplace", data={"y": y})
    assert len(pyro.get_param_store()) == 0


def mixture(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    with pyro.plate("row", len(y)):
        label = pyro.sample("label", dist.Bernoulli(0.3))
        pyro.sample("y", dist.Normal(loc[label.long()], 1.0), obs=y)


def test_an_interrupted_fit_keeps_its_last_state():
    threading.Timer(2, os.kill, [os.getpid(), signal.SIGINT]).start()
    problem = problem_from(regression, DATA)
    fit = svi(Program(problem), seed=0, context=QUIET, steps=10**6, window=10**5)
    assert fit.status == "interrupted"
    assert fit.signal == signal.SIGINT
    assert "interrupted after" in fit.findings[0].what
    assert fit.draws["w"].isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_on_the_gpu_the_fit_is_that_of_the_processor():
    settings = {"guide": "mvn", "seed": 0, "draws": 4000}
    fits = {d: zoo.run("linear", device=d, **settings) for d in ("cpu", "cuda")}
    tables = {d: fit.summary() for d, fit in fits.items()}
    gap = (tables["cuda"]["mean"] - tables["cpu"]["mean"]).abs() / tables["cpu"]["sd"]
    assert gap.max() < 0.2
