"""Comma-, semicolon- or tab-separated text: one set of rules for every model.

What cuts the rows, whether they have a header and which are refused is decided here; the numbers
of large files are read by pandas.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..contract import BadInput
from .reading import check_cells, check_once, text_of

SUFFIXES = (".csv", ".tsv", ".txt")
_MISSING = {"", "?", "NA", "na", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NaT", "NULL", "null"}
_TRUTHS = {"false": 0.0, "true": 1.0}
# Bytes of a file from which on numbers are read without making a text of each first.
_LARGE = 1_000_000
_BOM = "\ufeff".encode()


class Columns(dict[str, Any]):
    """The columns of a file by name, shape (n,) each.

    Attributes:
        notes: what of the file was left out, in words.
    """

    notes: tuple[str, ...] = ()


def read_csv(path: Path) -> Columns:
    """The columns of a file: truths, whole numbers, numbers, or text, None for a missing cell.

    Raises:
        MissingInput, BadInput: as `read_cells`.
    """
    cells = read_cells(path)
    columns = Columns({name: _typed(column) for name, column in cells.items()})
    columns.notes = cells.notes
    return columns


def _typed(values: np.ndarray) -> np.ndarray:
    """Cells in the narrowest type that holds them all; a missing number is NaN."""
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


def read_cells(path: Path) -> Columns:
    """The cells of each column as text; a header or none, then `column_1` and so on.

    The columns of a large file that hold numbers alone are numbers. Rows of which each begins
    with a name, for which the header has no field (R's `write.table`), are read without it.

    Raises:
        MissingInput: no file. BadInput: unequal rows, a name twice, no rows, not UTF-8, not
            readable.
    """
    text = _Text(path)
    first, second = text.head()
    if not first:
        raise BadInput(f"{path} is empty; give a table with a header and rows")
    columns = text.numbers(first, second)
    named = columns is None and text.has_row_names()
    header = _names_numbers(first, second[named:])
    if columns is None:
        rows = text.cells(named)
        header = header or _is_words(first, rows[1:])
        columns = list(np.array(rows[header:], dtype=object).reshape(-1, len(first)).T)
    names = [f"column_{i + 1}" for i in range(len(first))]
    if header:
        names = [" ".join(name.split()) or other for name, other in zip(first, names)]
    check_once(names, f"{path} has several columns")
    read = Columns(zip(names, columns))
    read.notes = ("the first field of each row is its name, and left out",) if named else ()
    return read


def _names_numbers(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether some cell of the first row is a name above a number."""
    pairs = ((above, below) for above, below in zip(first, second) if above not in _MISSING)
    return any(_is_number(below) and not _is_number(above) for above, below in pairs)


def _is_words(first: Sequence[str], below: Sequence[Sequence[str]]) -> bool:
    """Whether the first two rows are words, the first ones above others (no H above an H)."""
    words = not any(map(_is_number, [*first, *(below[0] if below else [])]))
    return words and all(row[0] != first[0] for row in below)


class _Text:
    """The text of a file, whose rows are cut by the mark that cuts the first ones equally.

    Attributes:
        path: of the file.
        content: its bytes.
        mark: what is between two cells.
    """

    def __init__(self, path: Path):
        self.path, self.content = path, text_of(path)
        self.mark = _delimiter(self)

    def lines(self) -> Iterable[str]:
        """The lines, each with its end; they are decoded one after the other."""
        return io.TextIOWrapper(io.BytesIO(self.content), "utf-8-sig")

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """The stripped cells of rows that are not blank, and the lines that these begin in.

        Raises:
            BadInput: a quote that ends in the middle of a cell, or nowhere.
        """
        closed = (_closed(line) if '" ' in line else line for line in self.lines())
        reader, line = _reader(closed, self.mark, strict=True), 1
        try:
            for row in reader:
                cells = [cell.strip() for cell in row]
                if len(cells) > 1 or any(cells):
                    yield line, cells
                line = reader.line_num + 1
        except csv.Error as error:
            where = f"{self.path} line {line}"
            raise BadInput(f"broken CSV ({error}), {where}; correct the quotes") from None

    @cached_property
    def widths(self) -> np.ndarray:
        """How many cells each row has."""
        return np.fromiter((len(row) for _, row in self.rows()), int)

    def cells(self, named: bool = False) -> list[list[str]]:
        """The cells of all rows, those below the first without names if they bear some.

        Raises:
            BadInput: they would not fit into memory.
        """
        check_cells(self.content, "\t;, ", self.path)
        return [row[named and i > 0 :] for i, (_, row) in enumerate(self.rows())]

    def head(self) -> list[list[str]]:
        """The cells of the first two rows, as far as there are any."""
        return [*(row for _, row in islice(self.rows(), 2)), [], []][:2]

    def has_row_names(self) -> bool:
        """Whether each row but the header begins with a name; else all are equally long.

        Raises:
            BadInput: with the first row whose length is not that of the first.
        """
        width, below = self.widths[0], self.widths[1:]
        if (below == width).all():
            return False
        line, row = next(islice(self.rows(), 1 + int(np.argmax(below != width)), None))
        problem = f"{len(row)} fields instead of {width}, {self.path} line {line}"
        fix = "correct it (text that holds the separator in quotes)"
        if (below == width + 1).all() and not any(map(_is_number, self.head()[0])):
            fix = "if each row begins with its name, give the header a name for that field too"
            rows = self.cells()[1:]
            if not any(row[-1] for row in rows):
                fix = "every row ends with a separator: take it away, or give the header one too"
            elif self._are_names([row[0] for row in rows]):
                return True
        raise BadInput(f"{problem}; {fix}")

    def _are_names(self, first: Sequence[str]) -> bool:
        """Whether first fields are names of rows: each another, and no column of numbers.

        R writes them in quotes, or else counts from 1.
        """
        begins = {line for line, _ in self.rows()}
        lines = (line for i, line in enumerate(self.lines(), 1) if i in begins)
        quoted = all(line.lstrip().startswith('"') for line in islice(lines, 1, None))
        counted = list(first) == [str(i) for i in range(1, len(first) + 1)]
        words = not any(map(_is_number, first))
        return len(set(first)) == len(first) and (counted or quoted or words)

    def numbers(self, first: Sequence[str], second: Sequence[str]) -> list[np.ndarray] | None:
        """The columns of a large file, those of numbers as such; None of other files.

        None as well where pandas cuts rows that are not ours. A missing number is NaN.

        Args:
            first, second: the cells of the first two rows, of which some is a number.
        """
        words = not any(map(_is_number, [*first, *second]))
        if len(self.content) < _LARGE or words or self.mark == " ":
            return None
        import pandas as pd

        header = _names_numbers(first, second)
        options = {"sep": self.mark, "header": 0 if header else None, "names": range(len(first))}
        options |= {"skipinitialspace": True, "keep_default_na": False, "na_values": _MISSING}
        options |= _to_the_last_digit(pd.__version__) | {"low_memory": False}
        try:
            table = pd.read_csv(io.BytesIO(self.content), encoding="utf-8-sig", **options)
        except ValueError:
            return None
        columns = [table[i].to_numpy() for i in table]
        if not (_are_finite(columns) and isinstance(table.index, pd.RangeIndex)):
            gap = len(first) == 1 and table.isna().to_numpy().any()  # or a row of blanks
            if self.has_row_names() or gap or len(table) != len(self.widths) - header:
                return None
        return [column.astype(float) if column.dtype.kind == "u" else column for column in columns]


def _are_finite(columns: Iterable[np.ndarray]) -> bool:
    """Whether columns hold numbers alone: then no row was longer or shorter than the others."""
    return all(c.dtype.kind in "iuf" and np.isfinite(c).all() for c in columns)


def _to_the_last_digit(version: str) -> dict[str, str]:
    """pandas before 3.1 rounds numbers wrongly unless it is asked not to."""
    old = tuple(map(int, version.split(".")[:2])) < (3, 1)
    return {"float_precision": "round_trip"} if old else {}


def _is_number(cell: str) -> bool:
    return number(cell) is not None


def _closed(line: str) -> str:
    """A line without blanks between a closing quote and the end of its cell."""
    return re.sub(r'" +(?=[,;\t\n]|$)', '"', line)


def _reader(lines: Iterable[str], mark: str, *, strict: bool) -> Any:
    return csv.reader(lines, delimiter=mark, skipinitialspace=True, strict=strict)


def _first_rows(text: _Text, mark: str) -> list[list[str]]:
    """Some rows as a delimiter cuts them, up to one that cannot be read, which `rows` names."""
    rows = []
    with suppress(csv.Error):
        for row in islice(filter(any, _reader(text.lines(), mark, strict=False)), 20):
            rows.append(row)
    return rows or [[""]]


def _delimiter(text: _Text) -> str:
    """What cuts the first rows equally; `csv.Sniffer` would take the comma of `1,5;2,5`.

    A space if nothing else cuts them, and it cuts numbers off (R's `write.table`).
    """
    rows = {mark: _first_rows(text, mark) for mark in "\t;, "}
    widths = {mark: [len(row) for row in cut] for mark, cut in rows.items()}
    for mark in "\t;,":
        if len(set(widths[mark])) == 1 and widths[mark][0] > 1:
            return mark
    first, *rest = widths[" "]
    mark = max(",;\t", key=lambda mark: widths[mark][0])
    if widths[mark][0] > 1 or len(set(rest)) != 1 or not any(map(_is_number, rows[" "][1])):
        return mark
    named = rest[0] == first + 1 and (first > 1 or text.content.lstrip(_BOM).startswith(b'"'))
    return " " if named or rest[0] == first > 1 else mark


def number(cell: str) -> float | None:
    """The number that a text is, true and false included; None if it is none."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return _TRUTHS.get(cell.lower())


def fix_of(cell: str, otherwise: str) -> str:
    """What to do about a text among numbers: a comma in what is a number, or else `otherwise`."""
    if "," in cell and number(cell.replace(",", "")) is not None:
        return "write numbers with a decimal point and without commas, as 1234.5"
    return otherwise


def split_names(text: str) -> list[str]:
    """Names separated by commas, in double quotes where a name holds a comma."""
    return [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]


def join_names(names: str | Sequence[str]) -> str:
    """The text that `split_names` takes apart again; a text as it is."""
    if isinstance(names, str):
        return names
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
        problem = f"'{name}' is text in row {words[0]} ({cell!r:.40})"
        fix = fix_of(cell, "correct it, or leave the column out by --features")
        raise BadInput(f"{problem}, {len(numbers)} others are numbers, {source}; {fix}")


def cells_of(values: np.ndarray) -> np.ndarray:
    """Values as text with single spaces (messages are one line), None where one is missing."""
    texts = ["" if value is None else " ".join(str(value).split()) for value in values.tolist()]
    return np.array([None if text in _MISSING else text for text in texts], dtype=object)
