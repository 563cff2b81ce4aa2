"""The rules of the house: who may import whom, every model and module has its test."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HOUSE

import models

FILES = sorted([*HOUSE.glob("models/**/*.py"), *HOUSE.glob("inference/**/*.py"), HOUSE / "zoo.py"])


def imports(path: Path) -> set[str]:
    """Every module a file imports, relative ones made absolute (`models.contract`)."""
    package = path.parent.relative_to(HOUSE).parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join(filter(None, [*above, node.module]))
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def importers(library: str) -> set[str]:
    """The files that import a library (or a module of it)."""
    hits = set()
    for path in FILES:
        if any(name == library or name.startswith(f"{library}.") for name in imports(path)):
            hits.add(str(path.relative_to(HOUSE)))
    return hits


def test_models_and_inference_do_not_know_each_other():
    assert not [f for f in importers("inference") if f.startswith("models/")]
    for path in HOUSE.glob("inference/**/*.py"):
        known = {name for name in imports(path) if name.split(".")[0] == "models"} - {"models"}
        assert all(name.startswith("models.contract") for name in known), path
    assert not [f for f in importers("zoo") if f != "zoo.py"]


@pytest.mark.parametrize(
    "path", sorted(HOUSE.glob("models/**/*.py")), ids=lambda p: str(p.relative_to(HOUSE))
)
def test_no_model_imports_another(path):
    others = {f"models.{name}" for name in models.names()}
    assert not imports(path) & others


def test_arviz_stays_where_versions_are_known():
    allowed = {"results", "diagnostics", "compare", "plots", "overlays", "uncertainty", "_style"}
    allowed |= {"loo", "store", "execute"}  # for the name of a type alone
    runtime = {f for f in importers("arviz") if f != "zoo.py"}
    assert runtime <= {f"inference/{name}.py" for name in allowed}


def test_matplotlib_is_used_as_figures_never_as_pyplot():
    assert not importers("matplotlib.pyplot")
    allowed = {"plots", "overlays", "uncertainty", "_style", "report", "store"}
    found = {f for f in importers("matplotlib") if f.startswith("inference/")}
    assert found <= {f"inference/{name}.py" for name in allowed}


def test_every_model_and_module_has_its_test():
    tests = {path.stem for path in HOUSE.glob("tests/**/test_*.py")}
    for path in FILES:
        if path.stem != "__init__":
            assert f"test_{path.stem.strip('_')}" in tests, path


def test_importing_changes_no_global_state():
    code = """
import torch, pyro, random, logging, warnings
before = (torch.get_default_dtype(), torch.get_num_threads(), torch.initial_seed(),
          pyro.settings.get(), torch.distributions.Distribution._validate_args,
          random.getstate(), logging.getLogger().handlers[:], warnings.filters[:])
import zoo, models, inference
for name in models.names(): models.load(name)
for name in inference.METHODS: inference.method(name)
after = (torch.get_default_dtype(), torch.get_num_threads(), torch.initial_seed(),
         pyro.settings.get(), torch.distributions.Distribution._validate_args,
         random.getstate(), logging.getLogger().handlers[:], warnings.filters[:])
assert before[:-1] == after[:-1]
"""
    subprocess.run([sys.executable, "-c", code], cwd=HOUSE, check=True)


def test_zoo_says_so_when_another_models_folder_shadows_ours(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("")
    code = f"import sys; sys.path.insert(0, '{tmp_path}'); sys.path.append('{HOUSE}'); import zoo"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert "another folder of that name shadows it" in done.stderr


@pytest.mark.parametrize("words", [["list"], ["--help"], ["run", "--help"]])
def test_start_up_needs_no_torch(words):
    code = f"""
import sys
import zoo
try:
    zoo.main({words!r})
except SystemExit:
    pass
heavy = {{"torch", "pyro", "arviz", "numpy", "matplotlib", "scipy"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], cwd=HOUSE, check=True, capture_output=True)


def test_no_conflict_of_a_merge_is_left():
    listed = subprocess.run(["git", "ls-files"], cwd=HOUSE, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no checkout")
    texts = [HOUSE / name for name in listed.stdout.split("\n") if Path(name).suffix in _TEXTS]
    for path in texts:
        assert not any(mark in path.read_text() for mark in ("<" * 7 + " ", ">" * 7 + " ")), path


_TEXTS = (".py", ".md", ".cfg", ".toml", ".json", ".ipynb")
