"""Files and folders that appear whole or not at all, and the faults of those that cannot."""

import errno
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.contract import CannotWrite, WriteFailed

# The disk is at fault, or full: not the name, and not the rights.
_IO_ERRORS = (errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EDQUOT)


@contextmanager
def write_faults(target: str, fix: str) -> Iterator[None]:
    """Turn an error of the system into a fault of one line.

    Args:
        target: what is being written, as the user knows it.
        fix: what the user should do about it.

    Raises:
        WriteFailed: the disk is full or broken. CannotWrite: anything else.
    """
    try:
        yield
    except OSError as error:
        kind = WriteFailed if error.errno in _IO_ERRORS else CannotWrite
        raise kind(f"cannot write {target} ({error.strerror or error}); {fix}") from error


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file whole or not at all, in place of an earlier one.

    The content is written under another name and synced; one rename then puts it in place.

    Args:
        path: the file.
        write: writes the content to the path that it is given.

    Raises:
        OSError: an earlier file of that name is as it was.
    """
    partial = path.with_name(partial_name(path.name))
    try:
        write(partial)
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, in UTF-8, whole or not at all.

    Raises:
        CannotWrite: not allowed, or no room; an earlier file of that name is as it was.
    """
    with write_faults(str(path), "use --out"):
        write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def partial_name(name: str) -> str:
    """A hidden name for a half-written file, which no other process or machine will choose."""
    return f".{name}.partial-{secrets.token_hex(6)}"


def sync_folder(folder: Path) -> None:
    """Flush a folder's own entries (the names in it) to the disk, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> list[Path]:
    """Make a folder and its parents; returns those that were missing, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def remove_empty(folders: list[Path]) -> None:
    """Remove folders from the innermost outwards, up to the first that is not empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def check_writable(out: Path) -> None:
    """Check, before the work, that runs can be written under `out`; leaves nothing behind.

    Raises:
        CannotWrite: the folder cannot be made or written to.
    """
    with write_faults(f"the run in {out}", "use --out"):
        made = make_folder(out)
        try:
            with tempfile.TemporaryFile(dir=out):
                pass
        finally:
            remove_empty(made)
