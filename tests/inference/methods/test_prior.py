"""The method `prior`: latents and predicted data, whatever was observed."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import QUIET, problem_from, problem_of
from pyro.distributions import constraints
from scipy import stats

from inference.methods.prior import prior
from inference.program.program import Program
from models.contract import Refused


def test_the_data_do_not_matter():
    fits = [prior(Program(problem_of("coin", d)), seed=0, context=QUIET) for d in ("HHH", "TTT")]
    assert torch.equal(fits[0].draws["pi"], fits[1].draws["pi"])
    assert stats.kstest(fits[0].draws["pi"][0], "uniform").pvalue > 1e-4
    heads = fits[0].draws["x"].mean()
    assert heads == pytest.approx(0.5, abs=0.03)
    assert fits[0].kind == "prior"


def test_an_improper_prior_has_no_draws():
    def model():
        pyro.sample("b", dist.ImproperUniform(constraints.real, (), ()))

    with pytest.raises(Refused, match="prior of b is improper"):
        prior(Program(problem_from(model)), seed=0, context=QUIET)
