"""The notebooks: each runs from start to end, quickly, and is kept with clean outputs."""

from __future__ import annotations

import re

import nbformat
import pytest
from conftest import HOUSE
from nbclient import NotebookClient

NOTEBOOKS = sorted(HOUSE.glob("notebooks/*.ipynb"))
PICTURES = {"bnn": 5, "coin": 6, "guides": 6, "latent_depth": 3, "regression": 5, "vae": 5}
# A quarter of a minute and more even with few steps.
LONG = ("bnn", "guides", "latent_depth", "regression", "vae")
EACH = [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] * (p.stem in LONG)) for p in NOTEBOOKS]


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in code(notebook) for output in cell.outputs]


def pictures(notebook: nbformat.NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def complaints(notebook: nbformat.NotebookNode) -> list[str]:
    """Errors, and whatever was written to stderr: warnings, progress bars."""
    return [
        output.get("text") or output.get("evalue", "")
        for output in outputs(notebook)
        if output.output_type == "error" or output.get("name") == "stderr"
    ]


@pytest.mark.parametrize("path", EACH)
def test_runs_from_start_to_end(path, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_FAST", "1")  # few draws: the asserts in the cells hold all the same
    monkeypatch.setenv("PYTHONPATH", str(HOUSE))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    assert complaints(notebook) == []
    assert pictures(notebook) >= PICTURES[path.stem]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_kept_with_its_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in code(notebook)] == list(
        range(1, len(code(notebook)) + 1)
    )
    assert complaints(notebook) == []
    assert pictures(notebook) >= PICTURES[path.stem]
    assert path.stat().st_size < 500_000
    assert not re.search(r"(?<![\w.:/])/(tmp|home|root|work|Users)/", path.read_text())


def test_every_notebook_is_here():
    assert {path.stem for path in NOTEBOOKS} == set(PICTURES)
