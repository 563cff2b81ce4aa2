"""Derivatives against functions whose slopes are known, kinks included."""

from __future__ import annotations

import pytest
import torch

from inference.program.derivatives import Differentiable, difference, value_and_grad

U = torch.tensor([0.3, -0.7, 1.1])


def test_value_and_gradient_of_a_cubic():
    value, gradient = value_and_grad(lambda u: (u**3).sum(), U)
    assert value.item() == pytest.approx((U**3).sum().item())
    torch.testing.assert_close(gradient, 3 * U**2)
    assert not value.requires_grad and not gradient.requires_grad


def test_a_difference_is_the_slope_also_beside_a_kink():
    near = torch.tensor([2e-6])  # the usual step reaches over zero, the smallest does not
    way = torch.ones(1)
    slope = difference(lambda u: u.abs().sum(), near, way, 1.0, 1e-6)
    assert slope == pytest.approx(1.0, abs=1e-6)


def test_a_difference_that_agrees_with_no_wrong_slope():
    found = difference(lambda u: (u**2).sum(), U, torch.eye(3)[0], 5.0, 1e-6)
    assert found == pytest.approx(0.6, rel=1e-3)


def test_a_known_gradient_is_that_of_autograd():
    u = U.clone().requires_grad_()
    value = Differentiable.apply(u, lambda u: ((u**2).sum(), 2 * u))
    (gradient,) = torch.autograd.grad(3 * value, u)
    torch.testing.assert_close(gradient, 6 * U)
