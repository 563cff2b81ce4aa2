"""Outputs of distributions, their Fisher information, and models made linear in their latents."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import problem_from, problem_of

from inference.program.predictors import (
    check_predictors,
    fisher_root,
    predictor,
    with_predictor,
)
from inference.program.program import Program
from inference.program.sampling import over_draws
from inference.results import predictive
from models.contract import Refused

RNG = np.random.default_rng(0)
X = torch.as_tensor(RNG.normal(size=(6, 2)))
Y = torch.as_tensor(RNG.normal(size=6))
LABELS = torch.tensor([0, 2, 1, 1, 0, 2])


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


FAMILIES = [
    (dist.Categorical(logits=numbers([0.3, -1.0, 2.0], [0.0, 0.1, 0.2])), LABELS[:2]),
    (dist.Categorical(probs=numbers([0.3, 0.6, 0.1])), LABELS[:1]),
    (dist.Bernoulli(logits=numbers(0.5, -3.0)), numbers(1.0, 0.0)),
    (dist.Normal(numbers(1.0, -2.0), numbers(0.5, 3.0)), Y[:2]),
]


def network(x, y, *, heads=3):
    """A network with a hidden layer; classes, or a location and a log scale."""
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2, 4]).to_event(2))
    v = pyro.sample("v", dist.Normal(0.0, 0.5).expand([4, heads]).to_event(2))
    f = torch.tanh(x @ w) @ v
    pyro.deterministic("first", w[0, 0] ** 2)
    with pyro.plate("row", len(y)):
        if heads == 2:
            pyro.sample("y", dist.Normal(f[:, 0], f[:, 1].exp()), obs=y)
        else:
            pyro.sample("y", dist.Categorical(logits=f), obs=y)


def weights(count: int, heads: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {"w": torch.randn(count, 2, 4), "v": torch.randn(count, 4, heads)}


def by_hand(at, one):
    """f(x, w*) + J d, the Jacobian one weight at a time."""

    def f(flat):
        return torch.tanh(X @ flat[:8].view(2, 4)) @ flat[8:].view(4, -1)

    flat = torch.cat([at["w"].flatten(), at["v"].flatten()])
    moved = torch.cat([one["w"].flatten(), one["v"].flatten()]) - flat
    return f(flat) + torch.autograd.functional.jacobian(f, flat) @ moved


def linear_program(model, tensors, at, **options):
    return Program(replace(problem_from(model, tensors, **options), linear_at=at))


@pytest.mark.parametrize(("fn", "value"), FAMILIES)
def test_a_distribution_is_that_of_its_predictor(fn, value):
    again = with_predictor(fn, predictor(fn))
    np.testing.assert_allclose(again.log_prob(value), fn.log_prob(value), rtol=1e-12)


def test_wrappers_are_kept():
    mask = torch.tensor([[True], [False], [True]])
    fn = dist.Normal(torch.tensor([1.0, 2.0]), 3.0).expand([3, 2]).mask(mask).to_event(1)
    given = predictor(fn)
    assert given.shape == (3, 2, 2)
    again, value = with_predictor(fn, given), torch.ones(3, 2)
    assert again.event_shape == fn.event_shape
    np.testing.assert_allclose(again.log_prob(value), fn.log_prob(value), rtol=1e-12)
    moved = with_predictor(fn, given + 1)
    assert moved.log_prob(value)[1] == 0
    assert (moved.log_prob(value) != fn.log_prob(value)).tolist() == [True, False, True]


@pytest.mark.parametrize(("fn", "_"), FAMILIES)
def test_the_fisher_information_is_the_curvature_of_the_divergence(fn, _):
    given = predictor(fn)

    def divergence(other):
        return torch.distributions.kl_divergence(fn, with_predictor(fn, other)).sum()

    n, k = given.shape
    curvature = torch.autograd.functional.hessian(divergence, given)
    root = fisher_root(fn, given)
    for i in range(n):
        np.testing.assert_allclose(root[i] @ root[i].T, curvature[i, :, i], atol=1e-12)
    assert root.shape == (n, k, k)


def test_predictions_are_f_plus_j_d():
    at = {k: v[0] for k, v in weights(1).items()}
    program = linear_program(network, {"x": X, "y": LABELS}, at)
    draws = {k: v + at[k] for k, v in weights(5).items()}
    found = over_draws(lambda one: predictive.class_probabilities(program, one), draws)
    likelihood = over_draws(program.log_likelihood, draws)["y"]
    for i in range(5):
        expected = by_hand(at, {k: v[i] for k, v in draws.items()}).log_softmax(-1)
        np.testing.assert_allclose(found[i].log(), expected, rtol=1e-10)
        np.testing.assert_allclose(likelihood[i], expected[range(6), LABELS], rtol=1e-10)
    one = {k: v[0] for k, v in draws.items()}
    np.testing.assert_allclose(program.log_likelihood(one)["y"], likelihood[0], rtol=1e-12)


def test_loc_and_log_scale_are_linear():
    at = {k: v[0] for k, v in weights(1, 2).items()}
    program = linear_program(network, {"x": X, "y": Y}, at, heads=2)
    one = {k: v[0] + at[k] for k, v in weights(1, 2).items()}
    expected = by_hand(at, one)
    found = predictive.moments(program, one)
    np.testing.assert_allclose(found, torch.stack([expected[:, 0], expected[:, 1].exp()], 1))
    torch.manual_seed(0)
    many = {k: v.expand(20_000, *v.shape) for k, v in one.items()}
    drawn = over_draws(lambda one: program.predictive(one), many)["y"]
    error = 5 * found[:, 1] / 20_000**0.5
    assert ((drawn.mean(0) - found[:, 0]).abs() < error).all()


def test_the_joint_has_the_prior_of_the_drawn_weights():
    at = {k: v[0] for k, v in weights(1).items()}
    program = linear_program(network, {"x": X, "y": LABELS}, at)
    one = {k: 2 * v[0] + at[k] for k, v in weights(1).items()}
    prior = dist.Normal(0.0, 1.0).log_prob(one["w"]).sum()
    prior = prior + dist.Normal(0.0, 0.5).log_prob(one["v"]).sum()
    expected = prior + program.log_likelihood(one)["y"].sum()
    assert program.log_joint(one).item() == pytest.approx(expected.item(), rel=1e-12)
    assert program.complete({k: v[None] for k, v in one.items()})["first"] == one["w"][0, 0] ** 2


def test_what_the_prior_predicts_is_not_made_linear():
    at = {k: v[0] for k, v in weights(1).items()}
    problem = problem_from(network, {"x": X, "y": LABELS})
    drawn = []
    for linear_at in (None, at):
        torch.manual_seed(3)
        program = Program(replace(problem, linear_at=linear_at))
        drawn.append(over_draws(program.prior, {"draw": torch.arange(50)})["y"])
    assert torch.equal(*drawn)


def test_a_module_is_made_linear_too():
    problem = problem_of("bnn", "moons", hidden="3")
    program = Program(problem)
    torch.manual_seed(0)
    at, other = (program.constrain(program.start()) for _ in range(2))

    def logits(values):
        hidden = torch.tanh(
            torch.nn.functional.linear(
                problem.tensors["x"], values["net.0.weight"], values["net.0.bias"]
            )
        )
        return torch.nn.functional.linear(hidden, values["net.2.weight"], values["net.2.bias"])

    moved = {k: other[k] - at[k] for k in at}
    value, slope = torch.func.jvp(logits, (at,), (moved,))
    linear = Program(replace(problem, linear_at=at))
    found = predictive.class_probabilities(linear, other)
    np.testing.assert_allclose(found, (value + slope).softmax(-1), rtol=1e-10)


def test_other_observations_are_refused():
    with pytest.raises(Refused, match="count is Poisson"):
        check_predictors({"count": dist.Poisson(torch.ones(2)).to_event(1)})
