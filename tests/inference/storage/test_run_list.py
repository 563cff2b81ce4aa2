"""The runs of a folder: all of them listed, the damaged too, and removed with what was left."""

from __future__ import annotations

import json
import shutil

import pytest

import zoo
from inference.storage import lock, run_list
from inference.storage.record import read_record, write_record
from models.contract import Locked, Refused


@pytest.fixture
def saved(tmp_path):
    return zoo.run("coin", method="exact", draws=50, out=tmp_path / "runs").path


def test_runs_are_listed_with_those_that_are_damaged(saved):
    (saved.parent / "other").mkdir()
    (saved.parent / "other" / "run.json").write_text("{")
    assert {row["status"] for row in run_list.runs(saved.parent)} == {"done", "damaged"}


@pytest.mark.parametrize("odd", [{"seed": "0"}, {"status": None}, {"metrics": []}, {"data": []}])
def test_a_whole_record_of_no_run_is_refused_and_hides_no_other(odd, tmp_path):
    path = zoo.run("coin", method="exact", draws=50, out=tmp_path).path
    other = shutil.copytree(path, tmp_path / "other")
    write_record(other, {**json.loads((other / "run.json").read_text()), **odd})
    with pytest.raises(Refused, match=f"has no {next(iter(odd))} as runs have it"):
        read_record(other)
    (other / "run.json").write_text("[" * 100_000)
    with pytest.raises(Refused, match="damaged"):
        read_record(other)
    assert sorted(row["status"] for row in run_list.runs(tmp_path)) == ["damaged", "done"]


def test_a_run_that_was_killed_is_interrupted(saved):
    record = read_record(saved)
    assert run_list.status(saved, record) == "done"
    record |= {"status": "running"}
    assert run_list.status(saved, record) == "interrupted"
    held = lock.acquire(saved)
    assert run_list.status(saved, record) == "running"
    with pytest.raises(Locked):
        run_list.remove(saved)
    held.release()


def test_a_run_is_removed_and_a_link_is_not(saved):
    link = saved.parent / "link"
    link.symlink_to(saved)
    with pytest.raises(Refused, match="is a link"):
        run_list.remove(link)
    assert not run_list.remove(saved, ["failed"]) and saved.is_dir()
    assert run_list.remove(saved, ["done"]) and not saved.exists()


def test_what_a_killed_process_left_half_written_is_found_and_removed(saved):
    marked, foreign = (saved.parent / f".{name}.partial-0" for name in ("ours", "foreign"))
    for folder, file in ((marked, run_list.MARK), (foreign, "thesis.tex")):
        folder.mkdir()
        (folder / file).touch()
    assert run_list.partial_folders(saved.parent) == [marked]
    run_list.remove_partial(marked)
    assert not marked.exists() and foreign.exists()
