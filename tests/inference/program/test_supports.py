"""Supports as they are: transformed distributions, mixtures, densities that end at bounds."""

from __future__ import annotations

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from scipy import stats
from torch.distributions import biject_to, transforms

from inference.program.supports import (
    Between,
    ends,
    is_inside,
    narrowed,
    numbers,
    outside,
    support_of,
    violation,
)
from inference.program.supports import within as within_support

VALUES = torch.tensor([1.0, 2.5, 4.0])


def shifted(shift, base=None):
    base = dist.Exponential(torch.ones(3)) if base is None else base
    return dist.TransformedDistribution(base, [transforms.AffineTransform(shift, 1.0)])


def test_a_shifted_distribution_begins_at_its_shift():
    fn = shifted(torch.tensor(2.0))
    assert fn.support is constraints.real  # what torch says
    assert support_of(fn).check(VALUES).tolist() == [False, True, True]
    assert [end.tolist() for end in ends(fn)] == [2.0, np.inf]
    u = torch.randn(3)
    transform = biject_to(support_of(fn))
    x = transform(u)
    assert (x > 2).all()
    torch.testing.assert_close(transform.inv(x), u)
    torch.testing.assert_close(transform.log_abs_det_jacobian(u, x), u)  # x = 2 + exp(u)


def test_a_support_that_torch_knows_is_left_as_it_is():
    logit = [transforms.SigmoidTransform().inv, transforms.AffineTransform(1.0, 2.0)]
    for fn in (
        dist.LogNormal(0.0, 1.0),
        dist.TransformedDistribution(dist.Normal(0.0, 1.0), [transforms.ExpTransform()]),
        dist.TransformedDistribution(dist.Uniform(0.0, 1.0), logit),  # a logistic distribution
        dist.Dirichlet(torch.ones(3)),
        dist.Normal(torch.zeros(2), 1.0).to_event(1),
    ):
        assert type(support_of(fn)) is type(fn.support)


def test_a_decreasing_function_turns_the_ends_around():
    fn = dist.TransformedDistribution(
        dist.Exponential(1.0), [transforms.AffineTransform(torch.tensor(5.0), torch.tensor(-2.0))]
    )
    assert [end.item() for end in ends(fn)] == [-np.inf, 5.0]
    assert support_of(fn).check(torch.tensor([4.0, 6.0])).tolist() == [True, False]


@pytest.mark.parametrize("event", [0, 1])
def test_the_density_is_zero_outside(event):
    fn = within_support(shifted(torch.tensor(2.0)).to_event(event))
    expected = stats.expon.logpdf(VALUES.numpy(), loc=2.0)
    found = fn.log_prob(VALUES).numpy()
    np.testing.assert_allclose(found, expected.sum() if event else expected)


def test_what_has_no_density_has_no_gradient_that_is_no_number():
    shift = torch.tensor(2.0, requires_grad=True)
    base = dist.LogNormal(torch.zeros(3), 1.0)
    log_prob = within_support(shifted(shift, base)).log_prob(VALUES)
    log_prob[1:].sum().backward()
    expected = [stats.lognorm.logpdf(v - np.array([1.999999, 2.000001]), 1.0) for v in (2.5, 4.0)]
    slope = sum((a - b) / 2e-6 for b, a in expected)
    assert shift.grad.item() == pytest.approx(slope, rel=1e-4)


def test_masks_plates_and_counts_keep_their_meaning():
    some = torch.tensor([False, True, True])
    fn = shifted(torch.tensor(2.0)).mask(some)
    assert within_support(fn).log_prob(VALUES).tolist() == pytest.approx([0.0, -0.5, -2.0])
    spread = dist.Uniform(0.0, torch.tensor(3.0), validate_args=False)  # right by itself
    spread = within_support(spread.expand([3]))
    assert spread.log_prob(VALUES).isinf().tolist() == [False, False, True]
    counts = within_support(dist.Binomial(torch.tensor([3.0, 5.0]), torch.tensor(0.3)))
    expected = stats.binom.logpmf(4, [3, 5], 0.3)
    np.testing.assert_allclose(counts.log_prob(torch.tensor(4.0)), expected, rtol=1e-10)


def test_a_mixture_is_that_of_components_within_their_supports():
    weights, shifts = torch.tensor([0.3, 0.7]), torch.tensor([0.0, 3.0])
    parts = dist.TransformedDistribution(
        dist.Exponential(torch.ones(2)), [transforms.AffineTransform(shifts, 1.0)]
    )
    fn = dist.MixtureSameFamily(dist.Categorical(weights), parts)
    at = torch.tensor([-1.0, 1.0, 4.0])
    density = 0.3 * stats.expon.pdf(at.numpy()) + 0.7 * stats.expon.pdf(at.numpy(), loc=3.0)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(within_support(fn).log_prob(at), np.log(density))
    assert support_of(fn).check(at).tolist() == [False, True, True]
    normals = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(shifts, 1.0))
    assert support_of(normals) is constraints.real  # which torch cannot transform


def test_the_numbers_in_a_support():
    assert torch.tensor(2.0) in numbers(support_of(shifted(torch.tensor(2.0))))
    assert numbers(dist.Normal(0.0, 1.0).support) == []


def test_what_lies_outside_is_told_with_its_row():
    fn = dist.Uniform(0.0, torch.tensor(3.0)).expand([3])
    assert outside(fn, VALUES, "y") == "y is 4 in row 3, outside the support of Uniform"
    assert outside(fn, VALUES / 2, "y") is None
    assert is_inside(fn, torch.tensor([0.0, 3.0, 1.0])) and not is_inside(fn, VALUES)


def test_the_violation_grows_with_the_distance():
    fn = dist.Uniform(0.0, torch.tensor(3.0)).expand([3])
    near, far = (violation(fn, VALUES + more) for more in (0.0, 2.0))
    assert 0 < near < far
    assert violation(dist.Uniform(0.0, 30.0).expand([3]), VALUES) == 0


def test_positive_definite_matrices_are_as_many_numbers_as_a_triangle():
    onto, u = biject_to(constraints.positive_definite), torch.randn(6)
    matrix, (row, column) = onto(u), torch.tril_indices(3, 3)
    assert onto.inverse_shape(matrix.shape) == u.shape and onto.forward_shape(u.shape) == (3, 3)
    torch.testing.assert_close(onto.inv(matrix), u)
    slopes = torch.autograd.functional.jacobian(lambda u: onto(u)[row, column], u)
    torch.testing.assert_close(onto.log_abs_det_jacobian(u, matrix), slopes.slogdet()[1])


# -- intervals of tensors ----------------------------------------------------------------------


INF = float("inf")


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
