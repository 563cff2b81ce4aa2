"""Predictive distributions against NumPy and brute force: what is unsure, what draws predict."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from classifier import (
    CLASSES,
    DRAWS,
    OTHERS,
    RNG,
    ROWS,
    TEST,
    TRAIN,
    VALUES,
    each_of,
    fit_of,
    forward,
    problem_of,
    tensor,
)
from conftest import problem_from
from scipy import special, stats

from inference.program.program import Program
from inference.results import predictive

# -- probabilities and what is unsure ----------------------------------------------------------


def test_class_probabilities_are_the_softmax_of_the_network():
    program = Program(problem_of())
    for i in range(DRAWS):
        found = predictive.class_probabilities(program, {k: v[i] for k, v in VALUES.items()})
        np.testing.assert_allclose(found, forward(TRAIN["x"], i), rtol=1e-10)


def test_predictions_are_means_and_entropy_is_what_is_expected_plus_what_is_disagreed_on():
    program = predictive.of_rows(Program(problem_of()), TEST)
    found = predictive.classes(program, VALUES)
    each = each_of(TEST["x"])
    np.testing.assert_allclose(found.draws, each, rtol=1e-10)
    np.testing.assert_allclose(found.probability, each.mean(0), rtol=1e-10)
    np.testing.assert_allclose(found.entropy, stats.entropy(each.mean(0), axis=1), rtol=1e-9)
    own = stats.entropy(each, axis=2).mean(0)
    np.testing.assert_allclose(found.expected_entropy, own, rtol=1e-9)
    whole = found.expected_entropy + found.mutual_information
    np.testing.assert_allclose(whole, found.entropy, rtol=1e-9)
    # The mutual information is the mean divergence of a draw from the mixture.
    divergence = stats.entropy(each, each.mean(0)[None], axis=2).mean(0)
    np.testing.assert_allclose(found.mutual_information, divergence, rtol=1e-7)
    assert (found.mutual_information > 0).all()


def test_sure_and_equal_draws_leave_no_entropy_and_no_disagreement():
    sure = np.eye(3)[None].repeat(4, 0)
    found = predictive.Classes(sure.mean(0), predictive.entropy(sure).mean(0), sure)
    assert (found.entropy == 0).all() and (found.mutual_information == 0).all()
    even = np.full((4, 2, 3), 1 / 3)
    found = predictive.Classes(even.mean(0), predictive.entropy(even).mean(0), even)
    assert found.entropy == pytest.approx([np.log(3)] * 2)
    assert found.mutual_information == pytest.approx([0, 0], abs=1e-12)


def test_discrete_latents_are_summed_out_as_by_brute_force():
    def mixed(x, y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("y", dist.Bernoulli(logits=w * x + 2 * z), obs=y)

    data = {"x": tensor(RNG.normal(size=5)), "y": tensor(RNG.integers(2, size=5) * 1.0)}
    program = Program(problem_from(mixed, data))
    found = predictive.class_probabilities(program, {"w": torch.tensor(0.7)})
    z = np.array([0.0, 1.0])
    one = special.expit(0.7 * data["x"].numpy()[:, None] + 2 * z) @ [0.7, 0.3]
    np.testing.assert_allclose(found, np.stack([1 - one, one], 1), rtol=1e-10)


def test_moments_are_those_of_the_rows():
    def line(x, y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(w * x, 0.5 + x**2), obs=y)

    x = tensor(RNG.normal(size=4))
    program = Program(problem_from(line, {"x": x, "y": x}))
    found = predictive.moments(program, {"w": torch.tensor(2.0)})
    np.testing.assert_allclose(found, np.stack([2 * x, 0.5 + x**2], 1), rtol=1e-12)
    assert not predictive.is_classes(program)
    assert predictive.is_classes(Program(problem_of()))


def test_rows_without_labels_stand_in_with_zero_and_other_rows_have_their_own_number():
    program = predictive.of_rows(Program(problem_of()), {"x": TEST["x"]})
    (site,) = program.of("observed")
    assert site.shape == (OTHERS,) and site.value.dtype == TRAIN["y"].dtype
    assert (site.value == 0).all()
    found = predictive.classes(program, VALUES)
    np.testing.assert_allclose(found.probability, each_of(TEST["x"]).mean(0), rtol=1e-10)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_predictions_of_every_cell_in_the_users_units(shape):
    value = torch.arange(4.0)[:, None].reshape(2, 2, *[1] * len(shape)).expand(2, 2, *shape)
    table = predictive.table({"y": value}, {"y": (10.0, 2.0)})
    assert list(table.index) == predictive.indexed("y", shape)
    assert table["mean"].tolist() == pytest.approx([13.0] * len(table))


# -- what a network is judged by ---------------------------------------------------------------


def test_predictions_have_chains_draws_rows_and_all_classes_but_the_last():
    found = predictive.predictions(Program(problem_of()), fit_of(chains=2))
    dims, values = found["probability"]
    assert dims == ("chain", "draw", "row_test", "class_but_last")
    assert values.shape == (2, 3, OTHERS, CLASSES - 1)
    np.testing.assert_allclose(values.reshape(6, OTHERS, 2), each_of(TEST["x"])[..., :2])


def test_predictions_are_of_the_data_without_a_test_set_and_of_few_of_many_rows():
    values = predictive.predictions(Program(problem_of(test=None)), fit_of())["probability"][1]
    np.testing.assert_allclose(values[0], each_of(TRAIN["x"])[..., :2])
    many = {"x": tensor(RNG.normal(size=(1001, 2))), "y": torch.zeros(1001, dtype=torch.int64)}
    values = predictive.predictions(Program(problem_of(test=many)), fit_of())["probability"][1]
    np.testing.assert_allclose(values[0], each_of(many["x"][::6])[..., :2])
    assert values.shape[2] == 167


def test_predictions_of_what_is_continuous_are_its_moments():
    def net(x, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(x @ w, 0.3), obs=y)

    data = {"x": TRAIN["x"], "y": torch.zeros(ROWS, dtype=torch.float64)}
    values = {"w": tensor(RNG.normal(size=(4, 2)))}
    found = predictive.predictions(Program(problem_of(net, data, None)), fit_of(values, chains=2))
    assert found["mean"][0] == found["sd"][0] == ("chain", "draw", "row_test")
    expected = (values["w"] @ TRAIN["x"].T).reshape(2, 2, ROWS)
    np.testing.assert_allclose(found["mean"][1], expected)
    np.testing.assert_allclose(found["sd"][1], 0.3)
