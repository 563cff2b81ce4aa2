"""The journal of a run, `progress.jsonl`: how far it is, and how long it has taken."""

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..core.callbacks import Callback

# Bytes at the end of a journal in which its last step is.
_END = 1 << 16


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
