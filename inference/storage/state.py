"""The saved state of a run under way, from which it continues after a kill.

Draws depend on (seed, chain) alone, so state is never the only copy of anything: what is missing
or damaged is computed again, to the same numbers.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.problem import State
from ..core.zoo_warnings import ZooWarning
from .files import write_atomically

if TYPE_CHECKING:
    import numpy as np

# A save may take this share of the time between saves at most, which is so many seconds at least.
_SHARE, _SECONDS = 0.05, 1.0


class SavedState(State):
    """Named sets of arrays in a folder, each written whole (`NAME.safetensors`).

    Args:
        folder: where; made at the first save.
        run: identifier of the run. A file of another run, or under another name, counts as
            damaged.
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

        A full disk ends the saving, with a warning, and not the run.
        """
        if self.folder is None:
            return
        began = time.monotonic()
        try:
            self.folder.mkdir(exist_ok=True)
            owner = f"{self.run}/{name}"
            write_atomically(self._path(name), lambda path: _write(path, arrays, numbers, owner))
        except OSError as error:
            problem = f"the run's state cannot be kept ({error.strerror or error})"
            warnings.warn(
                f"{problem}; it goes on, but a resume would begin again", ZooWarning, stacklevel=2
            )
            self.folder = None
        ended = time.monotonic()
        self._due = ended + max(_SECONDS, (ended - began) / _SHARE)

    def load(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Arrays and numbers of that name; None where there are none, or damaged ones."""
        if self.folder is None or not self._path(name).is_file():
            return None
        return _read(self._path(name), f"{self.run}/{name}")

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def _write(
    path: Path, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any], owner: str
) -> None:
    """Write arrays and numbers as safetensors, with a digest of both and of whose they are."""
    import numpy as np
    from safetensors.numpy import save

    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    text = json.dumps(numbers, sort_keys=True)
    metadata = {"numbers": text, "sha256": _digest(contiguous, text, owner)}
    path.write_bytes(save(contiguous, metadata))


def _read(path: Path, owner: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """The arrays and numbers of a file; None if it is damaged, or another run's."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
        intact = metadata["sha256"] == _digest(arrays, metadata["numbers"], owner)
        return (arrays, json.loads(metadata["numbers"])) if intact else None
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        return None


def _digest(arrays: Mapping[str, np.ndarray], text: str, owner: str) -> str:
    """SHA-256 of names, types, shapes and values, of the numbers as text, and of their owner."""
    digest = hashlib.sha256(f"{owner}\n{text}".encode())
    for name in sorted(arrays):
        digest.update(f"{name}:{arrays[name].dtype.str}:{arrays[name].shape};".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
