"""Data as they come in: files of columns, simulated sets, `name=value` pairs; checked by value."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from ._csv import SUFFIXES, read_csv
from ._entry import BadSetting, Fault, MissingInput, UnknownName

_SUFFIXES = (*SUFFIXES, ".json", ".npz")


def read_columns(path: str | Path) -> dict[str, Any]:
    """Read the named values of a file.

    Args:
        path: `.csv`, `.tsv` or `.txt` (a column each; header or none, then `column_1` and so on),
            `.json` (an object: name to number, list or nested list) or `.npz` (an array each).

    Returns:
        name to int, float or array, in the file's own number types.

    Raises:
        MissingInput: there is no such file.
        Fault: not readable as what its suffix says.
    """
    if "://" in str(path):
        raise MissingInput(f"nothing is downloaded here; save {path} as a file, and give that")
    path = Path(path)
    if not path.is_file():
        raise MissingInput(f"there is no file {path}; check the name")
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise Fault(f"{path} is none of {', '.join(_SUFFIXES)}; convert it to one of these")
    return {".json": _read_json, ".npz": _read_npz}.get(suffix, read_csv)(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        where = f"{path}, line {error.lineno} column {error.colno}"
        raise Fault(f"broken JSON ({error.msg}), {where}; correct the file") from None
    except UnicodeDecodeError:
        raise Fault(f"{path} is no text in UTF-8; save it as UTF-8") from None
    if not isinstance(content, dict):
        raise Fault(f'{path} is no JSON object; write it as {{"name": value, ...}}')
    return {name: _plain_or_array(value, f"{name} in {path}") for name, value in content.items()}


def _plain_or_array(value: Any, where: str) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, (int, float)):
        return value
    if not isinstance(value, list):
        raise Fault(f"{where} is {json.dumps(value)[:40]}; give a number or a list of numbers")
    try:
        return np.asarray(value)
    except ValueError:
        raise Fault(f"the rows of {where} differ in length; make them equal") from None


def _read_npz(path: Path) -> dict[str, Any]:
    why = "no ZIP archive"
    try:
        if zipfile.is_zipfile(path):
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # a dozen kinds, by where the archive is damaged
        why = str(error).partition("\n")[0]
    raise Fault(f"{path} is no readable NPZ file of plain arrays ({why}); write it by numpy.savez")


def column(source: Any, target: str | None = None, *, hint: str) -> np.ndarray:
    """The one column that is meant: the only one of a file, or the one named `target`.

    Raises:
        UnknownName: no file name. MissingInput: no such file. Fault: several columns and no
        target, or no such column.
    """
    if not isinstance(source, Mapping) and not Path(source).suffix:
        raise UnknownName(f"there is no data set or file '{source}'; give {hint}")
    columns = dict(source) if isinstance(source, Mapping) else read_columns(source)
    if target is None and len(columns) != 1:
        raise Fault(
            f"{source} has {len(columns)} columns ({', '.join(columns)[:80]}); "
            "choose one with --target"
        )
    name = target if target is not None else next(iter(columns))
    if name not in columns:
        raise Fault(f"{source} has no column '{name}'; {nearest(name, columns)}")
    values = np.atleast_1d(np.asarray(columns[name]))
    if values.ndim > 1:
        raise Fault(f"{name} has shape {values.shape}; give one value per row")
    return check_finite(name, values)


def said(source: Any) -> str:
    """What a source is called in words."""
    return "given in Python" if isinstance(source, Mapping) else str(source)


def check_finite(
    name: str,
    values: np.ndarray,
    *,
    mend: str = "drop or fill the row yourself, the zoo never imputes",
    gaps: bool = False,
) -> np.ndarray:
    """The values, if none is missing or infinite.

    Args:
        name: of the column.
        values: of the column.
        mend: what to do about one that is.
        gaps: whether NaN may stand for what is missing.

    Raises:
        Fault: naming the column and the first row at fault.
    """
    if values.dtype.kind in "iub":
        return values
    if values.dtype.kind == "f":
        bad = np.isinf(values) if gaps else ~np.isfinite(values)
    else:
        bad = np.array([value is None or value != value for value in values.ravel()])
    if bad.any():
        row = int(np.argwhere(bad.reshape(values.shape))[0][0]) if values.ndim else 0
        found = values[row] if values.ndim <= 1 and values.ndim else "a value"
        raise Fault(f"{name} is not finite in row {row + 1} ({found}); {mend}")
    return values


def assignments(source: Any, *, keys: Sequence[str]) -> dict[str, Any]:
    """Numbers by name, from `y=1.5` (several separated by commas) or a file.

    Raises:
        Fault: a name outside `keys`, or a value that is not one finite number.
    """
    import torch

    if isinstance(source, Mapping):
        values = dict(source)
    elif "=" in str(source) and not Path(source).is_file():
        pairs = [pair.partition("=") for pair in str(source).split(",")]
        values = {name.strip(): value for name, _, value in pairs}
    else:
        values = read_columns(source)
    for name in values:
        if name not in keys:
            raise Fault(f"'{name}' is no data of this model; {nearest(name, keys)}")
    return {name: torch.tensor(_one_number(name, value)) for name, value in values.items()}


def _one_number(name: str, value: Any) -> float:
    try:
        number = float(np.asarray(value, dtype=float).reshape(()))
    except ValueError:
        raise Fault(f"{name} must be one number, it is {str(value)[:40]}; give one") from None
    if not np.isfinite(number):
        raise Fault(f"{name} is {number}; give a finite number")
    return number


def simulated_rng(data_seed: int) -> np.random.Generator:
    """The generator of simulated data: a function of `data_seed` and of nothing else."""
    return np.random.default_rng(np.random.SeedSequence(data_seed))


def nearest(name: str, known: Mapping | Sequence[str]) -> str:
    """`did you mean 'x'?` with the closest known name, or all of them."""
    close = get_close_matches(name, [str(word) for word in known], n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known) or 'none'}"


def integers(name: str, text: str) -> list[int]:
    """Positive whole numbers separated by commas, `300,100`; none in an empty text.

    Raises:
        BadSetting: something else.
    """
    try:
        numbers = [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        numbers = [0]
    if any(number < 1 for number in numbers):
        raise BadSetting(f"{name}={text} must be whole numbers above 0, such as 300,100")
    return numbers
