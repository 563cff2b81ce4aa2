"""Resuming: the draws and parameters of a run that nobody stopped, to the bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import HOUSE
from stopping import (  # noqa: F401
    BATCHES,
    LOCAL,
    MOONS,
    NUTS,
    RUNS,
    SPARSE,
    SVI,
    StopAt,
    same,
    save_at_each_chance,
    stopped,
)

import zoo
from inference.storage import files, run_folder, saved
from inference.storage.record import read_record, write_record
from models.contract import Fault, Locked, Refused


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_has_the_draws_of_one_that_nobody_stopped(name, tmp_path):
    path = stopped(tmp_path, 0.55, **RUNS[name])
    assert json.loads((path / "run.json").read_text())["status"] == "interrupted"
    kept = sorted(file.name for file in (path / "state").iterdir())
    assert kept and set(kept) < {"svi.safetensors", *(f"chain-{i}.safetensors" for i in range(4))}
    resumed = zoo.resume(path)
    same(resumed, zoo.run(**RUNS[name]))
    assert not (path / "state").exists()
    same(zoo.load(path), resumed)
    assert resumed.record["status"] == "done" and resumed.path == path


@pytest.mark.parametrize("name", ["nuts", "svi"])
def test_the_same_seed_gives_the_same_draws_wherever_it_runs(name, command, tmp_path):
    """One worker or two, before or after other runs, from the command line or from Python."""
    asked = RUNS[name] | {"seed": 5}
    alone = asked | ({"workers": 1} if name == "nuts" else {})
    first = zoo.run(**alone)
    zoo.run("linear", method="svi", guide="normal", steps=200, draws=20, seed=9)
    zoo.run("gaussian", method="nuts", draws=20, warmup=10, chains=1, seed=5)
    same(zoo.run(**asked), first)
    words = [f"{k}={v}" for k, v in asked.items() if k not in ("model", "method", "guide", "seed")]
    guide = ["--guide", asked["guide"]] if name == "svi" else []
    command("run", asked["model"], "--method", name, *guide, "--seed", "5", "--set", *words)
    (path,) = (tmp_path / "runs").iterdir()
    same(zoo.load(path), first)


def test_what_is_left_is_less_than_the_whole(tmp_path):
    """A resume does not begin again: the steps of the finished chains are not run."""
    path = stopped(tmp_path, 0.55, **NUTS)
    told = []

    class Watch(zoo.Callback):
        def on_step(self, step):
            told.append(step["chains"])

    zoo.resume(path, callbacks=[Watch()])
    assert sum(steps == 260 for steps in told[0]) >= 1


def test_an_interrupted_result_stays_readable_until_the_resumed_one_is_there(tmp_path):
    class Interrupt(zoo.Callback):
        def on_step(self, step):
            if step["step"] >= 500:
                os.kill(os.getpid(), signal.SIGINT)

    run = zoo.run(out=tmp_path, callbacks=[Interrupt()], **SVI)
    assert run.record["status"] == "interrupted"
    with pytest.raises(KeyboardInterrupt):
        zoo.resume(run.path, callbacks=[StopAt(0.7)])
    assert zoo.load(run.path).record["status"] == "interrupted"
    same(zoo.resume(run.path), zoo.run(**SVI))


@pytest.mark.parametrize("name", ["chain-0", "chain-1"])
def test_damaged_state_is_computed_again(name, tmp_path):
    path = stopped(tmp_path, 0.9, **NUTS)
    file = path / "state" / f"{name}.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 4
    file.write_bytes(content if name == "chain-0" else content[:-100])
    same(zoo.resume(path), zoo.run(**NUTS))


def test_a_failed_run_that_is_resumed_and_killed_is_no_longer_failed(tmp_path):
    path = stopped(tmp_path, 0.55, **NUTS)
    record = read_record(path)
    write_record(path, {**record, "status": "failed", "reason": "out of memory"})
    with pytest.raises(KeyboardInterrupt):
        zoo.resume(path, callbacks=[StopAt(0.9)])
    assert read_record(path)["status"] == "interrupted"
    assert zoo.main(["clean", "--out", str(tmp_path)]) == 0 and path.exists()
    run = zoo.resume(path)
    assert "reason" not in run.record or not run.record["reason"]
    assert run.record["timing"]["fit_s"] > run.record["timing"]["earlier_s"] > 0


def test_a_run_is_locked_while_it_is_written(tmp_path):
    path = stopped(tmp_path, 0.5, **SVI)
    with run_folder.reopen(path):
        assert files.is_running(path)
        with pytest.raises(Locked, match="written by another process") as caught:
            zoo.resume(path)
        assert caught.value.exit_code == 75
        with pytest.raises(Locked, match="not done yet"):
            zoo.load(path)
        with pytest.raises(Locked):
            saved.remove(path)
    assert not files.is_running(path)
    with pytest.raises(Refused, match="stopped before it was done") as caught:
        zoo.load(path)
    assert caught.value.exit_code == 65


def test_a_run_that_fails_says_so_in_its_folder(tmp_path, capsys):
    with pytest.raises(Fault, match="not finite"):
        zoo.run("linear", method="svi", lr=1e9, out=tmp_path)
    (path,) = tmp_path.iterdir()
    record = read_record(path)
    assert record["status"] == "failed" and "not finite" in record["reason"]
    with pytest.raises(Refused, match=r"failed and has no result.*not finite"):
        zoo.load(path)
    assert zoo.main(["list", "runs", "--out", str(tmp_path)]) == 0
    assert "failed: the objective" in capsys.readouterr().out
    assert zoo.main(["clean", "--out", str(tmp_path), "--dry-run"]) == 0 and path.exists()
    assert zoo.main(["clean", "--out", str(tmp_path)]) == 0 and not path.exists()


def test_a_run_that_is_done_is_not_run_again(tmp_path, capsys):
    path = zoo.run("coin", method="laplace", draws=50, out=tmp_path).path
    before = (path / "run.json").read_bytes()
    assert zoo.main(["resume", str(path)]) == 0
    told = capsys.readouterr()
    assert "coin laplace" in told.out and "was done already" in told.err
    assert (path / "run.json").read_bytes() == before
    assert zoo.main(["resume", str(tmp_path / "none")]) == 66


# -- killed at any moment ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "verb", ["nuts", "svi", "resume nuts", "resume svi", "compare", "sbc", "report", "clean"]
)
def test_commands_that_are_killed_at_any_moment_lose_nothing(verb, tmp_path):
    """SIGKILL, `ZOO_KILLS` times, 4 by default."""
    asked = [sys.executable, str(HOUSE / "tests" / "bench" / "kills.py"), "--out", str(tmp_path)]
    asked += ["--kills", os.environ.get("ZOO_KILLS", "4"), "--verbs", verb]
    done = subprocess.run(asked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "kills.jsonl").read_text().splitlines()]
    assert lines and not [line for line in lines if line["different"] or line["running"]]


@pytest.mark.parametrize("linked", ["figures", "progress.jsonl", "state"])
def test_nothing_is_written_through_a_link_in_a_runs_folder(linked, tmp_path, capsys):
    path = stopped(tmp_path / "runs", 0.5, **SVI)
    target = tmp_path / "elsewhere"
    target.mkdir()
    (target / "kept.partial-1").touch()
    if linked == "progress.jsonl":  # whose other end would grow
        os.link(path / linked, tmp_path / "mine.jsonl")
    else:
        shutil.rmtree(path / linked, ignore_errors=True)
        (path / linked).symlink_to(target)
    before = {one: one.read_bytes() for one in tmp_path.glob("mine.jsonl")}
    assert zoo.main(["resume", str(path)]) == 65
    assert f"{linked} is a link" in capsys.readouterr().err
    assert [one.name for one in target.iterdir()] == ["kept.partial-1"]
    assert all(one.read_bytes() == content for one, content in before.items())


def test_pictures_that_were_not_drawn_are_drawn_by_resume(tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_folder.RunFolder, "add_figures", stop)
        with pytest.raises(KeyboardInterrupt, match="draws its pictures"):
            zoo.run("coin", method="exact", draws=50, out=tmp_path)
    (path,) = tmp_path.iterdir()
    assert read_record(path)["status"] == "drawing" and not (path / "figures").exists()
    assert zoo.load(path).verdict.status == "pass"
    assert zoo.main(["list", "runs", "--out", str(tmp_path)]) == 0
    assert "pass, its pictures are missing" in capsys.readouterr().out
    assert zoo.main(["clean", "--out", str(tmp_path), "--interrupted"]) == 0
    assert zoo.main(["resume", str(path)]) == 0
    assert read_record(path)["status"] == "done" and list((path / "figures").glob("*.png"))
    assert zoo.load(path).record["files"].keys() > {"idata.nc", "metrics.json"}
