"""Tables of features and one target: read, checked, one-hot encoded, standardised, split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..contract import BadInput, BadSetting, nearest
from .columns import simulated_rng
from .csv import cells_of, check_stray, fix_of, number, split_names

_MAX_LEVELS, _MAX_CLASSES = 50, 100
_DROP = "drop or fill the rows yourself"


@dataclass(frozen=True, kw_only=True)
class Coding:
    """How raw columns become numbers: what new rows need to be encoded alike."""

    columns: tuple[str, ...]  # raw features in order
    levels: Mapping[str, tuple[str, ...]]  # of text columns; the first is the reference
    target: str
    classes: tuple[str, ...] | None  # labels in the order of their codes; None for regression

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns of x, after one-hot coding: `bmi` or `city[Paris]`."""
        names = []
        for name in self.columns:
            levels = self.levels.get(name)
            names += [name] if levels is None else [f"{name}[{level}]" for level in levels[1:]]
        return tuple(names)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Features and target as numbers, in the user's units."""

    x: np.ndarray  # (n, k) after one-hot coding
    y: np.ndarray  # (n,); class codes 0, 1, ... for classification
    coding: Coding
    source: str
    notes: tuple[str, ...]  # what was done to the table or is odd about it, in plain words


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Standard units: (x - x_loc) / x_scale, shape (k,) each, and (y - y_loc) / y_scale."""

    x_loc: np.ndarray
    x_scale: np.ndarray
    y_loc: float
    y_scale: float


def from_columns(
    columns: Mapping[str, Any],
    *,
    target: str | None,
    features: str | None,
    classes: bool | Sequence[str],
    source: str,
) -> Table:
    """The table in named columns, checked and encoded.

    Args:
        columns: name to n values: numbers, bools or text (text that is numbers throughout
            counts as numbers); a matrix `x` of shape (n, k) stands for columns `x_1` to `x_k`.
        target: column to predict; default `y` or `target`, else the last one.
        features: names separated by commas, in double quotes where a name holds a comma; default
            all other columns.
        classes: whether the target is a class (text, bool or whole numbers) or a number; or all
            labels that it may have.
        source: where the columns came from, for messages.

    Raises:
        BadInput: an unknown name, missing or infinite values, a word in a column of numbers, a
            text column with a level per row or over 50, a target that is no class or no number, no
            rows, unequal lengths.
    """
    notes = list(getattr(columns, "notes", ()))
    columns = _flat(columns)
    chosen = _target(columns, target, source)
    used = _features(columns, features, chosen, source)
    values = _vectors(columns, (*used, chosen), source)
    values = {name: _typed(value) for name, value in values.items()}
    _check_values(values, source, f"{_DROP}, or leave the column out by --features")
    text = [name for name in used if values[name].dtype == object]
    if classes is True:
        classes = _classes(chosen, values[chosen], source)
    coding = Coding(
        columns=used,
        levels={name: _levels(name, values[name], source) for name in text},
        target=chosen,
        classes=tuple(classes) if classes else None,
    )
    x, y, names = _x(values, coding, source), _y(values, coding, source), coding.names
    if not names:
        raise BadInput(f"no feature takes two values, {source}; add a column that varies")
    notes += _coding_notes(coding, y) + _feature_notes(x, names)
    if target is None and chosen.lower() not in ("y", "target"):
        notes.insert(0, f"the target is the last column, '{chosen}'")
    return Table(x=x, y=y, coding=coding, source=source, notes=tuple(notes))


def encode(
    columns: Mapping[str, Any], coding: Coding, *, source: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """New rows, coded as the table was: x (n, k), and y (n,) if the target is among the columns.

    Raises:
        BadInput: a column is not there, a level or class is new, a value is missing or no number.
    """
    columns = _flat(columns)
    used = [*coding.columns, *([coding.target] if coding.target in columns else [])]
    missing = [name for name in coding.columns if name not in columns]
    if missing:
        problem = f"there is no column {', '.join(map(repr, missing[:3]))}, {source}"
        raise BadInput(f"{problem}; add it: the run needs {_listed(coding.columns)}")
    labelled = {*coding.levels, *([coding.target] if coding.classes else [])}
    values = _vectors(columns, used, source)
    for name, value in values.items():
        values[name] = cells_of(value) if name in labelled else _typed(value)
    _check_values(values, source, _DROP)
    y = _y(values, coding, source) if coding.target in values else None
    return _x(values, coding, source), y


def scaling(x: np.ndarray, y: np.ndarray, *, features: bool, target: bool) -> Scaling:
    """Mean and standard deviation (ddof 0) of each column; a constant column keeps scale 1.

    Args:
        x: features, shape (n, k).
        y: target, shape (n,).
        features: whether these are scaled; else x_loc = 0 and x_scale = 1.
        target: whether it is scaled; else y_loc = 0 and y_scale = 1.
    """
    k = x.shape[1]
    x_loc, x_scale = _loc_scale(x) if features else (np.zeros(k), np.ones(k))
    y_loc, y_scale = _loc_scale(y[:, None]) if target else (np.zeros(1), np.ones(1))
    return Scaling(x_loc=x_loc, x_scale=x_scale, y_loc=float(y_loc[0]), y_scale=float(y_scale[0]))


def _loc_scale(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # In units of a power of two near its size, no column overflows or underflows when squared.
    unit = np.exp2(np.frexp(np.abs(x).max(axis=0))[1] - 1.0)
    constant = (x == x[0]).all(axis=0)
    loc = np.where(constant, x[0], (x / unit).mean(axis=0) * unit)
    return loc, np.where(constant, 1.0, (x / unit).std(axis=0) * unit)


def split_rows(n: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the training and the test set, sorted, at least one each.

    Args:
        n: number of rows.
        share: share of the rows in the test set, between 0 and 1.
        seed: what alone decides which rows these are.

    Raises:
        BadSetting: a share outside (0, 1). BadInput: fewer than two rows.
    """
    if not 0 < share < 1:
        raise BadSetting(f"the share of test rows is {share:g}; give one between 0 and 1")
    if n < 2:
        raise BadInput(f"{n} row cannot be split into training and test set; give two or more")
    size = min(max(round(share * n), 1), n - 1)
    order = simulated_rng(seed).permutation(n)
    return np.sort(order[size:]), np.sort(order[:size])


