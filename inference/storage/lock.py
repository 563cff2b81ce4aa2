"""The lock of a run's folder: held by the one process that writes there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from models.contract import Locked

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK = ".lock"
# How long to wait for a lock whose holder may be just ending, seconds.
PATIENCE = 1.0


def acquire(folder: Path, patience: float = PATIENCE) -> BaseFileLock:
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
