"""A network of mean and sigma: densities and scores by NumPy, coverage of what is known, fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import optimize, stats

import zoo
from inference.core.problem import Fit
from inference.program import prepare
from inference.program.program import Program
from inference.program.sampling import over_draws
from inference.results import predictive, scores
from models import heteroscedastic
from models.contract import BadSetting, View

OPTIONS = {"hidden": "3", "activation": "tanh", "prior": "normal", "prior_scale": 2.0}
OPTIONS["sigma_min"] = 1e-3
SHAPES = {"net.0.weight": (3, 1), "net.0.bias": (3,), "net.2.weight": (2, 3), "net.2.bias": (2,)}


def weights(draws, seed=0):
    """Random draws of the weights of a network of three hidden units, (draws, *shape)."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(draws, *shape)) for name, shape in SHAPES.items()}


def by_hand(draws, x, sigma_min=1e-3):
    """Mean and sigma at each draw (draws, rows), in standard units, draw by draw."""
    locs, sigmas = [], []
    for i in range(len(draws["net.0.bias"])):
        w1, b1, w2, b2 = (draws[name][i] for name in SHAPES)
        out = np.tanh(x @ w1.T + b1) @ w2.T + b2
        locs.append(out[:, 0])
        sigmas.append(sigma_min + np.log1p(np.exp(out[:, 1])))
    return np.array(locs), np.array(sigmas)


def tensors(draws):
    return {name: torch.as_tensor(value) for name, value in draws.items()}


def problem_with(n):
    """The problem of n simulated rows and a network of three hidden units."""
    entry = heteroscedastic.ENTRY
    return prepare.program_of(entry, OPTIONS, heteroscedastic.data(n=n)).problem


def test_log_joint_against_numpy():
    problem = problem_with(n=20)
    x, y = (problem.tensors[key].numpy() for key in ("x", "y"))
    draws = weights(4)
    locs, sigmas = by_hand(draws, x)
    expected = stats.norm.logpdf(y, locs, sigmas).sum(1) - 20 * problem.log_units["y"]
    for name, scale in zip(SHAPES, (2.0, 2.0, 2 / 3**0.5, 2.0)):
        each = stats.norm.logpdf(draws[name], 0, scale)
        expected = expected + each.reshape(4, -1).sum(1)
    found = over_draws(Program(problem).log_joint, tensors(draws))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_the_simulated_data_are_as_stated():
    found = heteroscedastic.data(n=20_000)
    x = heteroscedastic._users(found, found.tensors["x"].numpy())[:, 0]
    y = found.scaling.y_loc + found.scaling.y_scale * found.tensors["y"].numpy()
    assert np.abs(x).min() >= 1 and np.abs(x).max() <= 4
    z = (y - heteroscedastic.true_mean(x)) / heteroscedastic.true_sigma(x)
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert len(found.test["y"]) == 1000


def test_fewer_rows_are_among_more_and_the_test_set_is_the_same():
    few, many = (heteroscedastic.data(n=n, standardise=False) for n in (100, 300))
    assert torch.equal(few.tensors["y"], many.tensors["y"][:100])
    assert torch.equal(few.test["x"], many.test["x"]) and torch.equal(
        few.test["y"], many.test["y"]
    )
    other = heteroscedastic.data(n=100, standardise=False, data_seed=1)
    assert not torch.equal(few.test["y"], other.test["y"])


def test_the_test_set_is_in_the_units_of_the_training_rows():
    scaled, plain = (heteroscedastic.data(n=50, standardise=s) for s in (True, False))
    units = scaled.scaling
    back = units.y_loc + units.y_scale * scaled.test["y"]
    np.testing.assert_allclose(back, plain.test["y"], rtol=1e-12)
    back = units.x_loc + units.x_scale * scaled.test["x"].numpy()
    np.testing.assert_allclose(back, plain.test["x"], rtol=1e-12)


def test_a_table_holds_a_fifth_out_and_simulate_cannot_be_split():
    assert len(heteroscedastic.data("diabetes").test["y"]) == round(442 / 5)
    with pytest.raises(BadSetting, match="test set of its own"):
        heteroscedastic.data(split=0.3)


def scored(draws):
    problem = problem_with(n=50)
    fit = Fit(draws={k: v[None] for k, v in tensors(draws).items()}, kind="independent")
    return problem, scores.scored(Program(problem), fit)