def _flat(columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Columns as arrays; a matrix `x` as its columns."""
    flat = {}
    for name, value in columns.items():
        array = np.asarray(value)
        if name == "x" and array.ndim == 2:
            flat |= {f"x_{j + 1}": array[:, j] for j in range(array.shape[1])}
        else:
            flat[str(name)] = array
    return flat


def _check_known(name: str, columns: Mapping[str, np.ndarray], source: str) -> None:
    if name not in columns:
        raise BadInput(f"there is no column '{name}', {source}; {nearest(name, columns)}")


def _target(columns: Mapping[str, np.ndarray], target: str | None, source: str) -> str:
    if not columns:
        raise BadInput(f"there are no columns, {source}; give features and a target")
    if target is not None:
        _check_known(target, columns, source)
        return target
    usual = [name for name in columns if name.lower() in ("y", "target")]
    return usual[0] if usual else list(columns)[-1]


def _features(
    columns: Mapping[str, np.ndarray], features: str | None, target: str, source: str
) -> tuple[str, ...]:
    names = [name for name in columns if name != target]
    if features is not None:
        names = split_names(features)
    for name in names:
        _check_known(name, columns, source)
    if target in names:
        raise BadInput(f"'{target}' is target and feature, {source}; choose another --target")
    if not names:
        raise BadInput(f"there is no feature beside the target '{target}', {source}; add columns")
    if len(set(names)) < len(names):
        raise BadInput(
            f"a feature is named twice ({_listed(names)}); name each once in --features"
        )
    return tuple(names)


def _vectors(
    columns: Mapping[str, np.ndarray], names: Sequence[str], source: str
) -> dict[str, np.ndarray]:
    """The named columns, equally long; shape (n, 1) counts as (n,)."""
    vectors = {}
    for name in names:
        value = columns[name]
        vector = value[:, 0] if value.ndim == 2 and value.shape[1] == 1 else value
        if vector.ndim != 1 or vector.dtype.kind in "cmMSV":
            problem = f"'{name}' has shape {value.shape} and type {value.dtype}"
            raise BadInput(f"{problem}, {source}; give one number or word per row")
        vectors[name] = vector
    first, n = names[0], len(vectors[names[0]])
    for name, vector in vectors.items():
        if len(vector) != n:
            problem = f"'{first}' has {n} rows and '{name}' has {len(vector)}"
            raise BadInput(f"{problem}, {source}; make them equal")
    if n == 0:
        raise BadInput(f"the table has no rows, {source}; add some")
    return vectors


def _typed(values: np.ndarray) -> np.ndarray:
    """Values as float64 if all of them are numbers, else as text, None where missing."""
    if values.dtype.kind in "biuf":
        return values.astype(float)
    cells = cells_of(values)
    numbers = [None if cell is None else number(cell) for cell in cells]
    return cells if None in numbers else np.array(numbers)


def _check_values(columns: Mapping[str, np.ndarray], source: str, fix: str) -> None:
    """No value is missing or infinite, or a BadInput names the column and the first such row."""
    masks = {name: _not_finite(values) for name, values in columns.items()}
    total = sum(mask.sum() for mask in masks.values())
    for name, mask in masks.items():
        if mask.any():
            row = mask.argmax()
            state = "infinite" if columns[name][row] in (np.inf, -np.inf) else "missing"
            raise BadInput(
                f"'{name}' is {state} in row {row + 1} ({mask.sum()} in this column, {total} in "
                f"all), {source}; {fix}; the zoo never imputes"
            )


def _not_finite(values: np.ndarray) -> np.ndarray:
    return np.equal(values, None) if values.dtype == object else ~np.isfinite(values)


def _levels(name: str, cells: np.ndarray, source: str) -> tuple[str, ...]:
    """The levels of a text column, sorted, if it looks like a category."""
    check_stray(name, cells, source)
    levels, n = tuple(sorted(set(cells))), len(cells)
    row = next(row for row, cell in enumerate(cells) if number(cell) is None)
    problem = f"'{name}' is text ({cells[row]!r:.40} in row {row + 1})"
    if all(number(cell.replace(",", "")) is not None for cell in cells):
        raise BadInput(f"{problem}, {source}; {fix_of(cells[row], 'make it numbers')}")
    if len(levels) > _MAX_LEVELS or 1 < n == len(levels):
        raise BadInput(
            f"{problem} with {len(levels)} levels in {n} rows, {source}; "
            "leave it out by --features, or make it numbers"
        )
    return levels


def _classes(name: str, values: np.ndarray, source: str) -> tuple[str, ...]:
    """The labels in the order of their codes: sorted, numbers by size; 0 and 1 always both."""
    if values.dtype == object:
        labels = sorted(set(values))
    else:
        for row in np.flatnonzero(values != np.floor(values)):
            problem = f"the target '{name}' is {values[row]:g} in row {row + 1}, which is no class"
            raise BadInput(f"{problem}, {source}; give whole numbers or words")
        numbers = {int(value) for value in np.unique(values)}
        labels = [str(number) for number in sorted({0, 1} if numbers <= {0, 1} else numbers)]
    if len(labels) > _MAX_CLASSES:
        problem = f"the target '{name}' has {len(labels)} classes, {source}"
        raise BadInput(f"{problem}; {_MAX_CLASSES} are the most, choose another --target")
    return tuple(labels)


def _x(values: Mapping[str, np.ndarray], coding: Coding, source: str) -> np.ndarray:
    """The feature matrix: numbers as they are, text by an indicator per level but the first."""
    parts = []
    for name in coding.columns:
        if name in coding.levels:
            levels = coding.levels[name]
            codes = _codes(name, values[name], levels, source)
            parts.append(codes[:, None] == np.arange(1, len(levels)))  # (n, levels - 1)
        else:
            parts.append(_numbers(name, values[name], source)[:, None])  # (n, 1)
    return np.hstack(parts).astype(float)


def _y(values: Mapping[str, np.ndarray], coding: Coding, source: str) -> np.ndarray:
    """The target: numbers, or codes of the classes."""
    name = coding.target
    if coding.classes is None:
        return _numbers(name, values[name], source)
    return _codes(name, values[name], coding.classes, source).astype(float)


def _numbers(name: str, values: np.ndarray, source: str) -> np.ndarray:
    if values.dtype == object:
        row = next(row for row, cell in enumerate(values) if number(cell) is None)
        problem = f"'{name}' is text in row {row + 1} ({values[row]!r:.40})"
        fix = fix_of(values[row], "correct it or choose another column")
        raise BadInput(f"{problem} where numbers are needed, {source}; {fix}")
    return values


def _codes(name: str, values: np.ndarray, known: Sequence[str], source: str) -> np.ndarray:
    """The place of each value among the known labels."""
    place = {label: code for code, label in enumerate(known)}
    codes = np.empty(len(values), dtype=int)
    for row, value in enumerate(values):
        label = str(value)
        code = place.get(label, place.get(_plain(label)))
        if code is None:
            problem = f"'{name}' is {label!r:.40} in row {row + 1}, which the table never had"
            raise BadInput(f"{problem}, {source}; known: {_listed(known)}")
        codes[row] = code
    return codes


def _plain(label: str) -> str:
    """A whole number in the one spelling that labels have: `3` for `3.0`, `1` for `True`."""
    value = number(label)
    return str(int(value)) if value is not None and value.is_integer() else label


def _coding_notes(coding: Coding, y: np.ndarray) -> list[str]:
    notes = []
    for name, (reference, *others) in coding.levels.items():
        words = [f"{reference} (reference)", *others]
        notes.append(f"{name}: {_listed(words)}" if others else f"'{name}' left out: constant")
    classes = coding.classes or ()
    if any(label != str(code) for code, label in enumerate(classes)):
        codes = [f"{label} = {code}" for code, label in enumerate(classes)]
        notes.append(f"{coding.target}: {_listed(codes)}")
    if len(y) == 1:
        notes.append("there is one row only")
    elif (y == y[0]).all():
        state = f"has one class only, {classes[int(y[0])]}" if classes else "is constant"
        notes.append(f"the target '{coding.target}' {state}")
    return notes


def _feature_notes(x: np.ndarray, names: Sequence[str]) -> list[str]:
    """Columns that tell nothing new: constant, counting, repeated, collinear."""
    n = len(x)
    if n == 1:
        return []
    constant = (x == x[0]).all(axis=0)
    notes = [f"'{name}' is constant" for name, flat in zip(names, constant) if flat]
    seen, rest = {}, []
    for j in np.flatnonzero(~constant):
        first = seen.setdefault((x[:, j] + 0.0).tobytes(), j)
        if first == j:
            rest.append(j)
        else:
            notes.append(f"'{names[j]}' repeats '{names[first]}'")
        if len(names) > 1 and n > 2 and x[0, j] in (0, 1) and (np.diff(x[:, j]) == 1).all():
            notes.append(f"'{names[j]}' counts the rows; if it is no feature, leave it out")
    linear = [f"'{names[rest[j]]}'" for j in _collinear(x[:, rest])] if len(rest) < n else []
    if len(rest) >= n:
        notes.append(f"{len(rest)} features are too many for {n} rows to tell apart (collinear)")
    elif linear:
        notes.append(f"collinear, each follows from others of them: {_listed(linear)}")
    return notes


def _collinear(x: np.ndarray) -> np.ndarray:
    """Columns in some linear relation: those that occur in the null space of standardised x."""
    if x.shape[1] == 0:
        return np.arange(0)
    loc, scale = _loc_scale(x)
    r = np.linalg.qr((x - loc) / scale, mode="r")  # (k, k), the same null space
    _, sizes, rows = np.linalg.svd(r)
    null = rows[sizes < 1e-10 * sizes[0]]  # (k - rank, k)
    return np.flatnonzero((np.abs(null) > 1e-6).any(axis=0))


def _listed(words: Sequence[str]) -> str:
    """The words with commas, the first dozen of many."""
    more = f", ... ({len(words)} in all)" if len(words) > 12 else ""
    return ", ".join(words[:12]) + more
