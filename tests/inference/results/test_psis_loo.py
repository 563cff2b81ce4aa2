"""PSIS-LOO: its Monte Carlo error on regressions whose truth is known, rows that do not count."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from test_loo import gaussian_loo

from inference.results.psis import khat_bound
from inference.results.psis_loo import weighted


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
