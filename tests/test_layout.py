"""The rules of the house: who may import whom, every model and module has its test."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HOUSE

import models

FILES = [*HOUSE.glob("models/**/*.py"), *HOUSE.glob("inference/**/*.py"), HOUSE / "zoo.py"]
# Each folder of `inference` may import the folders after it, and of `models` the contract alone
# (the workflow whatever it needs).
FLOORS = (
    "workflow",
    "show",
    "checks",
    "rows",
    "results",
    "networks",
    "methods",
    "program",
    "native",
    "core",
)


def imports(path: Path, *, types: bool = True) -> set[str]:
    """Every module that a file of the house imports, late ones too, by absolute name.

    Args:
        path: the file.
        types: also those that it imports for the names of types alone.
    """
    package = path.relative_to(HOUSE).parent.parts
    names, tree = set(), ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not types:
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def module_of(path: Path) -> str:
    """The name by which a file is imported."""
    return ".".join(path.relative_to(HOUSE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def known_to(path: Path) -> set[str]:
    """The modules of the house that a file imports."""
    return {name for name in imports(path) if name in MODULES} - {module_of(path)}


def floor(module: str) -> str:
    """The folder of `inference` that a module lies in; empty for the catalogue."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "inference" else ""


def importers(library: str, *, types: bool = True) -> set[str]:
    """The files that import a library (or a module of it)."""
    hits = set()
    for path in FILES:
        names = imports(path, types=types)
        if any(name == library or name.startswith(f"{library}.") for name in names):
            hits.add(str(path.relative_to(HOUSE)))
    return hits


def may_know(ours: str, theirs: str) -> bool:
    """Whether one module may import another, by where they lie."""
    here, there = floor(ours), floor(theirs)
    if theirs.partition(".")[0] == "models":
        shared = theirs == "models" or theirs.startswith("models.contract")
        return shared or here == "workflow"
    if not there or here == there:
        return not there or here != "storage" or there == "storage"
    if here == "storage" or there == "storage":
        return there == "core" or here == "workflow"
    return FLOORS.index(here) < FLOORS.index(there)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_run_one_way(path):
    ours = module_of(path)
    if floor(ours):
        assert not [theirs for theirs in known_to(path) if not may_know(ours, theirs)]


def test_models_know_nothing_of_the_inference_and_nobody_imports_the_command_line():
    assert not [name for name in importers("inference") if name.startswith("models/")]
    assert importers("zoo") <= {"zoo.py"}


def test_no_circle():
    graph = {module: known_to(path) for module, path in MODULES.items()}
    # A package's own file is imported with everything in it, and imports nothing but core.caches.
    for packages in [m for m, p in MODULES.items() if p.name == "__init__.py"]:
        graph = {module: known - {packages} for module, known in graph.items()}
    while leaves := [module for module, known in graph.items() if not known & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert not {module: sorted(known & graph.keys()) for module, known in graph.items()}


@pytest.mark.parametrize("path", sorted(HOUSE.glob("models/**/*.py")), ids=module_of)
def test_no_model_is_imported_by_another_or_by_its_parts(path):
    others = {f"models.{name}" for name in models.names()}
    assert not imports(path) & others


def test_arviz_is_called_in_one_module_that_knows_its_version():
    assert importers("arviz", types=False) == {"inference/results/inference_data.py"}


def test_matplotlib_is_used_as_figures_never_as_pyplot():
    assert not importers("matplotlib.pyplot")
    allowed = ("inference/show/", "inference/storage/", "inference/workflow/result.py", "models/")
    assert all(name.startswith(allowed) for name in importers("matplotlib"))


def test_every_model_and_module_has_its_test():
    tests = {path.relative_to(HOUSE / "tests") for path in HOUSE.glob("tests/**/test_*.py")}
    stems = {path.stem for path in tests}
    for path in FILES:
        inside = path.relative_to(HOUSE)
        if path.name == "__init__.py":
            continue
        if len(inside.parts) > 2 or inside.parts[0] == "inference":
            assert inside.with_name(f"test_{path.stem}.py") in tests, path
        assert f"test_{path.stem.strip('_')}" in stems, path


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
