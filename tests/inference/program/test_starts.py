"""Starting points: found where the density is finite, and refused where it is nowhere."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import Y, problem_from
from pyro.distributions import constraints
from scipy import stats

from inference.program.program import Program
from models.contract import Fault, Refused


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
