"""State on disk: whole or not there, and never a reason for a run to end."""

from __future__ import annotations

import json

import numpy as np
import pytest

import zoo
from inference.core.problem import State
from inference.storage import state
from inference.storage.state import SavedState


def test_arrays_and_numbers_come_back_as_they_were(tmp_path):
    state = SavedState(tmp_path / "state")
    arrays = {"u": np.arange(6.0).reshape(2, 3), "t": np.float32(7), "b": np.array([True])}
    assert state.load("a") is None
    state.save("a", arrays, done=3, lr=0.1, level=None)
    found, numbers = SavedState(tmp_path / "state").load("a")
    assert numbers == {"done": 3, "lr": 0.1, "level": None}
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert (found[name] == array).all()


@pytest.mark.parametrize("at", [3, 40, 200, -1])
def test_a_flipped_bit_or_a_cut_file_is_no_state(at, tmp_path):
    state = SavedState(tmp_path)
    state.save("a", {"u": np.arange(100.0)}, done=3)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[at] ^= 16
    file.write_bytes(content)
    assert state.load("a") is None
    file.write_bytes(content[:-8])
    assert state.load("a") is None


def test_a_file_of_another_run_or_name_is_no_state(tmp_path):
    SavedState(tmp_path, "one").save("chain-0", {"u": np.arange(3.0)})
    (tmp_path / "chain-1.safetensors").write_bytes((tmp_path / "chain-0.safetensors").read_bytes())
    assert SavedState(tmp_path, "one").load("chain-0") is not None
    assert SavedState(tmp_path, "one").load("chain-1") is None
    assert SavedState(tmp_path, "two").load("chain-0") is None


def test_a_full_disk_ends_the_keeping_with_a_warning(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    state = SavedState(tmp_path)
    monkeypatch.setattr("inference.storage.state._content", full)
    with pytest.warns(UserWarning, match="No space left on device.*it goes on"):
        state.save("a", {"u": np.zeros(1)})
    assert not state.due and list(tmp_path.iterdir()) == []
    state.save("a", {"u": np.zeros(1)})


def test_saving_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("inference.storage.state.time.monotonic", lambda: now[0])

    def slow(*_):
        now[0] += 2.0

    monkeypatch.setattr("inference.storage.state.write_atomically", slow)
    state = SavedState(tmp_path)
    assert state.due
    state.save("a", {})
    assert not state.due
    now[0] += 39
    assert not state.due
    now[0] += 2
    assert state.due


def test_without_a_folder_nothing_is_kept():
    state = State()
    state.save("a", {"u": np.zeros(1)})
    assert not state.due and state.load("a") is None


def test_the_journal_follows_a_run(tmp_path):
    asked = {"method": "svi", "guide": "normal", "steps": 300, "draws": 20}
    path = zoo.run("coin", out=tmp_path, **asked).path
    lines = [json.loads(line) for line in (path / "progress.jsonl").read_text().splitlines()]
    assert lines[0]["event"] == "start"
    assert lines[-1]["event"] == "end" and lines[-1]["status"] == "done"
    assert [line["t"] for line in lines] == sorted(line["t"] for line in lines)
    assert state.last_step(path / "progress.jsonl")["step"] == 300


def test_the_time_of_all_attempts_is_known(tmp_path):
    file = tmp_path / "progress.jsonl"
    assert state.seconds_spent(file) == 0
    lines = [(0.5, "start"), (4.0, "step"), (0.25, "start"), (2.0, "end")]
    file.write_text("".join(json.dumps({"t": t, "event": e}) + "\n" for t, e in lines))
    assert state.seconds_spent(file) == 6.0


def test_a_journal_cut_short_is_read_as_far_as_it_goes(tmp_path):
    file = tmp_path / "progress.jsonl"
    assert state.last_step(file) is None
    file.write_text('{"event": "step", "step": 5, "of": 9}\n{"event": "st')
    assert state.last_step(file) == {"event": "step", "step": 5, "of": 9}
