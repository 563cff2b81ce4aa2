"""Maxima on kinks: linear programs, quadratic ones, ties, edges, and starts on the wrong side."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize

from inference.methods.active_set import ActiveSet, hessian, newton
from inference.program.kinks import Kinks

RNG = np.random.default_rng(0)
X = torch.as_tensor(RNG.normal(size=(25, 3)))
Y = torch.as_tensor(RNG.standard_t(2, size=25))


def settled(density, u, near=0.0):
    u = torch.as_tensor(u, dtype=torch.float64)
    kinks = Kinks.of(density, u)
    limit = torch.full_like(u, torch.inf)
    near = torch.full((kinks.count,), near, dtype=torch.float64)
    return ActiveSet(kinks, u, limit, near).run()


def least_absolute(x, y):
    """Coefficients of the least absolute deviations, by scipy's linear program."""
    n, d = x.shape
    both = np.hstack([x, -x, np.eye(n), -np.eye(n)])
    cost = np.r_[np.zeros(2 * d), np.ones(2 * n)]
    found = optimize.linprog(cost, A_eq=both, b_eq=y).x
    return found[:d] - found[d : 2 * d]


@pytest.mark.parametrize("start", [0.0, 3.0, -20.0])
def test_least_absolute_deviations_go_from_kink_to_kink_to_the_linear_programs_solution(start):
    found = settled(lambda b: -(Y - X @ b).abs().sum(), [start] * 3)
    np.testing.assert_allclose(found.u, least_absolute(X.numpy(), Y.numpy()), rtol=1e-10)
    assert found.converged and found.on == "kink"
    assert int(((Y - X @ found.u).abs() < 1e-10).sum()) == 3
    assert found.value == pytest.approx(-(Y - X @ found.u).abs().sum().item(), rel=1e-14)


def test_kinks_tried_at_first_are_let_go_where_they_do_not_hold():
    def density(u):
        return -0.5 * (u - Y[:4]).square().sum() - 0.7 * u.abs().sum()

    found = settled(density, [1e-3] * 4, near=1.0)
    soft = torch.sign(Y[:4]) * (Y[:4].abs() - 0.7).clamp(min=0)
    torch.testing.assert_close(found.u, soft, rtol=1e-10, atol=1e-12)
    assert found.converged and torch.equal(found.u == 0, soft == 0)


def test_more_kinks_than_coordinates_meet_in_one_point():
    y = torch.tensor([1.0, 2.0, 2.0, 2.0, 9.0], dtype=torch.float64)
    found = settled(lambda u: -(y - u).abs().sum() - 0.01 * u.sum() ** 2, [7.0])
    assert found.u.item() == pytest.approx(2.0, abs=1e-12) and found.converged


def test_the_curvature_is_that_along_the_kinks():
    def density(u):
        return -5 * (u[0] + u[1] - 1).abs() - (u[0] - 2) ** 2 - u[1] ** 2

    found = settled(density, [0.3, 0.4])
    assert found.u.tolist() == pytest.approx([1.5, -0.5], abs=1e-10)
    along = torch.tensor([1.0, -1.0], dtype=torch.float64) / 2**0.5
    assert (along @ found.hessian @ along).item() == pytest.approx(-2.0, abs=1e-10)
    assert (torch.linalg.eigvalsh(found.hessian) < 0).all()


def test_a_curved_kink_is_followed_by_its_multiplier():
    def density(u):
        return -4 * (u.square().sum() - 1).abs() - (u[0] - 2) ** 2 - (u[1] - 1) ** 2

    found = settled(density, [0.5, 0.9])
    expected = torch.tensor([2.0, 1.0], dtype=torch.float64) / 5**0.5
    torch.testing.assert_close(found.u, expected, rtol=1e-10, atol=0)
    assert found.converged


def test_an_edge_is_approached_from_inside_and_told():
    y = torch.tensor([2.0, 7.0, 3.0], dtype=torch.float64)

    def density(u):
        inside = (u[0].exp() > y).double()
        return inside.log().sum() - 3 * u[0]

    found = settled(density, [4.0])
    assert found.u.exp().item() == pytest.approx(7.0, rel=1e-9)
    assert found.converged and found.on == "edge"
    assert found.value == pytest.approx(-3 * np.log(7.0), rel=1e-9)


def test_newton_takes_the_shortest_step_where_the_matrix_is_singular():
    matrix = torch.tensor([[-1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    step = newton(matrix, torch.tensor([2.0, 2.0], dtype=torch.float64))
    assert step.tolist() == pytest.approx([1.0, 1.0])
    found = hessian(lambda u: -((u[0] + u[1]) ** 2) / 2, torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(found, matrix)
