"""Pictures: each kind draws what it says, from every method that can fill it."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

import zoo


@pytest.fixture(scope="module")
def runs():
    settings = {"nuts": {"draws": 100}, "svi": {"steps": 200}}
    return {
        m: zoo.run("coin", method=m, data="HHT", **settings.get(m, {}))
        for m in ("nuts", "svi", "map", "exact", "prior")
    }


KINDS = {
    "nuts": {"trace", "marginals", "prior_posterior", "predictive", "updating"},
    "svi": {"objective", "marginals", "prior_posterior", "predictive", "updating"},
    "exact": {"marginals", "prior_posterior", "predictive", "updating"},
    "map": {"predictive", "updating"},
    "prior": {"updating"},
}


@pytest.mark.parametrize("method", KINDS)
def test_each_method_gets_the_pictures_it_can_fill(runs, method, tmp_path):
    assert set(runs[method].plots()) == KINDS[method]
    for kind in runs[method].plots():
        figure = runs[method].plot(kind)
        assert isinstance(figure, Figure)
        figure.savefig(tmp_path / f"{kind}.png", dpi=60)
        assert all(ax.get_xlabel() for ax in figure.axes if ax.get_visible() and kind != "trace")


def test_marginals_carry_the_exact_density(runs):
    axes = runs["nuts"].plot("marginals").axes[0]
    (line,) = [line for line in axes.lines if line.get_label() == "exact"]
    x, y = line.get_data()
    np.testing.assert_allclose(y, 12 * x**2 * (1 - x), rtol=1e-6)  # Beta(3, 2)


def test_predictive_shares_are_those_of_the_draws(runs):
    axes = runs["exact"].plot("predictive").axes[0]
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == pytest.approx([0.4, 0.6], abs=0.03)
    (seen,) = [line for line in axes.lines if line.get_label() == "observed"]
    assert seen.get_ydata() == pytest.approx([1 / 3, 2 / 3])


def test_captions_name_the_run(runs):
    assert runs["svi"].plot("objective").get_suptitle().startswith("coin svi own: The ELBO rises")
