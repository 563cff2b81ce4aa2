"""A file that a user names is opened in one place: its size is known before it is loaded."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
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
def reading(path: str | Path, kind: str, fix: str) -> Iterator[None]:
    """Whatever goes wrong while a file is read is a BadInput with its name.

    Args:
        path: the file.
        kind: what its name says that it is.
        fix: what to do about a file that is not.

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
        raise BadInput(f"{path} is no readable {kind} ({why:.120}); {fix}") from None


def content(path: Path) -> bytes:
    """All bytes of a regular file; nothing is waited for.

    Raises:
        MissingInput: there is no such file.
        BadInput: a folder, a pipe or a device, a file that must not be read, or one too large.
    """
    try:
        with open(path, "rb", opener=_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadInput(
                    f"{path} is no regular file; save the data in a file, and give that"
                )
            check_size(status.st_size, path)
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise MissingInput(f"there is no file {path}; check the name") from None
    except OSError as error:
        raise BadInput(f"cannot read {path} ({error.strerror or error}); check the file") from None


def _at_once(path: str, flags: int) -> int:
    """Open a file; a pipe that nobody writes to would be waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def text_of(path: Path) -> bytes:
    """The bytes of a text in UTF-8, with or without a byte order mark.

    Raises:
        MissingInput: there is no such file. BadInput: it is no text.
    """
    text = content(path)
    if b"\0" in text:
        raise BadInput(f"{path} is no text (it holds NUL bytes); save it as text in UTF-8")
    try:
        text.decode()
    except UnicodeDecodeError:
        raise BadInput(f"{path} is no text in UTF-8; save it as UTF-8") from None
    return text


def check_cells(text: bytes, marks: str, where: str | Path) -> None:
    """Refuse a text whose cells would take too much memory as objects of Python.

    Args:
        text: the whole of it.
        marks: what may cut it into cells; of each, one kind at a time.
        where: what is read.

    Raises:
        BadInput: with the number of gigabytes.
    """
    lines = max(text.count(b"\n"), text.count(b"\r"))
    cells = max(text.count(mark.encode()) for mark in marks)
    check_size(_LETTER_BYTES * len(text) + _LINE_BYTES * lines + _CELL_BYTES * cells, where)


def check_once(names: Sequence[str], where: str) -> None:
    """Refuse names of which one is there twice.

    Args:
        names: all of them.
        where: what has several of one name, in words: `d.csv has several columns`.

    Raises:
        BadInput: with these names.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BadInput(f"{where} called {', '.join(twice):.80}; rename them")


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
