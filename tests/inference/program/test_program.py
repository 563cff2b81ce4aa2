"""Program: densities against NumPy, supports that depend on latents, draws in bulk, tracing."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import Y, problem_from, regression
from pyro.distributions import constraints
from scipy import stats

from inference.program.program import Program
from inference.program.sampling import over_draws
from models.contract import Fault, Refused


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


# -- starts ------------------------------------------------------------------------------------


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


def test_a_density_that_is_finite_nowhere_is_told():
    def model():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("never", x * float("nan"))

    with pytest.raises(Fault, match="none of 100 random starting points"):
        Program(problem_from(model)).start()


def test_a_search_brings_observations_inside_where_no_draw_does():
    def model(y):
        top = pyro.sample("top", dist.LogNormal(0.0, 1.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("row", len(y)):  # an edge of two latents together: no bound of one
            pyro.sample("y", dist.Uniform(0.0, top * scale), obs=y)

    program = Program(problem_from(model, {"y": torch.tensor([1.0, 3e7])}))
    torch.manual_seed(0)
    values = program.constrain(program.start())
    assert values["top"] * values["scale"] >= 3e7


def test_an_observation_that_nothing_allows_is_named():
    def model(y):
        share = pyro.sample("share", dist.Beta(1.0, 1.0))
        half = pyro.sample("half", dist.Beta(1.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Uniform(0.0, share * half), obs=y)

    program = Program(problem_from(model, {"y": torch.tensor([0.1, 2.0])}))
    with pytest.raises(Refused, match=r"y is 2 in row 2, outside .* at every starting point"):
        program.start()
