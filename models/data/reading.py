"""A file that a user names is opened in one place: its size is known before it is loaded."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..contract import BadInput, Fault, MissingInput

# What the content of one file may take in memory, bytes.
_MOST_BYTES = 4e9
# What text takes at most while it is read, as measured: a letter in several copies of the whole,
# a line for its list of cells, a cell for its text, its number and their places.
_LETTER_BYTES, _LINE_BYTES, _CELL_BYTES = 5, 330, 150
# Number types that all of the zoo computes with, by kind and bytes; the others are converted.
_UNUSUAL = {("f", 2): np.float32, ("f", 12): np.float64, ("f", 16): np.float64}


@contextmanager
def reading(path: str | Path, what: str, mend: str) -> Iterator[None]:
    """Whatever goes wrong while a file is read is a BadInput with its name.

    Args:
        path: the file.
        what: what its name says that it is.
        mend: what to do about a file that is not.

    Raises:
        BadInput: in the place of any exception; those that say more pass.
    """
    try:
        yield
    except Fault:
        raise
    except MemoryError:
        raise BadInput(f"{path} does not fit into memory; give a part of it") from None
    except Exception as error:  # dozens of kinds, by where the file is damaged
        why = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, RecursionError):
            why = "nested too deeply"
        raise BadInput(f"{path} is no readable {what} ({why:.120}); {mend}") from None


def content(path: Path) -> bytes:
    """All bytes of a regular file; nothing is waited for.

    Raises:
        MissingInput: there is no such file.
        BadInput: a folder, a pipe or a device, a file that must not be read, or one too large.
    """
    try:
        with open(path, "rb", opener=_at_once) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise BadInput(
                    f"{path} is no regular file; save the data in a file, and give that"
                )
            check_size(found.st_size, path)
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise MissingInput(f"there is no file {path}; check the name") from None
    except OSError as error:
        raise BadInput(f"cannot read {path} ({error.strerror or error}); check the file") from None


def _at_once(path: str, flags: int) -> int:
    """Open a file; a pipe that nobody writes to would be waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def text_of(path: Path, marks: str) -> str:
    """The text of a file in UTF-8, with or without a byte order mark; its lines end in `\\n`.

    Args:
        path: the file.
        marks: what cuts it into cells; of each, one kind at a time.

    Raises:
        MissingInput: there is no such file. BadInput: it is no text, or holds too many cells.
    """
    raw = content(path)
    lines = max(raw.count(b"\n"), raw.count(b"\r"))
    cells = max(raw.count(mark.encode()) for mark in marks)
    check_size(_LETTER_BYTES * len(raw) + _LINE_BYTES * lines + _CELL_BYTES * cells, path)
    if b"\0" in raw:
        raise BadInput(f"{path} is no text (it holds NUL bytes); save it as text in UTF-8")
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        raise BadInput(f"{path} is no text in UTF-8; save it as UTF-8") from None


def check_size(size: float, where: str | Path) -> None:
    """Refuse what would take too much memory, before it does.

    Args:
        size: bytes that it would take.
        where: what is read.

    Raises:
        BadInput: with the number of gigabytes.
    """
    if size > _MOST_BYTES:
        most = f"more than {_MOST_BYTES / 1e9:.0f}"
        raise BadInput(
            f"{where} would take {size / 1e9:.3g} GB of memory, {most}; give a part of it"
        )


def size_of(shape: tuple[int, ...], itemsize: int = 0) -> int:
    """Bytes of an array as numbers of eight bytes; an empty side counts as one."""
    cells = 1
    for side in shape:
        cells *= max(int(side), 1)  # of Python's integers, which do not overflow
    return cells * max(itemsize, 8)


def plain_array(values: np.ndarray, where: str) -> np.ndarray:
    """An array of numbers or words in this machine's byte order, at most double precision.

    Raises:
        BadInput: complex numbers, records, or raw bytes.
    """
    if values.dtype.kind in "cV":
        kind = "complex numbers" if values.dtype.kind == "c" else f"records ({values.dtype})"
        raise BadInput(f"{where} holds {kind:.80}; give real numbers, an array for each name")
    kind = _UNUSUAL.get((values.dtype.kind, values.dtype.itemsize))
    with np.errstate(over="ignore"):  # what becomes infinite is told with its row
        return values.astype(kind or values.dtype.newbyteorder("="), copy=False)
