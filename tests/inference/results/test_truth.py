"""Exact marginals: their shortest intervals, and their place in a summary."""

from __future__ import annotations

import pandas as pd
import pytest
from scipy import stats

from inference.results import truth
from models.contract import Exact


def test_the_shortest_interval():
    low, high = truth.exact_hdi(stats.beta(3, 1))
    assert high == pytest.approx(1)
    assert low == pytest.approx(0.06 ** (1 / 3), rel=1e-3)
    assert truth.exact_hdi(stats.norm()) == pytest.approx((-1.8808, 1.8808), abs=2e-3)


def test_known_numbers_have_no_error_and_leave_the_others_alone():
    known = truth.truth_of(Exact(sample=None, marginals={"a": stats.norm(3, 2)}))
    assert known["a"]["mean"] == 3 and known["a"]["sd"] == 2
    columns = ["mean", "sd", "hdi_low", "hdi_high", "mcse_mean", "mcse_sd", "ess_bulk"]
    table = pd.DataFrame([[9.0] * 7, [1.0] * 7], index=["a", "b"], columns=columns)
    mixed = truth.with_truth(table, known)
    assert mixed.loc["a", ["mean", "sd", "mcse_mean", "mcse_sd"]].tolist() == [3, 2, 0, 0]
    assert mixed.loc["b"].tolist() == [1.0] * 7 and table.loc["a", "mean"] == 9
    assert list(truth.with_truth(table.loc[["a"]], known).columns) == columns[:4]
    assert truth.truth_of(None) == {}
