"""Runs on disk: whole or not at all, checked when read, never outside their folder."""

from __future__ import annotations

import json
import shutil

import pytest

import zoo
from inference.storage import store
from models.contract import CannotWrite, MissingRun, Refused


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
    with pytest.raises(Refused, match=r"damaged|format 99, this zoo reads 2"):
        zoo.load(saved)


def test_a_record_whose_numbers_were_changed_is_refused(saved):
    text = (saved / "run.json").read_text()
    (saved / "run.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(Refused, match=r"run\.json was altered"):
        zoo.load(saved)


def test_a_picture_that_cannot_be_drawn_costs_a_warning_and_not_the_run(tmp_path, monkeypatch):
    from dataclasses import replace

    import models

    def broken(*_, **__):
        raise ValueError("no ink")

    entry = replace(models.load("coin"), figures={"broken": broken})
    with pytest.warns(UserWarning, match=r"'broken' could not be drawn \(ValueError: no ink\)"):
        path = zoo.run(entry, method="exact", draws=50, out=tmp_path).path
    assert (path / "figures" / "marginals.png").is_file()
    assert zoo.load(path, model=entry).verdict.status == "pass"


def test_data_given_in_python_are_kept_with_the_run(tmp_path):
    flips = {"x": ["H", "T", "H"]}
    path = zoo.run("coin", method="exact", data=flips, draws=50, out=tmp_path).path
    assert zoo.load(path).data.tensors["x"].tolist() == [1, 0, 1]
    assert zoo.load(path).exact is not None


def test_a_write_that_fails_leaves_a_run_that_can_be_resumed(tmp_path, monkeypatch):
    from inference.results import inference_data

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(inference_data, "netcdf", full)
        with pytest.raises(CannotWrite, match=r"No space left.*zoo\.py resume") as caught:
            zoo.run("coin", method="exact", draws=50, out=tmp_path)
    assert caught.value.exit_code == 74
    (path,) = tmp_path.iterdir()
    assert {file.name for file in path.iterdir()} <= {"run.json", "progress.jsonl", ".lock"}
    assert zoo.resume(path).verdict.status == "pass"


def test_nothing_is_left_of_a_run_that_is_refused(tmp_path):
    with pytest.raises(Refused, match="unbounded"):
        zoo.run("coin", method="map", alpha=0.5, beta=0.5, out=tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_names_stay_inside_and_are_not_overwritten(tmp_path):
    run = zoo.run("coin", method="exact", draws=50)
    first, second = run.save(tmp_path), run.save(tmp_path)
    assert first != second and first.parent == second.parent == tmp_path
    run.record["name"] = "../../x"
    with pytest.raises(CannotWrite, match="no name for a folder"):
        run.save(tmp_path)


def test_text_is_written_whole_and_runs_are_listed(saved, tmp_path):
    store.write_text(tmp_path / "t.csv", "a\n")
    assert (tmp_path / "t.csv").read_text() == "a\n"
    with pytest.raises(CannotWrite):
        store.write_text(tmp_path / "no" / "t.csv", "a\n")
    (saved.parent / "other").mkdir()
    (saved.parent / "other" / "run.json").write_text("{")
    assert {row["status"] for row in store.runs(saved.parent)} == {"done", "damaged"}
    with pytest.raises(MissingRun):
        store.record(tmp_path)


def test_a_folder_is_checked_before_the_work_and_nothing_is_left(tmp_path):
    store.check_folder(tmp_path / "new" / "runs")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite, match="cannot write the run"):
        store.check_folder(tmp_path / "file" / "runs")


@pytest.mark.parametrize("odd", [{"seed": "0"}, {"status": None}, {"metrics": []}, {"data": []}])
def test_a_whole_record_of_no_run_is_refused_and_hides_no_other(odd, tmp_path):
    path = zoo.run("coin", method="exact", draws=50, out=tmp_path).path
    other = shutil.copytree(path, tmp_path / "other")
    store._put_manifest(other, {**json.loads((other / "run.json").read_text()), **odd})
    with pytest.raises(Refused, match=f"has no {next(iter(odd))} as runs have it"):
        store.begun(other)
    (other / "run.json").write_text("[" * 100_000)
    with pytest.raises(Refused, match="damaged"):
        store.begun(other)
    assert sorted(one["status"] for one in store.runs(tmp_path)) == ["damaged", "done"]
