"""Runs on disk: whole or not at all, checked when read, never outside their folder."""

from __future__ import annotations

import json

import pytest

import zoo
from inference.storage import run_folder, seals
from inference.storage.record import FORMAT
from models.contract import CannotWrite, Refused


@pytest.fixture
def saved(tmp_path):
    return zoo.run("coin", method="laplace", draws=50, out=tmp_path / "runs").path


def test_the_record_says_what_ran_with_hashes_of_all_files(saved):
    record = json.loads((saved / "run.json").read_text())
    assert record["format"] == FORMAT
    assert {"idata.nc", "metrics.json", "params.safetensors"} <= record["files"].keys()
    assert all(seals.sha256(saved / name) == digest for name, digest in record["files"].items())
    assert {"torch", "pyro-ppl", "arviz"} <= record["versions"].keys()
    assert saved.name.startswith("coin-laplace-0-")


def test_a_picture_that_cannot_be_drawn_costs_a_warning_and_not_the_run(tmp_path, monkeypatch):
    from dataclasses import replace

    import models

    def broken(*_, **__):
        raise ValueError("no ink")

    entry = models.load("coin")
    results = replace(entry.results, figures={"broken": broken})
    entry = replace(entry, results=results)
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
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "_write_result", full)
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
