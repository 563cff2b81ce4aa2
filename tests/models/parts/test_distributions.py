"""Marginals without a name: of a normal's density on a grid, and of a mixture of two."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import problem_from
from scipy import integrate, stats

from inference.program.program import Program
from models.parts.distributions import Gridded, LogUniform, NormalMixture, ScaleMixture


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


AT = torch.tensor([-3.0, -0.2, -1e-4, 0.0, 1e-3, 0.7, 8.0], dtype=torch.float64)


@pytest.mark.parametrize(("wide", "narrow", "share"), [(1.0, 0.1, 0.5), (2.0, 1e-3, 0.2)])
def test_the_mixture_is_scipys_and_integrates_to_one(wide, narrow, share):
    fn = ScaleMixture(wide, narrow, share)
    density = share * stats.norm.pdf(AT, 0, wide) + (1 - share) * stats.norm.pdf(AT, 0, narrow)
    np.testing.assert_allclose(fn.log_prob(AT), np.log(density), rtol=1e-12)

    def at(w):
        return fn.log_prob(torch.tensor(w)).exp().item()

    total = sum(
        integrate.quad(at, *part, limit=200)[0] for part in [(0, 10 * narrow), (10 * narrow, 20)]
    )
    assert 2 * total == pytest.approx(1, abs=1e-7)


def test_draws_of_the_mixture_have_its_moments_and_shape():
    torch.manual_seed(0)
    fn = ScaleMixture(2.0, 0.2, 0.3).expand((3, 2)).to_event(2)
    assert fn.batch_shape == () and fn.event_shape == (3, 2)
    drawn = fn.sample((20_000,))
    assert drawn.shape == (20_000, 3, 2) and fn.log_prob(drawn).shape == (20_000,)
    variance = 0.3 * 4 + 0.7 * 0.04
    fourth = 3 * (0.3 * 16 + 0.7 * 0.0016)
    count = drawn.numel()
    assert drawn.mean().item() == pytest.approx(0, abs=4 * (variance / count) ** 0.5)
    error = ((fourth - variance**2) / count) ** 0.5
    assert (drawn**2).mean().item() == pytest.approx(variance, abs=4 * error)
    # Beyond what the narrow one reaches there is the wide one alone.
    share = (drawn.abs() > 1.2).double().mean().item()
    assert share == pytest.approx(0.3 * 2 * stats.norm.sf(0.6), abs=0.01)
    assert drawn.flatten(1).T.corrcoef().fill_diagonal_(0).abs().max() < 0.04


def test_the_mixtures_density_has_finite_slopes_far_out():
    at = AT.clone().requires_grad_()
    ScaleMixture(1.0, 1e-4).log_prob(at).sum().backward()
    expected = [3.0, 0.2, 1e-4 / 1e-8, 0.0, None, -0.7, -8.0]
    for found, value in zip(at.grad.tolist(), expected):
        assert value is None or found == pytest.approx(value, rel=1e-3)


def test_the_log_uniform_density_is_one_over_the_weight():
    fn = LogUniform()
    found = fn.log_prob(torch.tensor([0.5, -2.0, 1.0])).exp()
    assert found.tolist() == pytest.approx([2.0, 0.5, 1.0])
    # No scale is preferred: as much between 1 and 2 as between 100 and 200.
    mass = [
        integrate.quad(lambda w: fn.log_prob(torch.tensor(w)).exp().item(), a, 2 * a)[0]
        for a in (1.0, 100.0)
    ]
    assert mass == pytest.approx([np.log(2)] * 2)


def test_the_log_uniform_prior_expands_and_is_known_to_be_improper():
    fn = LogUniform().expand((4, 3)).to_event(2)
    assert fn.event_shape == (4, 3) and fn.batch_shape == ()
    value = torch.full((4, 3), 0.5)
    assert fn.log_prob(value).item() == pytest.approx(12 * np.log(2))

    def model():
        pyro.sample("w", fn)
        pyro.sample("b", dist.Normal(0.0, 1.0))

    assert Program(problem_from(model)).improper() == ["w"]
    with pytest.raises(NotImplementedError):
        fn.sample()
