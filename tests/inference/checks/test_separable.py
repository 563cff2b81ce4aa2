"""A note where the classes can be separated, and none where they cannot."""

from __future__ import annotations

import numpy as np
import pytest

import zoo

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
