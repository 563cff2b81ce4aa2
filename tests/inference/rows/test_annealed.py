"""Annealed importance sampling against closed forms."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import problem_from
from test_row_latents import X, coded, log_evidence, shared_scale

from inference.program.program import Program
from inference.rows.annealed import annealed, temperatures_of
from models.contract import Refused


def test_evidence_of_rows_against_the_closed_form():
    torch.manual_seed(0)
    done = []
    found = annealed(Program(problem_from(coded, {"x": X})), 100, 200, done.append)
    assert done == list(range(1, 101))
    assert (found.error < 0.1).all()
    assert (np.abs(found.log_p - log_evidence(X.numpy())) < 4 * found.error).all()


def test_errors_are_what_repetition_shows():
    torch.manual_seed(0)
    found = annealed(Program(problem_from(coded, {"x": X.repeat(200, 1)})), 10, 50)
    spread = found.log_p.reshape(200, 3).std(0)
    told = found.error.reshape(200, 3).mean(0)
    np.testing.assert_allclose(told, spread, rtol=0.3)


def test_temperatures_go_from_prior_to_posterior():
    at = temperatures_of(50)
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
        annealed(Program(problem_from(model, {"x": X})), 10, 5)
