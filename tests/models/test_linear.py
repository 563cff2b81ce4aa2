"""Linear regression: every method against closed forms, quadrature and independent NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

import zoo
from models import linear
from models.contract import Refused, View

OPTIONS = {"noise": None, "prior_scale": 1.0}

NOISE = 1.0


def standardised():
    """Diabetes as the model sees it, from scikit-learn alone; the sd of the target."""
    from sklearn.datasets import load_diabetes

    table = load_diabetes(scaled=False)
    x = (table.data - table.data.mean(0)) / table.data.std(0)
    y_scale = table.target.std()
    return x, (table.target - table.target.mean()) / y_scale, y_scale


X, Y, Y_SCALE = standardised()
DESIGN = np.column_stack([X, np.ones(len(X))])
COVARIANCE = np.linalg.inv(DESIGN.T @ DESIGN / NOISE**2 + np.eye(11))
MEAN = COVARIANCE @ DESIGN.T @ Y / NOISE**2


def coefficients(values):
    """w and b of a point or of draws, joined along the last axis."""
    w, b = np.asarray(values["w"]), np.asarray(values["b"])
    return np.concatenate([w, b[..., None]], axis=-1)


def test_point_estimates_are_ridge_and_least_squares():
    ridge = zoo.run("linear", method="map", noise=NOISE).record["point"]
    np.testing.assert_allclose(coefficients(ridge), MEAN, rtol=1e-6, atol=1e-12)
    squares = np.linalg.lstsq(DESIGN, Y, rcond=None)[0]
    found = zoo.run("linear", method="mle", noise=NOISE).record["point"]
    np.testing.assert_allclose(coefficients(found), squares, rtol=1e-6, atol=1e-12)


def test_laplace_is_exact():
    run = zoo.run("linear", method="laplace", noise=NOISE)
    root = run.params["scale_tril"].numpy()
    np.testing.assert_allclose(run.params["loc"], MEAN, atol=1e-6)
    np.testing.assert_allclose(root @ root.T, COVARIANCE, rtol=1e-6, atol=1e-12)
    assert run.metrics["log_evidence"] == pytest.approx(run.exact.log_evidence, abs=1e-6)


def test_the_evidence_is_that_of_a_multivariate_normal_in_the_users_units():
    covariance = NOISE**2 * np.eye(len(Y)) + DESIGN @ DESIGN.T
    expected = stats.multivariate_normal.logpdf(Y, cov=covariance) - len(Y) * np.log(Y_SCALE)
    found = zoo.run("linear", method="exact", noise=NOISE, draws=100).metrics["log_evidence"]
    assert found == pytest.approx(expected, abs=1e-8)


def z_scores(run):
    """z of every mean and sd against the exact marginals, gated on ESS."""
    table, truth = run.summary(), run.exact.marginals
    assert set(table.index) == set(truth)
    assert (table["ess_bulk"] > 400).all() and (table["ess_tail"] > 400).all()
    means = [(r["mean"] - truth[n].mean()) / r["mcse_mean"] for n, r in table.iterrows()]
    sds = [(r["sd"] - truth[n].std()) / r["mcse_sd"] for n, r in table.iterrows()]
    return np.abs([*means, *sds])


def test_nuts_with_known_noise():
    run = zoo.run("linear", method="nuts", noise=NOISE)
    # This noise is wider than the residuals: right about the model, and worse than a plain one.
    assert run.verdict.trust["parameters"].answer == "yes", run.verdict.reasons
    assert "worse than a linear model" in run.verdict.reasons[0]
    assert z_scores(run).max() < 5


def test_nuts_with_unknown_noise_against_the_quadrature():
    run = zoo.run("linear", method="nuts", draws=500, seed=1)
    assert run.verdict.status == "pass", run.verdict.reasons
    assert z_scores(run).max() < 5


def test_the_quadrature_is_right_where_it_can_be_done_by_brute_force():
    data = linear.data("simulate", n=7, standardise=False, data_seed=3)
    x, y = (data.tensors[k].numpy() for k in ("x", "y"))
    truth = linear.exact(data, noise=None, prior_scale=1.3)

    def evidence(sigma):
        design = np.column_stack([x, np.ones(7)])
        covariance = sigma**2 * np.eye(7) + 1.3**2 * design @ design.T
        return stats.multivariate_normal.pdf(y, cov=covariance) * stats.halfnorm.pdf(sigma)

    total, _ = integrate.quad(evidence, 1e-3, 10, epsabs=0, epsrel=1e-10)
    mean, _ = integrate.quad(lambda s: s * evidence(s) / total, 1e-3, 10, epsabs=0, epsrel=1e-10)
    assert truth.log_evidence == pytest.approx(np.log(total), abs=1e-4)
    assert truth.marginals["sigma"].mean() == pytest.approx(mean, rel=1e-4)
    draws = truth.sample(20_000, np.random.default_rng(0))
    for name, values in {
        "w[x_1]": draws["w"][:, 0],
        "b": draws["b"],
        "sigma": draws["sigma"],
    }.items():
        marginal = truth.marginals[name]
        assert stats.kstest(values, marginal.cdf).pvalue > 1e-4
        assert values.std() == pytest.approx(marginal.std(), rel=0.05)


def test_coefficients_in_the_users_units():
    run = zoo.run("linear", method="laplace", noise=0.7, draws=50)
    raw = zoo.run("linear", method="mle", standardise=False, noise=50.0)
    original = run.idata["posterior_original"]
    assert original["w"].dims == ("chain", "draw", "feature")
    from sklearn.datasets import load_diabetes

    table = load_diabetes(scaled=False)
    line = original["w"].values[0] @ table.data.T + original["b"].values[0][:, None]
    w, b = run.idata["posterior"]["w"].values[0], run.idata["posterior"]["b"].values[0]
    scaled = (w @ X.T + b[:, None]) * Y_SCALE + table.target.mean()
    np.testing.assert_allclose(line, scaled, rtol=1e-10)
    squares = np.linalg.lstsq(
        np.column_stack([table.data, np.ones(442)]), table.target, rcond=None
    )
    np.testing.assert_allclose(coefficients(raw.record["point"]), squares[0], rtol=1e-6)


def test_predictions_and_held_out_scores_are_in_the_users_units():
    run = zoo.run("linear", method="exact", noise=0.7, split=0.2, draws=2000)
    test_x, test_y = (run.data.test[k].numpy() for k in ("x", "y"))
    train = np.column_stack([run.data.tensors["x"], np.ones(len(run.data.tensors["x"]))])
    covariance = np.linalg.inv(train.T @ train / 0.49 + np.eye(11))
    mean = covariance @ train.T @ run.data.tensors["y"].numpy() / 0.49
    rows = np.column_stack([test_x, np.ones(len(test_x))])
    sd = np.sqrt(0.49 + np.einsum("ij,jk,ik->i", rows, covariance, rows))
    expected = stats.norm.logpdf(test_y, rows @ mean, sd) - np.log(run.data.units["y"][1])
    assert run.metrics["elpd_test"] == pytest.approx(expected.sum(), abs=0.3)
    assert "accuracy" not in run.metrics

    from sklearn.datasets import load_diabetes

    table = load_diabetes(scaled=False)
    new = dict(zip(table.feature_names, table.data[:3].T))
    predicted = run.predict(new)
    assert list(predicted.index) == ["y[0]", "y[1]", "y[2]"]
    assert predicted["mean"].between(25, 350).all()
    assert predicted["sd"].to_numpy() == pytest.approx(0.7 * table.target.std(), rel=0.1)


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"n": 2, "k": 3}, "rank"), ({"n": 4, "k": 3}, "passes through every row")],
)
def test_least_squares_without_a_unique_answer_is_refused(options, reason):
    with pytest.raises(Refused, match=reason):
        zoo.run("linear", method="mle", data="simulate", **options)


def test_the_band_is_that_of_the_draws_in_the_users_units():
    data = linear.data(features="age,bmi")
    rng = np.random.default_rng(0)
    draws = {
        "w": np.array([0.1, 0.6]) + 0.05 * rng.normal(size=(800, 2)),
        "b": 0.05 * rng.normal(size=800),
        "sigma": np.full(800, 0.8),
    }
    view = View(data=data, draws=draws, options=OPTIONS)
    ax = linear.band(view).axes[0]
    assert ax.get_xlabel() == "bmi"  # the larger weight
    line, points = ax.lines
    units, grid = data.scaling, line.get_xdata()
    at = (grid - units.x_loc[1]) / units.x_scale[1]
    lines = draws["b"][:, None] + draws["w"][:, [1]] * at  # age is at its mean, zero
    user = units.y_loc + units.y_scale * lines.mean(0)
    np.testing.assert_allclose(line.get_ydata(), user, rtol=1e-9)
    new = 2 * units.y_scale * np.sqrt(lines.var(0) + 0.64)
    corners = ax.collections[0].get_paths()[0].vertices
    first = corners[np.isclose(corners[:, 0], grid[0])][:, 1]
    assert first.max() == pytest.approx(user[0] + new[0], rel=1e-9)
    assert first.min() == pytest.approx(user[0] - new[0], rel=1e-9)
    x, y = data.tensors["x"].numpy(), data.tensors["y"].numpy()
    rest = units.y_loc + units.y_scale * (y - x[:, 0] * draws["w"][:, 0].mean())
    np.testing.assert_allclose(points.get_ydata(), rest, rtol=1e-9)


def test_a_point_estimate_has_a_line_without_a_band_of_its_own():
    draws = {"w": np.array([[0.6]]), "b": np.array([0.0])}
    data, options = linear.data(features="bmi"), {"noise": 0.5, "prior_scale": 1.0}
    figure = linear.band(View(data=data, draws=draws, options=options))
    assert len(figure.axes[0].collections) == 1
    assert "point estimate" in figure.get_suptitle()


def test_the_band_sharpens():
    figure = linear.sharpening(View(data=linear.data(), draws={}, options=OPTIONS))
    assert [ax.get_title() for ax in figure.axes] == ["2 rows", "10 rows", "50 rows", "442 rows"]
    widths = []
    for ax in figure.axes:
        box = ax.collections[1].get_paths()[0].get_extents()
        widths.append(box.height)
    assert widths[0] > widths[1] > widths[3]
