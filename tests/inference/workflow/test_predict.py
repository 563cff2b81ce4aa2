"""Predictions of new rows from a finished run."""

from __future__ import annotations

import pytest
from conftest import Y, regression

import zoo
from models.contract import Refused, UsageError


def test_a_prediction_needs_what_it_does_not_predict():
    run = zoo.run("linear", method="map")
    with pytest.raises(Refused, match="predicting needs x"):
        run.predict()
    columns = ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]
    assert len(run.predict({name: [0.5, 1.0, 1.5] for name in columns})) == 3
    empty = zoo.run("gaussian", method="map")
    with pytest.raises(UsageError, match="nothing to predict"):
        empty.predict()


def test_new_rows_as_many_as_are_asked_for():
    run = zoo.run(regression, method="laplace", data={"y": Y}, draws=50)
    assert len(run.predict(rows=4)) == 4
