"""Saved runs are read whole, or refused with the file that is not as it was written."""

from __future__ import annotations

import json

import pytest

import zoo
from inference.storage import lock
from inference.storage.reading import pictures, progress, read_params, read_result
from inference.storage.record import read_record, write_record
from models.contract import Locked, MissingRun, Refused


@pytest.fixture
def saved(tmp_path):
    return zoo.run("coin", method="laplace", draws=50, out=tmp_path / "runs").path


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
    assert read_record(saved).status == "running" and progress(saved) == "no step yet"
    with pytest.raises(Refused, match="stopped before it was done"):
        read_result(saved)
    held = lock.acquire(saved)
    with pytest.raises(Locked, match="not done yet"):
        read_result(saved)
    held.release()
    write_record(saved, {**record, "status": "failed", "reason": "no memory"})
    with pytest.raises(Refused, match=r"failed and has no result.*no memory"):
        read_result(saved)
