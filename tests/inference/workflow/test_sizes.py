"""Estimates as the data grow."""

from __future__ import annotations

import numpy as np
import pytest

import zoo
from inference.workflow import sizes
from models.contract import UsageError


def test_sizes_are_whole_numbers_of_rows_that_there_are():
    assert sizes.row_counts("10,2,10", None) == [2, 10]
    for words in ("2,x", "", "0,5", "1.5"):
        with pytest.raises(UsageError, match="--sizes 2,10,100"):
            sizes.row_counts(words, None)
    with pytest.raises(UsageError, match="there are 5 rows"):
        sizes.row_counts([2, 6], 5)


def test_asymptopia_of_the_coin():
    table = zoo.compare("coin", sizes="2,10000", heads=0.7).set_index(["n", "estimate"])
    two, many = table.loc[2], table.loc[10_000]
    pi = two[two["parameter"] == "pi"]["value"]
    assert pi["mle"] == pi["map"] == 1.0  # the sequence begins with two heads
    assert pi["posterior"] == pytest.approx(0.75)
    assert two.loc["predictive", "value"] == pytest.approx(0.75)
    agreeing = many[many["parameter"] == "pi"]["value"]
    assert np.ptp(agreeing) < 1e-3
    assert many.loc["posterior", "high"] - many.loc["posterior", "low"] < 0.02


def test_rows_that_are_given_grow_in_their_order():
    table = zoo.compare("coin", sizes=[1, 3], data="HTT")
    means = table[table["estimate"] == "posterior"]["value"]
    assert means.tolist() == pytest.approx([2 / 3, 2 / 5])


def test_growing_logistic_predicts_the_same_next_row_and_says_what_is_missing():
    table = zoo.compare("logistic", sizes=[2, 40], methods="mle,laplace")
    assert any(note.startswith("n = 2: mle is refused") for note in table.notes)
    assert set(table[table["n"] == 2]["estimate"]) == {"posterior", "predictive"}
    chances = table[table["parameter"] == "P(next y = 1)"]["value"]
    assert chances.between(0, 1).all() and len(chances) == 3
    with pytest.raises(UsageError, match="no rows that could grow"):
        zoo.compare("gaussian", sizes=[2], data="y=1")
    with pytest.raises(UsageError, match="simulates no data"):
        zoo.compare("gaussian", sizes=[2])


def test_growing_linear_has_an_interval_of_the_next_row():
    table = zoo.compare("linear", sizes=[20], noise=0.5).set_index(["parameter", "estimate"])
    drawn = table.loc[("next y", "predictive")]
    assert drawn["low"] < drawn["value"] < drawn["high"]
    # A new row's 94 % interval is at least that of its noise, 2 x 1.88 x 0.5.
    assert drawn["high"] - drawn["low"] > 1.7
