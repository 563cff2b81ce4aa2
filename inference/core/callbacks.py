"""Callbacks: what a run tells a tracker, a log or a screen while it goes on."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .zoo_warnings import ZooWarning


class Callback:
    """Told of a run as it goes; derive from it and write what you need.

    What it raises is told in a warning, and it is not called again: the run goes on.
    """

    def on_start(self, record: Mapping[str, Any]) -> None:
        """The run begins.

        Args:
            record: model, method, guide, seed, options, settings, data, versions.
        """

    def on_step(self, step: Mapping[str, Any]) -> None:
        """The run goes on: some ten times a second for nuts, after each window for svi.

        Args:
            step: `step` steps are done `of` so many; of svi also `elbo` (mean of the window,
                nats) and `lr`, of nuts `chains`, the steps of each.
        """

    def on_end(self, run: Any) -> None:
        """The run has ended: done, interrupted or failed (`run.record["status"]`).

        Args:
            run: the `zoo.Run`, its folder written if it has one; None where there is no result.
        """


class Callbacks(Callback):
    """Several callbacks as one."""

    def __init__(self, callbacks: Sequence[Callback] = ()):
        self.callbacks = list(callbacks)

    def on_start(self, record: Mapping[str, Any]) -> None:
        self._tell("on_start", record)

    def on_step(self, step: Mapping[str, Any]) -> None:
        self._tell("on_step", step)

    def on_end(self, run: Any) -> None:
        self._tell("on_end", run)

    def _tell(self, event: str, what: Any) -> None:
        for one in list(self.callbacks):
            try:
                getattr(one, event)(what)
            except Exception as error:
                self.callbacks.remove(one)
                said = f"{event} of {type(one).__name__} raised {type(error).__name__} ({error})"
                warnings.warn(
                    f"{said}; it is not called again, the run goes on", ZooWarning, stacklevel=3
                )


class Journal(Callback):
    """Writes `progress.jsonl`: a line a second, by which a run can be followed.

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

    def _write_step(self) -> None:
        if self._waiting is not None:
            self._write({"event": "step", **self._waiting})
            self._waiting, self._written = None, time.monotonic()

    def end(self, status: str, reason: str = "") -> None:
        """The last lines."""
        self._write_step()
        self._write({"event": "end", "status": status} | ({"reason": reason} if reason else {}))

    def _write(self, line: Mapping[str, Any]) -> None:
        line = {"t": round(time.monotonic() - self._began, 3), **line}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def seconds_spent(path: Path) -> float:
    """How long the attempts that a journal tells of have lasted together."""
    attempts = [0.0]
    for line in _lines(path):
        if line.get("event") == "start":
            attempts.append(0.0)
        attempts[-1] = max(attempts[-1], float(line.get("t", 0.0)))
    return sum(attempts)


def last_step(path: Path) -> dict[str, Any] | None:
    """The last step that a journal tells of near its end; None where it tells of none."""
    steps = [line for line in _lines(path, _END) if line.get("event") == "step"]
    return steps[-1] if steps else None


# Bytes at the end of a journal that tell of the last step.
_END = 1 << 16


def _lines(path: Path, last: int | None = None) -> list[dict[str, Any]]:
    """The lines of a journal, without one that was cut short when the run was killed.

    Args:
        path: the journal.
        last: of its last so many bytes alone; None: all.
    """
    try:
        with path.open("rb") as file:
            if last is not None:
                file.seek(max(0, file.seek(0, os.SEEK_END) - last))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        with suppress(ValueError):
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict)]
