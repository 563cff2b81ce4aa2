"""The inference methods: each a function `method(problem, *, seed, context, ...) -> Fit`."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from . import caches

caches.ensure()

METHODS = {
    "nuts": "nuts:nuts",
    "svi": "svi:svi",
    "laplace": "laplace:laplace",
    "map": "point:map_",
    "mle": "point:mle",
    "exact": "exact:exact",
    "prior": "prior:prior",
}


def method(name: str) -> Callable:
    """The function of a method; its module is imported now."""
    module, _, function = METHODS[name].partition(":")
    return getattr(import_module(f".{module}", __package__), function)


def title(name: str) -> str:
    """First line of the method's docstring, read from the source."""
    module, _, function = METHODS[name].partition(":")
    return _title(_functions(module)[function])


def guide_titles() -> dict[str, str]:
    """Name to first docstring line of the shared guides, read from the source."""
    return {name: _title(function) for name, function in _guides().items()}


def guide_forms() -> dict[str, str]:
    """Name of the shared guides to how it is written, `lowrank[:rank]`, read from the source."""
    arguments = {name: [a.arg for a in f.args.kwonlyargs] for name, f in _guides().items()}
    return {name: name + "".join(f"[:{a}]" for a in taken) for name, taken in arguments.items()}


def network_guides() -> tuple[str, ...]:
    """The shared guides that are for networks alone, read from the source."""
    return ast.literal_eval(_constant("OF_NETWORKS"))


def _guides() -> dict[str, ast.FunctionDef]:
    functions, table = _functions("guides"), _constant("GUIDES")
    return {k.value: functions[v.id] for k, v in zip(table.keys, table.values)}


def _constant(name: str) -> ast.expr:
    """The syntax of a constant of `guides`."""
    for node in _tree("guides").body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            return node.value
    raise LookupError(f"inference/guides.py has no {name}")


def _tree(module: str) -> ast.Module:
    return ast.parse((Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8"))


def _functions(module: str) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in _tree(module).body if isinstance(node, ast.FunctionDef)}


def _title(function: ast.FunctionDef) -> str:
    return (ast.get_docstring(function) or "").partition("\n")[0]
