"""Kinks: found wherever they are written, smooth pieces exact, slopes on both sides."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F

from inference.program.kinks import Kinks, difference, value_and_grad

Y = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
U = torch.tensor([1.3, 0.2], dtype=torch.float64)

WAYS = {
    "Laplace": lambda u: dist.Laplace(u[0], u[1].exp()).log_prob(Y).sum(),
    "AsymmetricLaplace": lambda u: dist.AsymmetricLaplace(u[0], u[1].exp(), 2.0).log_prob(Y).sum(),
    "abs": lambda u: -(Y - u[0]).abs().sum() - u[1] ** 2,
    "operator": lambda u: -abs(Y - u[0]).sum() - u[1] ** 2,
    "relu": lambda u: -F.relu(u[0] - Y).sum() - torch.nn.ReLU()(Y - u[0]).sum(),
    "clamp": lambda u: -(Y - u[0]).clamp(min=0).sum() + (Y - u[0]).clamp(max=0.5).sum(),
    "maximum": lambda u: -torch.maximum(0.8 * (Y - u[0]), -0.2 * (Y - u[0])).sum(),
    "max": lambda u: -torch.stack([u[0], u[1], u[0] * u[1]]).max(),
    "where": lambda u: -torch.where(u[0] < Y, 0.8 * (Y - u[0]), 0.2 * (u[0] - Y)).sum(),
}


def signs(kinks):
    return torch.where(kinks.residuals(U) < 0, -1.0, 1.0).to(U)


@pytest.mark.parametrize("way", WAYS)
def test_the_piece_that_holds_a_point_has_its_value_and_slope(way):
    function = WAYS[way]
    kinks = Kinks.of(function, U)
    u = U.clone().requires_grad_()
    value, residuals = kinks.piece(u, signs(kinks))
    plain = U.clone().requires_grad_()
    expected = function(plain)
    assert value.item() == pytest.approx(expected.item(), rel=1e-14)
    slope = torch.autograd.grad(value, u)[0]
    torch.testing.assert_close(slope, torch.autograd.grad(expected, plain)[0], rtol=1e-12, atol=0)
    assert residuals.shape == (kinks.count,)


@pytest.mark.parametrize("way", WAYS)
def test_smoothing_is_near_where_it_is_narrow_and_smooth_where_it_is_wide(way):
    kinks = Kinks.of(WAYS[way], U)
    ones = torch.ones(kinks.count, dtype=torch.float64)
    narrow = kinks.smoothed(U.clone().requires_grad_(), 1e-7 * ones)
    assert narrow.item() == pytest.approx(WAYS[way](U).item(), abs=1e-5)
    steps = torch.linspace(0.9, 1.1, 41, dtype=torch.float64)  # across the kink at u = 1
    points = [torch.stack([t, U[1]]).requires_grad_() for t in steps]
    slopes = [torch.autograd.grad(kinks.smoothed(u, ones), u)[0][0] for u in points]
    assert torch.stack(slopes).diff().abs().max() < 0.05


def test_smooth_densities_and_the_guards_of_libraries_have_no_kinks():
    assert Kinks.of(lambda u: dist.Normal(u[0], u[1].exp()).log_prob(Y).sum(), U) is None
    assert Kinks.of(lambda u: dist.Binomial(3, logits=u).log_prob(Y[:2]).sum(), U) is None
    assert Kinks.of(lambda u: dist.Bernoulli(u.sigmoid()).log_prob(Y[:2] - 1).sum(), U) is None
    # One that is masked away changes nothing.
    assert Kinks.of(lambda u: dist.Laplace(u[0], 1.0).log_prob(Y).sum() * 0 - u[0] ** 2, U) is None


def test_slopes_change_by_the_penalties_across_a_kink():
    def density(u):
        return dist.AsymmetricLaplace(u[0], 1.0, 2.0).log_prob(Y).sum() - u[1] ** 2

    at = torch.tensor([2.0, 0.0], dtype=torch.float64)
    kinks = Kinks.of(density, at)
    beside = kinks.across(at, torch.tensor([-1.0, 1.0, 1.0]).double(), torch.arange(3) == 1)
    assert beside.rows.tolist() == [[-1.0, 0.0]]
    assert beside.jumps.tolist() == pytest.approx([-(2.0 + 0.5)])
    assert beside.residual.tolist() == [0.0]


def test_an_edge_is_an_infinite_jump_and_no_step():
    def density(u):
        return dist.Uniform(0.0, u[0], validate_args=False).log_prob(Y).sum()

    at = torch.tensor([5.0], dtype=torch.float64)
    kinks = Kinks.of(density, at + 1)
    beside = kinks.across(at, torch.ones(kinks.count).double(), kinks.residuals(at) == 0)
    assert beside.jumps.tolist() == [-torch.inf]
    assert kinks.steps(at + 1) == []


def test_a_comparison_is_a_step_where_its_branches_do_not_meet():
    def jump(u):
        return -torch.where(u[0] > Y, u[1], 3.0).square().sum()

    def also(u):
        return -(u[1] + 2.0 * (u[0] < Y).double()).square().sum()

    lines = [Kinks.of(f, U).steps(U) for f in (jump, also)]
    assert [len(found) for found in lines] == [1, 1]
    assert all(found[0].startswith("test_kinks.py, line") for found in lines)
    assert Kinks.of(WAYS["where"], U).steps(U) == []
    assert Kinks.of(WAYS["AsymmetricLaplace"], U).steps(U) == []


# -- derivatives -------------------------------------------------------------------------------


POINT = torch.tensor([0.3, -0.7, 1.1])


def test_value_and_gradient_of_a_cubic():
    value, gradient = value_and_grad(lambda u: (u**3).sum(), POINT)
    assert value.item() == pytest.approx((POINT**3).sum().item())
    torch.testing.assert_close(gradient, 3 * POINT**2)
    assert not value.requires_grad and not gradient.requires_grad


def test_a_difference_is_the_slope_also_beside_a_kink():
    near = torch.tensor([2e-6])  # the usual step reaches over zero, the smallest does not
    way = torch.ones(1)
    slope = difference(lambda u: u.abs().sum(), near, way, 1.0, 1e-6)
    assert slope == pytest.approx(1.0, abs=1e-6)


def test_a_difference_that_agrees_with_no_wrong_slope():
    found = difference(lambda u: (u**2).sum(), POINT, torch.eye(3)[0], 5.0, 1e-6)
    assert found == pytest.approx(0.6, rel=1e-3)
