"""A run beside its reference: differences with their errors, and who may be published."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_comparison import TRUTH, normal, row

import zoo
from inference.results import comparison, differences
from inference.results.reference import Row
from inference.show import terminal


def test_a_planted_narrow_and_a_shifted_fit_are_named_by_their_numbers():
    rows = [row("svi", normal(0.8, seed=1)), row("laplace", normal(1.0, 0.3, seed=2))]
    table = comparison.compare([*rows, row("nuts", normal(chains=4, seed=3))], {"m": TRUTH})
    assert table.references == {"m": "exact"}
    assert table.loc["svi", "sd_low"] == pytest.approx(0.8, abs=0.03)
    assert table.loc["svi", "distance"] > 2 * table.loc["svi", "distance_floor"]
    assert table.loc["svi", "reading"].startswith("narrower (all parameters, sd down to 0.")
    assert table.loc["laplace", "mean_error"] == pytest.approx(0.3, abs=0.06)
    assert "shifted (w[" in table.loc["laplace", "reading"]
    assert table.loc["nuts", "reading"] == "agrees with the reference"
    assert table.loc["nuts", "distance"] < 1.3 * table.loc["nuts", "distance_floor"]
    assert table.loc["nuts", "ess_per_s"] == pytest.approx(table.loc["nuts", "ess"] / 2)
    assert np.isnan(table.loc["svi", "ess"])


def test_errors_are_those_of_the_draws():
    table = comparison.compare([row("svi", normal(seed=4))], {"m": TRUTH})
    each = table.parameters.loc[("svi", "w[0]")]
    draws = normal(seed=4)[0, :, 0]
    assert each["mean_error"] == pytest.approx(draws.mean())
    assert each["mean_error_se"] == pytest.approx(1 / np.sqrt(4000), rel=0.05)
    assert each["sd_ratio"] == pytest.approx(draws.std(ddof=1), rel=1e-3)
    assert each["sd_ratio_se"] == pytest.approx(1 / np.sqrt(8000), rel=0.1)


def test_what_the_reference_holds_fixed_is_no_error_and_infinity_no_value():
    fixed = normal(chains=4)
    fixed[..., 1] = 0.3 * (1 + 1e-16 * np.arange(1000))
    point = row("map", np.full((1, 1, 2), 0.3))
    table = comparison.compare([point, row("nuts", fixed)], {})
    assert table.loc["map", "worst"] == "w[0]"
    assert table.loc["map", "mean_error"] == pytest.approx(0.3, abs=0.1)
    fixed[..., 1] = 0.0
    odd = row("svi", normal(seed=3), metrics={"elbo": -np.inf, "elbo_se": np.nan})
    table = comparison.compare([odd, row("nuts", fixed)], {})
    assert "elbo" not in table.to_json_object()["rows"]["svi"]
    assert terminal.layout(table)[0]["mean error, sd"][0] != ""


def test_few_draws_tell_nothing():
    few = row("svi", normal(seed=2)[:, :60])
    table = comparison.compare([few, row("nuts", normal(chains=4, seed=3))], {})
    assert table.loc["svi", "reading"] == "too few effective draws to tell it from the reference"


def test_nuts_lies_at_the_noise_and_a_planted_narrow_fit_clearly_above():
    run = zoo.run("linear", method="nuts", noise=1.0)
    planted = run.idata.copy()
    centre = planted.posterior.mean(("chain", "draw"))
    narrow = centre + 0.8 * (planted.posterior - centre)
    planted.posterior = narrow.transpose("chain", "draw", ...)
    rows = [
        Row(label=label, posterior="m", record=run.record, idata=idata)
        for label, idata in (("nuts", run.idata), ("planted", planted))
    ]
    table = comparison.compare(rows, {"m": run.exact})
    assert table.loc["nuts", "distance"] < 1.2 * table.loc["nuts", "distance_floor"]
    assert table.loc["planted", "distance"] > 2 * table.loc["planted", "distance_floor"]
    assert table.loc["planted", "reading"].startswith("narrower (all parameters, sd down to 0.7")


YES = dict.fromkeys(("parameters", "predictions", "evidence", "loo"), "yes")


def record(status="pass", trust=None, identified=True, **metrics):
    verdict = {"status": status, "trust": trust or YES, "because": {"loo": "rows are few"}}
    return {"verdict": verdict, "metrics": metrics, "identified": identified}


def beside(shift=0.0, ratio=1.0, error=0.01):
    columns = {"mean_error": shift, "mean_error_se": error}
    return pd.DataFrame([{**columns, "sd_ratio": ratio, "sd_ratio_se": error}], index=["w"])


LINE = {"verdict": "pass", "reason": "", "reading": "agrees with the reference"}


@pytest.mark.parametrize(
    ("own", "each", "after"),
    [
        ("yes", beside(), "yes"),
        ("yes", beside(shift=0.4), "no"),
        ("yes", beside(ratio=0.6), "no"),
        ("yes", beside(ratio=1.4), "no"),
        ("yes", beside(shift=0.26, error=0.05), "yes"),  # may be noise
        ("not known", beside(), "yes"),
        ("not known", beside(shift=0.2, error=0.05), "not known"),
        ("not known", beside(ratio=0.5), "no"),
        ("no", beside(), "no"),
        ("yes", beside(ratio=np.nan), "yes"),
    ],
)
def test_the_reference_corrects_the_parameters(own, each, after):
    told = {**YES, "parameters": own}
    assert differences.trust(record(trust=told), LINE, each)["parameters"] == after


def test_the_reference_itself_and_what_failed_keep_their_own():
    line = {**LINE, "reading": "the reference"}
    assert differences.trust(record(), line, beside(shift=9.0)) == YES
    assert set(differences.trust(record("fail"), LINE, beside()).values()) == {"no"}


@pytest.mark.parametrize(("distance", "after"), [(0.01, "yes"), (0.05, "no")])
def test_networks_are_compared_by_what_they_predict(distance, after):
    told = {**YES, "parameters": "no", "predictions": "not known"}
    line = {**LINE, "distance": distance, "distance_floor": 0.001}
    found = differences.trust(record(trust=told, identified=False), line, beside(shift=9.0))
    assert found["predictions"] == after
    assert found["parameters"] == "no"


def test_a_pass_that_the_reference_contradicts_is_none():
    found = differences.capped(LINE, {**YES, "parameters": "no"}, YES)
    assert found["verdict"] == "warn"
    assert "contradicts" in found["reason"]
    assert differences.capped(LINE, YES, YES) == LINE
    unsure = {**YES, "predictions": "not known"}
    assert differences.capped(LINE, {**YES, "predictions": "no"}, unsure)["verdict"] == "warn"
    assert (
        differences.capped(LINE, {**YES, "parameters": "no"}, {**YES, "parameters": "no"}) == LINE
    )


def test_numbers_not_to_be_used_are_not_shown_and_say_why():
    line = {**LINE, "elpd_loo": -3.0, "elpd_loo_se": 1.0, "log_evidence": -7.0}
    answers = {**YES, "loo": "no"}
    shown = differences.shown(line, answers)
    assert np.isnan(shown["elpd_loo"]) and np.isnan(shown["elpd_loo_se"])
    assert shown["log_evidence"] == -7.0
    notes = differences.hidden({"a": record(elpd_loo=-3.0)}, {"a": answers})
    assert notes == ["elpd_loo of a is not shown: rows are few"]
    assert differences.hidden({"a": record()}, {"a": answers}) == []


def test_the_last_line_names_the_runs_by_purpose():
    answers = {"a": YES, "b": {**YES, "parameters": "no", "evidence": "not known", "loo": "no"}}
    assert differences.last_line(answers) == (
        "You may publish: parameters of a; predictions of a, b; evidence of a; "
        "leave-one-out score of a."
    )
    assert "parameters of none" in differences.last_line({})
