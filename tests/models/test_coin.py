"""The coin: closed forms of the lectures, each method's own answer, what is no flip."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import integrate, stats

import models
import zoo
from models import coin
from models.contract import Refused, View


@pytest.mark.parametrize("flips", ["HH", "HTT", "T", "HTHTHHHT"])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (2.5, 0.7)])
def test_exact_is_bayes_theorem_by_quadrature(flips, alpha, beta):
    data = coin.data(flips)
    truth = coin.exact(data, alpha=alpha, beta=beta)
    x = np.array([f == "H" for f in flips], float)

    def joint(pi):
        return stats.beta.pdf(pi, alpha, beta) * pi ** x.sum() * (1 - pi) ** (1 - x).sum()

    evidence, _ = integrate.quad(joint, 0, 1)
    mean, _ = integrate.quad(lambda pi: pi * joint(pi) / evidence, 0, 1)
    assert np.isclose(truth.log_evidence, np.log(evidence), rtol=1e-6)
    assert np.isclose(truth.marginals["pi"].mean(), mean, rtol=1e-6)
    assert np.isclose(truth.predictive["x"].mean(), mean, rtol=1e-6)


def test_two_heads_as_in_the_lecture():
    run = zoo.run("coin", method="exact")
    assert run.metrics["log_evidence"] == pytest.approx(np.log(1 / 3), abs=1e-12)
    assert run.metrics["p_heads"] == pytest.approx(0.75)
    assert run.summary().loc["pi", "sd"] == pytest.approx(0.19364917)


def test_nuts_agrees_with_the_truth_on_two_heads():
    run = zoo.run("coin", method="nuts", seed=1)
    row = run.summary().loc["pi"]
    assert run.verdict.status == "pass"
    assert row["ess_bulk"] > 400
    assert abs(row["mean"] - 0.75) < 4 * row["mcse_mean"]
    assert abs(row["sd"] - 0.19364917) < 5 * row["mcse_sd"]
    assert row["r_hat"] < 1.01


@pytest.mark.parametrize("method", ["mle", "map"])
@pytest.mark.parametrize(("flips", "border"), [("HH", 1.0), ("TTT", 0.0)])
def test_agreeing_flips_put_the_point_estimate_on_the_border_and_say_so(method, flips, border):
    run = zoo.run("coin", method=method, data=flips)
    assert run.summary().loc["pi", "mean"] == border
    assert run.verdict.status == "warn"
    assert "border" in run.verdict.reasons[0]


def test_map_and_laplace_name_their_two_modes():
    options = {"alpha": 10, "beta": 10, "data": "HHHHHHTTTT"}
    assert zoo.run("coin", method="map", **options).record["point"]["pi"] == pytest.approx(15 / 28)
    laplace = zoo.run("coin", method="laplace", **options)
    assert laplace.record["point"]["pi"] == pytest.approx(16 / 30)
    assert zoo.run("coin", method="mle", **options).record["point"]["pi"] == pytest.approx(0.6)


def test_an_unbounded_density_has_no_mode():
    with pytest.raises(Refused, match="unbounded"):
        zoo.run("coin", method="map", alpha=0.5, beta=0.5)


def test_the_guide_of_its_own_holds_the_posterior():
    run = zoo.run("coin", guide="own", data="HTHHTHHT", seed=2)
    truth = run.exact.marginals["pi"]
    row = run.summary().loc["pi"]
    assert row["mean"] == pytest.approx(truth.mean(), abs=0.1 * truth.std())
    assert row["sd"] == pytest.approx(truth.std(), rel=0.1)
    # In the family, the ELBO reaches the evidence: log p - log q is constant at the optimum.
    assert run.metrics["elbo"] == pytest.approx(run.exact.log_evidence, abs=0.02)
    assert run.metrics["khat"] < 0.5


@pytest.mark.parametrize("method", ["nuts", "exact", "laplace"])
def test_no_flips_mean_the_prior(method):
    run = zoo.run("coin", method=method, data="", alpha=2, beta=3, draws=1000)
    assert run.record["data"]["n"] == 0
    assert run.idata["posterior"]["pi"].values.mean() == pytest.approx(0.4, abs=0.03)
    assert any("this is the prior" in reason for reason in run.verdict.reasons)


def test_no_flips_have_no_likelihood():
    with pytest.raises(Refused, match="nothing is observed"):
        zoo.run("coin", method="mle", data="")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", "1\n0\n1\n"),
        ("h.csv", "flip\nH\nT\nH\n"),
        ("x.json", json.dumps({"x": [1, 0, 1]})),
        ("two.csv", "day,flip\n3,1\n4,0\n5,1\n"),
    ],
)
def test_flips_come_from_a_file_column(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    target = "flip" if name == "two.csv" else None
    data = coin.data(str(tmp_path / name), target=target)
    assert data.tensors["x"].tolist() == [1, 0, 1]


def test_simulated_flips_depend_on_the_data_seed_alone():
    first = coin.data("simulate", n=1000, heads=0.7)
    assert first.tensors["x"].mean() == pytest.approx(0.7, abs=0.06)  # 4 binomial sds
    assert first.sha256 == coin.data("simulate", n=1000, heads=0.7).sha256
    assert first.sha256 != coin.data("simulate", n=1000, heads=0.7, data_seed=1).sha256


@pytest.mark.parametrize("flips", [[1, 0, 2], [0.5, 1, 1], ["H", "X", "T"]])
def test_what_is_no_flip_is_named_with_its_row(tmp_path, flips):
    (tmp_path / "x.json").write_text(json.dumps({"x": flips}))
    with pytest.raises(models.BadInput, match=r"row \d is (2|0.5|X)"):
        coin.data(str(tmp_path / "x.json"))


def test_updating_shows_a_curve_per_flip():
    figure = coin.updating(
        View(data=coin.data("HHT"), draws={}, options={"alpha": 1.0, "beta": 1.0})
    )
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert labels == ["prior", "after 1 (1 heads)", "after 2 (2 heads)", "after 3 (2 heads)"]
    final = figure.axes[0].lines[-1].get_ydata()
    assert np.trapezoid(final, np.linspace(0, 1, 801)[1:-1]) == pytest.approx(1, abs=1e-3)


def test_predict_tells_the_next_flip():
    run = zoo.run("coin", method="exact", draws=4000)
    table = run.predict(rows=3)
    assert list(table.index) == ["x[0]", "x[1]", "x[2]"]
    assert table["mean"].to_numpy() == pytest.approx(0.75, abs=0.035)  # 5 sds of 4000 flips
