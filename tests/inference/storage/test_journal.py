"""The journal: a run can be followed by it, and its time is known after a kill too."""

from __future__ import annotations

import json

import zoo
from inference.storage import journal


def test_the_journal_follows_a_run(tmp_path):
    asked = {"method": "svi", "guide": "normal", "steps": 300, "draws": 20}
    path = zoo.run("coin", out=tmp_path, **asked).path
    lines = [json.loads(line) for line in (path / "progress.jsonl").read_text().splitlines()]
    assert lines[0]["event"] == "start"
    assert lines[-1]["event"] == "end" and lines[-1]["status"] == "done"
    assert [line["t"] for line in lines] == sorted(line["t"] for line in lines)
    assert journal.last_step(path / "progress.jsonl")["step"] == 300


def test_the_time_of_all_attempts_is_known(tmp_path):
    file = tmp_path / "progress.jsonl"
    assert journal.seconds_spent(file) == 0
    lines = [(0.5, "start"), (4.0, "step"), (0.25, "start"), (2.0, "end")]
    file.write_text("".join(json.dumps({"t": t, "event": e}) + "\n" for t, e in lines))
    assert journal.seconds_spent(file) == 6.0


def test_a_journal_cut_short_is_read_as_far_as_it_goes(tmp_path):
    file = tmp_path / "progress.jsonl"
    assert journal.last_step(file) is None
    file.write_text('{"event": "step", "step": 5, "of": 9}\n{"event": "st')
    assert journal.last_step(file) == {"event": "step", "step": 5, "of": 9}
