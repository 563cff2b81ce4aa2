"""A user's own model: any Python file with a Pyro function named `model` (or a whole `ENTRY`)."""

import importlib
import importlib.util
import sys
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from pyro.util import get_rng_state, set_rng_seed, set_rng_state

from .. import contract
from ..contract import BadInput, Data, Entry, MissingInput, data_keys, nearest, takes_any
from ..data.columns import check_finite, name_of, read_columns
from ..data.csv import SUFFIXES, cells_of, check_stray, fix_of, join_names, number, split_names
from .callables import as_function, signature
from .fingerprint import is_users, root_of, trees


def load_file(name: str, dtype: str = "float64") -> Entry:
    """The entry of a user's model file.

    Args:
        name: path of a Python file that defines `model`, and optionally `guide` or `ENTRY`.
        dtype: the number type in which the file is imported: that of the run.

    Raises:
        MissingInput: there is no such file.
        BadInput: a syntax error or another error on import, with file and line; no `model`.
    """
    path = _existing(name, "model file")
    _forget(sys.modules)
    module = _import(path, dtype)
    if isinstance(getattr(module, "ENTRY", None), Entry):
        return module.ENTRY
    model = _defined(module, "model", path)
    guide = getattr(module, "guide", None)
    return wrap(model, guide if callable(guide) else None)


def load_guide(name: str, keys: Iterable[str], dtype: str = "float64") -> Callable:
    """The guide of a user's guide file.

    Args:
        name: path of a Python file that defines a Pyro function `guide`.
        keys: the model's data keys, which the guide takes as they are.
        dtype: the number type in which the file is imported: that of the run.

    Raises:
        MissingInput: there is no such file.
        BadInput: an error on import, with file and line; no `guide`, or one of other parameters.
    """
    path = _existing(name, "guide file")
    guide = _defined(_import(path, dtype), "guide", path)
    try:
        signature(guide).bind(**dict.fromkeys(keys))
    except TypeError as error:
        raise BadInput(
            f"the guide does not take the model's data keys ({error}), {path}; "
            f"write guide({', '.join(keys)})"
        ) from None
    return as_function(guide, whole=True)


def _existing(name: str, kind: str) -> Path:
    path = Path(name).resolve()
    if not path.is_file():
        raise MissingInput(f"there is no {kind} {name}; check the path")
    return path


def _defined(module: ModuleType, name: str, path: Path) -> Callable:
    function = getattr(module, name, None)
    if not callable(function):
        raise BadInput(
            f"{path.name} defines no function `{name}`, {path}; name your Pyro {name} so"
        )
    return function


def wrap(model: Callable, guide: Callable | None = None) -> Entry:
    """The entry of a Pyro function (or what acts as one): its data are read by parameter name.

    Args:
        model: the function.
        guide: the guide beside it, if there is one.

    Raises:
        BadInput: no data keys can be read from its parameters.
    """
    data_keys(model)
    guides = {} if guide is None else {"own": contract.Guide(guide)}
    return Entry(model=model, data=_reader(model), inference=contract.Inference(guides=guides))


@contextmanager
def _as_in_a_run(dtype: str) -> Iterator[None]:
    """The number type of a run and random numbers that are always the same; put back after."""
    before, state = torch.get_default_dtype(), get_rng_state()
    if dtype in ("float32", "float64"):
        torch.set_default_dtype(getattr(torch, dtype))
    set_rng_seed(0)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        set_rng_state(state)


def _import(path: Path, dtype: str) -> ModuleType:
    module = None
    try:
        with _as_in_a_run(dtype), _beside(path):
            # The module stays known by a name of its own, so that what it defines is found again.
            name = f"{_package(path)}zoo_user_{path.stem}_{zlib.crc32(bytes(path)):08x}"
            spec = importlib.util.spec_from_file_location(name, path)
            if spec is not None:
                module = importlib.util.module_from_spec(spec)
                sys.modules[name] = module
                spec.loader.exec_module(module)
    except SyntaxError as error:
        where = f"{error.filename}, line {error.lineno}"
        raise BadInput(f"syntax error ({error.msg}), {where}; correct the file") from None
    except (Exception, SystemExit) as error:
        first = str(error).partition("\n")[0]
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)
        ]
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        raise BadInput(f"{type(error).__name__} ({first}), {where}; correct the file") from error
    if module is None:
        raise BadInput(f"{path} is no Python file; give a file that ends in .py")
    return module


