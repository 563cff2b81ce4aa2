"""What a run under way keeps on disk, so that it can go on where it was killed.

Draws depend on (seed, chain) alone, so state is never the only copy of anything: what is missing
or damaged is computed again, to the same numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.problem import State
from ..core.zoo_warnings import ZooWarning

if TYPE_CHECKING:
    import numpy as np

# A save may take this share of the time between saves at most.
_SHARE, _SECONDS = 0.05, 1.0


class Folder(State):
    """Named sets of arrays in a folder, each written whole.

    Args:
        folder: where.
        run: what tells this run from others: a file of another run, or of another name, is as good
            as damaged.
    """

    def __init__(self, folder: Path, run: str = ""):
        self.folder: Path | None = folder  # None once the disk is full
        self.run = run
        self._due = 0.0

    @property
    def due(self) -> bool:
        """Whether it is time to save again: at most each second, and for 5 % of the time."""
        return self.folder is not None and time.monotonic() >= self._due

    def save(self, name: str, arrays: Mapping[str, np.ndarray], **numbers: Any) -> None:
        """Keep arrays and numbers under a name, in place of what was there.

        A disk that is full ends the keeping, with a warning, and not the run.
        """
        if self.folder is None:
            return
        began = time.monotonic()
        try:
            self.folder.mkdir(exist_ok=True)
            replace(self._path(name), lambda path: _write(path, arrays, numbers, self._of(name)))
        except OSError as error:
            said = f"the run's state cannot be kept ({error.strerror or error})"
            warnings.warn(
                f"{said}; it goes on, but a resume would begin again", ZooWarning, stacklevel=2
            )
            self.folder = None
        ended = time.monotonic()
        self._due = ended + max(_SECONDS, (ended - began) / _SHARE)

    def load(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Arrays and numbers of that name; None where there are none, or damaged ones."""
        if self.folder is None or not self._path(name).is_file():
            return None
        return _read(self._path(name), self._of(name))

    def _of(self, name: str) -> str:
        return f"{self.run}/{name}"

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def _write(
    path: Path, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any], of: str
) -> None:
    import numpy as np
    from safetensors.numpy import save

    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    said = json.dumps(numbers, sort_keys=True)
    path.write_bytes(save(whole, {"numbers": said, "sha256": _digest(whole, said, of)}))


def _read(path: Path, of: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            said = file.metadata() or {}
            names = file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
        sound = said["sha256"] == _digest(arrays, said["numbers"], of)
        return (arrays, json.loads(said["numbers"])) if sound else None
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        return None


def _digest(arrays: Mapping[str, np.ndarray], said: str, of: str) -> str:
    digest = hashlib.sha256(f"{of}\n{said}".encode())
    for name in sorted(arrays):
        digest.update(f"{name}:{arrays[name].dtype.str}:{arrays[name].shape};".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file whole or not at all, in place of an earlier one.

    Args:
        path: the file.
        write: writes it under another name, which it is given.

    Raises:
        OSError: an earlier file of that name is as it was.
    """
    partial = path.with_name(partial_of(path.name))
    try:
        write(partial)
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def partial_of(name: str) -> str:
    """A name for what is half-written, that no other process and no other machine takes."""
    return f".{name}.partial-{secrets.token_hex(6)}"


def sync(folder: Path) -> None:
    """The folder's own entries on disk, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
