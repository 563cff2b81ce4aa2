"""Seals: what is damaged is noticed, and costs no more than itself."""

from __future__ import annotations

import hashlib
import json
import sys

import pytest

import models
import zoo
from inference.storage import seals
from inference.storage.record import write_record
from inference.storage.seals import read_lines, seal_of, sealed_line, sha256
from models.users.fingerprint import trees


def test_a_seal_is_that_of_the_content_however_it_is_laid_out(tmp_path):
    assert seal_of({"a": 1, "b": [2]}) == seal_of({"b": [2], "a": 1})
    assert seal_of({"a": 1}) != seal_of({"a": 2})
    file = tmp_path / "f"
    file.write_bytes(b"abc")
    assert sha256(file) == hashlib.sha256(b"abc").hexdigest()


def test_a_damaged_line_is_left_out(tmp_path):
    file = tmp_path / "fits.jsonl"
    assert read_lines(file) == []
    lines = [sealed_line({"i": i, "rank": {"pi": 7}}) for i in range(4)]
    lines[1] = lines[1].replace("7", "8")
    lines[3] = lines[3][:-9]  # cut short
    file.write_text("".join([*lines[:3], "3\n", "{}\n", "[1]\n", lines[3]]))
    assert [line["i"] for line in read_lines(file)] == [0, 2]
    assert read_lines(file)[0] == {"i": 0, "rank": {"pi": 7}}


MODEL = """
import helper  # beside it
import pyro
import pyro.distributions as dist

def model(y):
    "A mean."
    mu = pyro.sample("mu", dist.Normal(0.0, helper.SCALE))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
"""
PLANTED = "open({marker!r}, 'w').close()\n"


@pytest.fixture
def ours(tmp_path, monkeypatch):
    """A run of a file of the user's, saved."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    home = tmp_path / "home"
    home.mkdir()
    (home / "mine.py").write_text(MODEL)
    (home / "helper.py").write_text("SCALE = 2.0\n")
    data = home / "y.json"
    data.write_text('{"y": [1.0, 2.0, 0.5]}')
    return zoo.run(home / "mine.py", method="laplace", data=data, out=tmp_path / "runs").path


@pytest.fixture
def strangers(ours, tmp_path, monkeypatch):
    """The same from another user, whose model writes a marker when it is imported."""
    marker = tmp_path / "marker"
    model = ours.parent.parent / "home" / "mine.py"
    model.write_text(PLANTED.format(marker=str(marker)) + MODEL)
    record = json.loads((ours / "run.json").read_text())
    record["files_of"] = {"model": trees(model)}
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "theirs"))
    write_record(ours, record)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return ours, marker


def test_a_run_of_ones_own_predicts_without_more(ours):
    assert len(zoo.load(ours).predict([0.0])) == 1


@pytest.mark.parametrize("look", ["show", "list", "report", "compare", "load"])
def test_looking_at_a_strangers_run_runs_nothing(strangers, look, tmp_path, capsys):
    folder, marker = strangers
    if look == "load":
        run = zoo.load(folder)
        run.summary(), run.exact, [run.plot(kind) for kind in run.plots()], run.loo()
    else:
        words = {"list": ["list", "runs", "--out", str(folder.parent)]}
        words["report"] = ["report", str(folder), "--out", str(tmp_path / "report.html")]
        words["compare"] = ["compare", str(folder), str(folder), "--out", str(tmp_path / "out")]
        assert zoo.main(words.get(look, [look, str(folder)])) == 0
        capsys.readouterr()
    assert not marker.exists()


@pytest.mark.parametrize("verb", ["predict", "resume"])
def test_what_needs_the_model_refuses_a_strangers_file(strangers, verb, capsys):
    folder, marker = strangers
    if verb == "resume":
        record = json.loads((folder / "run.json").read_text())
        store_as_theirs(folder, {**record, "status": "interrupted"})
    assert zoo.main([verb, str(folder)]) == 65
    assert "was not made by you here" in capsys.readouterr().err
    assert not marker.exists()


def store_as_theirs(folder, record):
    seal = seals.seal_of({k: v for k, v in record.items() if k not in ("sha256", "signature")})
    (folder / "run.json").write_text(json.dumps({**record, "sha256": seal, "signature": "0" * 64}))


def test_a_file_that_is_named_runs(strangers):
    folder, marker = strangers
    model = json.loads((folder / "run.json").read_text())["model"]
    run = zoo.load(folder, model=model)
    assert marker.exists() and len(run.predict([0.0])) == 1


def test_another_model_than_the_runs_is_refused(ours):
    helper = ours.parent.parent / "home" / "helper.py"
    helper.write_text("SCALE = 2.0  # as wide as it was\n")
    zoo.load(ours).predict([0.0])
    helper.write_text("SCALE = 3.0\n")
    with pytest.raises(models.BadInput, match=r"model changed since the run \(helper.py\)"):
        zoo.load(ours).predict([0.0])


def test_a_key_that_others_can_read_signs_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    signed = seals.sign("seal")
    assert seals.is_signed("seal", signed) and not seals.is_signed("other", signed)
    (tmp_path / "bayeszoo" / "key").chmod(0o644)
    assert seals.sign("seal") is None and not seals.is_signed("seal", signed)


def test_a_record_from_before_files_were_known_is_not_trusted_but_can_be_named(strangers):
    folder, _ = strangers
    record = json.loads((folder / "run.json").read_text())
    model = record["model"]
    store_as_theirs(folder, {k: v for k, v in record.items() if k != "files_of"})
    with pytest.raises(models.BadInput, match="was not made by you here"):
        zoo.load(folder).predict([0.0])
    assert len(zoo.load(folder, model=model).predict([0.0])) == 1


def test_a_file_of_a_librarys_name_is_not_taken_for_it(ours, monkeypatch):
    home, marker = ours.parent.parent / "home", ours.parent.parent / "marker"
    (home / "filecmp.py").write_text(PLANTED.format(marker=str(marker)))
    model = "import compileall, importlib  # which imports filecmp\n" + MODEL.replace(
        "import helper  # beside it", "helper = importlib.import_module('hel' + 'per')"
    )
    (home / "other.py").write_text(model)
    for name in ("compileall", "filecmp"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    zoo.run(home / "other.py", method="laplace", data=home / "y.json")
    assert "filecmp" in sys.modules and not marker.exists()


def test_a_run_that_goes_on_by_a_file_that_is_named_records_it(strangers, tmp_path):
    folder, _ = strangers
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("mine.py", "helper.py"):
        (elsewhere / name).write_bytes((tmp_path / "home" / name).read_bytes())
    record = json.loads((folder / "run.json").read_text())
    store_as_theirs(folder, {**record, "status": "interrupted"})
    zoo.resume(folder, model=elsewhere / "mine.py")
    record = json.loads((folder / "run.json").read_text())
    assert record["model"] == str(elsewhere / "mine.py") and record["status"] == "done"
    assert len(zoo.load(folder).predict([0.0])) == 1  # it is this user's now
