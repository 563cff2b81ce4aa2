"""The objective of a step: Pyro's own gradient, scores, objectives of a guide's own."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import QUIET, problem_from
from pyro.contrib.zuko import ZukoToPyro
from test_svi import DATA, MEAN, regression
from zuko.flows import NSF

from inference.core.problem import Guide
from inference.methods.ascent import AscentSettings
from inference.methods.objective import gradient_of, is_reparameterised
from inference.methods.resolve import resolve
from inference.methods.svi import svi
from inference.program.graphs import Recorded
from inference.program.handlers import run
from inference.program.program import Program

SPLINE = NSF(2, transforms=1, hidden_features=[8]).double()


def test_an_objective_of_the_guide_replaces_the_elbo():
    def point(x, y):
        loc = pyro.param("loc", torch.zeros(2))
        pyro.sample("w", dist.Delta(loc).to_event(1))

    def log_joint(model, guide, batch):
        trace = pyro.poutine.trace(guide).get_trace(**batch)
        return (
            pyro.poutine.trace(pyro.poutine.replay(model, trace)).get_trace(**batch).log_prob_sum()
        )

    fit = svi(
        Program(problem_from(regression, DATA)),
        seed=0,
        context=QUIET,
        guide=Guide(point, log_joint),
    )
    np.testing.assert_allclose(fit.params["loc"], MEAN, atol=1e-3)
    assert fit.kind == "point" and fit.draws["w"].shape == (1, 1, 2)


def test_a_guide_without_reparameterisation_is_trained_by_its_score():
    class Fixed(dist.Normal):
        has_rsample = False

        def rsample(self, sample_shape=()):
            raise NotImplementedError

    def model():
        pyro.sample("z", dist.Normal(2.0, 1.0))

    def guide():
        loc = pyro.param("loc", torch.tensor(0.0))
        pyro.sample("z", Fixed(loc, 1.0))

    fit = svi(Program(problem_from(model)), seed=0, context=QUIET, guide=guide, window=20)
    assert fit.params["loc"].item() == pytest.approx(2.0, abs=0.2)


def test_a_plate_in_a_guide_does_not_make_it_score():
    def guide(y):
        with pyro.plate("row", len(y)):
            pyro.sample("z", dist.Normal(y, 1.0))

    assert is_reparameterised(run(guide, {"y": DATA["y"]}))


def flow(x, y):
    """A spline flow of zuko's."""
    pyro.module("flow", SPLINE)
    pyro.sample("w", ZukoToPyro(SPLINE()))


@pytest.mark.parametrize("guide", ["normal", "mvn", "flow"])
def test_a_step_is_traced_and_is_pyros(guide):
    guide = Guide(flow) if guide == "flow" else guide
    program = Program(problem_from(regression, DATA))
    steps = {}
    for how in ("plain", "traced"):
        with pyro.get_param_store().scope():
            torch.manual_seed(0)
            chosen = resolve(guide, program)
            gradient, _ = gradient_of(
                program, chosen, AscentSettings(1, particles=8, compile=how), [[]]
            )
            assert isinstance(gradient, Recorded) == (how == "traced")
            torch.manual_seed(1)
            steps[how] = gradient()
    for ours, theirs in zip(steps["traced"], steps["plain"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
