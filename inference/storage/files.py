"""Files and folders that appear whole or not at all, the lock of a folder, and their faults."""

import errno
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from models.contract import CannotWrite, Locked, WriteFailed

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK = ".lock"
# How long to wait for a lock whose holder may be just ending, seconds.
PATIENCE = 1.0
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


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, in place of an earlier one.

    The content is written under another name and synced; one rename then puts it in place.

    Raises:
        OSError: an earlier file of that name is as it was.
    """
    partial = path.with_name(partial_name(path.name))
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
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
        write_atomically(path, text.encode())


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


# -- the lock of a run's folder: held by the one process that writes there ---------------------


def acquire(folder: Path, patience: float = PATIENCE) -> "BaseFileLock":
    """The lock of a folder, acquired; `release()` gives it back.

    Args:
        folder: the run's folder, in which the file `.lock` is made.
        patience: how long to wait for another holder, seconds.

    Raises:
        Locked: another process still holds it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=patience, poll_interval=0.05)
    except Timeout:
        raise Locked(
            f"the run is being written by another process, {folder}; wait for it"
        ) from None
    return lock


def is_running(folder: Path) -> bool:
    """Whether a process is writing the run; makes no file, and keeps no other reader out."""
    try:
        with (folder / LOCK).open("rb") as file:
            return not _is_free(file.fileno())
    except OSError:  # nobody has ever written here, or nobody may look
        return False


def _is_free(descriptor: int) -> bool:
    """Whether nobody holds the lock of an open file; True where the system cannot tell."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except ImportError:
        return True
    except OSError:
        return False
    return True
