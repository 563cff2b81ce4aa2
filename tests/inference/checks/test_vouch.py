"""What short chains say of a fit: right ones pass, each way of being wrong is named."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import QUIET, problem_from
from scipy import stats
from test_laplace import X, Y, regression

from inference.checks import vouch
from inference.checks.agreement import Apart
from inference.core.problem import Fit
from inference.methods.laplace import laplace
from inference.methods.point import map_
from inference.methods.svi import svi
from inference.program.program import Program

DATA = {"x": torch.as_tensor(X), "y": torch.as_tensor(Y)}
COVARIANCE = np.linalg.inv(X.T @ X / 0.25 + np.eye(3) / 4)
MEAN = COVARIANCE @ X.T @ Y / 0.25


def told(draws=None, fit=None, model=regression, data=DATA, metrics=None):
    if fit is None:
        fit = Fit(draws={"w": torch.as_tensor(draws)[None]}, kind="independent")
    return vouch.findings(Program(problem_from(model, data)), fit, metrics or {}, seed=0)


def of_parameters(findings):
    (found,) = [one for one in findings if "parameters" in one.spoils]
    return found


def posterior(shift=0.0, scale=1.0, seed=0):
    draws = np.random.default_rng(seed).multivariate_normal(MEAN, COVARIANCE, 4000)
    return MEAN + scale * (draws - MEAN) + shift * np.sqrt(np.diag(COVARIANCE))


@pytest.mark.parametrize("seed", range(5))
def test_draws_of_the_posterior_are_right(seed):
    assert told(posterior(seed=seed)) == []


def test_a_shift_of_0_4_sd_is_told():
    found = of_parameters(told(posterior(shift=0.4)))
    assert found.level == "warn"
    assert "off by 0.4" in found.what or "off by 0.3" in found.what
    assert not found.of_intervals


@pytest.mark.parametrize(("scale", "word"), [(0.6, "narrow"), (1.6, "wide")])
def test_wrong_sds_are_told_and_leave_the_means(scale, word):
    found = of_parameters(told(posterior(scale=scale)))
    assert f"too {word}" in found.what
    assert found.of_intervals


def test_mean_field_on_correlated_weights_is_too_narrow_where_k_hat_does_not_see_it():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2)) @ np.linalg.cholesky([[1, 0.85], [0.85, 1]]).T
    y = (rng.random(40) < 1 / (1 + np.exp(-x.sum(1)))).astype(float)

    def logistic(x, y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)

    data = {"x": torch.as_tensor(x), "y": torch.as_tensor(y)}
    problem = problem_from(logistic, data)
    fit = svi(Program(problem), seed=0, context=QUIET)
    found = vouch.findings(Program(problem), fit, {}, seed=0)
    assert any("too narrow" in one.what for one in found)
    full = svi(Program(problem), seed=0, context=QUIET, guide="mvn")
    assert vouch.findings(Program(problem), full, {}, seed=0) == []


def test_a_point_predicts_too_narrowly_of_few_rows():
    few = {"x": DATA["x"][:4], "y": DATA["y"][:4]}
    fit = map_(Program(problem_from(regression, few)), seed=0, context=QUIET)
    (found,) = told(fit=fit, data=few)
    assert found.spoils == ("predictions",)
    fit = map_(Program(problem_from(regression, DATA)), seed=0, context=QUIET)
    assert told(fit=fit, data={k: torch.cat([v] * 40) for k, v in DATA.items()}) == []


def test_a_point_at_the_border_predicts_what_the_posterior_does_not():
    def coin(x):
        pi = pyro.sample("pi", dist.Uniform(0.0, 1.0))
        with pyro.plate("flip", len(x)):
            pyro.sample("x", dist.Bernoulli(pi), obs=x)

    for side in (0.0, 1.0):
        fit = Fit(draws={"pi": torch.full((1, 1), side)}, kind="point")
        (found,) = told(fit=fit, model=coin, data={"x": torch.full((3,), side)})
        assert found.spoils == ("predictions",)
        assert "off by 0.2" in found.what or "off by 0.19" in found.what  # Beta(4, 1): 1 - 4 / 5


def test_an_evidence_that_the_weights_contradict_is_told():
    problem = problem_from(regression, DATA)
    fit = laplace(Program(problem), seed=0, context=QUIET)
    right = fit.metrics["log_evidence"]
    assert told(fit=fit, metrics={"log_evidence": right}) == []
    (found,) = told(fit=fit, metrics={"log_evidence": right + 1.0})
    assert found.spoils == ("evidence",)


def test_a_model_too_large_for_chains_is_judged_by_its_weights(monkeypatch):
    monkeypatch.setattr(vouch, "_MOST", 0)
    problem = problem_from(regression, DATA)
    fit = laplace(Program(problem), seed=0, context=QUIET)
    assert told(fit=fit) == []
    mean = torch.as_tensor(MEAN)
    wide = mean + 1.5 * (fit.draws["w"][0] - mean)
    log_q = stats.multivariate_normal(MEAN, 2.25 * COVARIANCE).logpdf(wide)
    log_p = stats.multivariate_normal(MEAN, COVARIANCE).logpdf(wide)
    ratios = {"log_p": torch.as_tensor(log_p)[None], "log_q": torch.as_tensor(log_q)[None]}
    found = told(fit=Fit(draws={"w": wide[None]}, kind="independent", **ratios))[0]
    assert "too wide" in found.what
    assert "importance weights" in found.what
    bare = Fit(draws=fit.draws, kind="independent")
    (found,) = told(fit=bare)
    assert found.opens == ("parameters", "predictions")


def test_chains_that_do_not_forget_tell_nothing():
    def two_valleys():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("peaks", torch.logaddexp(-((x - 2) ** 2) / 0.02, -((x + 2) ** 2) / 0.02) + x)

    both = np.random.default_rng(0).choice([-2.0, 2.0], 4000)
    both = both + 0.1 * np.random.default_rng(1).normal(size=4000)
    fit = Fit(draws={"x": torch.as_tensor(both)[None]}, kind="independent")
    (found,) = told(fit=fit, model=two_valleys, data={})
    assert found.opens == ("parameters",)


def test_heavy_tails_are_judged_by_quantiles():
    def cauchy():
        pyro.sample("x", dist.Cauchy(0.0, 1.0))

    rng = np.random.default_rng(0)
    right = Fit(draws={"x": torch.as_tensor(rng.standard_cauchy(4000))[None]}, kind="independent")
    assert of_parameters_or_none(told(fit=right, model=cauchy, data={})) is None
    wide = Fit(draws={"x": 1.6 * right.draws["x"]}, kind="independent")
    assert "too wide" in of_parameters_or_none(told(fit=wide, model=cauchy, data={})).what


def of_parameters_or_none(findings):
    return next((one for one in findings if "parameters" in one.spoils), None)


@pytest.mark.parametrize(
    ("seen", "noise", "answer"), [(0.03, 0.005, "no"), (0.03, 0.015, "not known"), (0.015, 0, "")]
)
def test_predictions_are_known_to_be_off_or_not_beyond_noise(seen, noise, answer):
    fit = Fit(draws={}, kind="independent")
    found = vouch._of_predictions(Apart(seen, noise), True, 0.02, fit)
    told = {"no": [("predictions",), ()], "not known": [(), ("predictions",)]}
    assert [part for f in found for part in (f.spoils, f.opens)] == told.get(answer, [])
