"""The command line as a user meets it: output, exit codes, one line an error, files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import HOUSE

import zoo


def test_nuts_on_the_coin_prints_the_verdict_first(command):
    done = command("run", "coin", "--method", "nuts", "--set", "draws=500")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("coin nuts seed 0")
    assert lines[1].startswith("PASS  Converged. Trust its parameters, predictions and")
    assert any(line.startswith("pi ") for line in lines)
    assert "p_heads" in done.stdout


def test_json_is_one_object_with_all_that_is_promised(command, tmp_path):
    done = command("run", "coin", "--method", "exact", "--json", "--seed", "7")
    out = json.loads(done.stdout)
    promised = {"model", "method", "guide", "seed", "run", "data", "verdict", "summary"}
    assert promised | {"metrics", "timing"} <= out.keys()
    assert out["data"]["n"] == 2 and len(out["data"]["sha256"]) == 64
    assert out["seed"] == 7
    assert out["summary"]["pi"]["mean"] == pytest.approx(0.75)
    assert out["metrics"]["log_evidence"] == pytest.approx(np.log(1 / 3))
    folder = tmp_path / out["run"]
    assert {p.name for p in folder.iterdir()} == {
        "run.json", "idata.nc", "metrics.json", "figures", "progress.jsonl", ".lock",
    }  # fmt: skip
    assert (folder / "figures" / "updating.png").stat().st_size > 10_000


def test_a_traceback_comes_with_v_alone(command):
    assert "Traceback" not in command("run", "coin", "--data", "gone.csv").stderr
    assert "Traceback" in command("run", "coin", "--data", "gone.csv", "-v").stderr


def test_strict_fails_where_the_verdict_does(command):
    short = ("run", "coin", "--method", "nuts", "--set", "draws=50", "--strict", "-q")
    done = command(*short)
    assert done.returncode == 3
    assert "FAIL" in done.stdout and "ESS" in done.stdout


def test_a_new_model_and_its_test_run_as_they_are(tmp_path):
    import subprocess
    import sys

    path = tmp_path / "mine.py"
    assert zoo.main(["new", str(path)]) == 0
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=HOUSE, capture_output=True, text=True,
    )  # fmt: skip
    assert "2 passed" in done.stdout, done.stdout
