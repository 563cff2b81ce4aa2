"""Several results in one picture: the numbers drawn are those of the runs."""

from __future__ import annotations

import arviz as az
import numpy as np
import pandas as pd
import pytest

import zoo
from inference.checks import calibration
from inference.results import reference
from inference.show import overlays
from inference.show.style import BLUE, RED

NAN = float("nan")


@pytest.fixture(scope="module")
def runs():
    methods = {"nuts": {"draws": 200}, "map": {}, "exact": {}}
    return {m: zoo.run("coin", method=m, data="HHT", **s) for m, s in methods.items()}


@pytest.fixture(scope="module")
def coin(runs):
    return {label: run.idata for label, run in runs.items()}


def save(figure, tmp_path):
    figure.savefig(tmp_path / "figure.png", dpi=60)
    assert figure.get_figwidth() == 7 and len(figure.get_suptitle()) > 60
    assert figure._suptitle.get_window_extent().x1 < figure.bbox.x1
    key = figure.legends[0].get_window_extent()
    assert key.y1 < figure._suptitle.get_window_extent().y0 and key.x1 < figure.bbox.x1
    return [text.get_text() for text in figure.legends[0].get_texts()]


def many(shift, k=20):
    """A result of k parameters, whose sixth is shifted."""
    values = np.random.default_rng(0).normal(size=(2, 300, k))
    values[..., min(5, k - 1)] += shift
    return az.from_dict(posterior={"w": values})


