"""The shared guides: sizes, discrete latents left to the sum, improper priors."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import problem_from
from pyro.distributions import constraints

import inference
from inference import guides
from inference._problem import Refused
from inference.program import Program, run


def model(y):
    w = pyro.sample("w", dist.ImproperUniform(constraints.real, (), (2,)))
    s = pyro.sample("s", dist.HalfNormal(1.0))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        pyro.sample("y", dist.Normal(w[0] + z * w[1], s), obs=y)


@pytest.mark.parametrize(("name", "parameters"), [("normal", 6), ("mvn", 3 + 3 + 9)])
def test_sites_and_parameters(name, parameters):
    program = Program(problem_from(model, {"y": torch.zeros(4)}))
    with pyro.get_param_store().scope() as store:
        pyro.clear_param_store()
        trace = run(guides.GUIDES[name](program).guide, program.problem.tensors)
        assert "z" not in trace.nodes
        assert trace.nodes["w"]["value"].shape == (2,)
        assert trace.nodes["s"]["value"] > 0
        assert sum(p.numel() for p in pyro.get_param_store().values()) == parameters
        assert store is not None


def test_each_has_a_line_and_a_model_without_latents_none():
    assert inference.guide_titles().keys() == guides.GUIDES.keys()
    assert all(inference.guide_titles().values())
    empty = Program(
        problem_from(
            lambda y: pyro.sample("y", dist.Normal(0.0, 1.0), obs=y) and None,
            {"y": torch.tensor(1.0)},
        )
    )
    with pytest.raises(Refused, match="no continuous latent"):
        guides.normal(empty)
