"""Posteriors of which a summary misleads: angles, and classes that the features separate."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import problem_from

import zoo
from inference.checks.posteriors import circular_mean, turned, within_pi
from inference.core.problem import Fit
from inference.program.program import Program

PI = math.pi


def direction(y):
    with pyro.plate("sensor", 2):
        phi = pyro.sample("phi", dist.VonMises(0.0, 1.0))
    pyro.deterministic("degrees", phi * 180 / PI)
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(phi.cos().sum(), 1.0), obs=y)


def straight(y):
    phi = pyro.sample("phi", dist.VonMises(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(phi, 1.0), obs=y)


def chains(values, **more):
    return Fit(draws={"phi": values, **more}, kind="chains")


def turn(model, fit):
    return turned(Program(problem_from(model, {"y": torch.tensor([0.5, 1.0])})), fit, 0)


def test_the_mean_is_a_direction_and_draws_lie_around_it():
    draws = torch.tensor([PI - 0.1, -PI + 0.3, 5 * PI - 0.2])
    mean = circular_mean(draws)
    assert torch.remainder(mean, 2 * PI).item() == pytest.approx(PI, abs=0.01)
    wrapped = within_pi(draws, mean)
    assert (wrapped - mean).abs().max() < 0.4
    torch.testing.assert_close(wrapped.cos(), draws.cos())


def test_turns_are_taken_out_of_draws_and_of_what_is_computed_from_them():
    noise = 0.2 * torch.randn(2, 50, 2, generator=torch.Generator().manual_seed(0))
    turns = 2 * PI * torch.tensor([1.0, -3.0])[:, None, None]
    fit = turn(direction, chains(3.0 + noise + turns, degrees=torch.zeros(2, 50, 2)))
    assert fit.draws["phi"].std() == pytest.approx(0.2, abs=0.03)
    torch.testing.assert_close(fit.draws["degrees"], fit.draws["phi"] * 180 / PI)
    (finding,) = fit.findings
    assert finding.level == "note" and "phi is an angle" in finding.what


def test_an_angle_with_two_opposite_modes_is_told():
    noise = 0.2 * torch.randn(2, 50, 2, generator=torch.Generator().manual_seed(0))
    fit = turn(direction, chains(noise + PI * (torch.arange(50) % 2)[:, None]))
    (finding,) = fit.findings
    assert finding.level == "warn" and "opposite its circular mean" in finding.what


def test_draws_beyond_pi_of_a_model_that_is_not_periodic_fail():
    inside, beyond = torch.full((2, 5), 3.0), torch.full((2, 5), 3.5)
    assert turn(straight, chains(inside)).findings == []
    (finding,) = turn(straight, chains(beyond)).findings
    assert finding.level == "fail" and "test_posteriors.py, line" in finding.what


def test_points_and_other_models_are_left_alone():
    point = Fit(draws={"phi": torch.full((1, 1, 2), 9.0)}, kind="point")
    assert turn(direction, point) is point


def test_other_turns_of_an_angle_are_no_modes_that_were_missed():
    def one(y):
        phi = pyro.sample("phi", dist.VonMises(0.0, 0.1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.VonMises(phi, 2.0), obs=y)

    run = zoo.run(one, method="laplace", data=torch.tensor([2.0, 2.6, 3.0, 2.4]))
    assert run.verdict.trust["parameters"].answer == "yes"


X = np.array([-3.0, -2.0, -1.5, 1.0, 2.0, 2.5])


def noted(y):
    run = zoo.run("logistic", method="laplace", data={"x": X[:, None], "y": y}, prior_scale=10.0)
    return any("separate the classes" in reason for reason in run.verdict.reasons)


@pytest.mark.parametrize("flipped", [False, True])
def test_classes_on_two_sides_are_separated(flipped):
    y = (X > 0) != flipped
    assert noted(y.astype(float))


def test_classes_that_overlap_are_not():
    assert not noted(np.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0]))


def test_the_coin_has_no_features():
    run = zoo.run("coin", method="exact", data="HHHH")
    assert not any("separate" in reason for reason in run.verdict.reasons)
