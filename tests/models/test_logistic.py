"""Logistic regression: penalties as in scikit-learn, separability told, quadrature, scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import QUIET, problem_from
from scipy import integrate, special, stats
from sklearn.linear_model import LogisticRegression

import models
import zoo
from inference.methods.point import map_
from inference.program.program import Program
from models import logistic
from models.contract import Refused, View

FOUR = "mean radius,mean texture,mean smoothness,mean concavity"


def with_ones():
    """The standardised table with a column of ones, and the classes."""
    data = logistic.data()
    x = np.column_stack([data.tensors["x"], np.ones(569)])
    return x, data.tensors["y"].numpy()


@pytest.mark.parametrize(
    ("prior", "penalty", "scale"), [("normal", 0.0, 1.0), ("laplace", 1.0, 0.5)]
)
def test_map_is_the_penalised_solution(prior, penalty, scale):
    x, y = with_ones()
    problem = problem_from(
        logistic.model,
        {"x": torch.as_tensor(x), "y": torch.as_tensor(y)},
        prior=prior,
        prior_scale=scale,
        intercept=False,
    )
    found = map_(Program(problem), seed=0, context=QUIET)
    reference = LogisticRegression(
        C=scale**2 if prior == "normal" else scale,
        l1_ratio=penalty,
        solver="lbfgs" if prior == "normal" else "liblinear",
        fit_intercept=False,
        tol=1e-10,
        max_iter=100_000,
        random_state=0,
    ).fit(x, y)
    np.testing.assert_allclose(found.point["w"], reference.coef_[0], atol=1e-4)
    assert found.findings == []
    zeros = (found.point["w"] == 0).sum().item()
    assert (zeros > 5) == (prior == "laplace")
    if prior == "laplace":
        assert zeros == (np.abs(reference.coef_[0]) < 1e-6).sum()


def test_flat_map_is_mle_on_columns_that_overlap():
    flat = zoo.run("logistic", method="map", prior="flat", features=FOUR).record["point"]
    mle = zoo.run("logistic", method="mle", features=FOUR).record["point"]
    np.testing.assert_allclose(flat["w"], mle["w"], rtol=1e-6)
    assert flat["b"] == pytest.approx(mle["b"], rel=1e-6)
    x, y = (logistic.data(features=FOUR).tensors[k].numpy() for k in ("x", "y"))
    score = (y - special.expit(x @ mle["w"] + mle["b"])) @ np.column_stack([x, np.ones(569)])
    np.testing.assert_allclose(score, 0, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "options"),
    [("mle", {}), ("map", {"prior": "flat"}), ("nuts", {"prior": "flat"})],
)
def test_the_full_table_is_separable_and_refused_in_words(method, options):
    with pytest.raises(Refused, match=r"no finite maximiser .improper posterior.; use a proper"):
        zoo.run("logistic", method=method, **options)


def test_separability_is_exact():
    x = np.array([[0.0], [1.0], [2.0], [3.0]])
    assert logistic.separable(x, np.array([0, 0, 1, 1]), intercept=True)
    assert not logistic.separable(x, np.array([0, 1, 0, 1]), intercept=True)
    # Touching at one point is enough: no finite maximiser either.
    touching = np.array([[0.0], [1.0], [1.0], [2.0]])
    assert logistic.separable(touching, np.array([0, 0, 1, 1]), intercept=True)
    assert not logistic.separable(x, np.array([0, 0, 1, 0]), intercept=False)
    four = logistic.data(features=FOUR)
    assert not logistic.separable(
        four.tensors["x"].numpy(), four.tensors["y"].numpy(), intercept=True
    )


def test_one_class_only_is_refused_under_mle_and_runs_under_a_prior():
    columns = {"x": [0.1, 0.5, 0.9, 0.3], "y": [1, 1, 1, 1]}
    with pytest.raises(Refused, match="one class only"):
        zoo.run("logistic", method="mle", data=columns)
    run = zoo.run("logistic", method="laplace", data=columns)
    assert any("one class" in note for note in run.record["data"]["notes"])


@pytest.mark.parametrize("prior", ["normal", "laplace"])
def test_the_quadrature_is_right_and_nuts_agrees(prior):
    run = zoo.run(
        "logistic", method="nuts", data="simulate", n=30, prior=prior, prior_scale=1.0, seed=2
    )
    x, y = run.data.tensors["x"].numpy()[:, 0], run.data.tensors["y"].numpy()
    family = {"normal": stats.norm, "laplace": stats.laplace}[prior]

    def joint(b, w):
        logits = x * w + b
        likelihood = np.exp(special.log_expit(logits * (2 * y - 1)).sum())
        return likelihood * family.pdf(w, 0, 1) * stats.norm.pdf(b, 0, 10)

    total, _ = integrate.dblquad(joint, -2, 6, -5, 4, epsabs=1e-14)
    mean, _ = integrate.dblquad(lambda b, w: w * joint(b, w) / total, -2, 6, -5, 4, epsabs=1e-6)
    truth = run.exact
    assert truth.log_evidence == pytest.approx(np.log(total), abs=1e-4)
    assert truth.marginals["w[x_1]"].mean() == pytest.approx(mean, abs=1e-4)
    assert run.verdict.status == "pass"
    for name, row in run.summary().iterrows():
        assert abs(row["mean"] - truth.marginals[name].mean()) < 5 * row["mcse_mean"]
        assert abs(row["sd"] - truth.marginals[name].std()) < 5 * row["mcse_sd"]
    draws = truth.sample(20_000, np.random.default_rng(0))
    assert stats.kstest(draws["b"], truth.marginals["b"].cdf).pvalue > 1e-4


def test_methods_without_an_answer_say_why():
    with pytest.raises(Refused, match="no second derivative at zero"):
        zoo.run("logistic", method="laplace", prior="laplace")
    with pytest.raises(Refused, match="quadrature takes two coefficients"):
        zoo.run("logistic", method="exact")
    with pytest.raises(Refused, match="improper and cannot be sampled"):
        zoo.run("logistic", method="prior", prior="flat", features=FOUR)
    with pytest.raises(models.BadInput, match="3 classes"):
        logistic.data({"x": [1.0, 2.0, 3.0, 4.0], "y": ["a", "b", "c", "a"]})


def test_scores_on_held_out_rows_against_scikit_learn():
    from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

    run = zoo.run("logistic", method="map", split=0.2)
    x, y = (run.data.test[k].numpy() for k in ("x", "y"))
    chance = special.expit(x @ run.record["point"]["w"] + run.record["point"]["b"])
    assert run.metrics["accuracy"] == pytest.approx(accuracy_score(y, chance > 0.5))
    assert run.metrics["log_score"] == pytest.approx(-log_loss(y, chance), rel=1e-6)
    assert run.metrics["brier"] == pytest.approx(2 * brier_score_loss(y, chance), rel=1e-6)
    assert run.metrics["elpd_test"] == pytest.approx(-len(y) * log_loss(y, chance), rel=1e-6)
    best = np.maximum(chance, 1 - chance)
    right = (chance > 0.5) == y
    bins = np.minimum((best * 15).astype(int), 14)
    parts = [abs((right[bins == i] - best[bins == i]).sum()) for i in range(15)]
    assert run.metrics["ece"] == pytest.approx(sum(parts) / len(y), abs=1e-12)


OPTIONS = {"prior": "normal", "prior_scale": 2.5, "intercept": True, "intercept_scale": 10.0}


def test_the_boundary_of_one_feature_is_the_mean_probability_of_the_draws():
    data = logistic.data(features="mean radius")
    rng = np.random.default_rng(0)
    draws = {"w": rng.normal(-3, 0.3, (200, 1)), "b": rng.normal(0.5, 0.2, 200)}
    ax = logistic.boundary(View(data=data, draws=draws)).axes[0]
    assert ax.get_ylabel() == "P(y = 1)" and ax.get_xlabel() == "mean radius"
    line, units = ax.lines[0], data.scaling
    at = (line.get_xdata() - units.x_loc[0]) / units.x_scale[0]
    expected = special.expit(draws["w"] * at + draws["b"][:, None]).mean(0)
    np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-9)


def test_the_boundary_runs_along_the_two_strongest_features():
    data = logistic.data(features=FOUR)
    w = np.array([-2.0, -0.1, 0.2, -1.0])
    point = logistic.boundary(View(data=data, draws={"w": w[None], "b": np.zeros(1)}))
    assert point.axes[0].get_xlabel() == "mean radius"
    assert point.axes[0].get_ylabel() == "mean concavity"
    assert [ax.get_title() for ax in point.axes] == ["P(y = 1)", ""]  # a map and its colours
    units = data.scaling
    (path,) = [c for c in point.axes[0].collections if len(c.get_facecolor()) == 0]
    at = np.concatenate([p.vertices for p in path.get_paths()])
    standard = (at - units.x_loc[[0, 3]]) / units.x_scale[[0, 3]]
    np.testing.assert_allclose(standard @ w[[0, 3]], 0, atol=1e-3)  # P = 1/2 on the boundary
    draws = {"w": w + 0.1 * np.random.default_rng(0).normal(size=(50, 4)), "b": np.zeros(50)}
    several = logistic.boundary(View(data=data, draws=draws))
    assert several.axes[1].get_title() == "sd of P(y = 1) over draws"


def test_a_grid_that_would_miss_the_density_is_refused():
    narrow = logistic.data("simulate", n=500)
    options = {"prior": "normal", "prior_scale": 2.5, "intercept": True, "intercept_scale": 10.0}
    truth = logistic.exact(narrow, **options)
    laplace = zoo.run("logistic", method="laplace", data="simulate", n=500, draws=100)
    sds = np.linalg.norm(laplace.params["scale_tril"].numpy(), axis=1)
    for name, loc, sd in zip(["w[x_1]", "b"], laplace.params["loc"].numpy(), sds):
        assert truth.marginals[name].mean() == pytest.approx(loc, abs=0.3 * sd)
        assert truth.marginals[name].std() == pytest.approx(sd, rel=0.08)
    raw = {"features": "mean area", "standardise": False}
    truth = logistic.exact(logistic.data(**raw), **options)
    table = zoo.run("logistic", method="laplace", **raw).summary()
    for name, marginal in truth.marginals.items():
        assert marginal.mean() == pytest.approx(table.loc[name, "mean"], abs=table.loc[name, "sd"])
        assert marginal.std() == pytest.approx(table.loc[name, "sd"], rel=0.05)
    # Coefficients that depend so closely that the box around them is empty.
    far = {"x": (1e6 + np.arange(40)).tolist(), "y": [0, 1] * 20}
    assert logistic.exact(logistic.data(far, standardise=False), **options) is None
