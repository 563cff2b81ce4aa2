"""From a table to the data of a regression: standardised, split, with its way back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from ..contract import BadInput, Data, Rows, UsageError, nearest
from . import shipped
from .columns import name_of, read_columns, simulated_rng
from .tables import Table, encode, from_columns, scaling, split_rows


@dataclass(frozen=True, kw_only=True)
class Builtin:
    """A table that comes with the zoo, or is simulated.

    Attributes:
        columns: name to values (n,), or `x` to a matrix (n, k).
        target: name of the column to predict.
        source: what the table is called, with all that it depends on.
        test: further rows, which are held out; None leaves it to a split.
        classes: all labels of the target, of which some may be missing among the rows; None
            takes those that occur.
    """

    columns: Mapping[str, np.ndarray]
    target: str
    source: str
    test: Mapping[str, np.ndarray] | None = None
    classes: tuple[str, ...] | None = None


def tabular(
    source: Any,
    *,
    builtin: Mapping[str, Callable[[], Builtin]],
    classes: bool,
    target: str | None = None,
    features: str | None = None,
    standardise: bool = True,
    split: float | None = None,
    data_seed: int = 0,
) -> Data:
    """Data with `x` (n, k) and `y` (n,) in the plate `row`; the classes' names are coords.

    Args:
        source: a built-in set or its name, a file, or a mapping of columns; None takes the first
            set.
        builtin: name to a function that gives the table.
        classes: whether the target is a class.
        target: name of the target column.
        features: names of the feature columns, separated by commas.
        standardise: to mean 0 and sd 1 by the training rows, the target too if it is a number.
        split: share of the rows held out as test set, of a table that has none of its own.
        data_seed: seed of the split.

    Raises:
        Fault: whatever is wrong with the table.
    """
    table, test = _tables(source, builtin, target, features, classes)
    x, y, coding, origin = table.x, table.y, table.coding, table.source
    if test is None and split is not None:
        train, others = split_rows(len(y), split, data_seed)
        test, x, y = (x[others], y[others]), x[train], y[train]
        origin += f", {len(others)} rows held out"
    units = scaling(x, y, features=standardise, target=standardise and not classes)

    def tensors(x: np.ndarray, y: np.ndarray | None = None) -> dict[str, torch.Tensor]:
        scaled = {"x": torch.as_tensor((x - units.x_loc) / units.x_scale)}
        if y is not None:
            scaled["y"] = torch.as_tensor((y - units.y_loc) / units.y_scale)
        return scaled

    def new_rows(new: Any) -> dict[str, torch.Tensor]:
        columns = read_columns(new, as_written=True)
        columns.pop(coding.target, None)  # what is predicted is not looked at
        return tensors(*encode(columns, coding, source=name_of(new)))

    notes = list(table.notes)
    if standardise:
        columns = "features" if classes else "features and target"
        notes.append(f"{columns} standardised (posterior_original has the user's units)")
    return Data(
        tensors=tensors(x, y),
        test=None if test is None else tensors(*test),
        rows=Rows("row", ("x", "y")),
        coords={"feature": coding.names} | ({"class": coding.classes} if classes else {}),
        dims={"w": ("feature",), "x": ("feature",)},
        source=origin,
        notes=tuple(notes),
        units={"y": (units.y_loc, units.y_scale)},
        scaling=units,
        new_rows=new_rows,
    )


def _tables(
    source: Any,
    builtin: Mapping[str, Callable[[], Builtin]],
    target: str | None,
    features: str | None,
    classes: bool,
) -> tuple[Table, tuple[np.ndarray, np.ndarray | None] | None]:
    """The table, and x and y of a test set if it has one of its own."""
    source = next(iter(builtin)) if source is None else source
    if isinstance(source, str) and source in builtin:
        source = builtin[source]()
    options = {"target": target, "features": features, "classes": classes}
    if isinstance(source, Builtin):
        options |= {"target": target or source.target, "classes": source.classes or classes}
        table = from_columns(source.columns, source=source.source, **options)
        test = source.test and encode(source.test, table.coding, source=source.source)
        return table, test
    if not isinstance(source, Mapping) and not Path(source).suffix:
        known = nearest(str(source), builtin)
        raise UsageError(f"there is no data set '{source}'; {known}, or give a file")
    columns = read_columns(source, as_written=True)
    return from_columns(columns, source=name_of(source), **options), None


def regression(
    named: Mapping[str, Callable[[], Builtin]],
    simulated: Callable[[int, int, int], Builtin],
    *,
    classes: bool,
) -> Callable[..., Data]:
    """The `data` of a model of one target, a number or one of two classes, by features.

    Args:
        named: name to a function that gives a table; the first is the default.
        simulated: gives a table of n rows and k features, by a seed.
        classes: whether the target is a class.
    """

    def data(
        source: Any = None,
        *,
        target: str | None = None,
        features: str | None = None,
        standardise: bool = True,
        split: Annotated[float | None, "> 0", "< 1"] = None,
        n: Annotated[int, ">= 1"] = 100,
        k: Annotated[int, ">= 1"] = 1,
        data_seed: Annotated[int, ">= 0"] = 0,
    ) -> Data:
        """A table that comes with the zoo, a simulated one of stated truth, or a file.

        Args:
            source: a name, `simulate`, a file of columns, or a mapping of them.
            target: name of the target column.
            features: names of the feature columns, separated by commas.
            standardise: to mean 0 and sd 1, the target too if it is a number.
            split: share of the rows held out as test set.
            n: rows of a simulated table.
            k: features of a simulated table.
            data_seed: seed of simulation and split.

        Raises:
            Fault: whatever is wrong with the table. BadInput: more than two classes.
        """
        builtin = {**named, "simulate": lambda: simulated(n, k, data_seed)}
        chosen = {"target": target, "features": features, "standardise": standardise}
        table = tabular(
            source, builtin=builtin, classes=classes, split=split, data_seed=data_seed, **chosen
        )
        count = len(table.coords.get("class", ()))
        if count > 2:
            raise BadInput(f"the target has {count} classes, {table.source}; this model takes two")
        return table

    return data


def diabetes() -> Builtin:
    """The progression of diabetes by ten features of 442 patients: Efron et al. (2004)."""
    x, progression = shipped.features_and_target("diabetes")
    names = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")
    columns = {**dict(zip(names, x.T)), "progression": progression}
    return Builtin(columns=columns, target="progression", source="diabetes")


def coefficients(draws: Mapping[str, np.ndarray], data: Data) -> dict[str, np.ndarray]:
    """Draws of `w` (S, k), `b` (S,) and `sigma` (S,) in the user's units, those that there are.

    With x' = (x - x_loc) / x_scale and y' = (y - y_loc) / y_scale, the line y' = x' w + b has
    the slope w y_scale / x_scale and the intercept y_loc + y_scale b - slope x_loc.
    """
    units = data.scaling
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
