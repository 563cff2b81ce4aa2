"""A home that cannot be written to: libraries keep their things elsewhere for once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HOUSE

from inference.core import caches


@pytest.fixture
def ended(monkeypatch):
    """What is registered for the end of the process."""
    registered = []
    monkeypatch.setattr(caches.atexit, "register", lambda *what, **_: registered.append(what))
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    return registered


def test_a_cache_that_can_be_written_to_stays(tmp_path, monkeypatch, ended):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
    caches.ensure()
    assert caches.root() == tmp_path / "new" and not ended


def test_another_is_replaced_for_the_time_of_the_process(tmp_path, monkeypatch, ended):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    caches.ensure()
    assert caches.root().is_dir() and os.environ["MPLCONFIGDIR"] == str(caches.root())
    ((remove, folder),) = ended
    remove(folder)
    assert not Path(folder).exists()


def test_a_run_ends_well_without_a_home(tmp_path):
    words = ["run", "coin", "--method", "exact", "--set", "draws=50", "--out", str(tmp_path)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("XDG_")}
    done = subprocess.run(
        [sys.executable, str(HOUSE / "zoo.py"), *words],
        env={**environment, "HOME": "/proc/1/none"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "saved in" in done.stdout and "rror" not in done.stderr
