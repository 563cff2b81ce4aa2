"""The command line as a user meets it: output, exit codes, one line an error, files."""

from __future__ import annotations

import json
import resource

import numpy as np
import pytest
import torch
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


@pytest.mark.parametrize("words", [["list"], ["--help"], ["run", "--help"]])
def test_looking_around_is_instant(command, words):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command(*words)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of the processor, not of the clock: tests share theirs.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.4


@pytest.mark.parametrize("what", ["models", "methods", "guides", "data", "runs"])
def test_lists_read_well_and_as_json(what, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert zoo.main(["list", what]) == 0
    text = capsys.readouterr().out
    assert zoo.main(["list", what, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(name in text for name in rows)
    assert (what == "runs") == (rows == {})


def test_show_teaches(capsys):
    assert zoo.main(["show", "coin"]) == 0
    text = capsys.readouterr().out
    for word in ("pi  ~ Beta(alpha, beta)", "default 1.0", "> 0", "Data keys: x", "Bernoulli"):
        assert word in text
    for method in zoo.inference.METHODS:
        assert f"  {method} " in text
    assert "target_accept=0.9" in text
    assert str(HOUSE / "models" / "coin.py") in text


def test_a_saved_run_is_read_shown_and_predicts_alike(tmp_path, capsys):
    run = zoo.run("coin", method="laplace", data="HHT", seed=3, out=tmp_path)
    again = zoo.load(run.path)
    assert again.verdict == run.verdict
    assert again.metrics == run.metrics
    assert again.summary().equals(run.summary())
    assert again.predict(rows=2).equals(run.predict(rows=2))
    assert again.plots() == run.plots()
    assert set(again.params) == {"loc", "scale_tril"}
    assert zoo.main(["show", str(run.path)]) == 0
    assert "PASS" in capsys.readouterr().out
    table = tmp_path / "table.csv"
    assert zoo.main(["predict", str(run.path), "--rows", "2", "--out", str(table)]) == 0
    assert table.read_text().splitlines()[0] == ",mean,sd,hdi_low,hdi_high"
    assert len(table.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (-1, "rows=-1 is too few; give 1 or more"),
        (0, "rows=0 is too few; give 1 or more"),
        (2.5, "rows=2.5 is no whole number; give 1 or more"),
    ],
)
def test_rows_to_predict_are_counts(rows, message):
    run = zoo.run("coin", method="exact", data="HHT")
    with pytest.raises(zoo.UsageError, match=message):
        run.predict(rows=rows)
    assert len(run.predict(rows=np.int64(2))) == 2


def test_settings_may_be_given_apart_or_in_one_word():
    apart = zoo._pairs(["n=3", "heads=0.7"])
    assert apart == zoo._pairs(["n=3,", "heads=0.7"]) == zoo._pairs(["n=3,heads=0.7"])
    assert zoo._pairs(["hidden=16,16"]) == {"hidden": "16,16"}


def test_no_method_takes_the_first_and_says_so(command):
    done = command("run", "gaussian", "--set", "draws=200", "warmup=100")
    assert "no --method given: nuts" in done.stderr


def test_in_python_the_same_verbs_and_a_table_for_notebooks():
    run = zoo.run("coin", method="exact", data="HH")
    assert run.path is None
    assert "<table" in run._repr_html_() and "pass" in run._repr_html_()
    assert repr(run).startswith("coin exact, pass: Converged. Trust") and "0.75" in repr(run)
    with pytest.raises(zoo.UsageError, match="did you mean 'marginals'"):
        run.plot("marginal")
    assert run.plot("marginals").axes


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


@pytest.mark.parametrize(
    ("method", "device", "code", "message"),
    [
        ("nuts", "cdua", 2, "did you mean 'cuda'"),
        ("map", "cuda", 2, "runs on the processor alone"),
        pytest.param(
            *("svi", "cuda", 78, "no CUDA device"),
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_a_device_that_cannot_be_had_is_told(method, device, code, message):
    with pytest.raises(Exception, match=message) as caught:
        zoo.run("coin", method=method, device=device)
    assert caught.value.exit_code == code


def test_an_automatic_device_is_the_processor_where_there_is_no_other():
    run = zoo.run("coin", method="map", device="auto", data="HHT")
    assert run.record["device"] == "cpu"
    assert {"load_s", "fit_s", "judge_s", "total_s"} <= run.record["timing"].keys()
