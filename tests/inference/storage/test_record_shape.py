"""Records that are whole and no run's: what is odd is named."""

from __future__ import annotations

import copy
import json

import pytest

import zoo
from inference.storage.record_shape import odd


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = zoo.run("coin", method="laplace", draws=50, out=tmp_path_factory.mktemp("runs")).path
    return json.loads((path / "run.json").read_text())


@pytest.fixture
def record(whole):
    return copy.deepcopy(whole)


def changed(record, where, value):
    """The record with another value, or without the part where it is None."""
    *above, last = where.split(".")
    new = part = copy.deepcopy(record)
    for name in above:
        part = part[int(name)] if isinstance(part, list) else part[name]
    last = int(last) if isinstance(part, list) else last
    part[last] = value
    if value is None:
        del part[last]
    return new


@pytest.mark.parametrize(
    "where",
    [
        "status",
        "data",
        "data.notes",
        "data.asked",
        "data.asked.options",
        "verdict.status",
        "verdict.reasons",
        "findings",
        "point",
        "exact",
        "timing",
    ],
)
def test_what_is_missing_or_of_another_kind_is_named(record, where):
    assert odd(record) is None
    for value in (None, 3):
        assert odd(changed(record, where, value)).startswith(where)


@pytest.mark.parametrize("where", ["metrics.elbo", "point.pi", "timing.fit_s", "files.idata.nc"])
def test_numbers_and_hashes_of_another_kind_are_named(record, where):
    record = changed(record, where.split(".")[0], {where.partition(".")[2]: {"a": 1}})
    assert odd(record) == where


def test_a_finding_holds_what_findings_hold(record):
    known = {"level": "note", "what": "it is so"}
    assert odd({**record, "findings": [known]}) is None
    for finding in ({**known, "more": 1}, {"level": "note"}, "note", 3):
        assert odd({**record, "findings": [known, finding]}) == "findings.1"


def test_answers_hold_a_word_and_a_reason(record):
    assert odd({**record, "given": {"loo": ["no", "it is so"]}}) is None
    for answer in (3, ["no"], ["no", "because", "so"]):
        assert odd({**record, "given": {"loo": answer}}) == "given.loo"
    assert odd({**record, "given": {"loo": ["no", 3]}}) == "given.loo.1"


def test_a_run_that_is_done_has_a_verdict(record):
    del record["verdict"]
    assert odd(record) == "verdict"


def test_a_run_under_way_has_no_result(record):
    begun = {key: value for key, value in record.items() if key not in ("verdict", "metrics")}
    assert (
        odd({**begun, "status": "running"}) is None
        and odd({**record, "metrics": None}) == "metrics"
    )
