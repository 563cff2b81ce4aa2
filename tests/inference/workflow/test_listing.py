"""What there is, and what makes room."""

from __future__ import annotations

import json
import re
import resource
import shutil

import pytest
from conftest import HOUSE
from stopping import SVI, save_at_each_chance, stopped  # noqa: F401

import inference
import zoo


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


def test_clean_removes_nothing_through_a_link(tmp_path, capsys):
    path = stopped(tmp_path / "other", 0.5, **SVI)
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "one").symlink_to(path)
    assert zoo.main(["clean", "--out", str(runs), "--interrupted"]) == 0
    assert zoo.main(["clean", str(runs / "one")]) == 65
    assert "is a link" in capsys.readouterr().err and (path / "run.json").is_file()


def test_show_teaches(capsys):
    assert zoo.main(["show", "coin"]) == 0
    text = capsys.readouterr().out
    for word in ("pi  ~ Beta(alpha, beta)", "default 1.0", "> 0", "Data keys: x", "Bernoulli"):
        assert word in text
    for method in inference.METHODS:
        assert f"  {method} " in text
    assert "target_accept=0.9" in text
    assert str(HOUSE / "models" / "coin.py") in text
