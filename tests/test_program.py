"""Program: densities against NumPy, supports that depend on latents, draws in bulk, tracing."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import problem_from
from pyro.distributions import constraints
from scipy import stats

from inference._problem import Fault, Refused
from inference.program import Program, over_draws

Y = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def regression(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.5))
    double = pyro.deterministic("double", 2 * mu)
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(double / 2, sigma), obs=y)


def by_hand(mu: float, sigma: float, *, prior: bool = True) -> float:
    """Log joint of `regression`, in NumPy."""
    likelihood = stats.norm.logpdf(Y.numpy(), mu, sigma).sum()
    priors = stats.norm.logpdf(mu, 0, 2) + stats.halfnorm.logpdf(sigma, scale=1.5)
    return likelihood + priors if prior else likelihood


@pytest.mark.parametrize("u", [[0.3, -0.7], [-2.0, 1.5], [4.0, -3.0]])
def test_log_density_is_the_joint_with_the_jacobian(u):
    program = Program(problem_from(regression, {"y": Y}))
    mu, sigma = u[0], np.exp(u[1])
    point = torch.tensor(u)
    expected = by_hand(mu, sigma)
    assert program.log_density(point).item() == pytest.approx(expected + u[1], rel=1e-10)
    constrained = program.log_density(point, jacobian=False).item()
    assert constrained == pytest.approx(expected, rel=1e-10)
    likelihood = program.log_density(point, jacobian=False, prior=False).item()
    assert likelihood == pytest.approx(by_hand(mu, sigma, prior=False), rel=1e-10)
    values = {"mu": torch.tensor(mu), "sigma": torch.tensor(sigma)}
    assert program.log_joint(values).item() == pytest.approx(expected, rel=1e-10)


def test_a_wrong_sign_of_the_jacobian_would_be_caught():
    program = Program(problem_from(regression, {"y": Y}))
    u = torch.tensor([0.3, -0.7])
    planted = 2 * program.log_density(u, jacobian=False) - program.log_density(u)
    assert planted.item() != pytest.approx(by_hand(0.3, np.exp(-0.7)) - 0.7, rel=1e-3)


def test_pointwise_log_likelihood_and_deterministics():
    program = Program(problem_from(regression, {"y": Y}))
    values = {"mu": torch.tensor([0.1, 0.9]), "sigma": torch.tensor([1.0, 2.0])}
    found = over_draws(program.log_likelihood, values)["y"]
    expected = stats.norm.logpdf(Y.numpy(), values["mu"][:, None], values["sigma"][:, None])
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert program.complete(values)["double"].tolist() == pytest.approx([0.2, 1.8])


def test_supports_may_depend_on_other_latents():
    def model():
        top = pyro.sample("top", dist.Uniform(1.0, 2.0))
        pyro.sample("inside", dist.Uniform(0.0, top))

    program = Program(problem_from(model))
    u = torch.tensor([0.4, -0.3])
    values = program.constrain(u)
    top, inside = values["top"].item(), values["inside"].item()
    assert 0 < inside < top
    s = stats.logistic.cdf([0.4, -0.3])
    assert (top, inside) == pytest.approx((1 + s[0], top * s[1]))
    jacobian = np.log(s * (1 - s)).sum() + np.log(top)
    expected = -np.log(top) + jacobian
    assert program.log_density(u).item() == pytest.approx(expected, rel=1e-10)


def test_priors_that_cannot_be_sampled_have_a_density_and_a_start():
    def model(y):
        b = pyro.sample("b", dist.ImproperUniform(constraints.real, (), (2,)))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(b.sum(), 1.0), obs=y)

    program = Program(problem_from(model, {"y": Y}))
    assert program.improper() == ["b"]
    assert program.start().shape == (2,)
    density = program.log_density(torch.tensor([0.2, 0.3])).item()
    assert density == pytest.approx(stats.norm.logpdf(Y.numpy(), 0.5, 1).sum())


def test_vectorised_and_looped_draws_agree_also_where_a_model_cannot_broadcast():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])

    def model(y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    program = Program(problem_from(model, {"y": Y}))
    draws = {"w": torch.randn(5, 2, generator=torch.Generator().manual_seed(0))}
    bulk = over_draws(program.log_joint, draws)
    single = torch.stack([program.log_joint({"w": w}) for w in draws["w"]])
    np.testing.assert_allclose(bulk, single, rtol=1e-12)

    def branching(values):
        return values["w"].sum() if values["w"][0] > 0 else values["w"].prod()

    looped = over_draws(branching, draws)
    assert looped.shape == (5,)


def test_integers_stay_and_become_floats_where_the_distribution_wants_them():
    def model(y, group, count, k):
        assert isinstance(k, int)
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0).expand([k]).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mu[group], 1.0), obs=y)
            pyro.sample("count", dist.Poisson(3.0), obs=count)

    group = torch.tensor([0, 1, 1])
    data = {"y": torch.tensor([1, 2, 3]), "group": group, "count": torch.tensor([1, 2, 3]), "k": 2}
    tensors = problem_from(model, data).tensors
    assert tensors["group"].dtype == torch.int64
    assert tensors["y"].dtype == tensors["count"].dtype == torch.float64


def test_an_integer_matrix_is_made_float_where_the_model_cannot_use_it():
    def model(x, y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    problem = problem_from(model, {"x": torch.tensor([[1, 2], [3, 4], [5, 6]]), "y": Y})
    assert problem.tensors["x"].dtype == torch.float64
    assert problem.rows == ("row", ("x", "y"))


def bernoulli(y):
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Bernoulli(p), obs=y)


@pytest.mark.parametrize(
    ("model", "y", "message"),
    [
        (bernoulli, [0.0, 2.0, 1.0], "y is 2 in row 2, outside the support of Bernoulli"),
        (regression, [[1.0], [2.0], [3.0]], r"shape \(3, 1\).*silently wrong"),
        (lambda y: pyro.sample("z", dist.Poisson(3.0)) and None, [1.0], "cannot be summed out"),
        (lambda y: y @ torch.ones(7), [1.0], r"cannot run on these data.*y \(1,\)"),
    ],
)
def test_data_that_would_be_silently_wrong_are_refused(model, y, message):
    with pytest.raises(Refused, match=message):
        problem_from(model, {"y": torch.tensor(y)})


def test_a_density_that_is_finite_nowhere_is_told():
    def model():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("never", x * float("nan"))

    with pytest.raises(Fault, match="none of 100 random starting points"):
        Program(problem_from(model)).start()


def test_whole_numbers_become_floats_only_where_needed():
    def model(x, g, y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        a = pyro.sample("a", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(a[g] + x @ w, 1.0), obs=y)

    data = {"x": torch.tensor([[1, 2], [3, 4], [5, 6]]), "g": torch.tensor([0, 2, 1]), "y": Y}
    tensors = problem_from(model, data).tensors
    assert tensors["x"].dtype == torch.float64
    assert tensors["g"].dtype == torch.int64


@pytest.mark.parametrize("y", [1.5, 2])
def test_a_single_observed_number_will_do(y):
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    assert Program(problem_from(model, {"y": y})).sites["y"].value.item() == y
