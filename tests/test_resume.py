"""Resuming: the draws and parameters of a run that nobody stopped, to the bit."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
from conftest import HOUSE

import models
import zoo
from inference.storage import journal, lock, run_folder, run_list, seals
from inference.storage.record import read_record, write_record
from models.contract import Fault, Locked, Refused

NUTS = {"model": "coin", "method": "nuts", "draws": 200, "warmup": 60, "workers": 2}
SVI = {"model": "gaussian", "method": "svi", "guide": "mvn", "steps": 1500, "draws": 60}
BATCHES = SVI | {"model": "linear", "guide": "normal", "batch_size": 100, "lr": 0.02}
MOONS = {
    "model": "bnn",
    "data": "moons",
    "hidden": "4",
    "method": "svi",
    "steps": 600,
    "draws": 20,
}
LOCAL = MOONS | {"guide": "local"}
SPARSE = MOONS | {"guide": "sparse", "prior": "log_uniform"}
RUNS = {"nuts": NUTS, "svi": SVI, "batches": BATCHES, "local": LOCAL, "sparse": SPARSE}


class StopAt(zoo.Callback):
    """Ends the run as Ctrl-C would, at a share of its steps."""

    def __init__(self, share: float):
        self.share = share

    def on_step(self, step):
        if step["step"] >= self.share * step["of"]:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _save_at_each_chance(monkeypatch):
    monkeypatch.setattr("inference.storage.state._SECONDS", 0.0)
    monkeypatch.setattr("inference.storage.state._SHARE", 1e9)


def stopped(folder: Path, share: float, **asked) -> Path:
    """The folder of a run that was stopped on its way."""
    with pytest.raises(KeyboardInterrupt, match=r"continue with `zoo.py resume"):
        zoo.run(out=folder, callbacks=[StopAt(share)], **asked)
    (path,) = folder.iterdir()
    return path


def same(one: zoo.Run, other: zoo.Run) -> None:
    """Equal draws, statistics, parameters, objective and verdict."""
    assert set(one.idata.groups()) == set(other.idata.groups())
    for group in one.idata.groups():
        for name, values in one.idata[group].data_vars.items():
            assert np.array_equal(values, other.idata[group][name], equal_nan=True), name
    assert one.params.keys() == other.params.keys()
    assert all((one.params[name] == other.params[name]).all() for name in one.params)
    assert one.metrics == other.metrics
    assert one.record["verdict"] == other.record["verdict"]


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


def mean(y, *, scale: float = 1.0):
    m = pyro.sample("m", dist.Normal(0.0, scale))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


def other(y, *, scale: float = 1.0):
    m = pyro.sample("m", dist.Normal(0.0, 2 * scale))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


def test_models_and_data_of_python_are_given_again_and_must_be_the_same(tmp_path):
    data = {"y": [0.5, -1.0, 2.0]}
    asked = SVI | {"model": mean, "data": data}
    path = stopped(tmp_path, 0.5, **asked)
    with pytest.raises(models.BadInput, match=r"given in Python; give it again: model="):
        zoo.resume(path)
    with pytest.raises(models.BadInput, match=r"the model changed since the run \(sha256 \w{8}"):
        zoo.resume(path, model=other)
    with pytest.raises(models.BadInput, match=r"the data \(given in Python\) changed"):
        zoo.resume(path, model=mean, data={"y": [0.5, -1.0, 2.5]})
    same(zoo.resume(path, model=mean), zoo.run(**asked))
    loaded = zoo.load(path, model=mean)
    assert len(loaded.predict(rows=2)) == 2
    with pytest.raises(models.BadInput, match="given in Python"):
        zoo.load(path).predict(rows=2)
    assert "marginals" in zoo.load(path).plots() and zoo.load(path).exact is None


def test_other_libraries_data_and_files_are_refused_by_name(tmp_path):
    (tmp_path / "m.py").write_text(
        "import pyro, pyro.distributions as dist\nSCALE = 1.0\n"
        "def model(y):\n"
        "    m = pyro.sample('m', dist.Normal(0.0, SCALE))\n"
        "    with pyro.plate('row', len(y)):\n"
        "        pyro.sample('y', dist.Normal(m, 1.0), obs=y)\n"
    )
    (tmp_path / "y.json").write_text('{"y": [1.0, 2.0]}')
    asked = SVI | {"model": tmp_path / "m.py", "data": tmp_path / "y.json"}
    path = stopped(tmp_path / "runs", 0.5, **asked)
    (tmp_path / "y.json").write_text('{"y": [1.0, 2.5]}')
    with pytest.raises(models.BadInput, match=r"the data .* changed since the run"):
        zoo.resume(path)
    (tmp_path / "y.json").write_text('{"y": [1.0, 2.0]}')
    text = (tmp_path / "m.py").read_text()
    (tmp_path / "m.py").write_text(text.replace("SCALE = 1.0", "SCALE = 2.0"))
    with pytest.raises(models.BadInput, match=r"the model changed since the run"):
        zoo.resume(path)
    (tmp_path / "m.py").write_text(text)
    record = read_record(path)
    record["versions"]["torch"] = "1.0"
    write_record(path, record)
    with pytest.raises(models.BadInput, match=r"begun with torch 1.0, here is 2\."):
        zoo.resume(path)


OWN_GUIDE = """import pyro, pyro.distributions as dist, torch
def model(y):
    m = pyro.sample('m', dist.Normal(0.0, 1.0))
    with pyro.plate('row', len(y)):
        pyro.sample('y', dist.Normal(m, 1.0), obs=y)
