"""Compiled code in the user's cache: loaded only where it is the user's own, and whole.

Loading code runs it, so nobody else may write it; and a library that was cut short, by a full
disk or a power cut, kills each process that loads it. So the folder and every file in it must
belong to the user, be no link, and be closed to others' writing, and a file's name ends in the
sha256 of its content. One rename gives a whole file its name: two processes that compile the same
thing at once each load a whole file.
"""

import hashlib
import importlib.util
import os
import shlex
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path

from models.contract import Refused

from . import caches


def c_compiler() -> list[str] | None:
    """The C compiler as a command: `CC`, cc, gcc, clang, or that of ziglang; None without one."""
    for name in (os.environ.get("CC") or "cc", "cc", "gcc", "clang"):
        command = shlex.split(name)
        if command and shutil.which(command[0]):
            return command
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    return None


def from_cache(name: str, make: Callable[[Path], None]) -> Path:
    """A file of compiled code, made first where the cache does not have it whole.

    Args:
        name: a key of all that determines the code, and a suffix.
        make: writes the file to the path that it is given, in an empty folder of the user's alone.

    Returns:
        Where it lies; the sha256 of its content is a part of its name.

    Raises:
        Refused: the cache is not the user's alone, or cannot be written.
    """
    folder = _folder()
    stem, suffix = os.path.splitext(name)
    for path in sorted(folder.glob(f"{stem}-*{suffix}")):
        if _is_whole(path):
            return path
        _remove(path)
    with _scratch(folder) as scratch:
        part = Path(scratch, name)
        make(part)
        part.chmod(0o600)
        with part.open("rb") as file:
            path = folder / f"{stem}-{_sha256(file)}{suffix}"
        os.replace(part, path)
    return path


def checked(path: Path) -> Path:
    """A file that was made before, maybe by another process, where it may be loaded.

    Raises:
        Refused: it is gone, was changed, or others may write to it.
    """
    if not _is_whole(path):
        raise Refused(f"{path} is not what was compiled; run again to compile it anew")
    _check_folder(path.parent)
    return path


def _folder() -> Path:
    """The cache, made where there is none.

    Raises:
        Refused: it cannot be made, or is not the user's alone.
    """
    try:
        folder = caches.root().absolute() / "bayeszoo"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # there may be no home
        raise Refused(f"compiled code cannot be kept ({error}); set XDG_CACHE_HOME") from error
    _check_folder(folder)
    return folder


def _check_folder(folder: Path) -> None:
    """Refuse a cache that is a link, or that others may write to.

    Raises:
        Refused: naming the folder.
    """
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise Refused(f"the cache {folder} is a link, not a folder; set XDG_CACHE_HOME")
    if _is_others(status):
        raise Refused(f"the cache {folder} can be written by others; set XDG_CACHE_HOME")


def _is_others(status: os.stat_result) -> bool:
    """Whether another user owns a file or folder, or may write to it."""
    return hasattr(os, "getuid") and (
        status.st_uid != os.getuid() or bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    )


def _is_whole(path: Path) -> bool:
    """Whether a file is the user's own, has one name, and the content that the name says."""
    # Opening waits for nothing: a pipe of that name would never answer.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        with open(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            single = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
            if not single or _is_others(status):
                return False
            return path.stem.endswith(f"-{_sha256(file)}")
    except OSError:
        return False


def _sha256(file: BufferedReader) -> str:
    """SHA-256 of an open file's bytes, in hexadecimal digits."""
    return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    """Remove a file that is not what was compiled.

    Raises:
        Refused: not allowed.
    """
    try:
        path.unlink(missing_ok=True)  # another process may have removed it
    except OSError as error:
        raise Refused(
            f"{path} is not what was compiled and cannot be removed ({error.strerror}); "
            "set XDG_CACHE_HOME"
        ) from error


def _scratch(folder: Path) -> tempfile.TemporaryDirectory:
    """An empty folder in the cache, in which a file is compiled before it gets its name.

    Raises:
        Refused: not allowed, or no room.
    """
    try:
        return tempfile.TemporaryDirectory(dir=folder)
    except OSError as error:
        raise Refused(
            f"the cache {folder} cannot be written ({error.strerror}); set XDG_CACHE_HOME"
        ) from error
