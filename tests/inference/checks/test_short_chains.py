"""Short chains: the density of many points at once, and moves that end in the posterior."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from conftest import Y, problem_from, regression

from inference.checks import short_chains
from inference.core.seeds import seeded
from inference.program.program import Program

COVARIANCE = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 25.0]])
LOC = torch.tensor([1.0, -2.0, 30.0])


def gaussian(u):
    """Log density (up to a constant) and gradient of a correlated Gaussian at points (m, 3)."""
    slope = -torch.linalg.solve(COVARIANCE.to(u), (u - LOC.to(u)).T).T
    return 0.5 * ((u - LOC.to(u)) * slope).sum(1), slope


def test_many_points_have_the_density_and_gradient_of_each():
    program = Program(problem_from(regression, {"y": Y}))
    points = torch.randn(70, program.size, generator=torch.Generator().manual_seed(0))
    values, slopes = short_chains.density_of(program, points)(points)
    for i in (0, 63, 64, 69):
        value, slope = program.density_and_gradient(points[i])
        torch.testing.assert_close(values[i], value)
        torch.testing.assert_close(slopes[i], slope)


def test_a_model_that_cannot_be_batched_is_taken_point_by_point():
    def model():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("f", torch.zeros(1).put_(torch.zeros(1).long(), x.reshape(1))[0])

    program = Program(problem_from(model))
    points = torch.tensor([[0.3], [-1.0]])
    _, slopes = short_chains.density_of(program, points)(points)
    np.testing.assert_allclose(slopes[:, 0], [0.7, 2.0], atol=1e-12)


def test_a_model_that_branches_on_a_latent_has_no_quick_density():
    def model():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("f", -(x**2) if float(x.detach()) > 0 else 0 * x)

    program = Program(problem_from(model))
    assert short_chains.density_of(program, torch.zeros(2, 1)) is None


def test_chains_that_begin_too_narrow_and_shifted_end_in_the_posterior():
    with seeded(0, 0):
        start = LOC + 0.5 + 0.4 * COVARIANCE.diagonal().sqrt() * torch.randn(1000, 3)
        sample = short_chains.moved(gaussian, short_chains.still(gaussian, start))
    u = sample.u.flatten(0, 1)
    sds = COVARIANCE.diagonal().sqrt()
    assert ((u.mean(0) - LOC) / sds).abs().max() < 5 / np.sqrt(1000)
    assert (u.std(0) / sds - 1).abs().max() < 5 / np.sqrt(2 * 1000)
    assert abs(torch.corrcoef(u.T)[0, 1] - 0.9) < 0.05
    assert torch.equal(sample.start, start)


def test_points_without_a_density_are_left_out():
    def cut(u):
        value, slope = gaussian(u)
        return torch.where(u[:, 0] > LOC[0], -torch.inf, value), slope

    with seeded(1, 0):
        start = LOC + torch.randn(400, 3)
        sample = short_chains.moved(cut, short_chains.still(cut, start))
    assert len(sample.start) == int((start[:, 0] <= LOC[0]).sum())
    assert (sample.u[..., 0] <= LOC[0]).all()


def test_around_a_mode_draws_are_those_of_the_curvature():
    with seeded(2, 0):
        draws = short_chains.around(gaussian, LOC[None].double(), count=20_000)
    np.testing.assert_allclose(torch.cov(draws.T), COVARIANCE, rtol=0.05, atol=0.15)
    np.testing.assert_allclose(draws.mean(0), LOC, atol=5 * 5 / np.sqrt(20_000))
