"""What runs are compared with, what a closed form knows of it, and the distance from it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_comparison import TRUTH, normal, row

from inference.results import comparison, reference
from inference.results.reference import Yardstick
from models.contract import Exact


def test_the_reference_is_exact_else_nuts_that_passes_else_none():
    good, bad = (
        row("nuts", normal(chains=4)),
        {"verdict": {"status": "fail", "reasons": ["R-hat"]}},
    )
    failing = row("nuts seed=1", normal(chains=4), **bad)
    exact = row("exact", normal(), exact={}, metrics={"log_evidence": -3.0})
    other = row("svi", normal(seed=7), metrics={"elbo": -3.5, "elbo_se": 0.1})
    assert comparison.compare([good, exact], {}).references == {"m": "exact"}
    assert comparison.compare([failing, good], {}).references == {"m": "nuts"}
    none = comparison.compare([failing, other], {})
    assert none.references["m"].startswith("none")
    assert none["mean_error"].isna().all() and none["distance"].isna().all()
    assert none["reason"].tolist() == ["R-hat", ""]
    assert "R-hat" in none._repr_html_()
    assert none["mean_error"].dtype == float
    assert comparison.compare([exact, other], {}).loc["svi", "gap"] == pytest.approx(0.5)
    assert np.isnan(comparison.compare([good, other], {}).loc["svi", "gap"])


def test_a_closed_form_that_no_run_sampled_has_its_numbers_and_the_labels_of_a_run():
    like = row("svi", normal(seed=1))
    best = reference.best([like], TRUTH, seed=0)
    assert best.label == "exact" and best.ess == 4000 and best.log_evidence == -3.0
    assert best.summary.loc["w[0]", ["mean", "sd", "mcse_mean"]].tolist() == [0, 1, 0]
    assert best.draws["w"].shape == (4000, 2) and best.predictions is None
    again = reference.best([like], TRUTH, seed=0)
    np.testing.assert_array_equal(again.draws["w"], best.draws["w"])


def test_of_several_chains_those_of_most_effective_draws_are_taken():
    few, many = row("nuts seed=1", normal(chains=4)[:, :300]), row("nuts", normal(chains=4))
    assert reference.best([few, many], None, seed=0) is many


def test_the_shortest_interval():
    low, high = reference.exact_hdi(stats.beta(3, 1))
    assert high == pytest.approx(1)
    assert low == pytest.approx(0.06 ** (1 / 3), rel=1e-3)
    assert reference.exact_hdi(stats.norm()) == pytest.approx((-1.8808, 1.8808), abs=2e-3)


def test_known_numbers_have_no_error_and_leave_the_others_alone():
    known = reference.truth_of(Exact(sample=None, marginals={"a": stats.norm(3, 2)}))
    assert known["a"]["mean"] == 3 and known["a"]["sd"] == 2
    columns = ["mean", "sd", "hdi_low", "hdi_high", "mcse_mean", "mcse_sd", "ess_bulk"]
    table = pd.DataFrame([[9.0] * 7, [1.0] * 7], index=["a", "b"], columns=columns)
    mixed = reference.with_truth(table, known)
    assert mixed.loc["a", ["mean", "sd", "mcse_mean", "mcse_sd"]].tolist() == [3, 2, 0, 0]
    assert mixed.loc["b"].tolist() == [1.0] * 7 and table.loc["a", "mean"] == 9
    assert list(reference.with_truth(table.loc[["a"]], known).columns) == columns[:4]
    assert reference.truth_of(None) == {}


RNG = np.random.default_rng(5)
NORMAL = RNG.normal(size=(4000, 3))


def test_between_normals_it_is_the_shift_or_the_difference_of_scales():
    # W2 of N(0, 1) and N(m, s) in one dimension: sqrt(m^2 + (1 - s)^2), Olkin and Pukelsheim 1982.
    yardstick = Yardstick(RNG.normal(size=(4000, 1)) * 7 + 3, 4000)
    shifted = 3 + 7 * (RNG.normal(size=(4000, 1)) * 0.7 + 0.5)
    found = yardstick.measure(shifted, 4000)
    assert found.value == pytest.approx(np.hypot(0.5, 0.3), abs=0.05)
    assert found.floor < 0.1


def test_equal_samples_lie_at_the_floor_and_a_narrow_one_clearly_above():
    yardstick = Yardstick(NORMAL, 4000)
    same = [yardstick.measure(RNG.normal(size=(4000, 3)), 4000) for _ in range(10)]
    assert sum(one.value <= one.floor for one in same) >= 7
    narrow = yardstick.measure(0.8 * RNG.normal(size=(4000, 3)), 4000)
    assert narrow.value == pytest.approx(0.2, abs=0.03)
    assert narrow.value > 2.5 * narrow.floor


def test_a_wrong_correlation_between_right_marginals_is_seen():
    correlated = RNG.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], size=4000)
    found = Yardstick(correlated, 4000).measure(RNG.normal(size=(4000, 2)), 4000)
    assert found.value > 5 * found.floor


def test_fewer_effective_draws_raise_the_floor_and_too_few_say_nothing():
    yardstick, draws = Yardstick(NORMAL, 4000), RNG.normal(size=(4000, 3))
    assert yardstick.measure(draws, 200).floor > 2 * yardstick.measure(draws, 4000).floor
    assert yardstick.measure(draws, 40) is None
    assert yardstick.measure(np.full((4000, 3), np.nan), 4000) is None


def test_what_depends_on_others_or_never_moves_does_no_harm():
    more = np.column_stack([NORMAL, NORMAL @ [1.0, 2.0, 3.0], np.ones(4000)])
    other = RNG.normal(size=(4000, 3))
    other = np.column_stack([other, other @ [1.0, 2.0, 3.0], np.ones(4000)])
    found = Yardstick(more, 4000).measure(other, 4000)
    assert found.value < 1.3 * found.floor


def test_many_dimensions_are_scaled_one_by_one():
    wide = RNG.normal(size=(500, 300)) * np.arange(1, 301)
    found = Yardstick(wide, 500).measure(
        0.5 * RNG.normal(size=(500, 300)) * np.arange(1, 301), 500
    )
    assert found.value == pytest.approx(0.5, abs=0.1)


def test_few_draws_of_many_dimensions_keep_below_their_floor():
    yardstick = Yardstick(RNG.normal(size=(1000, 150)), 1000)
    found = yardstick.measure(RNG.normal(size=(1000, 150)), 1000)
    assert found.value < 1.05 * found.floor
