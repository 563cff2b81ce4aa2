"""Training on batches of rows, and on all of them."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import QUIET, problem_from
from pyro.distributions import constraints
from test_svi import DATA, MEAN, PRECISION, regression

from inference.methods.svi import svi
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