def guide(y):
    a = pyro.param('a', torch.tensor(0.0))
    pyro.sample('m', dist.Normal(a, 1.0))
"""


def test_another_guide_of_the_same_name_is_refused(tmp_path):
    (tmp_path / "m.py").write_text(OWN_GUIDE)
    asked = {"method": "svi", "data": {"y": [0.5, 1.0]}, "steps": 1000, "draws": 50}
    path = stopped(tmp_path / "runs", 0.5, model=tmp_path / "m.py", **asked)
    (tmp_path / "m.py").write_text(OWN_GUIDE.replace("Normal(a, 1.0)", "Normal(a, 3.0)"))
    with pytest.raises(models.BadInput, match=r"the model changed since the run \(m.py\)"):
        zoo.resume(path)
    (tmp_path / "m.py").write_text(OWN_GUIDE)
    assert zoo.resume(path).record["status"] == "done"


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
        assert lock.is_running(path)
        with pytest.raises(Locked, match="written by another process") as caught:
            zoo.resume(path)
        assert caught.value.exit_code == 75
        with pytest.raises(Locked, match="not done yet"):
            zoo.load(path)
        with pytest.raises(Locked):
            run_list.remove(path)
    assert not lock.is_running(path)
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


def test_clean_takes_what_failed_or_is_named_and_nothing_else(tmp_path, capsys):
    done = zoo.run("coin", method="exact", draws=50, out=tmp_path).path
    path = stopped(tmp_path / "other", 0.5, **SVI)
    shutil.move(path, tmp_path / path.name)
    gone = tmp_path / ".coin.partial-999999999"
    gone.mkdir()
    kept, mine = tmp_path / ".bashrc.partial-backup", tmp_path / ".mine.partial-1"
    kept.touch()
    mine.mkdir()
    (mine / "thesis.tex").touch()
    assert zoo.main(["clean", "--out", str(tmp_path)]) == 0
    assert (tmp_path / path.name).exists() and not gone.exists()
    assert kept.exists() and (mine / "thesis.tex").exists()
    assert zoo.main(["list", "runs", "--out", str(tmp_path)]) == 0
    assert re.search("interrupted, [789]00 of 1500", capsys.readouterr().out)
    assert zoo.main(["show", str(tmp_path / path.name)]) == 0
    assert "zoo.py resume" in capsys.readouterr().out
    assert zoo.main(["clean", "--out", str(tmp_path), "--interrupted"]) == 0
    assert not (tmp_path / path.name).exists() and done.exists()
    assert zoo.main(["clean", str(done)]) == 0 and not done.exists()
    assert zoo.main(["clean", str(done)]) == 66


def test_a_calibration_goes_on_from_its_last_fit(tmp_path, monkeypatch, capsys):
    asked = {"method": "exact", "n": 5, "draws": 100}
    first = journal.Journal.on_step

    def stop_at_15(self, step):
        first(self, step)
        if step["step"] == 15:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "on_step", stop_at_15)
        with pytest.raises(KeyboardInterrupt, match=r"continue with `zoo\.py resume"):
            zoo.calibrate("coin", 30, out=tmp_path, **asked)
    (path,) = tmp_path.iterdir()
    fits = path / run_folder.FITS
    assert len(seals.read_lines(fits)) == 15
    fits.write_text(fits.read_text() + '{"i": 15, "ra')  # as a kill would leave it
    assert zoo.main(["list", "runs", "--out", str(tmp_path)]) == 0
    assert "interrupted, 15 of 30 steps" in capsys.readouterr().out
    table, whole = zoo.resume(path), zoo.calibrate("coin", 30, **asked)
    assert read_record(path)["timing"]["fits"] == 15
    assert all((table.ranks[name] == whole.ranks[name]).all() for name in whole.ranks)
    assert (path / "figures" / "ranks.png").stat().st_size > 10_000
    assert zoo.main(["show", str(path)]) == 0
    assert "tests of 3 quantities over 30 data sets" in capsys.readouterr().out
    assert zoo.main(["resume", str(path), "-q"]) == 0
    with pytest.raises(zoo.UsageError, match=r"needs runs|run with a result"):
        zoo.report(path)
    fits.write_text(fits.read_text().replace("7", "8"))
    assert zoo.main(["show", str(path)]) == 65


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


def test_clean_removes_nothing_through_a_link(tmp_path, capsys):
    path = stopped(tmp_path / "other", 0.5, **SVI)
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "one").symlink_to(path)
    assert zoo.main(["clean", "--out", str(runs), "--interrupted"]) == 0
    assert zoo.main(["clean", str(runs / "one")]) == 65
    assert "is a link" in capsys.readouterr().err and (path / "run.json").is_file()


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
