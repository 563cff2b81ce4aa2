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

from ._entry import Fault, MissingInput

SUFFIXES = (".csv", ".tsv", ".txt")
_MISSING = {"", "?", "NA", "na", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NaT", "NULL", "null"}


def read_csv(path: Path) -> dict[str, np.ndarray]:
    """The columns of a file: whole numbers, numbers, or text with None where a cell is missing."""
    return {name: _typed(cells) for name, cells in read_cells_of(path).items()}


def _typed(values: np.ndarray) -> np.ndarray:
    cells = cells_of(values)
    numbers = [float("nan") if cell is None else number(cell) for cell in cells]
    if None in numbers:
        return cells
    array = np.array(numbers, dtype=float)
    whole = bool(len(array)) and all(re.fullmatch(r"[+-]?\d+", str(cell)) for cell in cells)
    return array.astype(np.int64) if whole else array


def read_cells_of(path: Path) -> dict[str, np.ndarray]:
    """The cells of each column as text; a header or none, then `column_1` and so on.

    Raises:
        Fault: unequal rows, a name twice, no rows, not UTF-8. MissingInput: not readable.
    """
    try:
        rows = _records(path.read_text(encoding="utf-8-sig"), path)
    except UnicodeDecodeError:
        raise Fault(f"{path} is no text in UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise MissingInput(f"cannot read {path} ({error.strerror}); check the file") from None
    if not rows:
        raise Fault(f"{path} is empty; give a table with a header and rows")
    names = [f"column_{i + 1}" for i in range(len(rows[0]))]
    if _is_header(rows[0], rows[1:]):
        names = [" ".join(name.split()) or other for name, other in zip(rows.pop(0), names)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise Fault(f"several columns are called {', '.join(twice)}, {path}; rename them")
    cells = np.array(rows, dtype=object).reshape(len(rows), len(names))
    return {name: cells[:, i] for i, name in enumerate(names)}


def _records(text: str, path: Path) -> list[list[str]]:
    """The rows of a CSV text, stripped and without blank lines; all of them equally long."""
    text = re.sub(r'" +(?=[,;\t\n]|$)', '"', text)
    rows, line = [], 1
    try:
        reader = _reader(text, _delimiter(text), strict=True)
        for row in reader:
            if len(row) > 1 or "".join(row).strip():
                rows.append([cell.strip() for cell in row])
                if len(row) != len(rows[0]):
                    found = f"{len(row)} fields instead of {len(rows[0])}, {path} line {line}"
                    raise Fault(f"{found}; correct it (text that holds the separator in quotes)")
            line = reader.line_num + 1
    except csv.Error as error:
        raise Fault(f"broken CSV ({error}), {path} line {line}; correct the quotes") from None
    return rows


def _reader(text: str, delimiter: str, *, strict: bool) -> Any:
    lines = io.StringIO(text)
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=strict)


def _delimiter(text: str) -> str:
    """What cuts the first rows equally; `csv.Sniffer` would take the comma of `1,5;2,5`."""
    widths = {}
    for mark in "\t;,":
        rows = islice(filter(any, _reader(text, mark, strict=False)), 20)
        widths[mark] = [len(row) for row in rows] or [1]
        if len(set(widths[mark])) == 1 and widths[mark][0] > 1:
            return mark
    return max(",;\t", key=lambda mark: widths[mark][0])


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
        return {"false": 0.0, "true": 1.0}.get(cell.lower())


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
        Fault: naming the column, its first word, and how many cells are numbers.
    """
    values = {row: number(cell) for row, cell in enumerate(cells, 1) if cell is not None}
    words = [row for row, value in values.items() if value is None]
    numbers = [value for value in values.values() if value is not None]
    if words and len(numbers) >= 0.9 * len(values) and len(set(numbers)) > 2:
        cell = cells[words[0] - 1]
        found = f"'{name}' is text in row {words[0]} ({cell!r:.40})"
        mend = mend_of(cell, "correct it, or leave the column out by --features")
        raise Fault(f"{found}, {len(numbers)} others are numbers, {source}; {mend}")


def cells_of(values: np.ndarray) -> np.ndarray:
    """Values as text with single spaces (messages are one line), None where one is missing."""
    texts = ["" if value is None else " ".join(str(value).split()) for value in values.tolist()]
    return np.array([None if text in _MISSING else text for text in texts], dtype=object)
