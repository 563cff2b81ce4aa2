"""Shared by the tests: the command line as a subprocess, a problem from a model's name."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

# One thread each: the tests run side by side, and threads that wait for each other's core cost
# more than they bring. Before torch and NumPy are loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyro
import pyro.distributions as dist
import pytest
import scene
import torch

import inference
import models
from inference.core import machine, settings
from inference.core.problem import Context, Problem
from inference.program import prepare

HOUSE = Path(__file__).parent.parent
QUIET = Context()
Y = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def regression(y):
    """A small model with a deterministic site, for rows such as `Y`."""
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.5))
    double = pyro.deterministic("double", 2 * mu)
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(double / 2, sigma), obs=y)


@pytest.fixture(autouse=True)
def _float64():
    """Tests compute as a run does: float64, one thread; with a parameter store of their own."""
    with machine.numbers(), pyro.get_param_store().scope():
        yield


def perceptron(x, w0, b0, w1):
    """The outputs of a network of one hidden layer, written as products."""
    return torch.tanh(x @ w0 + b0) @ w1


def problem_of(name: str, source=None, **options) -> Problem:
    """The problem of a model of the zoo (or of a file), options of its data among the options."""
    entry = models.load(name)
    data = {k: options.pop(k) for k in settings.declared(entry.data) if k in options}
    defaults = {k: s.default for k, s in settings.declared(entry.model).items()}
    return prepare.program_of(entry, defaults | options, entry.data(source, **data)).problem


def problem_from(model, tensors=None, **options) -> Problem:
    """The problem of a Pyro function and its data."""
    problem = Problem(model=partial(model, **options), tensors=tensors or {})
    return prepare.ready(problem, dtype=torch.float64).problem


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


class _Tags(HTMLParser):
    """The elements of a page in order, with their attributes but for texts of pictures."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, [(k, v) for k, v in attrs if k not in ("alt", "src")]))

    def handle_endtag(self, tag):
        self.found.append(("/" + tag, []))


def tags(page: str) -> list:
    """What a page is made of beside its text, which must not depend on the text."""
    parser = _Tags()
    parser.feed(page)
    return parser.found


# The shared guides of a network's weights.
NETWORK_GUIDES = [name for name, kind in inference.GUIDES.items() if kind.of_networks]

# What a stranger's record may hold, and what must not come out of it.
EVIL = "<script>alert('x')</script>\"'> <img src=javascript:y onload=z> {{'a' * 9}} \x1b[2J\u202e"
UNESCAPED = ("<script", "<img src=j", "a" * 9, "\x1b", "\u202e")


def pytest_terminal_summary(terminalreporter, config):
    """Writes the table of faults, where their slow commands were run too."""
    reports = [report for several in terminalreporter.stats.values() for report in several]
    told = [
        value
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "fault" and report.when == "call"
    ]
    path = os.environ.get("ZOO_FAULT_TABLE")
    if told and (path or config.option.markexpr != "not slow"):
        path = Path(path or HOUSE / "build" / "faults.md")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(scene.table(told), encoding="utf-8")
        terminalreporter.write_line(f"{len(told)} faults, the table is {path}")
