"""Parameters: constraints, modules, one vector of which they are views."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import QUIET, problem_from
from pyro.distributions import constraints
from pyro.nn import PyroModule
from test_svi import DATA, regression

from inference.methods.parameters import flatten, set_values, store, unconstrained
from inference.methods.svi import svi
from inference.program.program import Program

POSITIVE = constraints.positive


def test_parameters_with_constraints_stay_inside():
    def guide(x, y):
        scale = pyro.param("scale", torch.ones(2), constraints.positive)
        pyro.sample("w", dist.Normal(torch.zeros(2), scale).to_event(1))

    fit = svi(
        Program(problem_from(regression, DATA)), seed=0, context=QUIET, guide=guide, draws=10
    )
    assert (fit.params["scale"] > 0).all()


def test_a_guide_that_is_a_module_is_in_training_only_while_it_is_trained():
    class Dropped(PyroModule):
        def __init__(self):
            super().__init__()
            self.modes = []

        def forward(self, x, y):
            self.modes.append(self.training)
            loc = pyro.param("loc", torch.zeros(2))
            pyro.sample("w", dist.Normal(loc, 0.1).to_event(1))

    guide = Dropped()
    svi(
        Program(problem_from(regression, DATA)),
        seed=0,
        context=QUIET,
        guide=guide,
        steps=200,
        draws=10,
    )
    trained = guide.modes.index(False)
    assert trained > 0 and not any(guide.modes[trained:])
    assert guide.training  # as it was given


def test_parameters_are_views_of_one_vector_until_the_store_ends():
    own = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    with store():
        asked = pyro.poutine.trace(
            lambda: (pyro.param("own", own), pyro.param("scale", torch.tensor(3.0), POSITIVE)),
            param_only=True,
        ).get_trace()
        params = unconstrained(asked)
        flat = flatten(params, None)
        torch.testing.assert_close(flat, torch.tensor([1.0, 2.0, np.log(3.0)]))
        flat += 1
        assert own.tolist() == [2.0, 3.0]
        set_values({"scale": torch.tensor(5.0), "own": torch.zeros(7)})  # of another shape
        assert pyro.param("scale").item() == pytest.approx(5.0)
    assert own.tolist() == [1.0, 2.0] and len(pyro.get_param_store()) == 0
