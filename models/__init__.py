"""The models of the zoo: one file each, the folder listing is the registry.

`names`, `title` and `card` read the sources and import nothing heavy; `load` imports one model.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import itertools
import re
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._entry import Data, Entry, Fault, data_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Data", "Entry", "Fault", "data_keys", "names", "title", "load"]

_HERE = Path(__file__).parent


def names() -> list[str]:
    """Names of the zoo's models, which are those of its files."""
    return sorted(p.stem for p in _HERE.glob("[a-z]*.py"))


def path(name: str) -> Path:
    """Source file of a model of the zoo."""
    return _HERE / f"{name}.py"


@cache
def _source(name: str) -> ast.Module:
    return ast.parse(path(name).read_text(encoding="utf-8"))


def card(name: str) -> str:
    """The model's card: the docstring of its file."""
    return ast.get_docstring(_source(name)) or ""


def title(name: str) -> str:
    """First line of the model's card."""
    return card(name).partition("\n")[0]


def paragraph(name: str, heading: str) -> str:
    """The paragraph of the card that begins with `heading`, on one line, without it."""
    _, _, rest = card(name).partition(f"\n{heading}")
    lines = rest.split("\n")
    kept = [lines[0], *itertools.takewhile(lambda line: line.startswith("  "), lines[1:])]
    return " ".join(line.strip() for line in kept)


def entry_fields(name: str) -> dict[str, ast.expr]:
    """The keyword arguments of the file's `ENTRY = Entry(...)`, as syntax."""
    for node in _source(name).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ENTRY":
            return {keyword.arg: keyword.value for keyword in node.value.keywords}
    return {}


def has_exact(name: str) -> bool:
    """Whether the model states an exact truth."""
    return "exact" in entry_fields(name)


def refused(name: str) -> dict[str, str]:
    """Method to the reason why it is refused on the default data."""
    field = entry_fields(name).get("refused")
    return ast.literal_eval(field) if field is not None else {}


def own_guides(name: str) -> list[str]:
    """Names of the guides that the model's file brings."""
    field = entry_fields(name).get("guides")
    return [key.value for key in field.keys] if isinstance(field, ast.Dict) else []


def place(model: Callable) -> str:
    """File and line where a model is written, as far as Python knows."""
    code = getattr(inspect.unwrap(getattr(model, "func", model)), "__code__", None)
    if code is None:
        return f"a {type(model).__name__} object"
    return f"{code.co_filename}, line {code.co_firstlineno}"


def fingerprint(model: Callable) -> str:
    """Hash of a model's source, and of all that it names of its own file.

    A function given in Python without a source is known by its code.
    """
    function = inspect.unwrap(getattr(model, "func", model))
    parts: dict[str, str] = {}
    _collect(function, parts)
    text = "\n".join(f"{name}: {parts[name]}" for name in sorted(parts))
    return hashlib.sha256(text.encode()).hexdigest()


def _collect(what: Any, parts: dict[str, str]) -> None:
    """The source of a function or class, then of what it names of its own module."""
    name = getattr(what, "__qualname__", type(what).__qualname__)
    if name in parts:
        return
    parts[name] = _text(what)
    home = getattr(what, "__module__", None)
    known = getattr(what, "__globals__", None) or vars(sys.modules.get(home, object)) or {}
    for word in sorted(set(re.findall(r"\w+", parts[name]))):
        found = known.get(word)
        if callable(found) and getattr(found, "__module__", None) == home:
            _collect(found, parts)
        elif isinstance(found, bool | int | float | str | tuple):
            parts[word] = repr(found)


def _text(what: Any) -> str:
    try:
        return inspect.getsource(what)
    except (OSError, TypeError):
        return repr(getattr(getattr(what, "__code__", None), "co_code", b""))


def wrap(model: Callable) -> Entry:
    """The entry of a Pyro function given in Python; its data are a mapping by parameter name."""
    from ._file import entry_of

    return entry_of(model)


def load(name: str) -> Entry:
    """The entry of a model of the zoo, by name, or of a user's file, by path.

    Raises:
        MissingInput: no such file. Fault: a file that cannot be a model (see `_file.load_file`).
    """
    if name in names():
        return importlib.import_module(f".{name}", __package__).ENTRY
    from ._file import load_file

    return load_file(name)


def load_guide(name: str, keys: Iterable[str]) -> Callable:
    """The guide of a user's file, by path, for a model with those data keys.

    Raises:
        MissingInput: no such file. Fault: a file that cannot be one (see `_file.load_guide`).
    """
    from ._file import load_guide as load

    return load(name, keys)
