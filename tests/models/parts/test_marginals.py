"""Marginals without a name: of a normal's density on a grid, and of a mixture of two."""

import numpy as np
import pytest
from scipy import stats

from models.parts.marginals import Gridded, NormalMixture


def test_a_normal_on_a_grid_is_the_normal():
    grid = np.linspace(-7, 9, 4001)
    gridded, normal = Gridded(grid, 3.0 * stats.norm.pdf(grid, 1, 0.8)), stats.norm(1, 0.8)
    x, q = np.linspace(-2, 4, 31), np.linspace(0.01, 0.99, 31)
    np.testing.assert_allclose(gridded.pdf(x), normal.pdf(x), atol=1e-5)
    np.testing.assert_allclose(gridded.cdf(x), normal.cdf(x), atol=1e-5)
    np.testing.assert_allclose(gridded.ppf(q), normal.ppf(q), atol=1e-4)
    assert gridded.mean() == pytest.approx(1) and gridded.std() == pytest.approx(0.8)
    assert gridded.support() == (-7, 9)
    assert gridded.pdf(10.0) == 0 and gridded.cdf(-8.0) == 0 and gridded.cdf(10.0) == 1


def test_a_mixture_has_the_moments_and_quantiles_of_its_parts():
    mixture = NormalMixture(np.array([0.25, 0.75]), np.array([-3.0, 1.0]), np.array([1.0, 0.5]))
    assert mixture.mean() == 0
    assert mixture.std() == pytest.approx(np.sqrt(0.25 * 1 + 0.75 * 0.25 + 0.25 * 9 + 0.75 * 1))
    cdf = 0.25 * stats.norm.cdf(-1, -3, 1) + 0.75 * stats.norm.cdf(-1, 1, 0.5)
    assert mixture.cdf(-1.0) == pytest.approx(cdf, abs=1e-4)
    assert mixture.ppf(cdf) == pytest.approx(-1, abs=1e-3)
