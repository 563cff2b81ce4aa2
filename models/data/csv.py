"""Comma-, semicolon- or tab-separated text: one set of rules for every model."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..contract import BadInput
from .reading import content, text_of

SUFFIXES = (".csv", ".tsv", ".txt")
_MISSING = {"", "?", "NA", "na", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NaT", "NULL", "null"}

# Bytes of a file from which on it is worth trying whether it holds numbers alone, and lines at its
# beginning that tell how it is cut.
_LARGE, _HEAD = 1_000_000, 40
_TRUTHS = {"false": 0.0, "true": 1.0}


class Columns(dict[str, Any]):
    """The columns of a file by name; `notes` tell what of it was left out."""

    notes: tuple[str, ...] = ()


def read_csv(path: Path) -> Columns:
    """The columns of a file: truths, whole numbers, numbers, or text, None for a missing cell."""
    cells = read_cells_of(path)
    columns = Columns({name: _typed(column) for name, column in cells.items()})
    columns.notes = cells.notes
    return columns


def _typed(values: np.ndarray) -> np.ndarray:
    if values.dtype != object:
        return values
    cells = cells_of(values)
    numbers = [float("nan") if cell is None else number(cell) for cell in cells]
    if None in numbers:
        return cells
    array = np.array(numbers, dtype=float)
    if len(array) and all(str(cell).lower() in _TRUTHS for cell in cells):
        return array.astype(bool)
    whole = bool(len(array)) and all(re.fullmatch(r"[+-]?\d+", str(cell)) for cell in cells)
    return array.astype(np.int64) if whole and np.abs(array).max() < 2**63 else array


def read_cells_of(path: Path) -> Columns:
    """The cells of each column as text; a header or none, then `column_1` and so on.

    Rows of which each begins with a name, for which the header has no field (R's `write.table`),
    are read without it.

    Raises:
        MissingInput: no file. BadInput: unequal rows, a name twice, no rows, not UTF-8, not
            readable.
    """
    numbers = _numbers_alone(path)
    if numbers is not None:
        return numbers
    rows = _records(text_of(path, "\t;, "), path)
    if not rows:
        raise BadInput(f"{path} is empty; give a table with a header and rows")
    named = len(rows[-1][1]) > len(rows[0][1])
    cells = [row[named and i > 0 :] for i, (_, row) in enumerate(rows)]
    names = [f"column_{i + 1}" for i in range(len(cells[0]))]
    if _is_header(cells[0], cells[1:]):
        names = [" ".join(name.split()) or other for name, other in zip(cells.pop(0), names)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BadInput(f"several columns are called {', '.join(twice):.80}, {path}; rename them")
    table = np.array(cells, dtype=object).reshape(len(cells), len(names))
    columns = Columns({name: table[:, i] for i, name in enumerate(names)})
    if named:
        columns.notes = ("the first field of each row is its name, and left out",)
    return columns


def _numbers_alone(path: Path) -> Columns | None:
    """The columns of a large file that holds numbers alone, read without a text for each cell.

    None of any other file, and of one of which the general reading might say more: an odd row, a
    gap, a word.
    """
    if path.stat().st_size < _LARGE:
        return None
    import pandas as pd

    raw = content(path)
    lines = io.TextIOWrapper(io.BytesIO(raw), "utf-8-sig", "replace")
    head = "".join(islice(lines, _HEAD))
    delimiter = _delimiter(head)
    first, *rest = islice(filter(any, _reader(head, delimiter, strict=False)), _HEAD)
    if not rest or delimiter == " " or b"\0" in raw:
        return None
    header = _is_header(first, rest)
    if header and len(set(first)) < len(first):
        return None
    options = {"sep": delimiter, "header": 0 if header else None, "skipinitialspace": True}
    options |= {"keep_default_na": False} | _to_the_last_digit(pd.__version__)
    try:
        table = pd.read_csv(io.BytesIO(raw), encoding="utf-8-sig", low_memory=False, **options)
    except ValueError:
        return None
    columns = {name: table.iloc[:, i].to_numpy() for i, name in enumerate(table.columns)}
    numbers = all(v.dtype.kind in "if" and np.isfinite(v).all() for v in columns.values())
    if not numbers or not isinstance(table.index, pd.RangeIndex):
        return None
    names = [" ".join(name.split()) for name in first] if header else [""] * len(first)
    names = [name or f"column_{i + 1}" for i, name in enumerate(names)]
    return Columns(zip(names, columns.values()))


def _to_the_last_digit(version: str) -> dict[str, str]:
    """pandas before 3.1 rounds numbers wrongly unless it is asked not to."""
    old = tuple(map(int, version.split(".")[:2])) < (3, 1)
    return {"float_precision": "round_trip"} if old else {}


def _records(text: str, path: Path) -> list[tuple[int, list[str]]]:
    """The rows of a CSV text and the lines they begin in, stripped and without blank ones.

    All are equally long, or all but the first one field longer than that.
    """
    text = re.sub(r'" +(?=[,;\t\n]|$)', '"', text)
    rows, line = [], 1
    try:
        reader = _reader(text, _delimiter(text), strict=True)
        for row in reader:
            if len(row) > 1 or "".join(row).strip():
                rows.append((line, [cell.strip() for cell in row]))
            line = reader.line_num + 1
    except csv.Error as error:
        raise BadInput(f"broken CSV ({error}), {path} line {line}; correct the quotes") from None
    _check_widths(rows, text.split("\n"), path)
    return rows


def _check_widths(
    rows: Sequence[tuple[int, Sequence[str]]], text: Sequence[str], path: Path
) -> None:
    """Refuse rows of different lengths, unless each but the header begins with a name.

    Raises:
        BadInput: with the first row whose length is not that of the first.
    """
    widths = [len(row) for _, row in rows]
    wrong = next((i for i, width in enumerate(widths) if width != widths[0]), None)
    if wrong is None:
        return
    line, row = rows[wrong]
    found = f"{len(row)} fields instead of {widths[0]}, {path} line {line}"
    mend = "correct it (text that holds the separator in quotes)"
    if set(widths[1:]) == {widths[0] + 1} and not any(map(_is_number, rows[0][1])):
        first = [row[0] for _, row in rows[1:]]
        mend = "if each row begins with its name, give the header a name for that field too"
        if not any(row[-1] for _, row in rows[1:]):
            mend = "every row ends with a separator: take it away, or give the header one too"
        elif _are_names(first, [text[line - 1] for line, _ in rows[1:]]):
            return
    raise BadInput(f"{found}; {mend}")


def _are_names(first: Sequence[str], lines: Sequence[str]) -> bool:
    """Whether the first fields are names of rows: each another, and no column of numbers.

    R writes them in quotes, or else counts from 1.
    """
    counted = first == [str(i) for i in range(1, len(first) + 1)]
    quoted = all(line.lstrip().startswith('"') for line in lines)
    words = not any(map(_is_number, first))
    return len(set(first)) == len(first) and (counted or quoted or words)


def _is_number(cell: str) -> bool:
    return number(cell) is not None


def _reader(text: str, delimiter: str, *, strict: bool) -> Any:
    lines = io.StringIO(text)
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=strict)


def _delimiter(text: str) -> str:
    """What cuts the first rows equally; `csv.Sniffer` would take the comma of `1,5;2,5`.

    A space if nothing else cuts them, and it cuts numbers off (R's `write.table`).
    """
    rows = {
        mark: list(islice(filter(any, _reader(text, mark, strict=False)), 20)) or [[""]]
        for mark in "\t;, "
    }
    widths = {mark: [len(row) for row in cut] for mark, cut in rows.items()}
    for mark in "\t;,":
        if len(set(widths[mark])) == 1 and widths[mark][0] > 1:
            return mark
    first, *rest = widths[" "]
    mark = max(",;\t", key=lambda mark: widths[mark][0])
    if widths[mark][0] > 1 or len(set(rest)) != 1 or not any(map(_is_number, rows[" "][1])):
        return mark
    named = rest[0] == first + 1 and (first > 1 or text.startswith('"'))
    return " " if named or rest[0] == first > 1 else mark


def _is_header(first: Sequence[str], rest: Sequence[Sequence[str]]) -> bool:
    """Whether a name stands above a number, or words above other words (no H above an H)."""
    second = rest[0] if rest else []
    for above, below in zip(first, second):
        if number(above) is None and above not in _MISSING and number(below) is not None:
            return True
    words = all(number(cell) is None for cell in [*first, *second])
    return words and not any(row[0] == first[0] for row in rest)


def number(cell: str) -> float | None:
    """The number that a text is, true and false included; None if it is none."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return _TRUTHS.get(cell.lower())


def mend_of(cell: str, otherwise: str) -> str:
    """What to do about a text among numbers: a comma in what is a number, or else `otherwise`."""
    if "," in cell and number(cell.replace(",", "")) is not None:
        return "write numbers with a decimal point and without commas, as 1234.5"
    return otherwise


def split_names(text: str) -> list[str]:
    """Names separated by commas, in double quotes where a name holds a comma."""
    return [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]


def join_names(names: Sequence[str]) -> str:
    """The text that `split_names` takes apart again."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(names)
    return text.getvalue()


def check_stray(name: str, cells: Sequence[str | None], source: str) -> None:
    """A column of numbers is no category because of a slip of the pen.

    Words that are no rare exception (more than one cell in ten) are categories, and so are words
    among codes, of which there are two at most.

    Raises:
        BadInput: naming the column, its first word, and how many cells are numbers.
    """
    values = {row: number(cell) for row, cell in enumerate(cells, 1) if cell is not None}
    words = [row for row, value in values.items() if value is None]
    numbers = [value for value in values.values() if value is not None]
    if words and len(numbers) >= 0.9 * len(values) and len(set(numbers)) > 2:
        cell = cells[words[0] - 1]
        found = f"'{name}' is text in row {words[0]} ({cell!r:.40})"
        mend = mend_of(cell, "correct it, or leave the column out by --features")
        raise BadInput(f"{found}, {len(numbers)} others are numbers, {source}; {mend}")


def cells_of(values: np.ndarray) -> np.ndarray:
    """Values as text with single spaces (messages are one line), None where one is missing."""
    texts = ["" if value is None else " ".join(str(value).split()) for value in values.tolist()]
    return np.array([None if text in _MISSING else text for text in texts], dtype=object)