def test_the_law_of_total_variance_by_brute_force():
    draws = weights(5)
    problem, found = scored(draws)
    unit = np.exp(problem.log_units["y"])
    locs, sigmas = by_hand(draws, problem.test["x"].numpy())
    rng = np.random.default_rng(1)
    sampled = unit * (locs[..., None] + sigmas[..., None] * rng.normal(size=(5, 1000, 4000)))
    total = sampled.transpose(1, 0, 2).reshape(1000, -1).var(1).mean()
    assert found.metrics["aleatoric"] + found.metrics["epistemic"] == pytest.approx(
        total, rel=5e-3
    )
    expected = {"aleatoric": (sigmas**2).mean(0), "epistemic": locs.var(0)}
    for name, each in expected.items():
        _, values = found.groups["held_out_numbers"][name]
        np.testing.assert_allclose(values, unit**2 * each, rtol=1e-10)
        assert found.metrics[name] == pytest.approx(unit**2 * each.mean(), rel=1e-10)


def test_coverage_is_that_of_the_mixture():
    draws = weights(5)
    problem, found = scored(draws)
    y = problem.test["y"].numpy()
    locs, sigmas = by_hand(draws, problem.test["x"].numpy())
    below = stats.norm.cdf(y, locs, sigmas).mean(0)
    _, cdf = found.groups["held_out_numbers"]["cdf"]
    np.testing.assert_allclose(cdf, below, rtol=1e-9, atol=1e-14)
    ends = [heteroscedastic.mixture_quantile(p, locs, sigmas) for p in (0.05, 0.95)]
    inside = (ends[0] <= y) & (y <= ends[1])
    assert found.metrics["coverage_90"] == pytest.approx(inside.mean(), abs=1e-12)


def test_rows_of_a_known_mixture_are_covered_as_they_should_be():
    draws = weights(5)
    problem = problem_with(n=50)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(20_000, 1))
    locs, sigmas = by_hand(draws, x)
    chosen = rng.integers(5, size=20_000), np.arange(20_000)
    y = locs[chosen] + sigmas[chosen] * rng.normal(size=20_000)
    problem = replace(problem, test={"x": torch.as_tensor(x), "y": torch.as_tensor(y)})
    fit = Fit(draws={k: v[None] for k, v in tensors(draws).items()}, kind="independent")
    found = scores.scored(Program(problem), fit).metrics
    assert found["coverage_90"] == pytest.approx(0.9, abs=0.01)


def test_a_point_estimate_has_no_epistemic_part():
    _, found = scored(weights(1))
    assert "epistemic" not in found.metrics and "aleatoric" in found.metrics


def test_quantiles_of_a_mixture():
    locs, sigmas = np.array([[-1.0], [0.5], [3.0]]), np.array([[0.2], [1.0], [0.5]])
    for p in (0.05, 0.5, 0.95):
        expected = optimize.brentq(
            lambda y, p=p: stats.norm.cdf(y, locs[:, 0], sigmas[:, 0]).mean() - p, -10, 10
        )
        found = heteroscedastic.mixture_quantile(p, locs, sigmas)
        assert found[0] == pytest.approx(expected, abs=1e-10)


def groups_of(found):
    """The groups of scores as a model's own functions get them."""
    return {name: {k: v for k, (_, v) in group.items()} for name, group in found.groups.items()}


def test_the_error_of_sigma_is_that_of_the_mean_variance():
    draws, data = weights(3), heteroscedastic.data(n=50)
    x = data.test["x"].numpy()
    _, sigmas = by_hand(draws, x)
    truth = 0.1 + 0.05 * (data.scaling.x_loc + data.scaling.x_scale * x[:, 0] + 4)
    sigma = data.scaling.y_scale * np.sqrt((sigmas**2).mean(0))
    _, found = scored(draws)
    metrics = heteroscedastic.metrics(View(data=data, draws=draws, groups=groups_of(found)))
    assert metrics["sigma_error"] == pytest.approx(np.abs(sigma / truth - 1).mean(), rel=1e-10)
    table = heteroscedastic.data("diabetes")
    assert heteroscedastic.metrics(View(data=table, draws=draws)) == {}


def test_sigma_stays_above_its_bound():
    draws, data = tensors(weights(2)), heteroscedastic.data(n=50)
    draws["net.2.bias"][:, 1] = -1000.0
    problem = prepare.program_of(
        heteroscedastic.ENTRY, {**OPTIONS, "sigma_min": 0.25}, data
    ).problem
    program = Program(problem)
    found = over_draws(lambda values: predictive.moments(program, values), draws)
    np.testing.assert_allclose(found[..., 1], 0.25, rtol=1e-12)
    assert any("sigma_min" in note for note in data.notes)


