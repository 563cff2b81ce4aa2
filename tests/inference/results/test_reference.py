"""What runs are compared with: exact, else a closed form, else chains that pass, else nothing."""

from __future__ import annotations

import numpy as np
import pytest
from test_comparison import TRUTH, normal, row

from inference.results import comparison, reference


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
