"""Modes that a sample has missed are found, where there are any."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import problem_from

from inference.checks import modes, short_chains
from inference.core import machine
from inference.core.seeds import seeded
from inference.program.program import Program


def mixture(weights, locs, sds):
    """A density of points (m, 2): normals with these weights along the first axis."""
    weights, locs, sds = (torch.tensor(part) for part in (weights, locs, sds))

    def density(u):
        u = u.detach().requires_grad_()
        each = dist.Normal(locs, sds).log_prob(u[:, :1]) + weights.log()
        value = each.logsumexp(1) + dist.Normal(0.0, 1.0).log_prob(u[:, 1])
        (slope,) = torch.autograd.grad(value.sum(), u)
        return value.detach(), slope

    return density


def share(density, loc, sd):
    """The log share of a mode that draws around one of them have missed."""
    with seeded(0, 0):
        u = torch.tensor([loc, 0.0]) + torch.tensor([sd, 1.0]) * torch.randn(200, 2)
        points = 6 * torch.randn(30, 2)
        found = modes.missed(density, u, density(u)[0], points)
    return None if found is None else found.log_share


@pytest.mark.parametrize(("weight", "sd"), [(0.5, 1.0), (0.5, 0.3), (0.2, 2.0)])
def test_the_mass_of_the_other_mode_is_told(weight, sd):
    density = mixture([1 - weight, weight], [-6.0, 6.0], [1.0, sd])
    expected = torch.tensor(weight / (1 - weight)).log().item()
    assert share(density, -6.0, 1.0) == pytest.approx(expected, abs=0.01)


def test_a_mode_of_no_mass_is_not_told_of_however_high_it_is():
    density = mixture([0.999, 0.001], [-6.0, 6.0], [1.0, 1e-3])
    top = torch.tensor([[-6.0, 0.0], [6.0, 0.0]])
    low, high = density(top)[0]
    assert high > low - 0.1  # about as high, a thousandth as wide
    assert share(density, -6.0, 1.0) is None


def test_a_sample_that_knows_both_modes_has_missed_none():
    density = mixture([0.5, 0.5], [-4.0, 4.0], [1.0, 1.0])
    with seeded(0, 0):
        u = torch.randn(200, 2) + torch.tensor([4.0, 0.0]) * torch.randn(200, 1).sign()
        assert modes.missed(density, u, density(u)[0], 6 * torch.randn(30, 2)) is None


def spiked(weight):
    """A slab in three dimensions with a spike of this weight within it, and draws of either."""
    slab = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    spike = dist.Normal(torch.full((3,), 0.5), 0.01).to_event(1)

    def density(u):
        u = u.detach().requires_grad_()
        weights = torch.tensor([1 - weight, weight])
        each = torch.stack([slab.log_prob(u), spike.log_prob(u)], 1)
        value = (each + weights.log()).logsumexp(1)
        (slope,) = torch.autograd.grad(value.sum(), u)
        return value.detach(), slope

    return density, slab, spike


@pytest.mark.parametrize("weight", [0.2, 0.9])
def test_a_spike_within_a_slab_is_a_mode_that_no_valley_parts_from_it(weight):
    with machine.numbers(), seeded(0, 0):
        density, slab, spike = spiked(weight)
        u = slab.sample((500,))
        points = torch.cat([2 * torch.randn(20, 3), 0.5 + 0.02 * torch.randn(4, 3)])
        found = modes.missed(density, u, density(u)[0], points)
        both = torch.cat([u, spike.sample((500,))])
        assert modes.missed(density, both, density(both)[0], points) is None
    expected = torch.tensor(weight / (1 - weight)).log().item()
    assert found.log_share == pytest.approx(expected, abs=0.2)
    assert (found.top - 0.5).abs().max() < 0.01


def test_a_skewed_density_has_one_mode():
    density = mixture([0.3, 0.7], [0.0, 2.0], [0.5, 2.0])
    assert share(density, 1.0, 1.5) is None


def test_a_model_with_two_signs_is_told_of_both():
    def square(y):
        t = pyro.sample("t", dist.Normal(0.0, 2.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(t**2, 0.3), obs=y)

    program = Program(problem_from(square, {"y": torch.tensor([1.9, 2.1, 2.0])}))
    with seeded(0, 0):
        u = 2**0.5 + 0.1 * torch.randn(100, 1)
        density = short_chains.density_of(program, u)
        found = modes.missed(density, u, density(u)[0], modes.points(program, u))
    assert found.top.item() == pytest.approx(-(2**0.5), abs=0.05)
    assert found.log_share == pytest.approx(0.0, abs=0.01)
