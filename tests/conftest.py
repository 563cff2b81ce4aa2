"""Shared by the tests: the command line as a subprocess, a problem from a model's name."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

import models
import zoo
from inference import settings
from inference._problem import Context, Problem

HOUSE = Path(__file__).parent.parent
QUIET = Context()


@pytest.fixture(autouse=True)
def _float64():
    """Tests compute as a run does: float64, one thread."""
    with zoo._numbers():
        yield


def problem_of(name: str, source=None, **options) -> Problem:
    """The problem of a model of the zoo (or of a file) with options, as `zoo.run` builds it."""
    entry = models.load(name)
    defaults = {k: s.default for k, s in settings.declared(entry.model).items()}
    return zoo._problem(entry, defaults | options, entry.data(source))


def problem_from(model, tensors=None, **options) -> Problem:
    """The problem of a Pyro function and its data."""
    from inference.prepare import prepare

    problem = Problem(model=partial(model, **options), tensors=tensors or {})
    return prepare(problem, dtype=torch.float64)


@pytest.fixture
def command(tmp_path):
    """`command("run", "coin", ...)` runs the command line in an empty folder."""

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, str(HOUSE / "zoo.py"), *words],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run