def test_forest_intervals_are_the_hdis(runs, coin, tmp_path):
    figure = overlays.forest(coin, runs["exact"].exact)
    assert save(figure, tmp_path) == ["exact, 94 %", "nuts", "map", "exact"]
    axes = figure.axes[0]
    spans = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2]
    for label in ("nuts", "exact"):
        draws = coin[label]["posterior"]["pi"].values.ravel()
        for prob in (0.94, 0.5):
            expected = az.hdi(draws, hdi_prob=prob)
            assert any(np.allclose(span, expected, rtol=1e-12) for span in spans)
    crosses = [line for line in axes.lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert [line.get_xdata()[0] for line in crosses] == pytest.approx([2 / 3])
    band = axes.collections[0].get_paths()[0].get_extents()
    assert (band.x0, band.x1) == pytest.approx(
        reference.exact_hdi(runs["exact"].exact.marginals["pi"])
    )
    assert [text.get_text() for text in axes.get_yticklabels()] == ["pi"]


def calibrated(k, fault=0):
    """A calibration of k quantities, the last of which has ranks that lie low by `fault`."""
    ranks = np.random.default_rng(0).integers(100, size=(200, k))
    ranks[:, -1] = np.maximum(ranks[:, -1] - fault, 0)
    fits = [
        {"i": i, "draws": 99, "rank": rank, "error": {}, "status": "pass", "findings": []}
        for i, rank in enumerate(
            dict(zip(map("w[{}]".format, range(k)), map(int, r))) for r in ranks
        )
    ]
    return calibration.judge(fits, 200)


def test_ranks_are_drawn_as_differences_from_the_uniform(tmp_path):
    table = calibrated(12, fault=25)
    figure = overlays.ranks(table, "coin nuts")
    assert save(figure, tmp_path)[-1] == "off, by the tests of the verdict"
    words = figure.get_suptitle().replace("\n", " ")
    assert "200 simulated data sets" in words and "9 of 12 quantities" in words
    last = figure.axes[-1]
    assert last.get_xlabel() == "w[11]"
    line = last.lines[-1]
    assert line.get_color() == RED and figure.axes[0].lines[1].get_color() == BLUE
    at = line.get_xdata()[50]
    share = (table.ranks["w[11]"] < round(100 * at)).mean()
    assert line.get_ydata()[50] == pytest.approx(share - at) and share - at > 0.15
    region = calibration.band(200, 100)
    assert np.abs(region.high - region.at).max() < 0.15


def test_forest_takes_the_most_differing_and_says_so(tmp_path):
    figure = overlays.forest({"one": many(0.0), "two": many(2.0)})
    save(figure, tmp_path)
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(names) == 16 and "w[5]" in names
    words = figure.get_suptitle().replace("\n", " ")
    assert "those that differ most, 16 of 20 parameters" in words


def test_a_parameter_that_some_runs_lack_is_drawn_for_the_others(coin, tmp_path):
    figure = overlays.forest({**coin, "other": many(0.0, k=1)})
    assert "other" in save(figure, tmp_path)
    assert len(figure.axes[0].get_yticklabels()) == 2


def test_overlaid_densities_share_bins_and_the_truth_is_dashed(runs, coin, tmp_path):
    figure = overlays.overlay(coin, runs["exact"].exact)
    assert save(figure, tmp_path) == ["nuts", "map", "exact", "exact density"]
    axes = figure.axes[0]
    first, second = (patch.get_data() for patch in axes.patches)
    np.testing.assert_array_equal(first.edges, second.edges)
    areas = [(data.values * np.diff(data.edges)).sum() for data in (first, second)]
    assert areas == pytest.approx([1, 1], abs=0.01)
    upright = [line for line in axes.lines if len(set(line.get_xdata())) == 1]
    assert upright[0].get_xdata() == pytest.approx([2 / 3, 2 / 3])
    (dashed,) = [line for line in axes.lines if len(line.get_xdata()) > 10]
    x, y = dashed.get_data()
    np.testing.assert_allclose(y, 12 * x**2 * (1 - x), rtol=1e-6)  # Beta(3, 2)


def test_calibration_of_several_runs(coin, tmp_path):
    options = {"split": 0.3, "features": "mean radius"}
    both = {m: zoo.run("logistic", method=m, **options) for m in ("map", "laplace")}
    figure = overlays.calibration(coin | {m: run.idata for m, run in both.items()})
    labels = save(figure, tmp_path)
    assert labels == [f"{m} (ece {run.metrics['ece']:.3f})" for m, run in both.items()]
    points, counts = figure.axes
    for line, below, run in zip(points.lines[1:], counts.lines, both.values()):
        n = below.get_ydata()
        claimed, share = line.get_data()
        assert n.sum() == 171
        assert (n * abs(share - claimed)).sum() / 171 == pytest.approx(run.metrics["ece"])
    with pytest.raises(ValueError, match="held-out"):
        overlays.calibration(coin)


def coin_study():
    rows = [
        (0, "posterior", "pi", 0.5, 0.03, 0.97),
        (2, "mle", "pi", 1.0, NAN, NAN),
        (2, "posterior", "pi", 0.75, 0.39, 1.0),
        (2, "predictive", "P(next is heads)", 0.75, NAN, NAN),
        (50, "mle", "pi", NAN, NAN, NAN),  # refused
        (50, "posterior", "pi", 0.71, 0.6, 0.82),
        (50, "predictive", "P(next is heads)", 0.71, NAN, NAN),
        (900, "mle", "pi", 0.7, NAN, NAN),
        (900, "posterior", "pi", 0.7, 0.67, 0.73),
    ]
    return pd.DataFrame(rows, columns=["n", "estimate", "parameter", "value", "low", "high"])


def test_asymptopia_draws_estimates_against_rows_and_gaps(tmp_path):
    figure = overlays.asymptopia(coin_study(), truth={"pi": 0.7})
    words = ["maximum likelihood", "posterior mean, 94 %", "truth", "posterior predictive"]
    assert save(figure, tmp_path) == words
    parameter, predictive = figure.axes
    assert parameter.get_ylabel() == "pi" and predictive.get_ylabel() == "P(next is heads)"
    assert parameter.get_xscale() == "symlog" and "n" in parameter.get_xlabel()
    lines = {line.get_marker(): line for line in parameter.lines if len(line.get_xdata())}
    np.testing.assert_array_equal(lines["v"].get_ydata(), [1.0, NAN, 0.7])
    np.testing.assert_array_equal(lines["o"].get_xdata(), [0, 2, 50, 900])
    band = parameter.collections[0].get_paths()[0].vertices
    assert band[np.isclose(band[:, 0], 50)][:, 1].tolist() == pytest.approx([0.6, 0.82], abs=1e-9)
    rows = coin_study().query("n > 0")
    assert overlays.asymptopia(rows).axes[0].get_xscale() == "log"


def test_asymptopia_keeps_the_predictive_panel_among_many(tmp_path):
    parts = [coin_study()] + [
        coin_study().query("parameter == 'pi'").assign(parameter=f"w[{i}]") for i in range(8)
    ]
    figure = overlays.asymptopia(pd.concat(parts))
    assert len(figure.axes) == 6 and figure.axes[-1].get_ylabel() == "P(next is heads)"
    assert "the first 6 of 10 parameters" in figure.get_suptitle().replace("\n", " ")


def test_sensitivity_shows_what_moves_most(tmp_path):
    rows = [
        (value, method, f"w[{i}]", (i == 7) * np.log(value) + i, i - 1.0, i + 1.0)
        for value in (0.1, 1.0, 10.0)
        for method in ("nuts", "laplace")
        for i in range(9)
    ]
    columns = ["value", "method", "parameter", "mean", "low", "high"]
    table = pd.DataFrame(rows, columns=columns).assign(setting="prior_scale")
    figure = overlays.sensitivity(table)
    assert save(figure, tmp_path) == ["nuts", "laplace"]
    panels = {ax.get_ylabel(): ax for ax in figure.axes}
    assert len(panels) == 6 and "w[7]" in panels
    axes = panels["w[7]"]
    assert axes.get_xlabel() == "prior_scale" and axes.get_xscale() == "log"
    expected = np.log([0.1, 1, 10]) + 7
    np.testing.assert_allclose(axes.lines[0].get_ydata(), expected)
    narrow = table[table["value"] <= 1.0]
    assert overlays.sensitivity(narrow).axes[0].get_xscale() == "linear"
    words = table.assign(value=table["value"].map({0.1: "flat", 1.0: "normal", 10.0: "laplace"}))
    axes = overlays.sensitivity(words).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["flat", "normal", "laplace"]
