"""Scores of held-out rows against scikit-learn and NumPy, and of rows beside them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from classifier import (
    CLASSES,
    OTHERS,
    RNG,
    SHAPES,
    TEST,
    VALUES,
    each_of,
    fit_of,
    problem_of,
    tensor,
)
from scipy import special, stats
from sklearn import metrics

from inference.program.program import Program
from inference.results import scores

PROBABILITY = RNG.dirichlet(np.ones(4), size=200)
TRUTH = RNG.integers(4, size=200)


def test_scores_are_those_of_scikit_learn():
    found = scores.class_scores(PROBABILITY, TRUTH)
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
    assert scores.class_scores(PROBABILITY, TRUTH)["ece"] == pytest.approx(expected, rel=1e-9)
    counts, confidence, hits = bins = scores.calibration_bins(PROBABILITY, TRUTH)
    assert bins.error == pytest.approx(expected, rel=1e-9)
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
    found = scores.scored(Program(problem_of()), fit_of())
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
    found = scores.scored(Program(problem_of(beside={"far": far, "shift 1": shifted})), fit_of())
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
    found = scores.scored(Program(problem_of(identified=True)), fit_of()).metrics
    assert found.keys() == {"elpd_test", "log_score", "accuracy", "brier", "ece"}
    assert scores.scored(Program(problem_of(test=None)), fit_of()) == scores.Scored({}, {})
    alone = {name: value[:1] for name, value in VALUES.items()}
    found = scores.scored(Program(problem_of()), fit_of(alone)).metrics
    assert "mutual_information" not in found and "accuracy_single" not in found
