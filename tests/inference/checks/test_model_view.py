"""A model as a check looks at it: draws from the prior, lines, forbidden parameters."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import Y, regression

from inference.checks.checked import raised
from inference.checks.model_view import DRAWS, ModelView, _invalid
from inference.core.problem import Problem


def view_of(model, **tensors) -> ModelView:
    return ModelView(Problem(model=model, tensors=tensors), 0, None)


def test_draws_from_the_prior_are_packed_as_the_program_unpacks_them():
    view = view_of(regression, y=Y)
    assert len(view.draws) == DRAWS
    for draw in view.draws[:3]:
        u, values = draw.unconstrained(view.program), draw.values(view.program)
        assert u.shape == (2,)
        again = view.program.constrain(u)
        assert again["mu"].item() == pytest.approx(values["mu"].item(), rel=1e-12)
        assert again["sigma"].item() == pytest.approx(values["sigma"].item(), rel=1e-12)


def test_a_model_that_fails_at_some_draws_keeps_the_others():
    def model(y):
        mu = pyro.sample("mu", dist.Uniform(0.0, 1.0))
        if mu > 0.6:
            raise KeyError("lost")
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    view = view_of(model, y=1.0)
    view.program = type("Ready", (), {"model": model, "problem": view.raw})
    failed = [draw.error for draw in view.attempts if draw.error is not None]
    assert 0 < len(failed) < DRAWS and len(view.draws) == DRAWS - len(failed)
    line = raised("it fails", failed[0])
    assert line.what.startswith("it fails (KeyError: 'lost'), test_model_view.py, line ")


@pytest.mark.parametrize(
    ("family", "parameters", "parameter", "value"),
    [
        (dist.Normal, {"loc": 0.0, "scale": [1.0, -0.5]}, "scale", "-0.5, not > 0"),
        (dist.Bernoulli, {"probs": 1.5}, "probs", "1.5, not between 0 and 1"),
        (dist.Dirichlet, {"concentration": [0.5, -2.0]}, "concentration", "-2, not > 0"),
        (dist.Normal, {"loc": float("nan"), "scale": 1.0}, "loc", "nan, not real"),
        (dist.Normal, {"loc": 0.0, "scale": 1.0}, None, None),
        (dist.Bernoulli, {"logits": 3.0}, None, None),
    ],
)
def test_forbidden_parameters_are_told_with_what_they_may_be(family, parameters, parameter, value):
    given = {name: torch.tensor(numbers) for name, numbers in parameters.items()}
    told = _invalid("s", family(**given, validate_args=False))
    named = ("s", f"{parameter} of s ~ {family.__name__}", value)
    assert told == (named if parameter else None)


def test_a_distribution_of_the_users_that_states_nothing_is_no_cross():
    class Kernel(dist.TorchDistribution):
        def __init__(self, loc):
            self.loc = loc
            super().__init__(loc.shape, validate_args=False)

        def log_prob(self, value):
            return -torch.log1p((value - self.loc) ** 2)

    def model(y):
        loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
        pyro.sample("y", Kernel(loc.expand(len(y))).to_event(1), obs=y)

    assert len(view_of(model, y=Y).draws) == DRAWS
