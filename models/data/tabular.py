"""From a table to the data of a regression: standardised, split, with its way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..contract import Data, Rows, UsageError, nearest
from .columns import name_of, simulated_rng
from .tables import (
    Scaling,
    Table,
    encode,
    from_columns,
    read_cells,
    read_table,
    scaling,
    split_rows,
)


def tabular(
    source: Any,
    *,
    builtin: Mapping[str, Callable[[], tuple[dict[str, np.ndarray], str, str]]],
    default: str,
    classes: bool,
    target: str | None,
    features: str | None,
    standardise: bool,
    split: float | None,
    data_seed: int,
) -> Data:
    """Data with `x` (n, k) and `y` (n,) in the plate `row`; the classes' names are coords.

    Args:
        source: a built-in set's name, a file, or a mapping of columns; None takes `default`.
        builtin: name to a function that gives the columns, what to call them, and the target.
        default: name of the default set.
        classes: whether the target is a class.
        target: name of the target column.
        features: names of the feature columns, separated by commas.
        standardise: to mean 0 and sd 1 by the training rows, the target too if it is a number.
        split: share of the rows held out as test set.
        data_seed: seed of the split.

    Raises:
        Fault: whatever is wrong with the table.
    """
    source = default if source is None else source
    table = _table(source, builtin, target, features, classes)
    train, test = np.arange(len(table.y)), None
    if split is not None:
        train, test = split_rows(len(table.y), split, data_seed)
    units = _units(table, train, standardise)

    def tensors(x: np.ndarray, y: np.ndarray | None) -> dict[str, torch.Tensor]:
        scaled = {"x": torch.as_tensor((x - units.x_loc) / units.x_scale)}
        if y is not None:
            scaled["y"] = torch.as_tensor((y - units.y_loc) / units.y_scale)
        return scaled

    def new_rows(new: Any) -> dict[str, torch.Tensor]:
        columns = dict(new) if isinstance(new, Mapping) else read_cells(new)
        columns.pop(table.coding.target, None)  # what is predicted is not looked at
        return tensors(*encode(columns, table.coding, source=name_of(new)))

    coords = {"feature": table.names} | ({"class": table.classes} if classes else {})
    notes = list(table.notes)
    if standardise:
        what = "features" if classes else "features and target"
        notes.append(f"{what} standardised (posterior_original has the user's units)")
    return Data(
        tensors=tensors(table.x[train], table.y[train]),
        test=None if test is None else tensors(table.x[test], table.y[test]),
        rows=Rows("row", ("x", "y")),
        coords=coords,
        dims={"w": ("feature",), "x": ("feature",)},
        source=table.source + ("" if split is None else f", {len(test)} rows held out"),
        notes=tuple(notes),
        units={"y": (units.y_loc, units.y_scale)},
        scaling=units,
        new_rows=new_rows,
    )


def _table(
    source: Any,
    builtin: Mapping[str, Callable],
    target: str | None,
    features: str | None,
    classes: bool,
) -> Table:
    if isinstance(source, Mapping):
        return from_columns(
            source, target=target, features=features, classes=classes, source=name_of(source)
        )
    if source in builtin:
        columns, name, usual = builtin[source]()
        return from_columns(
            columns, target=target or usual, features=features, classes=classes, source=name
        )
    if not Path(source).suffix:
        known = nearest(str(source), builtin)
        raise UsageError(f"there is no data set '{source}'; {known}, or give a file")
    return read_table(source, target=target, features=features, classes=classes)


def _units(table: Table, train: np.ndarray, standardise: bool) -> Scaling:
    if standardise:
        return scaling(table.x[train], table.y[train], target_too=table.classes is None)
    k = table.x.shape[1]
    return Scaling(x_loc=np.zeros(k), x_scale=np.ones(k), y_loc=0.0, y_scale=1.0)


def coefficients(draws: Mapping[str, np.ndarray], units: Scaling) -> dict[str, np.ndarray]:
    """Draws of `w` (S, k), `b` (S,) and `sigma` (S,) in the user's units.

    With x' = (x - x_loc) / x_scale and y' = (y - y_loc) / y_scale, the line y' = x' w + b has
    the slope w y_scale / x_scale and the intercept y_loc + y_scale b - slope x_loc.
    """
    slope = draws["w"] * units.y_scale / units.x_scale
    original = {"w": slope}
    if "b" in draws:
        original["b"] = units.y_loc + units.y_scale * draws["b"] - slope @ units.x_loc
    if "sigma" in draws:
        original["sigma"] = draws["sigma"] * units.y_scale
    return original


def simulated_features(n: int, k: int, data_seed: int) -> tuple[np.random.Generator, np.ndarray]:
    """The generator of a simulated table, and standard normal features (n, k)."""
    rng = simulated_rng(data_seed)
    return rng, rng.normal(size=(n, k))
