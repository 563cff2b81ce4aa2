"""Rows with latents of their own: weights by NumPy, what counts as such a model, guides."""

from __future__ import annotations

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import QUIET, problem_from
from scipy import stats

from inference.core.problem import Guide
from inference.methods.guides import resolve
from inference.methods.svi import svi
from inference.methods.training import store
from inference.program import row_latents
from inference.program.handlers import Batch
from inference.program.program import Program
from models.contract import BadSetting, Refused

X = torch.tensor([[0.3, -1.0], [2.0, 0.5], [-0.7, 0.1]], dtype=torch.float64)


def pair(loc):
    """Two numbers of that mean for each row."""
    return dist.Normal(loc[..., None].expand(*loc.shape, 2), 1.0).to_event(1)


def coded(x, *, slope=1.5):
    """z_i ~ Normal(0, 1); x_ij ~ Normal(slope z_i, 1): all densities are known."""
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", pair(slope * z), obs=x)


def encoder(x, *, scale=0.5):
    """A guide of any rows, not the posterior."""
    weight = pyro.param("weight", lambda: torch.tensor(0.3))
    with pyro.plate("row", len(x)):
        pyro.sample("z", dist.Normal(weight * x.sum(-1), scale))


def log_evidence(x, slope=1.5):
    covariance = np.eye(2) + slope**2
    return stats.multivariate_normal(np.zeros(2), covariance).logpdf(x)


def shared_scale(x):
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, scale))
        pyro.sample("x", pair(z), obs=x)


def labelled(x):
    with pyro.plate("row", len(x)):
        k = pyro.sample("k", dist.Bernoulli(0.5))
        z = pyro.sample("z", dist.Normal(k, 1.0))
        pyro.sample("x", pair(z), obs=x)


def outside_the_rows(x):
    coded(x)
    pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.tensor(0.2))


def test_weights_against_numpy():
    program = Program(problem_from(coded, {"x": X}))
    torch.manual_seed(1)
    with torch.no_grad():
        found, values = row_latents.weighted(program, encoder, Batch({"x": X}))
    z, x = values["z"].numpy(), X.numpy()
    log_p = stats.norm.logpdf(z) + stats.norm.logpdf(x, 1.5 * z[:, None]).sum(1)
    log_q = stats.norm.logpdf(z, 0.3 * x.sum(1), 0.5)
    np.testing.assert_allclose(found, log_p - log_q, rtol=1e-12)


@pytest.mark.parametrize("model", [shared_scale, outside_the_rows])
def test_a_model_is_of_rows_only_if_all_of_it_is(model):
    assert row_latents.has_weights(Program(problem_from(coded, {"x": X})))
    assert not row_latents.is_of_rows(Program(problem_from(model, {"x": X})))


def test_rows_with_labels_of_their_own_have_no_weights():
    program = Program(problem_from(labelled, {"x": X}))
    assert row_latents.is_of_rows(program)
    assert not row_latents.has_weights(program)


def test_a_guide_with_an_encoder_takes_any_rows():
    program = Program(problem_from(coded, {"x": X}))
    with store():
        assert row_latents.encodes(program, encoder)
        chosen = resolve("normal", program).guide
        chosen(X)
        assert not row_latents.encodes(program, chosen)


@pytest.mark.parametrize("k", [1, 8])
def test_the_bound_of_k_draws_against_numpy(k):
    """Its expectation by 40,000 draws of NumPy's, at the guide's first parameters."""
    problem, n = problem_from(coded, {"x": X}), 5000
    fit = partial(svi, Program(problem), seed=0, context=QUIET, guide=encoder, draws=2)
    trace = fit(objective="iwae", particles=k, steps=n, lr=1e-12, schedule="linear").trace.numpy()
    x = X.numpy()
    noise = np.random.default_rng(0).normal(size=(40_000, k, 3))
    z = 0.3 * x.sum(1) + 0.5 * noise
    log_w = stats.norm.logpdf(z) - stats.norm.logpdf(noise) + np.log(0.5)
    log_w += stats.norm.logpdf(x, 1.5 * z[..., None]).sum(-1)
    bound = (np.log(np.exp(log_w).mean(1))).sum(1)
    error = np.hypot(bound.std() / len(bound) ** 0.5, trace.std() / n**0.5)
    assert abs(trace.mean() - bound.mean()) < 4 * error
    assert bound.mean() < log_evidence(x).sum()


def test_the_bound_of_rows_is_refused_where_there_is_none():
    fit = partial(svi, seed=0, context=QUIET, objective="iwae", steps=5, draws=2)
    with pytest.raises(Refused, match="not every latent of the model belongs to a row"):
        fit(Program(problem_from(shared_scale, {"x": X})))
    with pytest.raises(Refused, match="the guide draws the latents of all rows at once"):
        fit(Program(problem_from(coded, {"x": X})), guide="mvn")
    own = Guide(encoder, objective=lambda model, guide, batch: torch.zeros(()))
    with pytest.raises(BadSetting, match="an objective of its own"):
        fit(Program(problem_from(coded, {"x": X})), guide=own)


def test_a_batch_counts_for_all_rows():
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = problem_from(coded, {"x": x})
    fit = partial(svi, Program(problem), seed=0, context=QUIET, guide=encoder, draws=2)
    same = {"objective": "iwae", "particles": 3, "lr": 1e-12, "schedule": "linear"}
    whole = fit(**same, steps=2000).trace.numpy()
    parts = fit(**same, steps=8000, batch_size=16).trace.numpy()
    error = np.hypot(whole.std() / 2000**0.5, parts.std() / 8000**0.5)
    assert abs(whole.mean() - parts.mean()) < 4 * error


def test_a_result_keeps_the_latents_of_the_first_rows():
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = problem_from(coded, {"x": x})
    fit = svi(
        Program(problem),
        seed=0,
        context=QUIET,
        guide=encoder,
        steps=20,
        batch_size=10,
        draws=30,
        rows=7,
    )
    assert fit.draws["z"].shape == (1, 30, 7)
    assert fit.log_ratios.shape == (30, 7)
    assert fit.rows == 7
    assert problem.first(7).n == 7


def test_a_guide_without_an_encoder_keeps_the_latents_of_all_rows():
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = problem_from(coded, {"x": x})
    fit = svi(Program(problem), seed=0, context=QUIET, guide="normal", steps=20, draws=30, rows=7)
    assert fit.draws["z"].shape == (1, 30, 40)
    assert fit.rows is None
