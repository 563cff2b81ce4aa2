"""A run under way: its saved state, from which it continues after a kill, and its journal.

The journal, `progress.jsonl`, says how far the run is, and how long it has taken. Draws depend on
(seed, chain) alone, so state is never the only copy of anything: what is missing or damaged is
computed again, to the same numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.callbacks import Callback
from ..core.problem import State
from ..core.zoo_warnings import ZooWarning
from .files import write_atomically

if TYPE_CHECKING:
    import numpy as np

# A save may take this share of the time between saves at most, which is so many seconds at least.
_SHARE, _SECONDS = 0.05, 1.0
# Bytes at the end of a journal in which its last step is.
_END = 1 << 16


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
            write_atomically(self._path(name), _content(arrays, numbers, owner))
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


def _content(arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any], owner: str) -> bytes:
    """Arrays and numbers as safetensors, with a digest of both and of whose they are."""
    import numpy as np
    from safetensors.numpy import save

    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    text = json.dumps(numbers, sort_keys=True)
    return save(contiguous, {"numbers": text, "sha256": _digest(contiguous, text, owner)})


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


# -- the journal -------------------------------------------------------------------------------


class Journal(Callback):
    """Writes a line a second, by which a run can be followed.

    Each line has the time `t` since the run (or its resumption) began, in seconds.
    """

    def __init__(self, path: Path):
        self.path = path
        self._began = time.monotonic()
        self._written = -1.0
        self._waiting: Mapping[str, Any] | None = None  # the last step, if it is not written yet

    def on_start(self, record: Mapping[str, Any]) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._write({"event": "start", "time": stamp, "method": record["method"]})

    def on_step(self, step: Mapping[str, Any]) -> None:
        self._waiting = step
        if time.monotonic() - self._written >= 1:
            self._write_step()

    def end(self, status: str, reason: str = "") -> None:
        """Write the last step, and how the run ended."""
        self._write_step()
        self._write({"event": "end", "status": status} | ({"reason": reason} if reason else {}))

    def _write_step(self) -> None:
        if self._waiting is not None:
            self._write({"event": "step", **self._waiting})
            self._waiting, self._written = None, time.monotonic()

    def _write(self, line: Mapping[str, Any]) -> None:
        line = {"t": round(time.monotonic() - self._began, 3), **line}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def seconds_spent(path: Path) -> float:
    """How long all attempts of a run in its journal have taken together, seconds."""
    attempts = [0.0]
    for line in _lines(path):
        if line.get("event") == "start":
            attempts.append(0.0)
        attempts[-1] = max(attempts[-1], float(line.get("t", 0.0)))
    return sum(attempts)


def last_step(path: Path) -> dict[str, Any] | None:
    """The last step near the end of a journal; None where there is none."""
    steps = [line for line in _lines(path, _END) if line.get("event") == "step"]
    return steps[-1] if steps else None


def _lines(path: Path, last: int | None = None) -> list[dict[str, Any]]:
    """The lines of a journal, without one that was cut short when the run was killed.

    Args:
        path: the journal; one that is not there has no lines.
        last: bytes at its end to which to keep; None reads all.
    """
    try:
        with path.open("rb") as file:
            if last is not None:
                file.seek(max(0, file.seek(0, os.SEEK_END) - last))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    lines = []
    for line in text.splitlines():
        with suppress(ValueError):
            lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict)]
