"""Pictures of chains: ranks in their band, the worst first, divergences, energies, ESS."""

from __future__ import annotations

import arviz as az
import numpy as np
import pictured
import pytest

from inference.show import plots, posterior


@pytest.fixture(scope="module")
def schools():
    return pictured.schools()


def test_rank_bars_sum_to_the_draws_and_stay_in_the_band():
    axes = pictured.coin("nuts").plot("rank").axes[0]
    counts = [patch.get_data().values for patch in axes.patches if hasattr(patch, "get_data")]
    assert [count.sum() for count in counts] == [100] * 4
    assert sum(counts).tolist() == [400 / len(counts[0])] * len(counts[0])
    (band,) = [patch for patch in axes.patches if patch.get_label() == "99 % band"]
    low, high = band.get_y(), band.get_y() + band.get_height()
    assert np.mean([(c >= low) & (c <= high) for c in counts]) > 0.9


def test_a_chain_elsewhere_leaves_the_band():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 500))
    values[2] += 1.0
    low, high = posterior._uniform_band(values, 20)
    assert 5 < low < 25 < high < 50  # as for draws of chains that agree: 25 to a bar
    idata = az.from_dict(posterior={"a": values}, sample_stats={"diverging": values > 99})
    counts = posterior.rank(idata).axes[0].patches[3].get_data().values
    assert counts[0] < low and counts[-1] > high


def test_the_worst_mixing_are_shown_first():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 200, 30))
    values[0, :, 17] += 3
    idata = az.from_dict(posterior={"w": values}, sample_stats={"diverging": values[..., 0] > 99})
    figure = posterior.trace(idata)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert len(titles) == 6 and "w[17]" in titles
    assert "the worst mixing 6 of 30 parameters" in figure.get_suptitle().replace("\n", " ")


def test_traces_mark_the_draws_that_diverged(schools):
    diverging = schools.idata["sample_stats"]["diverging"].values
    marks = schools.plot("trace").axes[0].lines[-1].get_xdata()
    assert marks.tolist() == np.flatnonzero(diverging.any(0)).tolist() and len(marks) > 0


def test_energy_shows_levels_jumps_and_bfmi(schools):
    left, right = schools.plot("energy").axes
    np.testing.assert_allclose(right.lines[0].get_ydata(), az.bfmi(schools.idata))
    energy = schools.idata["sample_stats"]["energy"].values
    jumps = np.diff(energy, axis=1).ravel()
    edges = left.patches[1].get_data().edges
    assert edges[[0, -1]] == pytest.approx(np.percentile(jumps, [0.05, 99.95]))


def test_ess_curves_end_at_the_whole_and_begin_at_a_part(schools):
    axes = schools.plot("ess").axes[0]
    posterior = schools.idata["posterior"]
    curves = {line.get_label(): line for line in axes.lines}
    assert curves["needed: 400"].get_ydata() == [400, 400]
    tau = posterior["tau"].values
    for method in ("bulk", "tail"):
        line = curves[f"tau, {method}"]
        assert line.get_xdata()[[0, -1]].tolist() == [120, 1200]
        assert line.get_ydata()[-1] == pytest.approx(az.ess(tau, method=method))
        assert line.get_ydata()[0] == pytest.approx(az.ess(tau[:, :30], method=method))


def test_marginals_carry_the_exact_density():
    axes = pictured.coin("nuts").plot("marginals").axes[0]
    (line,) = [line for line in axes.lines if line.get_label() == "exact"]
    x, y = line.get_data()
    np.testing.assert_allclose(y, 12 * x**2 * (1 - x), rtol=1e-6)  # Beta(3, 2)


def test_priors_are_drawn_with_their_own_area_near_the_posterior(schools):
    axes = {ax.get_xlabel(): ax for ax in schools.plot("prior_posterior").axes}
    prior, posterior = (patch.get_data() for patch in axes["tau"].patches)
    share = (prior.values * np.diff(prior.edges)).sum()
    inside = schools.idata["prior"]["tau"].values
    inside = (inside >= prior.edges[0]) & (inside <= prior.edges[-1])
    assert share == pytest.approx(inside.mean(), abs=1e-9)  # a HalfCauchy has its tail cut
    assert (posterior.values * np.diff(posterior.edges)).sum() == pytest.approx(1, abs=0.01)


def test_pairs_mark_every_divergence(schools):
    diverging = schools.idata["sample_stats"]["diverging"].values
    figure = schools.plot("pair")
    words = figure.get_suptitle().replace("\n", " ")
    assert f"{diverging.sum()} of 1200 draws diverged" in words and diverging.any()
    corner = figure.axes[0]
    draws, marks = corner.lines
    assert len(marks.get_xdata()) == diverging.sum()
    assert len(draws.get_xdata()) == (~diverging).sum()


def test_pairs_are_the_most_correlated():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 500, 8))
    values[..., 5] = -values[..., 2] + 0.1 * values[..., 5]
    idata = az.from_dict(posterior={"w": values})
    kept, words = posterior._most_correlated(idata)
    assert {"w[2]", "w[5]"} <= set(kept) and len(kept) == 4
    assert words == " Shown: the most correlated 4 of 8 parameters."
    assert len(posterior.pair(idata).axes) == 6


@pytest.mark.parametrize("shared", [False, True])
def test_pairs_are_of_one_row_where_no_latent_is_shared_between_rows(shared):
    rng = np.random.default_rng(0)
    values = {"z": rng.normal(size=(1, 300, 5, 3)), "mu": rng.normal(size=(1, 300))}
    if not shared:
        del values["mu"]
    dims = {"z": ["row", "k"], "x": ["row"]}
    idata = az.from_dict(posterior=values, observed_data={"x": np.zeros((5, 7))}, dims=dims)
    names, words = posterior._most_correlated(idata)
    if shared:
        assert "4 of 16" in words and "row" not in words
    else:
        assert list(names) == ["z[0, 0]", "z[0, 1]", "z[0, 2]"] and "of the first row" in words
    assert "pair" in plots.available(idata)


def test_a_row_of_one_number_has_no_pair():
    values = np.random.default_rng(0).normal(size=(1, 300, 5))
    dims = {"z": ["row"], "x": ["row"]}
    idata = az.from_dict(posterior={"z": values}, observed_data={"x": np.zeros(5)}, dims=dims)
    assert "pair" not in plots.available(idata)
