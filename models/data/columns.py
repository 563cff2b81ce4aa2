"""Data as they come in: by name from a file, `name=value` pairs, or Python; checked by value."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..contract import BadInput, Data, MissingInput, UsageError, data_keys, nearest
from . import reading
from .csv import SUFFIXES, read_cells, read_csv
from .reading import check_once, check_size, plain_array, size_of

if TYPE_CHECKING:
    import pandas as pd

_SUFFIXES = (*SUFFIXES, ".json", ".npz")
# Suffix to what such a file is, and how to fix one that is not; else it is a table.
_KINDS = {
    ".json": ("JSON file", "correct the file"),
    ".npz": ("NPZ file of plain arrays", "write it by numpy.savez"),
}
_TABLE = ("table", "save it as CSV in UTF-8")


def read_columns(source: Any, *, as_written: bool = False) -> dict[str, Any]:
    """Read the named values of a file; those of a mapping are as they are.

    Args:
        source: a mapping, or a file: `.csv`, `.tsv` or `.txt` (a column each; header or none, then
            `column_1` and so on), `.json` (an object: name to number, list or nested list) or
            `.npz` (an array each).
        as_written: whether the cells of text files stay text.

    Returns:
        name to int, float or array, in the file's own number types.

    Raises:
        MissingInput: there is no such file.
        BadInput: not readable as what its suffix says, or too large.
    """
    if isinstance(source, Mapping):
        return dict(source)
    if "://" in str(source):
        raise MissingInput(f"nothing is downloaded here; save {source} as a file, and give that")
    path = Path(source)
    suffix = path.suffix.lower()
    with reading.reading(path, *_KINDS.get(suffix, _TABLE)):
        if not path.exists():
            raise MissingInput(f"there is no file {path}; check the name")
        if suffix not in _SUFFIXES:
            raise BadInput(f"{path} is none of {', '.join(_SUFFIXES)}; convert it to one of these")
        table = read_cells if as_written else read_csv
        return {".json": _read_json, ".npz": _read_npz}.get(suffix, table)(path)


# -- JSON --------------------------------------------------------------------------------------


def _read_json(path: Path) -> dict[str, Any]:
    text = reading.text_of(path)
    reading.check_cells(text, ",", path)
    try:
        values = json.loads(
            text.decode("utf-8-sig"),
            parse_int=_whole,
            object_pairs_hook=lambda pairs: _named(pairs, path),
        )
    except json.JSONDecodeError as error:
        where = f"{path}, line {error.lineno} column {error.colno}"
        raise BadInput(f"broken JSON ({error.msg}), {where}; correct the file") from None
    if not isinstance(values, dict):
        raise BadInput(f'{path} is no JSON object; write it as {{"name": value, ...}}')
    return {name: _plain_or_array(value, f"{name} in {path}") for name, value in values.items()}


def _whole(digits: str) -> int | float:
    """A whole number of 64 bits; one of more as the number nearest to it."""
    if len(digits) > 20:
        return float(digits)
    whole = int(digits)
    return whole if -(2**63) <= whole < 2**63 else float(digits)


def _named(pairs: Sequence[tuple[str, Any]], path: Path) -> dict[str, Any]:
    check_once([name for name, _ in pairs], f"{path} has several values")
    return dict(pairs)


def _plain_or_array(value: Any, where: str) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, (int, float)):
        return value
    if not isinstance(value, list):
        raise BadInput(f"{where} is {json.dumps(value)[:40]}; give a number or a list of numbers")
    _check_cells(_array_of(value, where, dtype=object), where)
    return _array_of(value, where)


def _array_of(value: list, where: str, dtype: Any = None) -> np.ndarray:
    try:
        return np.asarray(value, dtype)
    except ValueError:
        raise BadInput(f"the rows of {where} differ in length; make them equal") from None


def _check_cells(cells: np.ndarray, where: str) -> None:
    """Refuse an object in the place of a number, and words of which one is very long.

    NumPy gives each word the length of the longest one.
    """
    inner = next((cell for cell in cells.flat if isinstance(cell, dict)), None)
    if inner is not None:
        problem = f"{where} holds an object ({json.dumps(inner):.40})"
        raise BadInput(f"{problem}; give numbers or words, and each name its own list")
    longest = max((len(cell) for cell in cells.flat if isinstance(cell, str)), default=0)
    check_size(size_of(cells.shape, 4 * longest), where)


# -- NPZ ---------------------------------------------------------------------------------------


def _read_npz(path: Path) -> dict[str, Any]:
    """The arrays of an archive, whose sizes are all looked at before any is loaded."""
    file = io.BytesIO(reading.content(path))
    if not zipfile.is_zipfile(file):
        raise zipfile.BadZipFile("no ZIP archive")
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        check_size(sum(member.file_size for member in members), path)
        check_size(sum(_header_size(archive, member) for member in members), path)
        names = [member.filename.removesuffix(".npy") for member in members]
        check_once(names, f"{path} has several values")
        return {name: _array(archive, member, path) for name, member in zip(names, members)}


def _header_size(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Bytes that an array takes by its own word."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0}
        read[2, 0] = np.lib.format.read_array_header_2_0
        if version not in read:
            raise ValueError(f"{member.filename} is of version {version}")
        shape, _, dtype = read[version](file)
    return size_of(shape, dtype.itemsize)


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> Any:
    """An array, or the number that one without dimensions is."""
    with archive.open(member) as file:
        values = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):  # at the end the check sum is looked at
            raise ValueError(f"{member.filename} is longer than its array")
    values = plain_array(values, f"{member.filename.removesuffix('.npy')} in {path}")
    return values if values.ndim else values.item()


def column(source: Any, target: str | None = None, *, hint: str) -> np.ndarray:
    """The only column of a source, or the one named `target`, shape (n,); its values are finite.

    Args:
        source: a file or a mapping.
        target: the column's name; None for a source of one column.
        hint: what to give in the place of a source that is none, in words.

    Raises:
        UsageError: no file name. MissingInput: no such file. BadInput: several columns and no
        target, no such column, several values to a row, or a missing or infinite one.
    """
    if not isinstance(source, Mapping) and not Path(source).suffix:
        raise UsageError(f"there is no data set or file '{source}'; give {hint}")
    columns = read_columns(source)
    if target is None and len(columns) != 1:
        raise BadInput(
            f"{source} has {len(columns)} columns ({', '.join(columns)[:80]}); "
            "choose one with --target"
        )
    name = target if target is not None else next(iter(columns))
    if name not in columns:
        raise BadInput(f"{source} has no column '{name}'; {nearest(name, columns)}")
    values = np.atleast_1d(np.asarray(columns[name]))
    if values.ndim > 1:
        raise BadInput(f"{name} has shape {values.shape}; give one value per row")
    return check_finite(name, values)


def name_of(source: Any) -> str:
    """What a source is called in messages and records."""
    return "given in Python" if isinstance(source, Mapping) else str(source)


def check_finite(
    name: str,
    values: np.ndarray,
    *,
    fix: str = "drop or fill the row yourself, the zoo never imputes",
    gaps: bool = False,
) -> np.ndarray:
    """The values, if none is missing or infinite.

    Args:
        name: of the column.
        values: of the column.
        fix: what to do about one that is.
        gaps: whether NaN may stand for what is missing.

    Raises:
        BadInput: naming the column and the first row at fault.
    """
    if values.dtype.kind in "iub":
        return values
    if values.dtype.kind == "f":
        bad = np.isinf(values) if gaps else ~np.isfinite(values)
    else:
        bad = np.array([value is None or value != value for value in values.ravel()])
    if bad.any():
        row = int(np.argwhere(bad.reshape(values.shape))[0][0]) if values.ndim else 0
        value = values[row] if values.ndim == 1 else "a value"
        raise BadInput(f"{name} is not finite in row {row + 1} ({value}); {fix}")
    return values


def assignments(source: Any, *, keys: Sequence[str]) -> dict[str, Any]:
    """Numbers by name, each a tensor without dimensions.

    Args:
        source: `y=1.5` (several separated by commas), a file, or a mapping.
        keys: the names that may occur.

    Raises:
        BadInput: a name outside `keys`, or a value that is not one finite number.
    """
    if not isinstance(source, Mapping) and "=" in str(source) and not Path(source).is_file():
        pairs = [pair.partition("=") for pair in str(source).split(",")]
        values = {name.strip(): value for name, _, value in pairs}
    else:
        values = read_columns(source)
    for name in values:
        if name not in keys:
            raise BadInput(f"'{name}' is no data of this model; {nearest(name, keys)}")
    return {name: torch.tensor(_one_number(name, value)) for name, value in values.items()}


def _one_number(name: str, value: Any) -> float:
    try:
        number = float(np.asarray(value, dtype=float).reshape(()))
    except (ValueError, TypeError, OverflowError):
        raise BadInput(f"{name} must be one number, it is {str(value)[:40]}; give one") from None
    if not np.isfinite(number):
        raise BadInput(f"{name} is {number}; give a finite number")
    return number


def simulated_rng(data_seed: int) -> np.random.Generator:
    """The generator of simulated data: a function of `data_seed` and of nothing else."""
    return np.random.default_rng(np.random.SeedSequence(data_seed))


# -- data given in Python ----------------------------------------------------------------------


def given(model: Callable, source: Any) -> Any:
    """The source of a model's data: words, a path and `Data` as they are, all else as a mapping.

    Args:
        model: the model, whose data keys say what a column alone can be.
        source: a DataFrame counts as the mapping of its columns; a sequence, an array, a tensor
            or a Series as the column of the one key that the model needs.

    Raises:
        BadInput: something else, a column where the model needs several, or a ragged one.
    """
    if source is None or isinstance(source, str | Path | Data):
        return source
    if isinstance(source, Mapping):
        return {name: _plain(name, value) for name, value in source.items()}
    if _is("DataFrame", source):
        return _columns(source)
    keys = [key for key, p in data_keys(model).items() if p.default is p.empty]
    if len(keys) == 1 and _is_column(source):
        return {keys[0]: _column(keys[0], source)}
    raise BadInput(_unclear(keys, source))


def _is(name: str, source: Any) -> bool:
    """Whether it is a pandas object; what has never been imported need not be asked for."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(source, getattr(pandas, name))


