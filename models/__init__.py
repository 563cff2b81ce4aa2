"""The models of the zoo: one file each, the folder listing is the registry.

`names`, `title` and `card` read the sources and import nothing heavy; `load` imports one model.
"""

import ast
import importlib
import itertools
from functools import cache
from pathlib import Path
from typing import Any

from .contract import BadInput, Data, Entry, data_keys, place

__all__ = ["Data", "Entry", "BadInput", "data_keys", "place", "names", "title", "load"]

_HERE = Path(__file__).parent


def names() -> list[str]:
    """Names of the zoo's models: those of its files that end in an `ENTRY`."""
    files = sorted(_HERE.glob("[a-z]*.py"))
    return [p.stem for p in files if "\nENTRY = " in p.read_text(encoding="utf-8")]


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
    first, *lines = rest.split("\n")
    indented = itertools.takewhile(lambda line: line.startswith("  "), lines)
    return " ".join(line.strip() for line in (first, *indented))


def entry_fields(name: str) -> dict[str, ast.expr]:
    """The fields of the file's `ENTRY = Entry(...)` and of the records in it, as syntax."""
    for node in _source(name).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ENTRY":
            records = [node.value, *(field.value for field in node.value.keywords)]
            calls = [record for record in records if isinstance(record, ast.Call)]
            return {field.arg: field.value for call in calls for field in call.keywords}
    return {}


def has_exact(name: str) -> bool:
    """Whether the model states an exact truth."""
    return "exact" in entry_fields(name)


def refused(name: str) -> dict[str, str]:
    """Method to the reason why it is refused on the default data, as far as the model says so."""
    field = entry_fields(name).get("refused")
    return ast.literal_eval(field) if field is not None else {}


def has_parameters(name: str) -> bool:
    """Whether networks of the model have weights without priors."""
    field = entry_fields(name).get("has_parameters")
    return field is not None and ast.literal_eval(field)


def own_guides(name: str) -> list[str]:
    """Names of the guides that the model's file brings."""
    field = entry_fields(name).get("guides")
    return [key.value for key in field.keys] if isinstance(field, ast.Dict) else []


# Functions that need torch, by where they lie: imported when they are asked for.
_LATE = {
    "fingerprint": "users.fingerprint",
    "identity": "users.fingerprint",
    "trees": "users.fingerprint",
    "wrap": "users.file",
    "load_guide": "users.file",
    "given": "data.columns",
    "join_names": "data.csv",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LATE[name]}", __package__), name)


def load(name: str, dtype: str = "float64") -> Entry:
    """The entry of a model of the zoo, by name, or of a user's file, by path.

    Args:
        name: the model's name, or the path.
        dtype: number type in which a file is imported.

    Raises:
        MissingInput: no such file. BadInput: it cannot be a model (see `users.file`).
    """
    if name in names():
        return importlib.import_module(f".{name}", __package__).ENTRY
    from .users.file import load_file

    return load_file(name, dtype)
