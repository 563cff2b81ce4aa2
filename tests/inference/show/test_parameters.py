"""Pictures of parameters: densities beside the prior and the truth, pairs of draws."""

from __future__ import annotations

import arviz as az
import numpy as np
import pictured
import pytest

from inference.show import parameters, plots


@pytest.fixture(scope="module")
def schools():
    return pictured.schools()


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
    kept, words = parameters._most_correlated(idata)
    assert {"w[2]", "w[5]"} <= set(kept) and len(kept) == 4
    assert words == " Shown: the most correlated 4 of 8 parameters."
    assert len(parameters.pair(idata).axes) == 6


@pytest.mark.parametrize("shared", [False, True])
def test_pairs_are_of_one_row_where_no_latent_is_shared_between_rows(shared):
    rng = np.random.default_rng(0)
    values = {"z": rng.normal(size=(1, 300, 5, 3)), "mu": rng.normal(size=(1, 300))}
    if not shared:
        del values["mu"]
    dims = {"z": ["row", "k"], "x": ["row"]}
    idata = az.from_dict(posterior=values, observed_data={"x": np.zeros((5, 7))}, dims=dims)
    names, words = parameters._most_correlated(idata)
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
