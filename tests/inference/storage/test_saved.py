"""Saved runs: read whole or refused, all of them listed, and removed with what was left."""

from __future__ import annotations

import json
import shutil

import pytest

import zoo
from inference.storage import files
from inference.storage.record import read_record, write_record
from inference.storage.saved import (
    MARK,
    partial_folders,
    pictures,
    progress,
    read_params,
    read_result,
    remove,
    remove_partial,
    runs,
    status,
)
from models.contract import Locked, MissingRun, Refused


@pytest.fixture
def saved(tmp_path):
    return zoo.run("coin", method="laplace", draws=50, out=tmp_path / "runs").path


def test_runs_are_listed_with_those_that_are_damaged(saved):
    (saved.parent / "other").mkdir()
    (saved.parent / "other" / "run.json").write_text("{")
    assert {row["status"] for row in runs(saved.parent)} == {"done", "damaged"}


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
    assert sorted(row["status"] for row in runs(tmp_path)) == ["damaged", "done"]


def test_a_run_that_was_killed_is_interrupted(saved):
    record = read_record(saved)
    assert status(saved, record) == "done"
    record |= {"status": "running"}
    assert status(saved, record) == "interrupted"
    held = files.acquire(saved)
    assert status(saved, record) == "running"
    with pytest.raises(Locked):
        remove(saved)
    held.release()


def test_a_run_is_removed_and_a_link_is_not(saved):
    link = saved.parent / "link"
    link.symlink_to(saved)
    with pytest.raises(Refused, match="is a link"):
        remove(link)
    assert not remove(saved, ["failed"]) and saved.is_dir()
    assert remove(saved, ["done"]) and not saved.exists()


def test_what_a_killed_process_left_half_written_is_found_and_removed(saved):
    marked, foreign = (saved.parent / f".{name}.partial-0" for name in ("ours", "foreign"))
    for folder, file in ((marked, MARK), (foreign, "thesis.tex")):
        folder.mkdir()
        (folder / file).touch()
    assert partial_folders(saved.parent) == [marked]
    remove_partial(marked)
    assert not marked.exists() and foreign.exists()


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


def test_a_result_has_its_parameters_and_pictures(saved, tmp_path):
    run = zoo.load(saved)
    assert {name: value.tolist() for name, value in read_params(saved).items()} == {
        name: value.tolist() for name, value in run.params.items()
    }
    assert [path.name for path in pictures(saved)] == sorted(
        path.name for path in (saved / "figures").glob("*.png")
    )
    assert pictures(None) == []
    (saved / "params.safetensors").write_bytes(b"no parameters")
    with pytest.raises(Refused, match=r"params\.safetensors is damaged"):
        read_params(saved)
    with pytest.raises(MissingRun):
        read_result(tmp_path)


def test_a_run_without_a_result_says_how_far_it_is(saved):
    record = json.loads((saved / "run.json").read_text())
    del record["verdict"]
    write_record(saved, {**record, "status": "running"})
    assert read_record(saved)["status"] == "running" and progress(saved) == "no step yet"
    with pytest.raises(Refused, match="stopped before it was done"):
        read_result(saved)
    held = files.acquire(saved)
    with pytest.raises(Locked, match="not done yet"):
        read_result(saved)
    held.release()
    write_record(saved, {**record, "status": "failed", "reason": "no memory"})
    with pytest.raises(Refused, match=r"failed and has no result.*no memory"):
        read_result(saved)
