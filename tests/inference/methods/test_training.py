"""Training: rows of a step, its objective and gradient, parameters, fits on batches."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import QUIET, problem_from
from conftest import regression as of_rows
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions import constraints
from pyro.nn import PyroModule
from test_svi import DATA, MEAN, PRECISION, mixture, regression
from zuko.flows import NSF

from inference.core.problem import Guide
from inference.methods.ascent import AscentSettings
from inference.methods.guides import resolve
from inference.methods.svi import svi
from inference.methods.training import (
    batch_of,
    batches,
    flatten,
    gradient_of,
    is_reparameterised,
    set_values,
    store,
    unconstrained,
)
from inference.program.graphs import Recorded
from inference.program.handlers import run
from inference.program.program import Program
from models.contract import Refused


def test_a_fit_on_batches_finds_the_posterior():
    problem = problem_from(regression, DATA)
    fit = svi(Program(problem), seed=0, context=QUIET, guide="mvn", batch_size=5)
    sd = np.sqrt(np.diag(np.linalg.inv(PRECISION)))
    assert np.abs(fit.draws["w"][0].mean(0).numpy() - MEAN).max() < 0.3 * sd.max()
    np.testing.assert_allclose(fit.draws["w"][0].std(0), sd, rtol=0.2)


def test_latents_of_the_rows_need_an_encoder_for_batches():
    def model(y):
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    def encoder(y):
        slope = pyro.param("slope", torch.tensor(0.1))
        scale = pyro.param("scale", torch.tensor(1.0), constraints.positive)
        with pyro.plate("row", len(y)):
            pyro.sample("z", dist.Normal(slope * y, scale))

    problem = problem_from(model, {"y": DATA["y"]})
    with pytest.raises(Refused, match="latent of each row"):
        svi(Program(problem), seed=0, context=QUIET, batch_size=5)
    fit = svi(Program(problem), seed=0, context=QUIET, guide=encoder, batch_size=5)
    assert fit.params["slope"].item() == pytest.approx(0.5, abs=0.02)
    assert fit.params["scale"].item() == pytest.approx(0.5**0.5, rel=0.03)


def test_a_batch_of_all_rows_or_more_is_all_rows():
    problem = problem_from(regression, DATA)
    short = {"steps": 20, "draws": 5, "seed": 0, "context": QUIET}
    fits = [svi(Program(problem), batch_size=size, **short) for size in (None, 25, 26, 10**6)]
    for fit in fits[1:]:
        assert torch.equal(fit.trace, fits[0].trace)
        assert torch.equal(fit.draws["w"], fits[0].draws["w"])


# -- the rows of a step ------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "of_pass"), [(5, 4), (6, 3), (20, 1)])
def test_a_pass_has_each_row_once_and_the_last_few_wait(size, of_pass):
    problem = problem_from(of_rows, {"y": torch.arange(20.0)})
    torch.manual_seed(0)
    parts = batches(problem, size)
    passes = [torch.cat([next(parts)[0] for _ in range(of_pass)]) for _ in range(2)]
    for rows in passes:
        assert len(rows.unique()) == len(rows) == size * of_pass
    assert not torch.equal(*passes)


def test_all_rows_are_no_batch_and_data_without_rows_have_none():
    problem = problem_from(of_rows, {"y": torch.arange(20.0)})
    assert next(batches(problem, None)) == []

    def alone(y):
        return of_rows(y[None])

    with pytest.raises(Refused, match="no rows to take batches of; leave batch_size out"):
        next(batches(problem_from(alone, {"y": torch.tensor(1.0)}), 5))


@pytest.mark.parametrize("model", [regression, mixture])
def test_batches_stand_for_all_rows_on_average(model):
    problem = problem_from(model, DATA if model is regression else {"y": DATA["y"]})
    program = Program(problem)
    values = {site.name: torch.ones(site.shape) for site in program.of("latent")}
    rows = [problem.tensors[key] for key in problem.rows[1]]
    parts = [batch_of(problem, [t[i : i + 5] for t in rows]) for i in range(0, 25, 5)]
    mean = torch.stack([program.log_joint(values, part) for part in parts]).mean()
    assert mean.item() == pytest.approx(program.log_joint(values).item(), rel=1e-12)


# -- the objective of a step -------------------------------------------------------------------


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


# -- parameters --------------------------------------------------------------------------------


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
