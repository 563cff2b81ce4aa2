"""Laplace of networks: exact where the network is linear, its structures, runs from end to end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from conftest import QUIET, problem_from
from scipy import stats

import zoo
from inference.methods.ascent import AscentSettings
from inference.methods.laplace import laplace
from inference.networks.gauss_newton import (
    Gaussian,
    estimate,
    gaussian,
)
from inference.program.program import Program
from inference.results import predictive
from models.contract import BadSetting, Refused

RNG = np.random.default_rng(0)
N, SIGMA = 25, 0.5
X, Y = RNG.normal(size=(N, 3)), RNG.normal(size=N)
TABLE = {"x": torch.as_tensor(X), "y": torch.as_tensor(Y)}


def regression(x, y):
    """A network without hidden units."""
    w = pyro.sample("w", dist.Normal(0.0, 2.0).expand([1, x.shape[1]]).to_event(2))
    b = pyro.sample("b", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(F.linear(x, w, b)[:, 0], SIGMA), obs=y)


def logistic(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 2.0).expand([x.shape[1], 3]).to_event(2))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Categorical(logits=x @ w), obs=y)


def hidden(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([4, x.shape[1]]).to_event(2))
    v = pyro.sample("v", dist.Normal(0.0, 1.0).expand([1, 4]).to_event(2))
    c = pyro.sample("c", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(F.linear(torch.tanh(F.linear(x, w)), v, c)[:, 0], 1.0), obs=y)


def network_of(model, tensors=TABLE):
    return replace(problem_from(model, tensors), identified=False)


def test_a_linear_network_is_met_exactly():
    problem = network_of(regression)
    fit = laplace(Program(problem), seed=0, context=QUIET, draws=20_000, steps=4000, lr=0.02)
    design = np.column_stack([X, np.ones(N)])
    prior = np.array([4.0, 4.0, 4.0, 1.0])
    covariance = np.linalg.inv(design.T @ design / SIGMA**2 + np.diag(1 / prior))
    mean = covariance @ design.T @ Y / SIGMA**2
    at = torch.cat([fit.linear_at["w"][0], fit.linear_at["b"]])
    np.testing.assert_allclose(at, mean, atol=1e-5)
    found = gaussian(Program(problem), fit.linear_at, "full")
    np.testing.assert_allclose(torch.linalg.inv(found.precision), covariance, rtol=1e-8)
    of_data = SIGMA**2 * np.eye(N) + design * prior @ design.T
    evidence = stats.multivariate_normal.logpdf(Y, cov=of_data)
    assert fit.metrics["log_evidence"] == pytest.approx(evidence, abs=1e-6)
    draws = torch.cat([fit.draws["w"][0, :, 0], fit.draws["b"][0]], 1).numpy()
    assert (np.abs(draws.mean(0) - mean) < 5 * np.sqrt(np.diag(covariance) / 20_000)).all()
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=5 * covariance.max() / 100)
    _predicts(problem, fit, design, mean, covariance)


def _predicts(problem, fit, design, mean, covariance):
    """The log density of each row is that of the exact predictive distribution."""
    linear = Program(replace(problem, linear_at=fit.linear_at))
    found = predictive.log_predictive(linear, {k: v[0] for k, v in fit.draws.items()}, N)
    spread = np.sqrt(SIGMA**2 + np.einsum("na,ab,nb->n", design, covariance, design))
    np.testing.assert_allclose(found, stats.norm.logpdf(Y, design @ mean, spread), atol=0.03)


def test_with_canonical_outputs_and_no_hidden_units_it_is_the_hessian():
    labels = torch.as_tensor(RNG.integers(0, 3, N))
    program = Program(network_of(logistic, {**TABLE, "y": labels}))
    u = torch.linspace(-1.0, 1.0, program.size)
    found = gaussian(program, program.constrain(u), "full")
    hessian = torch.autograd.functional.hessian(program.log_density, u)
    np.testing.assert_allclose(found.precision, -hessian, rtol=1e-8, atol=1e-10)


def test_last_and_diagonal_are_parts_of_the_full_matrix():
    program = Program(network_of(hidden))
    torch.manual_seed(0)
    at = program.constrain(program.start())
    full, last, diagonal = (gaussian(program, at, kind) for kind in ("full", "last", "diagonal"))
    assert (full.size, last.size, diagonal.size) == (17, 5, 17)
    assert last.names == ("v", "c")
    np.testing.assert_allclose(last.precision, full.precision[12:, 12:], rtol=1e-10)
    np.testing.assert_allclose(diagonal.precision, full.precision.diagonal(), rtol=1e-10)
    drawn = last.draw(3)
    assert torch.equal(drawn["w"], at["w"].expand(3, 4, 3))
    assert (drawn["v"] != at["v"]).all()


def test_draws_have_the_covariance():
    at = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[3.0]])}
    matrix = torch.tensor([[4.0, 1.0, 0.0], [1.0, 3.0, -1.0], [0.0, -1.0, 2.0]])
    for precision in (matrix, matrix.diagonal()):
        torch.manual_seed(0)
        found = Gaussian(at, ("b", "a"), precision).draw(100_000)
        draws = torch.cat([found["b"][:, 0], found["a"]], 1)
        covariance = torch.linalg.inv(precision if precision.ndim == 2 else precision.diag())
        np.testing.assert_allclose(draws.mean(0), [3.0, 1.0, 2.0], atol=0.02)
        np.testing.assert_allclose(draws.T.cov(), covariance, atol=0.02)


def test_moons_from_end_to_end():
    how = {"data": "moons", "seed": 0, "steps": 1500}
    at_mode = zoo.run("bnn", method="map", **how)
    found = {kind: zoo.run("bnn", method="laplace", structure=kind, **how) for kind in KINDS}
    for kind, run in found.items():
        # Without correlations it predicts worse than a linear model, and is told so.
        assert run.verdict.status == ("warn" if kind == "diagonal" else "pass")
        assert any(f"structure={kind}" in reason for reason in run.verdict.reasons)
        assert run.record["settings"]["structure"] == kind
        assert run.record["point"] == {}
        assert "khat" not in run.metrics
        assert run.metrics["mutual_information"] > 0.001
    assert found["full"].metrics["log_evidence"] < 0
    assert "log_evidence" not in found["last"].metrics | found["diagonal"].metrics
    # The mode knows these classes as well as can be: to be unsure of the weights gains nothing.
    assert found["full"].metrics["log_score"] > at_mode.metrics["log_score"] - 0.03
    assert found["full"].metrics["log_score"] > found["diagonal"].metrics["log_score"]


KINDS = ("full", "last", "diagonal")


def test_far_from_the_data_it_is_less_sure_than_its_mode():
    how = {"data": "moons", "outside": "far", "steps": 2000}
    entropies = [
        zoo.run("bnn", method=m, **how).metrics["entropy[far]"] for m in ("map", "laplace")
    ]
    assert entropies[1] > entropies[0] + 0.05


def test_digits_from_end_to_end():
    run = zoo.run("bnn", method="laplace", hidden="16", steps=4000, draws=50)
    assert run.verdict.status != "fail"
    assert run.record["settings"]["structure"] == "full"
    assert run.metrics["accuracy"] > 0.93


def test_a_saved_run_predicts_as_before(tmp_path):
    run = zoo.run("bnn", data="moons", method="laplace", hidden="8", steps=1000)
    before = run.predict(NEW)
    again = zoo.load(run.save(tmp_path))
    assert again.record["linearised"]
    assert set(again.params) == set(again.idata["posterior"].data_vars)
    np.testing.assert_array_equal(again.predict(NEW), before)
    # That it matters: the network at the drawn weights predicts something else.
    again.record["linearised"] = False
    assert (again.predict(NEW)["probability"] - before["probability"]).abs().max() > 0.01


NEW = {"x_1": [0.0, 1.0, 5.0], "x_2": [0.5, -1.0, 5.0]}


def test_settings_of_networks_are_for_networks():
    with pytest.raises(BadSetting, match="there is no setting 'steps'"):
        zoo.run("linear", method="laplace", steps=5)
    with pytest.raises(BadSetting, match="there is no setting 'structure'"):
        zoo.run("linear", method="laplace", structure="last")


def test_what_has_no_such_gaussian_is_refused_before_the_climb():
    def bounded(y):
        s = pyro.sample("s", dist.HalfNormal(1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(0.0, s), obs=y)

    def with_factor(y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.factor("more", w)
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(w, 1.0), obs=y)

    def scaled(y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.poutine.scale(scale=2.0), pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(w, 1.0), obs=y)

    told = {bounded: "s is bounded", with_factor: "pyro.factor", scaled: "y is scaled or masked"}
    for model, why in told.items():
        with pytest.raises(Refused, match=why):
            laplace(Program(network_of(model, {"y": TABLE["y"]})), seed=0, context=QUIET, draws=10)
    with pytest.raises(Refused, match="prior=normal"):
        zoo.run("bnn", data="moons", method="laplace", prior="scale_mixture")


def test_a_matrix_too_large_is_refused_before_the_climb():
    with pytest.raises(Refused, match=r"20,902 weights takes .* structure=last"):
        zoo.run("bnn", data="moons", method="laplace", structure="full", hidden="200,100")


# -- points ------------------------------------------------------------------------------------


LINE = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64)[:, None] ** torch.arange(2)  # (n, 2)
HEIGHT = LINE @ torch.tensor([0.5, -2.0], dtype=torch.float64) + 0.1 * torch.cos(9 * LINE[:, 1])


def one_layer(x, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 0.5).to_event(1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


@pytest.mark.parametrize("prior", [False, True])
def test_a_layer_without_hidden_units_ends_at_ridge_or_least_squares(prior):
    problem = replace(problem_from(one_layer, {"x": LINE, "y": HEIGHT}), identified=False)
    settings = AscentSettings(4000, lr=0.05, schedule="linear")
    fit = estimate(Program(problem), settings, 0, QUIET, prior=prior)
    penalty = 4.0 * torch.eye(2, dtype=LINE.dtype) if prior else 0.0  # 1 / 0.5^2
    known = torch.linalg.solve(LINE.T @ LINE + penalty, LINE.T @ HEIGHT)
    assert torch.allclose(fit.params["w"], known, atol=1e-4)
    assert fit.kind == "point" and fit.draws["w"].shape == (1, 1, 2)
