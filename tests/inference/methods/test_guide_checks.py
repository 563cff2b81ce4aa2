"""Guides that do not fit their models."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import QUIET, problem_from
from test_svi import DATA, regression

from inference.methods.svi import svi
from inference.program.program import Program
from models.contract import Refused


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (lambda x, y: pyro.param("a", torch.zeros(1)) and None, "no site 'w'"),
        (
            lambda x, y: pyro.sample("w", dist.Normal(pyro.param("a", torch.zeros(3)), 1.0)),
            r"has shape \(3,\), the model's \(2,\)",
        ),
        (
            lambda x, y: pyro.sample("w", dist.Normal(torch.zeros(2), 1.0)),
            "no parameters to learn",
        ),
    ],
)
def test_a_guide_that_does_not_fit_the_model_is_told(guide, message):
    with pytest.raises(Refused, match=message):
        svi(Program(problem_from(regression, DATA)), seed=0, context=QUIET, guide=guide)


def test_a_guide_with_plates_is_welcome_and_one_with_a_summed_latent_is_not():
    def model(y):
        with pyro.plate("row", len(y)):
            m = pyro.sample("m", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    def guide(y):
        loc = pyro.param("loc", torch.zeros(len(y)))
        with pyro.plate("row", len(y)):
            pyro.sample("m", dist.Normal(loc, 0.7))

    y = torch.tensor([1.0, -2.0])
    fit = svi(Program(problem_from(model, {"y": y})), seed=0, context=QUIET, guide=guide, draws=50)
    assert fit.params["loc"].tolist() == pytest.approx([0.5, -1.0], abs=0.05)

    def labelled(y):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(m + z, 1.0), obs=y)

    def both(y):
        pyro.sample("z", dist.Bernoulli(pyro.param("p", torch.tensor(0.5))))
        pyro.sample("m", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    problem = problem_from(labelled, {"y": torch.tensor(1.0)})
    with pytest.raises(Refused, match="'z' is discrete and summed out"):
        svi(Program(problem), seed=0, context=QUIET, guide=both)
