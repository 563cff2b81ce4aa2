"""Draws of guides: their density, those that are all alike, and what completes them."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from conftest import problem_from
from scipy import stats
from test_svi import DATA, mixture

from inference.core.problem import Guide
from inference.methods.draws import all_draws, draw, draw_one, draws_labels, one_chain
from inference.program.handlers import Batch
from inference.program.program import Program


def rows(y):
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def guide(y):
    with pyro.plate("row", len(y)):
        pyro.sample("z", dist.Normal(y, 0.5))


Y = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
ROWS = {"y": Y}


def test_the_density_of_a_draw_is_scipys_and_that_of_a_batch_weighs_more():
    program = Program(problem_from(rows, ROWS))
    values, log_q = draw(program, guide, 50)
    assert values["z"].shape == (50, 3)
    expected = stats.norm.logpdf(values["z"], Y, 0.5).sum(1)
    torch.testing.assert_close(log_q, torch.as_tensor(expected))
    batch = Batch.of(program.problem, {"y": Y[:1]})
    values, log_q = draw_one(program, guide, batch)
    assert abs(float(log_q) - 3 * stats.norm.logpdf(values["z"].item(), 1.0, 0.5)) < 1e-9


def test_a_guide_that_gives_the_same_each_time_has_one_draw():
    def point(y):
        with pyro.plate("row", len(y)):
            pyro.sample("z", dist.Delta(2 * y))

    def jittered(y):
        with pyro.plate("row", len(y)):
            pyro.sample("z", dist.Delta(y + torch.randn(len(y))))

    program = Program(problem_from(rows, ROWS))
    assert torch.equal(all_draws(program, Guide(point), 0)["z"], 2 * Y[None])
    assert all_draws(program, Guide(jittered), 0) is None
    assert all_draws(program, Guide(guide), 0) is None


def test_a_mixture_over_labels_of_the_guides_own_is_seen():
    def mixed(y):
        label = pyro.sample("which", dist.Bernoulli(0.5), infer={"is_auxiliary": True})
        with pyro.plate("row", len(y)):
            pyro.sample("z", dist.Normal(label, 1.0))

    program = Program(problem_from(rows, ROWS))
    assert draws_labels(program, Guide(mixed), 0)
    assert not draws_labels(program, Guide(guide), 0)


def test_discrete_latents_of_a_chain_are_those_of_the_seed():
    program = Program(problem_from(mixture, {"y": DATA["y"]}))
    values = {"loc": torch.tensor([[-1.0, 1.0]]).expand(40, 2)}
    first, again, other = (one_chain(program, values, seed) for seed in (0, 0, 1))
    assert first["label"].shape == (1, 40, len(DATA["y"]))
    assert torch.equal(first["label"], again["label"])
    assert not torch.equal(first["label"], other["label"])