def _is_column(source: Any) -> bool:
    if isinstance(source, np.ndarray | torch.Tensor):
        return source.ndim > 0
    plain = isinstance(source, Sequence) and not isinstance(source, bytes | bytearray)
    return plain or _is("Series", source)


def _plain(name: str, value: Any) -> Any:
    """A tensor or a Series as an array, an array in usual number types, all else as it is."""
    if isinstance(value, torch.Tensor):
        return value.numpy(force=True)
    if isinstance(value, np.ndarray):
        return plain_array(value, name)
    return _values(value) if _is("Series", value) else value


def _column(key: str, source: Any) -> np.ndarray:
    try:
        return np.asarray(_plain(key, source))
    except ValueError:
        raise BadInput(f"the rows of {key} differ in length; make them equal") from None


def _columns(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    names = [str(name) for name in frame.columns]
    check_once(names, "the DataFrame has several columns")
    return {name: _values(frame.iloc[:, i]) for i, name in enumerate(names)}


def _values(column: pd.Series) -> np.ndarray:
    """A column's values in plain types; what is missing is None or NaN, never pandas' own NA."""
    values = column.to_numpy()
    if values.dtype.kind != "O":
        return values
    return column.astype(object).where(column.notna(), None).infer_objects().to_numpy()


def _unclear(keys: Sequence[str], source: Any) -> str:
    if not keys:
        return f"the model needs no data, {type(source).__name__} given; leave it out"
    such = ", ".join(f"{key!r}: ..." for key in keys)
    listed = "a list, " if len(keys) == 1 else ""
    problem = (
        f"data given as {type(source).__name__} do not say what is {' and what is '.join(keys)}"
    )
    return f"{problem}; give {listed}a mapping such as {{{such}}}, a DataFrame or a file"
