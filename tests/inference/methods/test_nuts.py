"""NUTS: against the truth and Pyro's own; seeds by chain; faults."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import QUIET, problem_from, problem_of
from pyro.infer import MCMC, NUTS
from scipy import stats

import inference.program.program
import zoo
from inference.methods.nuts import nuts
from inference.program.program import Program
from inference.results.groups import to_inference_data
from inference.results.inference_data import summary
from models.contract import Fault, Refused


def z_scores(problem, truth, seed=0, **settings):
    """(mean - truth) / MCSE, and the same of the sd, of one scalar; the fit's summary row."""
    fit = nuts(Program(problem), seed=seed, context=QUIET, **settings)
    row = summary(to_inference_data(Program(problem), fit, seed=0, prior_draws=0)).iloc[0]
    assert row["ess_bulk"] > 200
    z_mean = (row["mean"] - truth.mean()) / row["mcse_mean"]
    return z_mean, (row["sd"] - truth.std()) / row["mcse_sd"]


def test_a_beta_posterior_is_found():
    z = z_scores(problem_of("coin", "HHHT"), stats.beta(4, 2), chains=2, draws=1000)
    assert np.abs(z).max() < 5


def test_pyros_sampler_finds_the_same_posterior_of_our_density():
    program = Program(problem_of("coin", "HHHT"))
    torch.manual_seed(0)
    kernel = NUTS(potential_fn=lambda at: -program.log_density(at["u"]))
    start = {"u": program.start()}
    chain = MCMC(kernel, 800, 200, initial_params=start, disable_progbar=True)
    chain.run()
    theirs = chain.get_samples()["u"].sigmoid()[:, 0].numpy()
    ours = nuts(program, seed=0, context=QUIET, chains=2).draws["pi"].flatten().numpy()
    for draws in (theirs, ours):
        # Of NUTS draws some two in three are effective here.
        assert abs(draws.mean() - 4 / 6) < 5 * draws.std() / (len(draws) / 3) ** 0.5


def test_a_wrong_sign_of_the_jacobian_is_caught(monkeypatch):
    right = inference.program.program.Program._log_density

    def wrong(self, parts, jacobian, prior):
        return 2 * right(self, parts, False, prior) - right(self, parts, True, prior)

    monkeypatch.setattr(inference.program.program.Program, "_log_density", wrong)
    # The wrong sign samples Beta(3, 3) in place of Beta(5, 5).
    z = z_scores(problem_of("coin", "HHHHTTTT"), stats.beta(5, 5), chains=2)
    assert np.abs(z).max() > 5


def test_sds_that_are_a_fifth_too_small_are_caught():
    class Narrow:
        mean, std = stats.beta(4, 2).mean, lambda self: 0.8 * stats.beta(4, 2).std()

    z = z_scores(problem_of("coin", "HHHT"), Narrow(), chains=2)
    assert abs(z[1]) > 5


def test_draws_depend_on_seed_and_chain_alone():
    problem = problem_of("gaussian")
    few = nuts(Program(problem), seed=5, context=QUIET, chains=2, draws=20, warmup=50)
    more = nuts(Program(problem), seed=5, context=QUIET, chains=3, draws=20, warmup=50)
    next_seed = nuts(Program(problem), seed=6, context=QUIET, chains=2, draws=20, warmup=50)
    assert torch.equal(few.draws["x"], more.draws["x"][:2])
    # No chain of one seed is a chain of another.
    for ours in more.draws["x"]:
        assert not any(torch.equal(ours, theirs) for theirs in next_seed.draws["x"])


def test_statistics_of_each_draw_are_kept():
    fit = nuts(Program(problem_of("coin")), seed=0, context=QUIET, chains=2, draws=10, warmup=20)
    assert {"diverging", "energy", "lp", "step_size"} <= fit.stats.keys()
    assert all(value.shape == (2, 10) for value in fit.stats.values())
    assert (fit.stats["energy"] >= -fit.stats["lp"] - 1e-6).sum() > 10


def test_divergences_of_a_funnel_are_counted():
    def funnel():
        width = pyro.sample("width", dist.Normal(0.0, 3.0))
        pyro.sample("x", dist.Normal(0.0, (width / 2).exp()).expand([9]).to_event(1))

    settings = {"chains": 2, "draws": 300, "target_accept": 0.7}
    fit = nuts(Program(problem_from(funnel)), seed=0, context=QUIET, **settings)
    assert fit.stats["diverging"].sum() > 0


def test_a_start_where_the_density_is_flat_does_not_stop_the_sampler():
    """Biases of a network that begin at the mode of their prior, and whose units are off."""

    def model(y):
        bias = pyro.sample("bias", dist.Normal(0.0, 1.0))
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(slope * torch.relu(bias - 5.0), 1.0), obs=y)

    problem = problem_from(model, {"y": torch.tensor(0.5)})
    flat = replace(problem, start=lambda name, shape: torch.zeros(shape))
    fit = nuts(Program(flat), seed=0, context=QUIET, chains=1, draws=200, warmup=200)
    assert fit.draws["bias"].std() > 0.5


def test_no_continuous_latent_is_refused_and_no_start_is_told():
    def coin(y):
        fair = pyro.sample("fair", dist.Bernoulli(0.5))
        pyro.sample("y", dist.Bernoulli(0.5 + 0.4 * fair), obs=y)

    with pytest.raises(Refused, match="needs a continuous latent"):
        nuts(Program(problem_from(coin, {"y": torch.tensor(1.0)})), seed=0, context=QUIET)

    def nowhere():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("never", x * float("nan"))

    with pytest.raises(Fault, match="starting points"):
        nuts(Program(problem_from(nowhere)), seed=0, context=QUIET)


@pytest.mark.parametrize("how", ["native", "traced", "plain"])
def test_every_way_of_running_the_density_samples_the_posterior(how):
    settings = {"chains": 2, "draws": 500, "compile": how}
    z = z_scores(problem_of("coin", "HHHT"), stats.beta(4, 2), **settings)
    assert np.abs(z).max() < 5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_on_the_gpu_the_posterior_is_the_same():
    run = zoo.run("coin", method="nuts", data="HHHT", device="cuda", chains=2, draws=500)
    row = run.summary().iloc[0]
    assert abs(row["mean"] - 4 / 6) < 5 * row["mcse_mean"]
