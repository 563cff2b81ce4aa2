"""Tables of features and one target: read, checked, one-hot encoded, standardised, split."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ._data import nearest, read_columns, simulated_rng
from ._entry import BadSetting, Fault, MissingInput

_MISSING = set("|NA|na|N/A|n/a|#N/A|<NA>|NaN|nan|NAN|null|NULL|Null|?".split("|"))
_TRUTH = {"false": False, "true": True}
_MAX_LEVELS, _MAX_CLASSES = 50, 100


@dataclass(frozen=True, kw_only=True)
class Coding:
    """How raw columns become numbers: what new rows need to be encoded alike.

    Attributes:
        columns: raw feature columns in order.
        levels: text column to its levels, sorted; the first is the reference and has no column.
        target: name of the target.
        classes: class labels in the order of their codes 0, 1, ...; None for regression.
    """

    columns: tuple[str, ...]
    levels: Mapping[str, tuple[str, ...]]
    target: str
    classes: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Features and target as numbers, in the user's units.

    Attributes:
        x: features after one-hot coding, shape (n, k).
        y: target, shape (n,); class codes for classification.
        names: feature names after one-hot coding, `bmi` or `city[Paris]`.
        target: name of the target.
        classes: class labels in the order of their codes; None for regression.
        coding: how the raw columns became `x` and `y`.
        source: where the table came from, as the user would say it.
        notes: what was done to the table, or is odd about it, in plain words.
    """

    x: np.ndarray
    y: np.ndarray
    names: tuple[str, ...]
    target: str
    classes: tuple[str, ...] | None
    coding: Coding
    source: str
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Standard units: (x - x_loc) / x_scale, shape (k,) each, and (y - y_loc) / y_scale."""

    x_loc: np.ndarray
    x_scale: np.ndarray
    y_loc: float
    y_scale: float


def read_table(
    source: str | Path, *, target: str | None, features: str | None, classes: bool
) -> Table:
    """The table of a file; see `read_cells` for the file and `from_columns` for the rest."""
    columns = read_cells(source)
    return from_columns(
        columns, target=target, features=features, classes=classes, source=str(source)
    )


def read_cells(source: str | Path) -> dict[str, Any]:
    """The raw columns of a file by name; the cells of a CSV file are text as written.

    Args:
        source: `.csv`, `.tsv` or `.txt` (separated by commas, semicolons or tabs; header or
            none, then `column_1` and so on), `.json` or `.npz` (a list or array each, or a
            matrix `x` and `y`).

    Raises:
        MissingInput: there is no such file. Fault: it is not readable as a table.
    """
    path = Path(source)
    if path.suffix.lower() in (".csv", ".tsv", ".txt") and path.is_file():
        return _read_csv(path)
    return read_columns(path)


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    try:
        rows = _records(path.read_text(encoding="utf-8-sig"), path)
    except UnicodeDecodeError:
        raise Fault(f"{path} is no text in UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise MissingInput(f"cannot read {path} ({error.strerror}); check the file") from None
    if not rows:
        raise Fault(f"{path} is empty; give a table with a header and rows")
    names = [f"column_{i + 1}" for i in range(len(rows[0]))]
    if _is_header(rows[0], rows[1] if len(rows) > 1 else []):
        names = [name or unnamed for name, unnamed in zip(rows.pop(0), names)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise Fault(f"several columns are called {_listed(twice)}, {path}; rename them")
    cells = np.array(rows, dtype=object).reshape(len(rows), len(names))
    return {name: cells[:, i] for i, name in enumerate(names)}


def _records(text: str, path: Path) -> list[list[str]]:
    """The rows of a CSV text, stripped and without blank lines; all of them equally long."""
    text = re.sub(r'" +(?=[,;\t\n]|$)', '"', text)
    options = {"delimiter": _delimiter(text), "skipinitialspace": True}
    reader = csv.reader(io.StringIO(text), strict=True, **options)
    rows, line = [], 1
    try:
        for row in reader:
            if len(row) > 1 or "".join(row).strip():
                rows.append([cell.strip() for cell in row])
                if len(row) != len(rows[0]):
                    raise Fault(
                        f"{len(row)} fields instead of {len(rows[0])}, {path} line {line}; "
                        "correct the line (text that holds the separator needs quotes)"
                    )
            line = reader.line_num + 1
    except csv.Error as error:
        raise Fault(f"broken CSV ({error}), {path} line {line}; correct the quotes") from None
    return rows


def _delimiter(text: str) -> str:
    """What separates the fields: it cuts the first rows equally; a decimal comma does not win.

    Better than `csv.Sniffer`, which prefers the commas of `1,5;2,5`.
    """
    widths = {}
    for mark in "\t;,":
        rows = csv.reader(io.StringIO(text), delimiter=mark, skipinitialspace=True)
        widths[mark] = [len(row) for row in islice(filter(None, rows), 20)] or [1]
        if len(set(widths[mark])) == 1 and widths[mark][0] > 1:
            return mark
    return max(",;\t", key=lambda mark: widths[mark][0])


def _is_header(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether a name stands above a number, or there is no number to see at all."""
    for above, below in zip(first, second):
        if _number(above) is None and above not in _MISSING and _number(below) is not None:
            return True
    return all(_number(cell) is None for cell in [*first, *second])


