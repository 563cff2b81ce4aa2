"""Importance weights: smoothing equal to ArviZ's, metrics of known tails, errors of PSIS-LOO."""

from __future__ import annotations

import arviz as az
import numpy as np
import pytest
import torch
from scipy import stats
from test_loo import gaussian_loo

from inference.core.problem import Fit
from inference.results import diagnostics
from inference.results.inference_data import from_groups
from inference.results.psis import khat_bound, metrics, psis, weighted


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


@pytest.mark.parametrize(("k", "trusted"), [(0.3, True), (0.5, True), (0.9, False), (1.2, False)])
def test_khat_finds_the_known_tail_of_the_weights(k, trusted):
    # exp(k E) with E standard exponential is Pareto, and its tail index is k.
    log_ratios = torch.as_tensor(k * np.random.default_rng(3).exponential(size=20_000))
    found, judged = _khat_and_verdict(log_ratios)
    assert found == pytest.approx(k, abs=0.1)
    assert (judged == "pass") is trusted
    # The other sign has a bounded tail: a bad guide would pass (the trap of the sign).
    assert _khat_and_verdict(-log_ratios)[0] < 0.1


def _khat_and_verdict(log_ratios):
    """Of a fit with those log p - log q."""
    fit = Fit(draws={"w": torch.randn(1, 100)}, kind="independent", log_ratios=log_ratios)
    groups = {"posterior": {"w": fit.draws["w"].numpy()}}
    idata = from_groups(groups, coords={}, dims={})
    found = metrics(fit, idata)
    return found["khat"], diagnostics.verdict(fit, idata, found).status


def test_weights_that_are_equal_up_to_rounding_have_no_tail():
    draws = np.random.default_rng(0).standard_t(1, size=4000).clip(-100, 100)
    noise = torch.as_tensor(draws)
    assert _khat_and_verdict(-500 + 1e-10 * noise) == (0.0, "pass")
    assert _khat_and_verdict(-500 + 0.1 * noise)[0] > 0.7


def regression(seed):
    """A regression of known noise 0.7: log p(y_i | y_-i), and draws of log likelihoods by q.

    The draws are of the posterior stretched by `q`; returns a function of it.
    """
    rng = np.random.default_rng(seed)
    n, k = int(rng.choice([12, 20, 40])), int(rng.choice([1, 2, 4]))
    x = rng.standard_t(3, size=(n, k)) if seed % 2 else rng.normal(size=(n, k))
    design = np.column_stack([x, np.ones(n)])
    y = design @ rng.normal(size=k + 1) + 0.7 * rng.normal(size=n)
    covariance = np.linalg.inv(design.T @ design / 0.49 + np.eye(k + 1))
    mean, root = covariance @ design.T @ y / 0.49, np.linalg.cholesky(covariance)

    def drawn(stretch, noise=None):
        noise = rng.normal(size=(4000, k + 1)) if noise is None else noise[:, : k + 1]
        values = mean + stretch * noise @ root.T
        ratios = -0.5 * (stretch**2 - 1) * (noise**2).sum(1)
        return stats.norm.logpdf(y[:, None], design @ values.T, 0.7), ratios

    return gaussian_loo(x, y, 0.7), drawn


@pytest.mark.parametrize("stretch", [1.0, 0.9, 1.15])
def test_errors_are_within_four_of_the_one_that_is_told(stretch):
    z = []
    for seed in range(100):
        truth, drawn = regression(seed)
        rows, ratios = drawn(stretch)
        bound = khat_bound(4000)
        found = weighted(rows, None if stretch == 1 else ratios, bound)
        if found.khat.max() <= bound:
            z.append((found.elpd - truth).sum() / found.mcse(None))
    assert len(z) > 40
    assert np.abs(z).max() < 4
    assert 0.4 < np.std(z) < 1.3


def test_the_error_of_chains_is_that_of_their_effective_draws():
    """Draws of an autoregression of 0.8, of which a ninth is effective for a mean."""
    z, plain = [], []
    for seed in range(0, 80, 2):
        truth, drawn = regression(seed)
        steps = np.random.default_rng(seed).normal(size=(4, 1000, 5)) * np.sqrt(1 - 0.8**2)
        chains = np.zeros_like(steps)
        chains[:, 0] = steps[:, 0] / np.sqrt(1 - 0.8**2)
        for t in range(1, 1000):
            chains[:, t] = 0.8 * chains[:, t - 1] + steps[:, t]
        rows, _ = drawn(1.0, chains.reshape(4000, 5))
        found = weighted(rows, None, khat_bound(4000))
        if found.khat.max() <= khat_bound(4000):
            away = (found.elpd - truth).sum()
            z.append(away / found.mcse(4))
            plain.append(away / found.mcse(None))
    assert len(z) > 20
    assert np.abs(z).max() < 4 and 0.5 < np.std(z) < 1.4
    assert np.std(plain) > 1.4


def test_rows_that_share_their_draws_share_their_error():
    """Two equal rows err alike: twice the error of one, not the square root of two."""
    pi = np.random.default_rng(0).beta(3, 1, size=4000)
    one = weighted(np.log(pi)[None], None, 0.7).mcse(None)
    two = weighted(np.log(np.stack([pi, pi])), None, 0.7).mcse(None)
    assert two == pytest.approx(2 * one, rel=1e-9)


def test_rows_that_every_draw_predicts_count_in_loo():
    rng = np.random.default_rng(0)
    rows = rng.normal(-1, 0.1, (20, 1000))
    # So level that no tail can be fitted, or a wild one.
    rows[3] = -1e-30 * rng.exponential(size=1000)
    rows[4] = -1e-14 * rng.exponential(size=1000) ** 8
    rows[5] = 0.0
    found = weighted(rows, None, khat_bound(1000))
    assert found.elpd.sum() == pytest.approx(-17, abs=0.5) and found.of_all.sum() > -17
    assert found.khat.max() < 0.7 and 0 <= found.idle < 1e-6