@contextmanager
def _beside(path: Path) -> Iterator[None]:
    """Lets a file import what lies beside it, or beside the packages that it is in.

    What its statements name comes from there first of all; a file there of a library's name that
    they do not name is not taken for the library. What another folder's file has imported so may
    have the same name, and is imported anew.
    """
    folders = list(dict.fromkeys([str(path.parent), str(root_of(path))]))
    named = {part.removesuffix(".py") for file in trees(path) for part in Path(file).parts}
    first, last = _Folders(folders, named), _Folders(folders)  # by a name that is computed: last
    _forget(n for n in _HELPERS if n in sys.modules and not _is_within(sys.modules[n], folders))
    known = set(sys.modules)
    sys.meta_path.insert(0, first)
    sys.meta_path.append(last)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.meta_path.remove(first)
        sys.meta_path.remove(last)
        _HELPERS.update(n for n in set(sys.modules) - known if _is_within(sys.modules[n], folders))


class _Folders(MetaPathFinder):
    """Finds modules in some folders: those of some names, or all."""

    def __init__(self, folders: Sequence[str], names: Set[str] | None = None):
        self.folders, self.names = folders, names

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Of a module that is in no package, as the import system asks for it."""
        if path is None and (self.names is None or name in self.names):
            return PathFinder.find_spec(name, self.folders)
        return None


_HELPERS: set[str] = set()


def _forget(names: Iterable[str]) -> None:
    """Have modules that users' files imported imported anew: they may have changed."""
    for name in _HELPERS.intersection(names):
        del sys.modules[name]
        _HELPERS.remove(name)


def _package(path: Path) -> str:
    """The package that a file is in, imported, with a point after it; empty where it is in none.

    Or where another package has that name.
    """
    parts = path.parent.relative_to(root_of(path)).parts
    if not parts or not all(part.isidentifier() for part in parts):
        return ""
    package = importlib.import_module(".".join(parts))
    return f"{package.__name__}." if str(path.parent) in getattr(package, "__path__", ()) else ""


def _is_within(module: ModuleType, folders: Sequence[str]) -> bool:
    """Whether a module is the user's own, in one of the folders."""
    home = Path(getattr(module, "__file__", None) or "/")
    ours = Path(__file__).parents[2]
    if "zoo_user_" in module.__name__ or not is_users(module) or home.parent == ours:
        return False
    is_ours = any(home.is_relative_to(ours / folder) for folder in ("models", "inference"))
    return not is_ours and any(home.is_relative_to(folder) for folder in folders)


def _reader(model: Callable) -> Callable[..., Data]:
    """The data function of a user's model: values by parameter name, untouched but for types."""
    keys, any_name = data_keys(model), takes_any(model)

    def read(
        source: Any, target: str | None, features: str | None, gaps: bool
    ) -> tuple[dict[str, Any], list[str], list[str]]:
        """Data key to tensor, the columns that make up `x`, if any do, and notes on the source."""
        values = read_columns(source or {})
        table = not isinstance(source or {}, Mapping) and Path(source).suffix.lower() in SUFFIXES
        notes, names = list(getattr(values, "notes", ())), []
        if target is not None or features is not None or (table and not any_name):
            values, names = _columns_to_keys(values, keys, target, features, name_of(source))
        _check_names(values, None if any_name else keys, name_of(source))
        return {name: as_tensor(name, value, gaps) for name, value in values.items()}, names, notes

    def data(
        source: Any = None,
        *,
        target: str | None = None,
        features: str | None = None,
        missing: Literal["refuse", "model"] = "refuse",
        dtype: Literal["float64", "float32"] = "float64",
    ) -> Data:
        """Values by parameter name from a file or a mapping."""
        gaps = missing == "model"
        tensors, names, notes = read(source, target, features, gaps)

        def new_rows(new: Any) -> dict[str, Any]:
            # The same columns in the same order, and no look at what is predicted.
            by_key = isinstance(new, Mapping) and set(new) <= set(keys)
            same = join_names(names) if names and not by_key else None
            return read(new, None, same, gaps)[0]

        return Data(
            tensors=tensors,
            dtype=dtype,
            source="none" if source is None else name_of(source),
            notes=(*notes, *_wild_scales(tensors), *_gaps(tensors)),
            new_rows=new_rows,
        )

    return data


