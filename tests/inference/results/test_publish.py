"""The reference has the last word on who may be published, and for what."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from inference.results import publish

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
    assert publish.trust(record(trust=told), LINE, each)["parameters"] == after


def test_the_reference_itself_and_what_failed_keep_their_own():
    line = {**LINE, "reading": "the reference"}
    assert publish.trust(record(), line, beside(shift=9.0)) == YES
    assert set(publish.trust(record("fail"), LINE, beside()).values()) == {"no"}


@pytest.mark.parametrize(("distance", "after"), [(0.01, "yes"), (0.05, "no")])
def test_networks_are_compared_by_what_they_predict(distance, after):
    told = {**YES, "parameters": "no", "predictions": "not known"}
    line = {**LINE, "distance": distance, "distance_floor": 0.001}
    found = publish.trust(record(trust=told, identified=False), line, beside(shift=9.0))
    assert found["predictions"] == after
    assert found["parameters"] == "no"


def test_a_pass_that_the_reference_contradicts_is_none():
    found = publish.capped(LINE, {**YES, "parameters": "no"}, YES)
    assert found["verdict"] == "warn"
    assert "contradicts" in found["reason"]
    assert publish.capped(LINE, YES, YES) == LINE
    unsure = {**YES, "predictions": "not known"}
    assert publish.capped(LINE, {**YES, "predictions": "no"}, unsure)["verdict"] == "warn"
    assert publish.capped(LINE, {**YES, "parameters": "no"}, {**YES, "parameters": "no"}) == LINE


def test_numbers_not_to_be_used_are_not_shown_and_say_why():
    line = {**LINE, "elpd_loo": -3.0, "elpd_loo_se": 1.0, "log_evidence": -7.0}
    answers = {**YES, "loo": "no"}
    shown = publish.shown(line, answers)
    assert np.isnan(shown["elpd_loo"]) and np.isnan(shown["elpd_loo_se"])
    assert shown["log_evidence"] == -7.0
    notes = publish.hidden({"a": record(elpd_loo=-3.0)}, {"a": answers})
    assert notes == ["elpd_loo of a is not shown: rows are few"]
    assert publish.hidden({"a": record()}, {"a": answers}) == []


def test_the_last_line_names_the_runs_by_purpose():
    answers = {"a": YES, "b": {**YES, "parameters": "no", "evidence": "not known", "loo": "no"}}
    assert publish.last_line(answers) == (
        "You may publish: parameters of a; predictions of a, b; evidence of a; "
        "leave-one-out score of a."
    )
    assert "parameters of none" in publish.last_line({})
