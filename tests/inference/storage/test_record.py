"""Records: typed, written and read here alone; what is no record of a run is named."""

from __future__ import annotations

import copy
import json
import shutil

import pytest

import zoo
from inference.core.problem import Finding
from inference.storage import record as records
from inference.storage.record import (
    findings_of,
    read_record,
    record_of,
    shape_error,
    write_record,
)
from models.contract import Refused


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return zoo.run("coin", method="laplace", draws=50, out=tmp_path_factory.mktemp("runs")).path


@pytest.fixture
def record(whole):
    return json.loads((whole / "run.json").read_text())


@pytest.fixture
def saved(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


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
    assert shape_error(record) is None
    for value in (None, 3):
        assert shape_error(changed(record, where, value)).startswith(where)


@pytest.mark.parametrize("where", ["metrics.elbo", "point.pi", "timing.fit_s", "files.idata.nc"])
def test_numbers_and_hashes_of_another_kind_are_named(record, where):
    record = changed(record, where.split(".")[0], {where.partition(".")[2]: {"a": 1}})
    assert shape_error(record) == where


def test_a_finding_holds_what_findings_hold(record):
    known = {"level": "note", "what": "it is so"}
    assert shape_error({**record, "findings": [known]}) is None
    for finding in ({**known, "more": 1}, {"level": "note"}, "note", 3):
        assert shape_error({**record, "findings": [known, finding]}) == "findings.1"


def test_answers_hold_a_word_and_a_reason(record):
    assert shape_error({**record, "given": {"loo": ["no", "it is so"]}}) is None
    for answer in (3, ["no"], ["no", "because", "so"]):
        assert shape_error({**record, "given": {"loo": answer}}) == "given.loo"
    assert shape_error({**record, "given": {"loo": ["no", 3]}}) == "given.loo.1"


def test_a_run_that_is_done_has_a_verdict(record):
    del record["verdict"]
    assert shape_error(record) == "verdict"


def test_a_run_under_way_has_no_result(record):
    begun = {key: value for key, value in record.items() if key not in ("verdict", "metrics")}
    assert (
        shape_error({**begun, "status": "running"}) is None
        and shape_error({**record, "metrics": None}) == "metrics"
    )


def test_a_record_is_written_as_it_was_read(record, saved):
    again = read_record(saved)
    assert again["signed"] and again["run"] == str(saved)
    assert again["data"]["rows"] == ["flip", ["x"]] and again["verdict"] == record["verdict"]
    write_record(saved, again)
    assert json.loads((saved / "run.json").read_text()) == record
    in_file = {k: v for k, v in record.items() if k not in ("sha256", "signature", "format")}
    assert {k: v for k, v in again.items() if k not in ("run", "signed")} == in_file


def test_findings_come_back_as_they_were():
    finding = Finding("fail", "it is odd", "look", spoils=("loo",), unfinished=True)
    stored = json.loads(json.dumps(vars(finding)))
    assert findings_of({"findings": [stored]}) == (finding,)


def test_keys_that_nobody_knows_are_carried_along(record):
    record["weather"] = {"rain": 3}
    record["data"]["colour"] = "red"
    again = record_of(record)
    assert again["weather"] == {"rain": 3} and again["data"]["colour"] == "red"
    assert list(again)[-1] == "weather" and list(again["data"])[-1] == "colour"


def test_a_record_holds_what_there_is_by_now(record):
    begun = {k: v for k, v in record.items() if k not in records.RESULT_KEYS}
    begun |= {"status": "running"}
    assert not {"verdict", "calibration", "identified"} & record_of(begun).keys()
    judged = {**begun, "calibration": 100, "verdict": record["verdict"], "timing": {}}
    assert record_of(judged)["calibration"] == 100 and "identified" not in record_of(judged)
    failed = record_of({**begun, "status": "failed", "reason": "no memory"})
    assert failed["reason"] == "no memory" and failed["status"] == "failed"
    assert "reason" not in record_of({**failed, "reason": None})


def test_a_record_of_an_older_run_has_what_it_did_not_say(record):
    for name in ("files_of", "init", "given", "identified"):
        del record[name]
    del record["data"]["dtype"]
    assert shape_error(record) is None
    again = record_of(record)
    assert again["data"]["dtype"] == "float64" and again["identified"] and again["given"] == {}
    assert "files_of" not in again and again["init"] is None


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": 99, "files": {}}'])
def test_a_damaged_or_foreign_record_is_refused(saved, content):
    (saved / "run.json").write_text(content)
    with pytest.raises(Refused, match=r"damaged|format 99, this zoo reads 2"):
        zoo.load(saved)


def test_a_record_whose_numbers_were_changed_is_refused(saved):
    text = (saved / "run.json").read_text()
    (saved / "run.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(Refused, match=r"run\.json was altered"):
        zoo.load(saved)


def test_a_calibration_that_was_cut_short_by_an_older_zoo_is_read(saved):
    content = json.loads((saved / "run.json").read_text())
    for key in (*records.RESULT_KEYS, "sha256", "signature", "files"):
        content.pop(key, None) if key not in ("data", "settings") else None
    content |= {"status": "interrupted", "calibration": 200}
    content["sha256"] = records.seals.seal_of(content)
    (saved / "run.json").write_text(json.dumps(content))
    assert read_record(saved)["files"] == {}
