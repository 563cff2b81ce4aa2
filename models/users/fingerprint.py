"""By what a model is known again: its source, all that it names or holds, and its files."""

import ast
import hashlib
import inspect
import re
import sys
import sysconfig
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions.utils import lazy_property

from ..contract import BadInput
from .callables import Model, inner, object_of


def fingerprint(model: Callable) -> str:
    """Hash of a model (or guide): its source, and all that it names of the user's own code.

    Functions, classes and values (numbers, words, lists, tensors, distributions, objects of the
    user's) that it names, encloses or holds count, and what is bound to it or handles it;
    libraries do not. What has no source is known by its code. The weights of a module that is the
    model count; those of one that it merely names are what training changes.
    """
    return identity(model)[0]


def identity(model: Callable) -> tuple[str, list[str]]:
    """The fingerprint of a model (or guide), and what it names whose value is not in that.

    These are objects of libraries that are no part of a model: a table, a generator, an open file.

    Returns:
        The hash, and names with types, such as `TABLE (pandas.DataFrame)`.
    """
    parts = _parts(model)
    text = "\n".join(f"{name}: {parts[name]}" for name in sorted(parts))
    return hashlib.sha256(text.encode()).hexdigest(), sorted(parts.unknown)


class _Parts(dict[str, str]):
    """What makes a model, name to words.

    Attributes:
        unknown: names and types of values that are not in the words.
        word: the name of what is looked at.
    """

    def __init__(self):
        self.unknown: set[str] = set()
        self.word = "model"


def _parts(model: Callable) -> _Parts:
    parts = _Parts()
    parts["model"] = _value(model, parts, ())
    held = object_of(model)
    if isinstance(held, nn.Module):
        tensors = [*held.named_parameters(), *held.named_buffers()]
        parts["weights"] = str([(name, _of_tensor(tensor)) for name, tensor in tensors])
    return parts


# Kinds of values that are no more than what they print.
_PLAIN = bool | int | float | complex | str | bytes | range | slice | PurePath | re.Pattern
_PLAIN |= torch.dtype | torch.device | types.EllipsisType


def _value(value: Any, parts: _Parts, above: tuple[int, ...]) -> str:
    """A value in words without addresses; the sources of what it is made of go to `parts`."""
    if value is None or isinstance(value, _PLAIN):
        return repr(value)
    if id(value) in above:
        return "itself"
    above = (*above, id(value))
    if isinstance(value, Mapping):
        return str({str(k): _value(v, parts, above) for k, v in value.items()})
    if isinstance(value, list | tuple):
        return str([_value(one, parts, above) for one in value])
    if isinstance(value, set | frozenset):
        return str(sorted(_value(one, parts, above) for one in value))
    if hasattr(value, "detach") or hasattr(value, "tobytes"):
        return _of_tensor(value)
    if isinstance(value, Model):
        return _value(value.of, parts, above)
    layer = None if isinstance(value, type) or not callable(value) else inner(value)
    if layer is not None:
        whole = (layer.handler, layer.args, layer.keywords, layer.under)
        around = _source(value, parts, above) if inspect.isfunction(value) else ""  # of `wraps`
        return f"{around} {_value(whole, parts, above)}"
    if isinstance(value, type | types.FunctionType):
        return _source(value, parts, above)
    state = _state(value)
    if state is None and not isinstance(value, types.BuiltinFunctionType | np.ufunc):
        kind = type(value)
        parts.unknown.add(f"{parts.word} ({kind.__module__}.{kind.__qualname__})")
    return f"{_source(type(value), parts, above)} {_value(state or {}, parts, above)}"


def _of_tensor(value: Any) -> str:
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"


def _source(kind: Any, parts: _Parts, above: tuple[int, ...]) -> str:
    """The name of a function or class; its source and what it names go to `parts`."""
    if not _is_users(kind):
        return f"{kind.__module__}.{kind.__qualname__}"
    text = _text(kind)
    name = f"{kind.__qualname__} {hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if name in parts:
        return name
    parts[name] = text
    within = [*kind.__bases__, *vars(kind).values()] if isinstance(kind, type) else [kind]
    for function in within:
        code = getattr(function, "__code__", None)
        if code is not None:
            for word, value in _named(function, code).items():
                if not inspect.ismodule(value):
                    before, parts.word = parts.word, word
                    parts[f"{name} {word}"] = _value(value, parts, above)
                    parts.word = before
        elif callable(function):
            parts[f"{name} {_value(function, parts, above)}"] = ""
    return name


def _named(function: types.FunctionType, code: types.CodeType) -> dict[str, Any]:
    """What a function names of its module, of other modules of the user's, and encloses."""
    words = _names(code)
    named = {word: function.__globals__.get(word) for word in words}
    modules = [value for value in named.values() if inspect.ismodule(value)]
    for module in modules:  # which grows by the modules of packages
        of = {w: getattr(module, w) for w in words if is_users(module) and hasattr(module, w)}
        modules += [m for m in of.values() if inspect.ismodule(m) and m not in modules]
        named |= {f"{module.__name__}.{word}": value for word, value in of.items()}
    cells = function.__closure__ or ()
    return named | {w: c.cell_contents for w, c in zip(code.co_freevars, cells) if _filled(c)}


