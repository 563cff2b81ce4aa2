"""Data as they are given in Python: a table, a column or a mapping, as the models take them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..contract import BadInput, Data, data_keys
from .reading import check_once, plain_array

if TYPE_CHECKING:
    import pandas as pd


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
    found = (
        f"data given as {type(source).__name__} do not say what is {' and what is '.join(keys)}"
    )
    return f"{found}; give {listed}a mapping such as {{{such}}}, a DataFrame or a file"
