"""Program: densities against NumPy, supports that depend on latents, draws in bulk, tracing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import Y, problem_from, regression
from pyro.distributions import constraints
from pyro.nn import PyroModule
from scipy import stats
from torch import nn

from inference.program.program import Program, over_draws
from models.contract import Fault


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


def test_a_density_that_is_finite_nowhere_is_told():
    def model():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("never", x * float("nan"))

    with pytest.raises(Fault, match="none of 100 random starting points"):
        Program(problem_from(model)).start()


class _Decoder(PyroModule):
    """A model of Pyro's own kind with a layer of torch's."""

    def __init__(self, layer):
        super().__init__()
        self.layer = PyroModule[nn.Linear](1, 1)
        self.layer.load_state_dict(layer.state_dict())

    def forward(self, y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(self.layer(z.reshape(1)), 1.0), obs=y)


@pytest.mark.parametrize("kind", ["pyro.module", "PyroModule"])
def test_fitted_parameters_reach_the_modules_of_a_model(kind):
    """Pyro's statements name a module's parameters, but the module looks at its own tensors."""
    layer = nn.Linear(1, 1).double()

    def model(y):
        net = pyro.module("layer", layer)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(net(z.reshape(1)), 1.0), obs=y)

    mark, made = (".", _Decoder(layer).double()) if kind == "PyroModule" else ("$$$", model)
    params = {f"layer{mark}weight": torch.tensor([[2.0]]), f"layer{mark}bias": torch.tensor([0.5])}
    problem = replace(problem_from(model, {"y": Y}), model=made, params=params)
    found = Program(problem).log_joint({"z": torch.tensor(0.3)}).item()
    truth = stats.norm.logpdf(0.3) + stats.norm.logpdf(Y.numpy(), 2 * 0.3 + 0.5).sum()
    assert found == pytest.approx(truth, rel=1e-10)


def test_a_model_may_differentiate_something_itself():
    def slope(y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        at = torch.tensor(2.0, requires_grad=True)
        (slope,) = torch.autograd.grad(at**2, at, create_graph=True)
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(w * slope, 1.0), obs=y)

    program = Program(problem_from(slope, {"y": torch.zeros(3)}))
    assert program.size == 1 and not program.sites["y"].value.requires_grad
