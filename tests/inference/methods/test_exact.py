"""The method `exact`: independent draws from the stated truth, or a refusal."""

import numpy as np
import pytest
import torch
from conftest import QUIET, problem_of
from scipy import stats

from inference.methods.exact import exact
from inference.program.program import Program
from models.contract import Refused


def test_draws_are_those_of_the_closed_form():
    fit = exact(Program(problem_of("coin", "HHT")), seed=0, context=QUIET, draws=4000)
    assert fit.draws["pi"].shape == (1, 4000)
    assert stats.kstest(fit.draws["pi"][0], stats.beta(3, 2).cdf).pvalue > 1e-4
    assert fit.metrics["log_evidence"] == pytest.approx(np.log(1 / 12))


def test_without_a_truth_it_is_refused():
    import dataclasses

    problem = dataclasses.replace(problem_of("coin"), exact=None)
    with pytest.raises(Refused, match="no exact posterior"):
        exact(Program(problem), seed=0, context=QUIET)


def test_what_is_predicted_without_data_is_drawn_under_the_seed():
    one, again = (
        exact(Program(problem_of("coin", "")), seed=3, context=QUIET).draws["x"] for _ in range(2)
    )
    assert torch.equal(one, again)
