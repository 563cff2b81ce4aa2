"""Bounds that observations put on latents: linear and bent ones, and what is no such bound."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import problem_from
from pyro.distributions import constraints
from torch.distributions import biject_to

from inference.program.edges import Between, limits, narrowed
from inference.program.program import Program

INF = float("inf")
Y = torch.tensor([1.3, 4.2, 9.4], dtype=torch.float64)
POINTS = torch.tensor([[0.5, 1.0], [2.0, -1.5], [7.0, 4.0]], dtype=torch.float64)
STARTS = [{"a": a, "b": b} for a, b in POINTS]


@pytest.mark.parametrize("ends", [(2.0, INF), (-INF, 5.0), (2.0, 5.0), (-INF, INF)])
def test_the_map_onto_an_interval_is_its_own_inverse_and_has_its_slope(ends):
    low, high = (torch.full((3,), end, dtype=torch.float64) for end in ends)
    transform = biject_to(Between(low, high))
    u = torch.tensor([-3.0, 0.2, 2.0], dtype=torch.float64)
    x = transform(u)
    assert Between(low, high).check(x).all()
    torch.testing.assert_close(transform.inv(x), u)
    slope = torch.autograd.functional.jacobian(transform, u).diagonal()
    torch.testing.assert_close(transform.log_abs_det_jacobian(u, x), slope.log())


def test_an_interval_is_cut_by_another_element_by_element():
    low, high = torch.tensor([-INF, 3.0]), torch.tensor([INF, 9.0])
    cut = narrowed(constraints.greater_than(1.0), low, high)
    assert cut.lower_bound.tolist() == [1.0, 3.0] and cut.upper_bound.tolist() == [INF, 9.0]


@pytest.mark.parametrize(
    ("slack", "expected"),
    [
        (lambda v: v["a"] - Y, {"a": (9.4, INF)}),
        (lambda v: torch.cat([v["a"] + 5 - Y, Y - v["a"] + 5]), {"a": (4.4, 6.3)}),
        (lambda v: v["b"].exp() - Y, {"b": (2.2407096892759584, INF)}),
        (lambda v: v["a"] * v["b"] - Y, {}),  # of two latents
        (lambda v: v["a"] + v["b"] - Y, {}),
        (lambda v: v["a"] ** 2 - Y, {}),  # two ends, and values beyond both
        (lambda v: Y, {}),
    ],
)
def test_bounds_on_one_latent_are_found_and_others_left(slack, expected):
    found = limits(slack, STARTS)
    assert found.keys() == expected.keys()
    for name, ends in expected.items():
        assert [end.item() for end in found[name]] == pytest.approx(ends, rel=1e-9)


def test_an_element_without_rows_has_no_bound():
    group = torch.tensor([0, 2, 2])
    starts = [{"top": torch.rand(3, dtype=torch.float64) + k} for k in range(3)]
    low, high = limits(lambda v: v["top"][group] - Y, starts)["top"]
    assert low.tolist() == [pytest.approx(1.3), -INF, pytest.approx(9.4)]
    assert high.tolist() == [INF] * 3


def uniform(y):
    top = pyro.sample("top", dist.Pareto(1.0, 2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Uniform(0.0, top), obs=y)


def test_bounds_are_those_of_the_data_also_where_these_are_replaced_in_place():
    problem = problem_from(uniform, {"y": Y.clone()})
    assert Program(problem).bounds["top"][0].item() == pytest.approx(9.4)
    problem.tensors["y"].copy_(Y / 2)
    assert Program(problem).bounds["top"][0].item() == pytest.approx(4.7)


def test_a_bound_leaves_the_density_as_it_is():
    program = Program(problem_from(uniform, {"y": Y}))
    u = torch.tensor([0.3], dtype=torch.float64)
    top = program.constrain(u)["top"]
    assert top.item() == pytest.approx(9.4 + torch.tensor(0.3).exp().item(), rel=1e-6)
    # Pareto: 2 / top^3; three observations: top^-3; and dx/du = exp(u).
    expected = (2 * top**-6).log().item() + 0.3
    assert program.log_density(u).item() == pytest.approx(expected, rel=1e-8)
    assert program.log_joint({"top": torch.tensor(9.3)}).item() == -INF