def _names(code: types.CodeType) -> set[str]:
    """The global names and attributes in a function, those in functions within it too."""
    inside = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return set(code.co_names).union(*map(_names, inside))


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _is_users(kind: Any) -> bool:
    """Whether a function or class is of code that is no library."""
    module = sys.modules.get(kind.__module__)
    if getattr(module, "__file__", None) is None:
        return kind.__module__ not in sys.builtin_module_names
    return is_users(module)


def is_users(module: types.ModuleType) -> bool:
    """Whether a module has a file that is of no library."""
    home = getattr(module, "__file__", None) or _LIBRARIES[0]
    return home.startswith(_MODELS) or not home.startswith(_LIBRARIES)


_MODELS = str(Path(__file__).parent.parent)
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
# Libraries whose objects are part of a model: priors, their supports, handlers, layers.
_STATED = ("torch.distributions", "torch.nn", "pyro")
# What their objects keep for themselves.
_PASSING = ("_pyro_context", "_pyro_name", "_cached_x_y", "_inv", "_args_kwargs", "_ref_count")


def _state(value: Any) -> dict[str, Any] | None:
    """What an object holds, if it is one of the user's or part of a model; None of others."""
    kind = type(value)
    if not hasattr(value, "__dict__") or not (
        _is_users(kind) or kind.__module__.startswith(_STATED)
    ):
        return None
    held = {k: v for k, v in vars(value).items() if k not in _PASSING}
    if isinstance(value, nn.Module):
        held |= {"_buffers": list(value._buffers)}
        held["_parameters"] = {k: _untrained(p) for k, p in value._parameters.items()}
    # Computed when first asked for, from what is kept beside it.
    return {k: v for k, v in held.items() if not isinstance(_declared(kind, k), lazy_property)}


def _untrained(parameter: Tensor | None) -> Any:
    """The shape of what training changes, the values of what it leaves."""
    trained = parameter is not None and parameter.requires_grad
    return tuple(parameter.shape) if trained else parameter


def _declared(kind: type, name: str) -> Any:
    return next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None)


def _text(kind: Any) -> str:
    try:
        return without_comments(inspect.getsource(kind))
    except (OSError, TypeError):
        code = getattr(kind, "__code__", None)
        return _code_text(code) if code is not None else kind.__qualname__


def _code_text(code: types.CodeType) -> str:
    """A function without a source: its code, its constants and names."""
    inside = [_code_text(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    plain = [repr(c) for c in code.co_consts if not isinstance(c, types.CodeType)]
    return " ".join([code.co_code.hex(), *code.co_names, *plain, *inside])


# -- the files that a model's file is made of --------------------------------------------------


def trees(path: str | Path) -> dict[str, str]:
    """The file and every file that it imports from beside it, and what these import so.

    Nothing is imported: the statements are read. What is imported otherwise, by a name that is
    computed, is not found.

    Args:
        path: a Python file.

    Returns:
        Path, from the folder that holds the file or the outermost package that it is in, to the
        hash of its syntax tree; of a file that is none to that of its bytes.

    Raises:
        BadInput: a file is gone, or cannot be read.
    """
    root, hashes, left = root_of(Path(path)), {}, [Path(path).resolve()]
    while left:
        file = left.pop()
        name = file.relative_to(root).as_posix()
        if name in hashes:
            continue
        try:
            content = file.read_bytes()
        except OSError as error:
            raise BadInput(f"{path} cannot be read ({error.strerror}); check the path") from None
        tree = _parsed(content)
        hashes[name] = hashlib.sha256(content if tree is None else _words(tree)).hexdigest()
        packages = (folder / "__init__.py" for folder in file.parents if folder != root)
        left += [file for file in packages if file.is_relative_to(root) and file.is_file()]
        if tree is not None:
            left += _beside(tree, file, root)
    return hashes


def root_of(path: Path) -> Path:
    """The folder that holds a file, or the outermost of the packages that it is in."""
    folders = path.resolve().parents
    return next(folder for folder in folders if not (folder / "__init__.py").is_file())


def without_comments(text: str) -> str:
    """What a piece of Python says, without comments and docstrings; as it is where it is none."""
    tree = _parsed(textwrap.dedent(text).encode())
    return text if tree is None else _words(tree).decode()


def _parsed(content: bytes) -> ast.Module | None:
    try:
        return ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _words(tree: ast.Module) -> bytes:
    """The tree in words, without the docstrings."""
    bodies = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in [node for node in ast.walk(tree) if isinstance(node, bodies)]:
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree).encode()


def _beside(tree: ast.Module, file: Path, root: Path) -> Iterator[Path]:
    """The files that the statements of a file import from its own folders."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(alias.name, (file.parent, root), root)
        elif isinstance(node, ast.ImportFrom):
            places = (file.parent, root)
            if node.level:
                above = (file.parent, *file.parent.parents)
                places = above[node.level - 1 : node.level]
            for alias in node.names:
                whole = ".".join(filter(None, (node.module, alias.name)))
                yield from _files(whole, places, root)


def _files(name: str, places: tuple[Path, ...], root: Path) -> Iterator[Path]:
    """The files of a dotted name, those of the packages around it too, under the root."""
    for place in places:
        folder = place
        for part in name.split("."):
            for file in (folder / f"{part}.py", folder / part / "__init__.py"):
                if file.is_file() and file.resolve().is_relative_to(root):
                    yield file.resolve()
            folder = folder / part
