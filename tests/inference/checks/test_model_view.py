"""A model as a check looks at it: draws from the prior, lines, forbidden parameters."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import Y, regression

from inference.checks.model_view import DRAWS, Case, _invalid, from_error, listed
from inference.core.problem import Problem
from models.contract import Refused


def case_of(model, **tensors) -> Case:
    return Case(Problem(model=model, tensors=tensors), 0, None)


def test_draws_from_the_prior_are_packed_as_the_program_unpacks_them():
    case = case_of(regression, y=Y)
    assert len(case.draws) == DRAWS
    for draw in case.draws[:3]:
        u, values = draw.unconstrained(case.program), draw.values(case.program)
        assert u.shape == (2,)
        again = case.program.constrain(u)
        assert again["mu"].item() == pytest.approx(values["mu"].item(), rel=1e-12)
        assert again["sigma"].item() == pytest.approx(values["sigma"].item(), rel=1e-12)


def test_a_model_that_fails_at_some_draws_keeps_the_others():
    def model(y):
        mu = pyro.sample("mu", dist.Uniform(0.0, 1.0))
        if mu > 0.6:
            raise KeyError("lost")
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    case = case_of(model, y=1.0)
    case.program = type("Ready", (), {"model": model, "problem": case.raw})
    failed = [draw.error for draw in case.attempts if draw.error is not None]
    assert 0 < len(failed) < DRAWS and len(case.draws) == DRAWS - len(failed)
    cross = from_error("it fails", failed[0])
    assert cross.what.startswith("it fails (KeyError: 'lost'), test_case.py, line ")


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


def test_a_refusal_speaks_for_itself():
    check = from_error("unused", Refused("y is empty, d.json; give at least one row"))
    assert (check.ok, check.what, check.mend) == (
        False,
        "y is empty, d.json",
        "give at least one row",
    )
    assert str(check) == "y is empty, d.json; give at least one row"


def test_long_lists_of_names_are_cut():
    assert listed(["a", "b", "c"]) == "a, b, c"
    assert listed(list("abcde")) == "a, b, c (and 2 more)"


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

    assert len(case_of(model, y=Y).draws) == DRAWS