def _number(cell: str) -> float | None:
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def from_columns(
    columns: Mapping[str, Any],
    *,
    target: str | None,
    features: str | None,
    classes: bool,
    source: str,
) -> Table:
    """The table in named columns, checked and encoded.

    Args:
        columns: name to n values: numbers, bools or text (text that is numbers throughout
            counts as numbers); a matrix `x` of shape (n, k) stands for columns `x_1` to `x_k`.
        target: column to predict; default `y` or `target`, else the last one.
        features: names separated by commas, in double quotes where a name holds a comma; default
            all other columns.
        classes: whether the target is a class (text, bool or whole numbers) or a number.
        source: where the columns came from, for messages.

    Raises:
        Fault: an unknown name, missing or infinite values, a text column with a level per row or
            over 50, a target that is no class or no number, no rows, unequal lengths.
    """
    columns = _flat(columns)
    chosen = _target(columns, target, source)
    used = _features(columns, features, chosen, source)
    values = _vectors(columns, (*used, chosen), source)
    values = {name: _typed(value) for name, value in values.items()}
    _check_values(values, source)
    text = [name for name in used if values[name].dtype == object]
    coding = Coding(
        columns=used,
        levels={name: _levels(name, values[name], source) for name in text},
        target=chosen,
        classes=_classes(chosen, values[chosen], source) if classes else None,
    )
    x, y = _features_as_numbers(values, coding, source), _target_as_numbers(values, coding, source)
    names = _names(coding)
    if not names:
        raise Fault(f"no feature takes two values, {source}; add a column that varies")
    last = target is None and chosen.lower() not in ("y", "target")
    notes = [f"the target is the last column, '{chosen}'"] if last else []
    notes += [*_coding_notes(coding, y), *_feature_notes(x, names)]
    return Table(
        x=x, y=y, names=names, target=chosen, classes=coding.classes,
        coding=coding, source=source, notes=tuple(notes),
    )  # fmt: skip


