"""A run's density is proved before it is used: random ones and wrong gradients are refused."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import run_case
from conftest import problem_from, problem_of

from inference.checks import proofs
from inference.core import machine
from inference.core.problem import Context
from inference.methods import nuts
from inference.program.program import Program
from models.contract import Fault, Refused

Y = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def jittered(y):
    """Of a random number that is no sample site."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu + 0.1 * torch.randn(()), 1.0), obs=y)


def cut(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, sigma.detach()), obs=y)


def in_numpy(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    loc = torch.as_tensor(2 * mu.detach().numpy()) + 0 * mu
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(loc, 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (jittered, r"the log density is another each time"),
        (cut, r"the gradient of the log density in sigma is"),
        (in_numpy, r"the gradient of the log density in mu is"),
    ],
)
def test_what_no_sampler_can_see_is_refused(model, message):
    with pytest.raises(Refused, match=message):
        proofs.prove(Program(problem_from(model, {"y": Y})))


@pytest.mark.parametrize("name", ["coin", "gaussian", "linear", "logistic", "heteroscedastic"])
def test_the_models_of_the_zoo_are_proved(name):
    proofs.prove(Program(problem_of(name)))


def test_poles_and_kinks_are_no_wrong_gradient():
    def model(y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([4000]).to_event(1))
        pyro.factor("pole", -w.abs().log().sum())
        pyro.sample("y", dist.Normal(w.relu().mean(), 1.0).expand([3]).to_event(1), obs=y)

    with machine.numbers("float32"):
        program = Program(problem_from(model, {"y": Y.float()}))
        for seed in range(20):
            torch.manual_seed(seed)
            assert proofs._has_right_slope(program, torch.randn(4000)), seed


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("subsample", r"the plate n takes 10 of 100 rows at random.*line 7; leave subsample_size"),
        ("lost_gradient", r"gradient of the log density in a is .*line 7; take no .*torch.tensor"),
    ],
)
@pytest.mark.parametrize("method", ["nuts", "map", "svi"])
def test_cases(case, message, method):
    with pytest.raises(Refused, match=message):
        run_case(case, method)


def test_a_sampler_whose_steps_vanish_stops_and_says_so():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("n", len(y), subsample_size=10) as rows:
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y[rows])

    problem = problem_from(model, {"y": torch.linspace(-3, 5, 100)})
    with pytest.raises(Fault, match="the sampler's steps vanish"):
        nuts.nuts(Program(problem), seed=0, context=Context(), chains=1, max_tree_depth=7)
