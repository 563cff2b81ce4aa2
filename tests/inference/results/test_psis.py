"""Pareto smoothing: equal to ArviZ's, and right for draws that have weights already."""

from __future__ import annotations

import arviz as az
import numpy as np
import pytest

from inference.results.psis import khat_bound, psis


@pytest.mark.parametrize("draws", [30, 200, 4000])
def test_it_equals_arviz(draws):
    rng = np.random.default_rng(0)
    log_weights = rng.exponential(size=(20, draws)) * rng.uniform(0.05, 1.5, size=(20, 1))
    expected, khat = az.psislw(log_weights, normalize=False)
    found, ours = psis(log_weights)
    np.testing.assert_allclose(ours, khat, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(psis(log_weights[0])[0], found[0], rtol=1e-12)


def test_the_sign_and_the_known_tail():
    # exp(k E) with E standard exponential is Pareto, and its tail index is k.
    exponential = np.random.default_rng(1).exponential(size=20_000)
    assert psis(0.5 * exponential)[1] == pytest.approx(0.5, abs=0.1)
    assert psis(-0.5 * exponential)[1] < 0


def test_draws_with_weights_are_as_draws_of_the_distribution_they_stand_for():
    """Draws of the rate 1, weighted to be of the rate 2: the tail of exp(E) halves its index."""
    exponential = np.random.default_rng(2).exponential(size=40_000)
    weights = np.exp(-exponential)
    smoothed, khat = psis(exponential, weights)
    assert khat == pytest.approx(0.5, abs=0.1)
    assert psis(exponential)[1] == pytest.approx(1.0, abs=0.1)
    mean = (weights * np.exp(smoothed)).sum() / weights.sum()
    assert mean == pytest.approx(2.0, rel=0.03)  # of exp(E), E of rate 2


def test_tails_too_short_or_level_are_not_fitted():
    level = np.zeros((2, 1000))
    smoothed, khat = psis(level)
    np.testing.assert_array_equal(smoothed, level)
    assert np.isinf(khat).all()
    assert np.isinf(psis(np.arange(8.0))[1])


def test_the_bound_is_lower_for_few_draws():
    assert khat_bound(100) == pytest.approx(0.5)
    assert khat_bound(10**6) == 0.7 and khat_bound(1) == -np.inf
