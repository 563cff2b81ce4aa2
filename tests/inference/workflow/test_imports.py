"""What commands import: each in a process of its own, which says what it has loaded at its end."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import HOUSE

HEAVY = {"arviz", "h5py", "matplotlib", "nutpie", "pandas", "scipy.stats", "sklearn", "xarray"}
PROGRAM = """
import sys, zoo
code = zoo.main(sys.argv[1:])
print(code, *sys.modules, file=sys.stderr)
"""
EXACT = ["run", "coin", "--method", "exact", "--set", "draws=50", "--out"]


def imported(*words: str, code: int = 0, program: str = PROGRAM) -> set[str]:
    """The modules that a command has imported at its end, which has that exit code."""
    asked = [sys.executable, "-c", program, *words]
    done = subprocess.run(asked, cwd=HOUSE, capture_output=True, text=True)
    exit_code, *modules = done.stderr.splitlines()[-1].split()
    assert int(exit_code) == code, done.stderr
    return set(modules)


def test_lists_take_no_library():
    assert not imported("list") & {*HEAVY, "torch", "numpy"}


def test_a_model_in_words_takes_torch_alone():
    modules = imported("show", "linear")
    assert "pyro" in modules and not modules & {*HEAVY, "rich", "jinja2"}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["run", "nowhere"], 2),
        (["run", "coin", "--set", "alpha=-1"], 78),
        (["run", "coin", "--data", "nowhere.csv"], 66),
        (["show", "linaer"], 2),
    ],
)
def test_a_refusal_takes_none_of_what_a_result_takes(words, code):
    assert not imported(*words, code=code) & HEAVY


def test_a_run_takes_neither_arviz_nor_scikit_learn(tmp_path):
    modules = imported(*EXACT, str(tmp_path))
    assert "matplotlib" in modules
    assert not modules & {"arviz", "matplotlib.pyplot", "nutpie", "sklearn"}
    (path,) = tmp_path.iterdir()
    assert not imported("show", str(path)) & {"arviz", "matplotlib", "sklearn", "torch._inductor"}


def test_what_is_imported_beforehand_is_not_imported_after(tmp_path):
    early = """
import sys
from inference.workflow import imports
imports.beforehand()
before = set(sys.modules)
import zoo
code = zoo.main(sys.argv[1:])
print(code, *(set(sys.modules) - before), file=sys.stderr)
"""
    late = imported(*EXACT, str(tmp_path), program=early)
    assert not {name.partition(".")[0] for name in late} & (HEAVY - {"h5py", "scipy.stats"})