def _columns_to_keys(
    table: dict[str, Any], keys: dict, target: str | None, features: str | None, source: str
) -> tuple[dict[str, Any], list[str]]:
    """Columns of a table as data: by name; else y is the target and x the numeric others."""
    values = {name: table[name] for name in keys if name in table}
    if target is not None:
        if target not in table:
            raise BadInput(f"there is no column '{target}'; {nearest(target, table)}")
        values["y"] = table[target]
    if "x" not in keys or "x" in values:
        return values, []
    others = (name for name in table if name not in values and name != target)
    names = [name for name in others if features is None and _is_numeric(name, table, source)]
    names = names if features is None else split_names(features)
    for name in names:
        if name not in table:
            problem = f"there is no column '{name}' (needed: {', '.join(names)}), {source}"
            raise BadInput(f"{problem}; {nearest(name, table)}")
        if not _is_numeric(name, table, source):
            raise BadInput(f"'{name}' is no column of numbers; make it numbers, or leave it out")
    lengths = {np.shape(table[name])[:1] for name in names}
    if len(lengths) > 1:
        raise BadInput(f"the columns {', '.join(names)[:80]} differ in length; make them equal")
    if names:
        values["x"] = np.column_stack([table[name] for name in names])
    return values, names


def _is_numeric(name: str, table: Mapping[str, Any], source: str) -> bool:
    """Whether a column has numbers alone; a BadInput where it has them but for a slip."""
    values = np.asarray(table[name])
    if values.dtype.kind in "iufb":
        return True
    check_stray(name, cells_of(values), source)
    return False


def _check_names(values: Iterable[str], keys: Mapping[str, Any] | None, source: str) -> None:
    """Refuse a name that is no data key; of `None` all names are."""
    for name in values if keys is not None else ():
        if not keys:
            raise BadInput(f"the model takes no data, '{name}' given ({source}); leave it out")
        if name not in keys:
            raise BadInput(f"the model takes no '{name}' ({source}); {nearest(name, keys)}")


def as_tensor(name: str, value: Any, gaps: bool = False) -> Any:
    """A plain number as it is, anything else as a tensor in its own number type.

    Args:
        name: what it is called.
        value: a number, or what NumPy can make an array of.
        gaps: whether values may be missing, and are then NaN.

    Raises:
        BadInput: not numbers, or not finite, naming key and row.
    """
    if isinstance(value, bool | int):
        return int(value)
    if isinstance(value, float):
        _check_finite(name, np.asarray(value), gaps)
        return value
    array = value.numpy(force=True) if isinstance(value, torch.Tensor) else np.asarray(value)
    if array.size == 0:
        raise BadInput(f"{name} is empty, shape {array.shape}; give at least one row")
    if gaps and array.dtype.kind == "O":
        array = _filled(array)
    numeric = array.dtype.kind in "iufb"
    if numeric or not gaps:
        _check_finite(name, array, gaps)
    if not numeric:
        _must_be_numbers(name, array)
    return torch.as_tensor(array.copy())


def _check_finite(name: str, values: np.ndarray, gaps: bool) -> None:
    fix = "drop or fill the row, or say --set missing=model if the model itself deals with NaN"
    check_finite(name, values, fix=fix, gaps=gaps)


def _filled(array: np.ndarray) -> np.ndarray:
    """An array in which None is NaN; itself if there are words in it."""
    try:
        return np.where(np.equal(array, None), np.nan, array).astype(float)
    except (TypeError, ValueError):
        return array


def _must_be_numbers(name: str, array: np.ndarray) -> NoReturn:
    """The first value that is no number; beside a word NumPy makes text of the numbers too."""
    cells = [str(value) for value in array.ravel()]
    present = [at for at, value in enumerate(array.ravel()) if value is not None]
    at = next((at for at in present if number(cells[at]) is None), 0)
    where = f" in row {at * len(array) // len(cells) + 1}" if array.ndim else ""
    fix = fix_of(cells[at], "give numbers")
    raise BadInput(f"{name} holds '{cells[at]:.40}'{where}, not numbers; {fix}")


def _wild_scales(tensors: Mapping[str, Any]) -> Iterator[str]:
    """A word on each key whose scale will trouble any sampler that starts near one."""
    for name, value in tensors.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() > 1:
            size = float(value.nan_to_num().abs().max())
            if size and not 1e-4 < size < 1e4:
                yield f"{name} has values up to {size:.3g}; rescale it, samplers start near 1"


def _gaps(tensors: Mapping[str, Any]) -> Iterator[str]:
    """How many values of each key are missing, which is left to the model."""
    for name, value in tensors.items():
        missing = torch.as_tensor(value).isnan()
        if missing.any():
            counts = f"{int(missing.sum())} of {missing.numel()} values of {name}"
            yield f"{counts} are NaN, as the model wants them (missing=model)"
