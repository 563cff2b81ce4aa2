"""Modes: closed forms, flat directions, escapes to a bound and to infinity, kinks."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import problem_from
from pyro.distributions import constraints

from inference.methods.active_set import hessian
from inference.methods.mode import limits, maximise, mode
from inference.program.program import Program
from inference.program.supports import elementwise

RNG = np.random.default_rng(0)
ROOT = torch.as_tensor(RNG.normal(size=(4, 4)) + 2 * np.eye(4))
CENTRE = torch.tensor([1.0, -50.0, 0.003, 7.0], dtype=torch.float64)
FREE = torch.full((4,), torch.inf, dtype=torch.float64)


def quadratic(u):
    return 3.0 - 0.5 * (ROOT.T @ (u - CENTRE)).square().sum()


def starts(count=2):
    return [torch.as_tensor(RNG.normal(size=4)) for _ in range(count)]


def test_the_top_of_a_quadratic_is_its_centre_and_its_curvature_exact():
    found = maximise(quadratic, starts(), FREE)
    torch.testing.assert_close(found.u, CENTRE, rtol=1e-10, atol=1e-10)
    assert found.value == pytest.approx(3.0, abs=1e-12)
    torch.testing.assert_close(found.hessian, -ROOT @ ROOT.T, rtol=1e-10, atol=1e-10)
    assert found.converged and not found.escaped.any()
    assert found.step.abs().max() < 1e-8


def test_second_derivatives_are_symmetric_and_those_of_differences():
    def function(u):
        return torch.sin(u[0] * u[1]) - u[2].exp() * u[3]

    at = torch.tensor([0.3, 0.7, -0.2, 1.1], dtype=torch.float64)
    found = hessian(function, at)
    step = 1e-4 * torch.eye(4, dtype=torch.float64)
    central = [
        [
            (function(at + a + b) - function(at + a - b) - function(at - a + b)
             + function(at - a - b)) / 4e-8
            for b in step
        ]
        for a in step
    ]  # fmt: skip
    np.testing.assert_allclose(found, central, atol=1e-6)
    assert torch.equal(found, found.T)


def test_a_flat_direction_is_no_escape_and_shows_in_the_curvature():
    def ridge(u):
        return -0.5 * (u[0] + u[1] - 2) ** 2 - 0.5 * (u[2] - 1) ** 2 - 0.5 * u[3] ** 2

    found = maximise(ridge, starts(), FREE)
    assert found.value == pytest.approx(0, abs=1e-12)
    assert (found.u[0] + found.u[1]).item() == pytest.approx(2, abs=1e-9)
    assert not found.escaped.any() and found.converged
    eigenvalues = torch.linalg.eigvalsh(-found.hessian)
    assert eigenvalues.numpy() == pytest.approx([0, 1, 1, 2], abs=1e-10)


def test_a_coordinate_that_levels_off_exponentially_escapes_and_the_others_do_not():
    def levelling(u):
        return -torch.exp(-u[0]) - 0.5 * ((u[1:] - CENTRE[1:]) ** 2).sum()

    found = maximise(levelling, starts(), FREE)
    assert found.escaped.tolist() == [True, False, False, False]
    assert not found.converged
    torch.testing.assert_close(found.u[1:], CENTRE[1:], rtol=1e-6, atol=1e-6)
    bounded = maximise(levelling, starts(), torch.tensor([25.0, *[torch.inf] * 3]))
    assert bounded.escaped.tolist() == [True, False, False, False]
    assert bounded.u[0] <= 25


def test_the_best_of_several_starts_is_taken():
    def bumps(u):
        tops = torch.stack([-((u + 3) ** 2).sum(), 1 - ((u - 3) ** 2).sum()])
        return tops.logsumexp(0)

    low, high = torch.full((4,), -3.0), torch.full((4,), 3.0)
    assert maximise(bumps, [low.double()], FREE).value == pytest.approx(0, abs=1e-6)
    assert maximise(bumps, [low.double(), high.double()], FREE).value == pytest.approx(1, abs=1e-6)


def test_bounded_supports_have_limits_and_real_ones_have_none():
    def model():
        pyro.sample("p", dist.Beta(2.0, 2.0))
        pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("s", dist.HalfNormal(torch.ones(2)).to_event(1))

    found = limits(Program(problem_from(model)))
    assert found.tolist() == [25.0, torch.inf, torch.inf, 25.0, 25.0]
    wrapped = dist.Normal(torch.zeros(2, 3), 1.0).to_event(2).support
    assert elementwise(wrapped) is constraints.real
    assert elementwise(constraints.positive) is constraints.positive


def test_coordinates_in_which_a_bijection_is_affine_have_no_limits():
    base = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    ordered = dist.TransformedDistribution(base, [dist.transforms.OrderedTransform()])

    def model():
        pyro.sample("loc", ordered)
        pyro.sample("root", dist.LKJCholesky(3))
        pyro.sample("p", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("g", 2):
            pyro.sample("pairs", ordered.expand([2]))

    found = limits(Program(problem_from(model)))
    free = torch.tensor([True, False, False])
    assert torch.equal(found[:3].isinf(), free)
    assert found[3:8].tolist() == [25.0] * 5
    assert torch.equal(found[8:].isinf(), free.repeat(2))


# -- kinks -------------------------------------------------------------------------------------

Y = torch.tensor([3.0, 0.5, -0.999, -1.001], dtype=torch.float64)


def sparse(y):
    w = pyro.sample("w", dist.Laplace(0.0, 1.0).expand([4]).to_event(1))
    pyro.sample("y", dist.Normal(w, 1.0).to_event(1), obs=y)


def test_a_laplace_prior_thresholds_softly_and_holds_small_values_at_exactly_zero():
    program = Program(problem_from(sparse, {"y": Y}))
    found = mode(program, [torch.zeros(4), torch.ones(4)])
    expected = torch.sign(Y) * (Y.abs() - 1).clamp(min=0)
    torch.testing.assert_close(found.u, expected, rtol=1e-8, atol=1e-10)
    assert (found.u[1:3] == 0).all() and found.u[3] != 0
    assert found.converged and not found.escaped.any()
    value = program.log_density(expected, jacobian=False).item()
    assert found.value == pytest.approx(value, rel=1e-12)


def test_without_its_prior_there_is_no_kink():
    program = Program(problem_from(sparse, {"y": Y}))
    found = mode(program, [torch.zeros(4)], prior=False)
    torch.testing.assert_close(found.u, Y, rtol=1e-9, atol=1e-9)


def test_a_kink_away_from_zero_and_a_smooth_latent_beside_it():
    def model(y):
        w = pyro.sample("w", dist.Laplace(2.0, 0.5))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(w + b, 1.0), obs=y)

    # Held at its kink, w leaves b the mode (y - 2) / 2; the slope 0.5 there is below 1 / 0.5.
    program = Program(problem_from(model, {"y": torch.tensor(3.0)}))
    found = mode(program, [torch.zeros(2)])
    assert found.u.tolist() == pytest.approx([2.0, 0.5], abs=1e-9)
    assert found.u[0] == 2 and found.converged


def test_the_jacobian_moves_the_mode_of_the_unconstrained_density():
    def model():
        pyro.sample("p", dist.Beta(3.0, 2.0))

    program = Program(problem_from(model))
    ends = [mode(program, [torch.zeros(1)], jacobian=j).u.sigmoid().item() for j in (True, False)]
    assert ends == pytest.approx([3 / 5, 2 / 3], abs=1e-8)
