"""The models of the zoo: one file each, the folder listing is the registry.

`names`, `title` and `card` read the sources and import nothing heavy; `load` imports one model.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import inspect
import itertools
import sys
import sysconfig
import types
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._entry import Data, Entry, Fault, data_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

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
    model = getattr(model, "func", model)
    function = model.__init__ if inspect.isclass(model) else inspect.unwrap(model)
    code = getattr(function, "__code__", None)
    if code is None:
        return f"a {type(model).__name__} object"
    return f"{code.co_filename}, line {code.co_firstlineno}"


def fingerprint(model: Callable) -> str:
    """Hash of a model (or guide): its source, and all that it names of the user's own code.

    Functions, classes and plain values (numbers, words, lists, tensors) that it names or encloses
    count, and the options bound to it; libraries do not. What has no source is known by its code.
    """
    parts: dict[str, str] = {}
    _collect(model, parts)
    text = "\n".join(f"{name}: {parts[name]}" for name in sorted(parts))
    return hashlib.sha256(text.encode()).hexdigest()


def _collect(what: Any, parts: dict[str, str]) -> None:
    """The source of a function or class, then of what it names."""
    if isinstance(what, functools.partial):
        parts["bound"] = _value((what.args, what.keywords))
        return _collect(what.func, parts)
    what = inspect.unwrap(what)
    text = _text(what)
    name = f"{getattr(what, '__qualname__', type(what).__qualname__)} {_hash_of(text)}"
    if name in parts:
        return None
    parts[name] = text
    for function in [what, *vars(what).values()] if isinstance(what, type) else [what]:
        code = getattr(function, "__code__", None)
        if code is None:
            continue
        named = {word: function.__globals__.get(word) for word in _names(code)}
        cells = function.__closure__ or ()
        named |= {w: c.cell_contents for w, c in zip(code.co_freevars, cells) if _filled(c)}
        for word, found in named.items():
            if _is_users(found):
                _collect(found, parts)
            elif not callable(found) and not inspect.ismodule(found):
                parts[f"{name} {word}"] = _value(found)
    return None


def _hash_of(text: str) -> str:
    """A short hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _names(code: types.CodeType) -> set[str]:
    """The global names and attributes in a function, those in functions within it too."""
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _is_users(found: Any) -> bool:
    """Whether it is a function or class of code that is no library."""
    if not isinstance(found, type | types.FunctionType):
        return False
    home = getattr(sys.modules.get(found.__module__), "__file__", None)
    return home is None or not home.startswith(_LIBRARIES)


_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


def _value(found: Any) -> str:
    """A plain value in words; of other objects their type alone, which has no address."""
    if isinstance(found, dict):
        return str({str(k): _value(v) for k, v in found.items()})
    if isinstance(found, list | tuple | set | frozenset):
        return str([_value(one) for one in found])
    if found is None or isinstance(found, bool | int | float | complex | str | bytes):
        return repr(found)
    if hasattr(found, "detach"):
        found = found.detach().cpu().numpy()
    if hasattr(found, "tobytes"):
        return f"{found.dtype} {found.shape} {hashlib.sha256(found.tobytes()).hexdigest()}"
    return f"{type(found).__module__}.{type(found).__qualname__}"


def _text(what: Any) -> str:
    try:
        return inspect.getsource(what)
    except (OSError, TypeError):
        code = getattr(what, "__code__", None)
        return _code_text(code) if code is not None else type(what).__qualname__


def _code_text(code: types.CodeType) -> str:
    """A function without a source: its code, its constants and names."""
    inner = [_code_text(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    plain = [repr(c) for c in code.co_consts if not isinstance(c, types.CodeType)]
    return " ".join([code.co_code.hex(), *code.co_names, *plain, *inner])


def wrap(model: Callable) -> Entry:
    """The entry of a Pyro function given in Python; its data are a mapping by parameter name."""
    from ._file import entry_of

    return entry_of(model)


def given(model: Callable, source: Any) -> Any:
    """The source of a model's data, whatever it was given as in Python (see `_given.given`).

    Raises:
        Fault: something that is no data.
    """
    if source is None or isinstance(source, str | Path):
        return source
    from ._given import given as plain

    return plain(model, source)


def named(names: str | Sequence[str]) -> str:
    """Names of columns as one text, in double quotes where a name holds a comma."""
    from ._csv import join_names

    return names if isinstance(names, str) else join_names(names)


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
