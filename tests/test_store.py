"""Runs on disk: whole or not at all, checked when read, never outside their folder."""

from __future__ import annotations

import json

import pytest

import zoo
from inference import store
from inference._problem import Refused


@pytest.fixture
def saved(tmp_path):
    return zoo.run("coin", method="laplace", draws=50, out=tmp_path / "runs").path


def test_the_record_says_what_ran_with_hashes_of_all_files(saved):
    record = json.loads((saved / "run.json").read_text())
    assert record["format"] == store.FORMAT
    assert {"idata.nc", "metrics.json", "params.safetensors"} <= record["files"].keys()
    assert all(store.sha256(saved / name) == digest for name, digest in record["files"].items())
    assert {"torch", "pyro-ppl", "arviz"} <= record["versions"].keys()
    assert saved.name.startswith("coin-laplace-0-")


@pytest.mark.parametrize("name", ["idata.nc", "metrics.json", "params.safetensors"])
def test_a_flipped_bit_or_a_missing_file_is_noticed(saved, name):
    content = bytearray((saved / name).read_bytes())
    content[len(content) // 2] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(Refused, match=f"{name} is missing or was altered") as caught:
        zoo.load(saved)
    assert caught.value.exit_code == 65
    (saved / name).unlink()
    with pytest.raises(Refused, match="missing"):
        zoo.load(saved)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": 99, "files": {}}'])
def test_a_damaged_or_foreign_record_is_refused(saved, content):
    (saved / "run.json").write_text(content)
    with pytest.raises(Refused, match=r"damaged|format 99"):
        zoo.load(saved)


def test_nothing_is_left_of_a_write_that_fails(tmp_path, monkeypatch):
    from inference import results

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, "write", full)
    with pytest.raises(store.CannotWrite, match="No space left") as caught:
        zoo.run("coin", method="exact", draws=50, out=tmp_path)
    assert caught.value.exit_code == 73
    assert list(tmp_path.iterdir()) == []


def test_names_stay_inside_and_are_not_overwritten(tmp_path):
    run = zoo.run("coin", method="exact", draws=50)
    first, second = run.save(tmp_path), run.save(tmp_path)
    assert first != second and first.parent == second.parent == tmp_path
    run.record["name"] = "../../x"
    with pytest.raises(store.CannotWrite, match="no name for a folder"):
        run.save(tmp_path)


def test_text_is_written_whole_and_runs_are_listed(saved, tmp_path):
    store.write_text(tmp_path / "t.csv", "a\n")
    assert (tmp_path / "t.csv").read_text() == "a\n"
    with pytest.raises(store.CannotWrite):
        store.write_text(tmp_path / "no" / "t.csv", "a\n")
    (saved.parent / "other").mkdir()
    (saved.parent / "other" / "run.json").write_text("{")
    assert {row["status"] for row in store.runs(saved.parent)} == {"done", "damaged"}
    with pytest.raises(store.MissingRun):
        store.record(tmp_path)


def test_a_folder_is_checked_before_the_work_and_nothing_is_left(tmp_path):
    store.check_folder(tmp_path / "new" / "runs")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(store.CannotWrite, match="cannot write the run"):
        store.check_folder(tmp_path / "file" / "runs")
