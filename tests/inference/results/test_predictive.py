"""Scores of held-out rows against scikit-learn and NumPy, what is unsure, predictions' shapes."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import perceptron, problem_from
from scipy import special, stats
from sklearn import metrics

from inference.core.problem import Fit
from inference.program.program import Program
from inference.results import scores

RNG = np.random.default_rng(0)
ROWS, OTHERS, CLASSES, DRAWS = 9, 14, 3, 6
SHAPES = {"w0": (2, 4), "b0": (4,), "w1": (4, CLASSES)}


def tensor(values):
    return torch.as_tensor(values)


TRAIN = {"x": tensor(RNG.normal(size=(ROWS, 2))), "y": tensor(RNG.integers(3, size=ROWS))}
TEST = {"x": tensor(RNG.normal(size=(OTHERS, 2))), "y": tensor(RNG.integers(3, size=OTHERS))}
VALUES = {name: tensor(RNG.normal(size=(DRAWS, *shape))) for name, shape in SHAPES.items()}


def network(x, y):
    weights = {
        name: pyro.sample(name, dist.Normal(torch.zeros(shape), 1.0).to_event(len(shape)))
        for name, shape in SHAPES.items()
    }
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Categorical(logits=perceptron(x, **weights)), obs=y)


def problem_of(model=network, train=TRAIN, test=TEST, identified=False, **more):
    return replace(problem_from(model, train), test=test, identified=identified, **more)


def fit_of(values=VALUES, chains=1):
    draws = {name: value.unflatten(0, (chains, -1)) for name, value in values.items()}
    return Fit(draws=draws, kind="independent")


def forward(x, i):
    """Probabilities of the classes at draw i, by NumPy."""
    w0, b0, w1 = (VALUES[name][i].numpy() for name in SHAPES)
    return special.softmax(np.tanh(x.numpy() @ w0 + b0) @ w1, 1)


def each_of(x):
    return np.stack([forward(x, i) for i in range(DRAWS)])


# -- probabilities and what is unsure ----------------------------------------------------------


def test_class_probabilities_are_the_softmax_of_the_network():
    program = Program(problem_of())
    for i in range(DRAWS):
        found = scores.class_probabilities(program, {k: v[i] for k, v in VALUES.items()})
        np.testing.assert_allclose(found, forward(TRAIN["x"], i), rtol=1e-10)


def test_predictions_are_means_and_entropy_is_what_is_expected_plus_what_is_disagreed_on():
    program = scores.of_rows(problem_of(), TEST)
    found = scores.classes(program, VALUES)
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
    found = scores.Classes(sure.mean(0), scores.entropy(sure).mean(0), sure)
    assert (found.entropy == 0).all() and (found.mutual_information == 0).all()
    even = np.full((4, 2, 3), 1 / 3)
    found = scores.Classes(even.mean(0), scores.entropy(even).mean(0), even)
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
    found = scores.class_probabilities(program, {"w": torch.tensor(0.7)})
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
    found = scores.moments(program, {"w": torch.tensor(2.0)})
    np.testing.assert_allclose(found, np.stack([2 * x, 0.5 + x**2], 1), rtol=1e-12)
    assert not scores.is_classes(program)
    assert scores.is_classes(Program(problem_of()))


def test_rows_without_labels_stand_in_with_zero_and_other_rows_have_their_own_number():
    program = scores.of_rows(problem_of(), {"x": TEST["x"]})
    (site,) = program.of("observed")
    assert site.shape == (OTHERS,) and site.value.dtype == TRAIN["y"].dtype
    assert (site.value == 0).all()
    found = scores.classes(program, VALUES)
    np.testing.assert_allclose(found.probability, each_of(TEST["x"]).mean(0), rtol=1e-10)


# -- scores ------------------------------------------------------------------------------------

PROBABILITY = RNG.dirichlet(np.ones(4), size=200)
TRUTH = RNG.integers(4, size=200)


def test_scores_are_those_of_scikit_learn():
    found = scores._of_classes(PROBABILITY, TRUTH)
    assert found["accuracy"] == metrics.accuracy_score(TRUTH, PROBABILITY.argmax(1))
    log_loss = metrics.log_loss(TRUTH, PROBABILITY, labels=range(4))
    assert found["log_score"] == pytest.approx(-log_loss, rel=1e-9)
    assert found["elpd_test"] == pytest.approx(-200 * log_loss, rel=1e-9)
    brier = sum(
        metrics.brier_score_loss(k == TRUTH, PROBABILITY[:, k], scale_by_half=True)
        for k in range(4)
    )
    assert found["brier"] == pytest.approx(brier, rel=1e-9)


def test_the_calibration_error_is_that_of_its_definition():
    top, right = PROBABILITY.max(1), PROBABILITY.argmax(1) == TRUTH
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (top >= low) & (top < low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - top[inside].mean())
    assert scores._of_classes(PROBABILITY, TRUTH)["ece"] == pytest.approx(expected, rel=1e-9)
    counts, confidence, hits = scores.calibration_bins(PROBABILITY, TRUTH)
    assert len(counts) == 15 and counts.sum() == 200
    assert confidence.sum() == pytest.approx(top.sum()) and hits.sum() == right.sum()
    assert scores.calibration_bins(np.eye(2), np.array([0, 0]))[0][-1] == 2  # 1.0 is in the last


def test_a_label_that_was_held_for_impossible_costs_much_and_not_infinity():
    found = scores.log_scores(
        np.array([[0.0, 1.0], [0.5, 0.5]], dtype="float32"), np.array([0, 1])
    )
    assert found == pytest.approx([np.log(1e-45), np.log(0.5)])


@pytest.mark.parametrize("ties", [False, True])
def test_the_area_under_the_curve_is_scikit_learns_ties_by_half(ties):
    inside, outside = RNG.normal(size=40), RNG.normal(0.8, 1, size=25)
    if ties:
        inside, outside = inside.round(), outside.round()
        assert len(np.intersect1d(inside, outside)) > 1
    both, label = np.concatenate([inside, outside]), np.repeat([0, 1], [40, 25])
    expected = metrics.roc_auc_score(label, both)
    assert scores.auroc(inside, outside) == pytest.approx(expected, rel=1e-12)
    pairs = [(o > i) + 0.5 * (o == i) for i, o in product(inside, outside)]
    assert scores.auroc(inside, outside) == pytest.approx(np.mean(pairs), rel=1e-12)


def test_a_fit_is_scored_on_the_rows_held_out_and_one_draw_and_the_mean_weights_beside_it():
    found = scores.scored(problem_of(), fit_of())
    each, truth = each_of(TEST["x"]), TEST["y"].numpy()
    chosen = each[:, np.arange(OTHERS), truth]
    assert found.metrics["elpd_test"] == pytest.approx(np.log(chosen.mean(0)).sum(), rel=1e-9)
    single = np.log(chosen).mean()
    assert found.metrics["log_score_single"] == pytest.approx(single, rel=1e-9)
    assert found.metrics["log_score"] > found.metrics["log_score_single"]  # Jensen
    w0, b0, w1 = (VALUES[name].mean(0).numpy() for name in SHAPES)
    mean = special.softmax(np.tanh(TEST["x"].numpy() @ w0 + b0) @ w1, 1)
    accuracy = (mean.argmax(1) == truth).mean()
    assert found.metrics["accuracy_mean_weights"] == pytest.approx(accuracy)
    log_score = np.log(mean[np.arange(OTHERS), truth]).mean()
    assert found.metrics["log_score_mean_weights"] == pytest.approx(log_score, rel=1e-9)
    unsure = stats.entropy(each.mean(0), axis=1)
    assert found.metrics["entropy"] == pytest.approx(unsure.mean(), rel=1e-9)
    disagreed = unsure.mean() - stats.entropy(each, axis=2).mean()
    assert found.metrics["mutual_information"] == pytest.approx(disagreed, rel=1e-7)
    dims, kept = found.groups["held_out"]["probability"]
    assert dims == ("row_test", "class") and kept.shape == (OTHERS, CLASSES)
    assert found.groups["held_out"]["label"][1].tolist() == truth.tolist()


def test_rows_beside_are_compared_with_labels_by_scores_and_without_by_what_is_unsure():
    far = {"x": 5 + tensor(RNG.normal(size=(11, 2)))}
    shifted = {"x": TEST["x"] + 0.3, "y": TEST["y"]}
    found = scores.scored(problem_of(beside={"far": far, "shift 1": shifted}), fit_of())
    test, outside = each_of(TEST["x"]), each_of(far["x"])
    unsure = [stats.entropy(each.mean(0), axis=1) for each in (test, outside)]
    label = np.repeat([0, 1], [OTHERS, 11])
    expected = metrics.roc_auc_score(label, np.concatenate(unsure))
    assert found.metrics["auroc_entropy[far]"] == pytest.approx(expected)
    assert "auroc_entropy[shift 1]" not in found.metrics
    moved = each_of(shifted["x"]).mean(0)
    right = moved.argmax(1) == TEST["y"].numpy()
    assert found.metrics["accuracy[shift 1]"] == pytest.approx(right.mean())
    assert found.metrics["entropy[far]"] == pytest.approx(unsure[1].mean(), rel=1e-9)
    assert found.groups["beside_shift 1"]["right"][1].tolist() == right.astype(int).tolist()
    assert found.groups["beside_far"].keys() == {"entropy", "mutual_information"}
    assert found.groups["beside_far"]["entropy"][1].shape == (11,)


def test_what_is_identified_has_its_scores_and_no_more_and_no_test_set_none():
    found = scores.scored(problem_of(identified=True), fit_of()).metrics
    assert found.keys() == {"elpd_test", "log_score", "accuracy", "brier", "ece"}
    assert scores.scored(problem_of(test=None), fit_of()) == scores.Scored({}, {})
    alone = {name: value[:1] for name, value in VALUES.items()}
    found = scores.scored(problem_of(), fit_of(alone)).metrics
    assert "mutual_information" not in found and "accuracy_single" not in found


# -- what a network is judged by ---------------------------------------------------------------


def test_predictions_have_chains_draws_rows_and_all_classes_but_the_last():
    found = scores.predictions(problem_of(), fit_of(chains=2))
    dims, values = found["probability"]
    assert dims == ("chain", "draw", "row_test", "class_but_last")
    assert values.shape == (2, 3, OTHERS, CLASSES - 1)
    np.testing.assert_allclose(values.reshape(6, OTHERS, 2), each_of(TEST["x"])[..., :2])


def test_predictions_are_of_the_data_without_a_test_set_and_of_few_of_many_rows():
    values = scores.predictions(problem_of(test=None), fit_of())["probability"][1]
    np.testing.assert_allclose(values[0], each_of(TRAIN["x"])[..., :2])
    many = {"x": tensor(RNG.normal(size=(1001, 2))), "y": torch.zeros(1001, dtype=torch.int64)}
    values = scores.predictions(problem_of(test=many), fit_of())["probability"][1]
    np.testing.assert_allclose(values[0], each_of(many["x"][::6])[..., :2])
    assert values.shape[2] == 167


def test_predictions_of_what_is_continuous_are_its_moments():
    def net(x, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(x @ w, 0.3), obs=y)

    data = {"x": TRAIN["x"], "y": torch.zeros(ROWS, dtype=torch.float64)}
    values = {"w": tensor(RNG.normal(size=(4, 2)))}
    found = scores.predictions(problem_of(net, data, None), fit_of(values, chains=2))
    assert found["mean"][0] == found["sd"][0] == ("chain", "draw", "row_test")
    expected = (values["w"] @ TRAIN["x"].T).reshape(2, 2, ROWS)
    np.testing.assert_allclose(found["mean"][1], expected)
    np.testing.assert_allclose(found["sd"][1], 0.3)