def test_the_bands_are_those_of_the_draws():
    draws, data = weights(6), heteroscedastic.data(n=50)
    view = View(data=data, draws=draws, groups=groups_of(scored(draws)[1]))
    figure = heteroscedastic.bands(view)
    assert "should widen where no data are" in figure.get_suptitle().replace("\n", " ")
    ax = figure.axes[0]
    lines = {line.get_label(): line for line in ax.lines}
    at = lines["mean"].get_xdata()
    assert at[0] < -4.5 and at[-1] > 4.5  # beyond the data
    scaled = (at[:, None] - data.scaling.x_loc) / data.scaling.x_scale
    locs, sigmas = by_hand(draws, scaled)
    units = data.scaling
    mean = units.y_loc + units.y_scale * locs.mean(0)
    np.testing.assert_allclose(lines["mean"].get_ydata(), mean, rtol=1e-9)
    noise = units.y_scale * stats.norm.ppf(0.95) * np.sqrt((sigmas**2).mean(0))
    np.testing.assert_allclose(lines["noise alone, 90 %"].get_ydata(), mean - noise, rtol=1e-9)
    assert np.abs(lines["truth, 90 %"].get_xdata()).max() <= 4
    point = groups_of(scored(weights(1))[1])
    figure = heteroscedastic.bands(replace(view, groups=point))
    assert "a point estimate" in figure.get_suptitle()
    assert heteroscedastic.bands(replace(view, groups={})) is None


def test_the_line_of_a_table_is_along_its_strongest_feature():
    data = heteroscedastic.data("diabetes")
    line = data.plane["x"].numpy()
    assert data.coords["feature"][np.ptp(line, axis=0).argmax()] == "bmi"
    x = data.tensors["x"].numpy()
    np.testing.assert_allclose(line[:, 0], x[:, 0].mean(), atol=1e-12)
    assert line[0].min() < x.min(0)[2] and line[-1].max() > x.max(0)[2]


def test_what_is_linear_in_the_weights_predicts_so_along_the_line():
    """The Laplace approximation's network is made linear; its sigma is not that of its weights."""
    run = zoo.run("heteroscedastic", method="laplace", steps=3000, hidden="8", n=300, draws=200)
    assert run.metrics["sigma_error"] < 0.2
    line = run.idata["line"]
    assert line["sd"].sizes == {"number": 200, "point": 150}
    unit = run.data.scaling.y_scale
    inside = np.abs(run.data.scaling.x_loc + run.data.scaling.x_scale * line["x"].values[:, 0])
    sd = unit * line["sd"].values[:, (inside > 1) & (inside < 4)]
    assert (sd**2).mean() == pytest.approx(run.metrics["aleatoric"], rel=0.1)


def test_a_short_fit_learns_that_the_noise_grows():
    run = zoo.run("heteroscedastic", method="map", steps=1500, hidden="8", n=300)
    assert run.metrics["sigma_error"] < 0.2
    assert 0.85 < run.metrics["coverage_90"] < 0.95
    truth = heteroscedastic.true_sigma(np.linspace(1, 4, 50)) ** 2
    low = heteroscedastic.true_sigma(np.linspace(-4, -1, 50)) ** 2
    expected = np.concatenate([truth, low]).mean()
    assert run.metrics["aleatoric"] == pytest.approx(expected, rel=0.2)
    assert "bands" in run.plots()


@pytest.mark.slow
def test_the_default_guide_is_calibrated_and_knows_sigma():
    run = zoo.run("heteroscedastic")
    assert run.verdict.status == "pass", run.verdict.reasons
    assert run.metrics["coverage_90"] == pytest.approx(0.9, abs=0.03)
    assert run.metrics["sigma_error"] < 0.1


@pytest.mark.slow
def test_nuts_on_a_small_network_is_calibrated_and_knows_sigma():
    """It diverges now and then, which is said."""
    run = zoo.run("heteroscedastic", method="nuts", hidden="3", activation="tanh")
    assert all("diverged" in finding.what for finding in run.verdict.findings)
    assert run.metrics["coverage_90"] == pytest.approx(0.9, abs=0.03)
    assert run.metrics["sigma_error"] < 0.1


@pytest.mark.slow
def test_more_rows_lessen_the_doubt_and_not_the_noise():
    few, many = (zoo.run("heteroscedastic", n=n).metrics for n in (400, 1600))
    assert many["epistemic"] < 0.5 * few["epistemic"]
    assert many["aleatoric"] == pytest.approx(few["aleatoric"], rel=0.1)


@pytest.mark.parametrize(
    ("method", "guide"), [("map", None), ("svi", "local"), ("svi", "dropout")]
)
def test_a_network_begins_where_its_seed_says(method, guide):
    short = {"steps": 20, "n": 30, "hidden": "3"} | ({"guide": guide, "draws": 4} if guide else {})
    runs = []
    for state, seed in ((0, 1), (5, 1), (5, 2)):
        torch.manual_seed(state)
        runs.append(zoo.run("heteroscedastic", method=method, seed=seed, **short).idata)
    first, again, other = (run["posterior"]["net.0.weight"].values for run in runs)
    assert np.array_equal(first, again) and not np.array_equal(first, other)