def encode(
    columns: Mapping[str, Any], coding: Coding, *, source: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """New rows, coded as the table was: x (n, k), and y (n,) if the target is among the columns.

    Raises:
        Fault: a column is not there, a level or class is new, a value is missing or no number.
    """
    columns = _flat(columns)
    for name in coding.columns:
        if name not in columns:
            raise Fault(f"there is no column '{name}', {source}; {nearest(name, columns)}")
    has_target = coding.target in columns
    used = (*coding.columns, *([coding.target] if has_target else []))
    values = _vectors(columns, used, source)
    labelled = {*coding.levels, *([coding.target] if coding.classes else [])}
    for name, value in values.items():
        values[name] = _cells(value) if name in labelled else _typed(value)
    _check_values(values, source)
    x = _features_as_numbers(values, coding, source)
    return x, _target_as_numbers(values, coding, source) if has_target else None


def scaling(table_x: np.ndarray, table_y: np.ndarray, *, target_too: bool) -> Scaling:
    """Mean and standard deviation (ddof 0) of each column; a constant column keeps scale 1.

    Args:
        table_x: features, shape (n, k).
        table_y: target, shape (n,).
        target_too: whether the target is scaled as well; else y_loc = 0 and y_scale = 1.
    """
    x_loc, x_scale = _loc_scale(table_x)
    y_loc, y_scale = _loc_scale(table_y[:, None]) if target_too else (np.zeros(1), np.ones(1))
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
        BadSetting: a share outside (0, 1). Fault: fewer than two rows.
    """
    if not 0 < share < 1:
        raise BadSetting(f"the share of test rows is {share:g}; give one between 0 and 1")
    if n < 2:
        raise Fault(f"{n} row cannot be split into training and test set; give two or more")
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


def _target(columns: Mapping[str, np.ndarray], target: str | None, source: str) -> str:
    if not columns:
        raise Fault(f"there are no columns, {source}; give features and a target")
    if target is None:
        usual = [name for name in columns if name.lower() in ("y", "target")]
        return usual[0] if usual else list(columns)[-1]
    if target not in columns:
        raise Fault(f"there is no column '{target}', {source}; {nearest(target, columns)}")
    return target


def _features(
    columns: Mapping[str, np.ndarray], features: str | None, target: str, source: str
) -> tuple[str, ...]:
    names = [name for name in columns if name != target]
    if features is not None:
        names = [n.strip() for n in next(csv.reader([features], skipinitialspace=True), [])]
    for name in names:
        if name not in columns:
            raise Fault(f"there is no column '{name}', {source}; {nearest(name, columns)}")
    if target in names:
        raise Fault(f"'{target}' is target and feature, {source}; choose another --target")
    if not names:
        raise Fault(f"there is no feature beside the target '{target}', {source}; add columns")
    if len(set(names)) < len(names):
        raise Fault(f"a feature is named twice ({_listed(names)}); name each once in --features")
    return tuple(names)


def _vectors(
    columns: Mapping[str, np.ndarray], names: Sequence[str], source: str
) -> dict[str, np.ndarray]:
    """The named columns, equally long; shape (n, 1) counts as (n,)."""
    vectors = {}
    for name in names:
        value = columns[name]
        vector = value[:, 0] if value.ndim == 2 and value.shape[1] == 1 else value
        if vector.ndim != 1 or vector.dtype.kind in "cmMV":
            found = f"has shape {value.shape} and type {value.dtype}"
            raise Fault(f"'{name}' {found}, {source}; give one number or word per row")
        vectors[name] = vector
    first, n = names[0], len(vectors[names[0]])
    for name, vector in vectors.items():
        if len(vector) != n:
            found = f"'{first}' has {n} rows and '{name}' has {len(vector)}"
            raise Fault(f"{found}, {source}; make them equal")
    if n == 0:
        raise Fault(f"the table has no rows, {source}; add some")
    return vectors


def _cells(values: np.ndarray) -> np.ndarray:
    """Values as stripped text, None where one is missing."""
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    texts = [str(value).strip() for value in values.tolist()]
    absent = {"None", "NaT"} if values.dtype == object else set()
    cells = np.empty(len(texts), dtype=object)
    for row, (text, value) in enumerate(zip(texts, values.tolist())):
        gone = text in _MISSING or (text in absent and not isinstance(value, str))
        cells[row] = None if gone else text
    return cells


def _typed(values: np.ndarray) -> np.ndarray:
    """Values as bool or float64 where all of them are, else as text, None where missing."""
    if values.dtype.kind in "biuf":
        return values if values.dtype == bool else values.astype(float)
    cells = _cells(values)
    if None in cells:
        return cells
    if all(cell.lower() in _TRUTH for cell in cells):
        return np.array([_TRUTH[cell.lower()] for cell in cells], dtype=bool)
    numbers = [_number(cell) for cell in cells]
    return cells if None in numbers else np.array(numbers)


def _check_values(columns: Mapping[str, np.ndarray], source: str) -> None:
    """No value is missing or infinite, or a Fault names the column and the first such row."""
    absent = {
        name: np.equal(values, None) if values.dtype == object else np.isnan(values)
        for name, values in columns.items()
    }
    total = sum(int(mask.sum()) for mask in absent.values())
    for name, mask in absent.items():
        if mask.any():
            raise Fault(
                f"'{name}' is missing in row {mask.argmax() + 1} ({mask.sum()} missing in this "
                f"column, {total} in all), {source}; drop or fill the rows yourself or leave the "
                "column out by --features, the zoo never imputes"
            )
    for name, values in columns.items():
        mask = np.isinf(values) if values.dtype != object else np.zeros(1, dtype=bool)
        if mask.any():
            raise Fault(
                f"'{name}' is infinite in row {mask.argmax() + 1} ({mask.sum()} in this column), "
                f"{source}; correct or drop the rows"
            )


def _levels(name: str, cells: np.ndarray, source: str) -> tuple[str, ...]:
    """The levels of a text column, sorted, if it looks like a category."""
    _check_commas(name, cells, source)
    levels, n = tuple(sorted(set(cells))), len(cells)
    if len(levels) > _MAX_LEVELS or 1 < n == len(levels):
        row = next(row for row, cell in enumerate(cells) if _number(cell) is None)
        raise Fault(
            f"'{name}' is text ('{cells[row]}' in row {row + 1}) with {len(levels)} levels in "
            f"{n} rows, {source}; leave it out by --features, or make it numbers"
        )
    return levels


def _check_commas(name: str, cells: np.ndarray, source: str) -> None:
    if all(_number(cell.replace(",", "")) is not None for cell in cells):
        row = next(row for row, cell in enumerate(cells) if "," in cell)
        found = f"'{name}' has a comma in its numbers ('{cells[row]}' in row {row + 1})"
        raise Fault(f"{found}, {source}; write them as 1234.5")


def _classes(name: str, values: np.ndarray, source: str) -> tuple[str, ...]:
    """The labels in the order of their codes: sorted, numbers by size; 0 and 1 always both."""
    if values.dtype == bool:
        return ("False", "True")
    if values.dtype == object:
        _check_commas(name, values, source)
        labels = sorted(set(values))
    else:
        broken = values != np.floor(values)
        if broken.any():
            row = broken.argmax()
            found = f"the target '{name}' is {values[row]:g} in row {row + 1}, which is no class"
            raise Fault(f"{found}, {source}; give whole numbers or words")
        numbers = {int(value) for value in np.unique(values)}
        labels = [str(value) for value in sorted({0, 1} if numbers <= {0, 1} else numbers)]
    if len(labels) > _MAX_CLASSES:
        found = f"the target '{name}' has {len(labels)} classes, {source}"
        raise Fault(f"{found}; {_MAX_CLASSES} are the most, choose another --target")
    return tuple(labels)


def _features_as_numbers(
    values: Mapping[str, np.ndarray], coding: Coding, source: str
) -> np.ndarray:
    """The matrix x: numbers as they are, text by an indicator per level but the first."""
    parts = []
    for name in coding.columns:
        if name in coding.levels:
            levels = coding.levels[name]
            codes = _codes(name, values[name], levels, source)
            parts.append(codes[:, None] == np.arange(1, len(levels)))  # (n, levels - 1)
        else:
            parts.append(_numbers(f"'{name}'", values[name], source)[:, None])  # (n, 1)
    return np.hstack(parts).astype(float)


def _target_as_numbers(
    values: Mapping[str, np.ndarray], coding: Coding, source: str
) -> np.ndarray:
    name = coding.target
    if coding.classes is None:
        return _numbers(f"the target '{name}'", values[name], source)
    return _codes(name, values[name], coding.classes, source).astype(float)


def _numbers(what: str, values: np.ndarray, source: str) -> np.ndarray:
    if values.dtype != object:
        return values.astype(float)
    row = next(row for row, cell in enumerate(values) if _number(cell) is None)
    found = f"{what} is text in row {row + 1} ('{values[row]}') where numbers are needed"
    raise Fault(f"{found}, {source}; correct it or choose another column")


def _codes(name: str, values: np.ndarray, known: Sequence[str], source: str) -> np.ndarray:
    """The place of each value among the known labels."""
    place = {label: code for code, label in enumerate(known)}
    codes = np.empty(len(values), dtype=int)
    for row, value in enumerate(values):
        label = str(value)
        code = place.get(label, place.get(_plain(label)))
        if code is None:
            found = f"'{name}' is '{label}' in row {row + 1}, {source}, which the table never had"
            raise Fault(f"{found}; known: {', '.join(known)}")
        codes[row] = code
    return codes


def _plain(label: str) -> str:
    """A bool or whole number in the one spelling that labels have: `True`, `3`."""
    number = _number(label)
    if number is not None and number.is_integer():
        return str(int(number))
    return label.capitalize() if label.lower() in _TRUTH else label


def _names(coding: Coding) -> tuple[str, ...]:
    """Feature names after one-hot coding."""
    names = []
    for name in coding.columns:
        levels = coding.levels.get(name)
        names += [name] if levels is None else [f"{name}[{level}]" for level in levels[1:]]
    return tuple(names)


def _coding_notes(coding: Coding, y: np.ndarray) -> list[str]:
    notes = []
    for name, (reference, *others) in coding.levels.items():
        words = [f"{reference} (reference)", *others]
        notes.append(f"{name}: {_listed(words)}" if others else f"'{name}' left out: constant")
    if coding.classes is not None and not all(c.lstrip("-").isdigit() for c in coding.classes):
        codes = [f"{label} = {code}" for code, label in enumerate(coding.classes)]
        notes.append(f"{coding.target}: {_listed(codes)}")
    if len(y) == 1:
        notes.append("there is one row only")
    elif (y == y[0]).all():
        constant = coding.classes is None
        one = "is constant" if constant else f"has one class only, {coding.classes[int(y[0])]}"
        notes.append(f"the target '{coding.target}' {one}")
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
    loc, scale = _loc_scale(x[:, rest])
    linear = _dependent((x[:, rest] - loc) / scale)
    if linear and len(rest) >= n:
        notes.append(f"{len(rest)} features are too many for {n} rows to tell apart (collinear)")
    elif linear:
        words = _listed([f"'{names[rest[j]]}'" for j in linear])
        notes.append(f"collinear, each a sum of multiples of columns before it: {words}")
    return notes


def _dependent(z: np.ndarray) -> list[int]:
    """Columns of a standardised matrix that are linear in those before them."""
    r = np.linalg.qr(z, mode="r") / np.sqrt(len(z))  # columns of length 1, same dependences
    basis, dependent = np.empty((len(r), 0)), []
    for j in range(r.shape[1]):
        rest = r[:, j] - basis @ (basis.T @ r[:, j])
        rest -= basis @ (basis.T @ rest)  # twice is enough (Kahan and Parlett)
        length = np.linalg.norm(rest)
        if length < 1e-9:
            dependent.append(j)
        else:
            basis = np.column_stack([basis, rest / length])
    return dependent


def _listed(words: Sequence[str]) -> str:
    """The words with commas, the first dozen of many."""
    more = f", ... ({len(words)} in all)" if len(words) > 12 else ""
    return ", ".join(words[:12]) + more
