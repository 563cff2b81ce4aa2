"""What an encoder makes of rows: evidence against closed forms and quadrature, errors, groups."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import QUIET, problem_from, problem_of
from scipy import special, stats
from test_row_latents import X, coded, encoder, log_evidence, shared_scale

from inference.methods.svi import svi
from inference.methods.training import trained_guide
from inference.program.program import Program
from inference.rows import importance
from models.contract import Refused


def evidence_of(draws, seed=0, rows=X, guide=encoder):
    program = Program(problem_from(coded, {"x": X}))
    guide(rows)  # parameters are made outside of what is vectorised
    return importance.evidence(program, guide, {"x": rows}, draws, seed=seed)


def test_evidence_against_the_closed_form():
    found = evidence_of(100_000)
    truth = log_evidence(X.numpy())
    assert (np.abs(found.log_p - truth) < 4 * found.error).all()
    assert (found.error < 0.02).all()
    loc, scale = 1.5 * X.sum(1).numpy() / 5.5, 5.5**-0.5  # of the posterior
    of_guide = stats.norm(0.3 * X.sum(1).numpy(), 0.5)
    z = of_guide.rvs((400_000, 3), random_state=1)
    gap = (of_guide.logpdf(z) - stats.norm.logpdf(z, loc, scale)).mean(0)
    np.testing.assert_allclose(truth - found.elbo, gap, atol=0.02)
    np.testing.assert_allclose(found.means["z"], 0.3 * X.sum(1), atol=0.01)


def test_errors_are_what_repetition_shows():
    found = evidence_of(200, rows=X.repeat(300, 1))
    spread = found.log_p.reshape(300, 3).std(0)
    told = found.error.reshape(300, 3).mean(0)
    np.testing.assert_allclose(told, spread, rtol=0.25)


def test_rows_in_batches_are_as_many(monkeypatch):
    monkeypatch.setattr(importance, "_BATCH", 3)
    rows, done = torch.cat([X, X, X[:1]]), []
    program = Program(problem_from(coded, {"x": X}))
    encoder(rows)
    found = importance.evidence(program, encoder, {"x": rows}, 5000, seed=0, report=done.append)
    assert done == sorted(done) and done[-1] == 7
    assert found.log_p.shape == (7,)
    np.testing.assert_allclose(found.log_p[:3], log_evidence(X.numpy()), atol=0.2)


def test_draws_depend_on_the_seed_alone(monkeypatch):
    rows, found = X.repeat(100, 1), []
    for cores in (1, 3):
        monkeypatch.setattr(importance, "cores", lambda cores=cores: cores)
        found.append(evidence_of(100, rows=rows))
    np.testing.assert_array_equal(found[0].log_p, found[1].log_p)
    assert (found[0].log_p[:3] != found[0].log_p[102:105]).all()
    assert (evidence_of(100, seed=1, rows=rows).log_p != found[0].log_p).all()


def test_a_stop_ends_all_processes(monkeypatch):
    def stop(_):
        os.kill(os.getpid(), signal.SIGINT)

    program = Program(problem_from(coded, {"x": X}))
    encoder(X)
    with pytest.raises(KeyboardInterrupt):
        importance.evidence(program, encoder, {"x": X.repeat(100, 1)}, 10**6, seed=0, report=stop)
    assert not multiprocessing.active_children()


def test_evidence_of_a_decoder_against_quadrature():
    """A code of one number: the integral over it by the trapezoidal rule."""
    problem = problem_of("vae", n=50, latent=1, hidden="10")
    fit = svi(
        Program(problem),
        seed=0,
        context=QUIET,
        guide="own",
        steps=2000,
        batch_size=25,
        lr=3e-3,
        schedule="linear",
        particles=1,
        draws=2,
        rows=5,
    )
    z = np.linspace(-8, 8, 4001)
    p = {name: value.numpy() for name, value in fit.params.items()}
    h = np.tanh(z[:, None] @ p["decoder.0.weight"].T + p["decoder.0.bias"])
    logits = h @ p["decoder.x.weight"].T + p["decoder.x.bias"]
    x = problem.test["x"][:300].numpy()
    log_joint = x @ logits.T + special.log_expit(-logits).sum(1) + stats.norm.logpdf(z)
    truth = special.logsumexp(log_joint, axis=1) + np.log(z[1] - z[0])
    program = Program(replace(problem, params=fit.params))
    with trained_guide(program, "own") as guide:
        rows = {"x": problem.test["x"][:300]}
        found = importance.evidence(program, guide, rows, 5000, seed=0)
    assert abs(found.log_p.mean() - truth.mean()) < 0.01
    assert (found.elbo < truth).all()
    assert (np.abs(found.log_p - truth) < 5 * found.error + 1e-3).all()


@pytest.mark.parametrize("guide", ["own", "flow"])
def test_a_guide_with_learned_parameters_is_the_one_that_learned_them(guide):
    problem = problem_of("vae", n=30, latent=2, hidden="8")
    fit = svi(
        Program(problem), seed=0, context=QUIET, guide=guide, steps=30, draws=1000, particles=1
    )
    params = {name: value.clone() for name, value in fit.params.items()}
    fresh = problem_of("vae", n=30, latent=2, hidden="8")
    program = Program(replace(fresh, params=params))
    with trained_guide(program, guide) as trained:
        found = importance.evidence(program, trained, {"x": problem.tensors["x"]}, 1000, seed=0)
    np.testing.assert_allclose(found.means["z"], fit.draws["z"][0].mean(0), atol=0.25)
    elbo = fit.log_ratios.mean(0)
    error = fit.log_ratios.std(0) / 1000**0.5
    assert (abs(found.elbo - elbo.numpy()) < 6 * error.numpy() + 1e-3).all()
    assert len(pyro.get_param_store()) == 0


def test_rows_beside_those_held_out_are_told_apart():
    problem = problem_of("vae", n=60, latent=2, hidden="8")
    noise = {"x": (torch.rand(40, 64, generator=torch.Generator().manual_seed(1)) > 0.5).double()}
    problem = replace(problem, beside={"coins": noise})
    fit = svi(
        Program(problem),
        seed=0,
        context=QUIET,
        guide="own",
        steps=300,
        lr=3e-3,
        draws=2,
        particles=1,
    )
    program = Program(replace(problem, params=fit.params))
    with trained_guide(program, "own") as guide:
        found = importance.scored(program, guide, 0)
    assert found.metrics["auroc_log_p[coins]"] > 0.95
    assert found.metrics["nll[coins]"] > found.metrics["nll"] + 5
    assert found.metrics["elbo_test"] < -found.metrics["nll"]
    assert found.groups["held_out_rows"]["z"][1].shape == (360, 2)
    assert found.groups["coded_rows"]["z"][1].shape == (60, 2)


# -- annealed -----------------------------------------------------------------------------------


def test_annealing_against_the_closed_form():
    torch.manual_seed(0)
    done = []
    found = importance.annealed(Program(problem_from(coded, {"x": X})), 100, 200, done.append)
    assert done == list(range(1, 101))
    assert (found.error < 0.1).all()
    assert (np.abs(found.log_p - log_evidence(X.numpy())) < 4 * found.error).all()


def test_errors_of_annealing_are_what_repetition_shows():
    torch.manual_seed(0)
    found = importance.annealed(Program(problem_from(coded, {"x": X.repeat(200, 1)})), 10, 50)
    spread = found.log_p.reshape(200, 3).std(0)
    told = found.error.reshape(200, 3).mean(0)
    np.testing.assert_allclose(told, spread, rtol=0.3)


def test_temperatures_go_from_prior_to_posterior():
    at = importance.temperatures_of(50)
    assert (at[0], at[-1]) == (0, 1)
    assert (at.diff() > 0).all()
    assert at.diff()[0] < at.diff()[25]


def positive(x):
    with pyro.plate("row", len(x)):
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        pyro.sample("x", dist.Normal(0.0, scale[..., None]).expand([len(x), 2]).to_event(1), obs=x)


@pytest.mark.parametrize("model", [positive, shared_scale])
def test_what_cannot_be_annealed_is_refused(model):
    with pytest.raises(Refused, match="annealing is of"):
        importance.annealed(Program(problem_from(model, {"x": X})), 10, 5)
