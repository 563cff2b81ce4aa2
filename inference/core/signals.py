"""SIGINT and SIGTERM: the first asks a run to end with what it has, the second ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from models.contract import Stopped


@dataclass
class Heard:
    """The signal that asked a run to stop, if one did."""

    signal: int | None = None


@contextmanager
def listening(heed: Callable[[], None] | None = None) -> Iterator[Heard]:
    """The first SIGINT or SIGTERM is noted, the second raises `Stopped`, a KeyboardInterrupt.

    Args:
        heed: called at the first.
    """
    heard = Heard()
    if threading.current_thread() is not threading.main_thread():
        yield heard  # signals reach the main thread alone
        return

    def handle(number: int, _: Any) -> None:
        if heard.signal is not None:
            raise Stopped(number)
        heard.signal = number
        if heed is not None:
            heed()

    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def heeding(*numbers: int, heed: Callable[[int, Any], None]) -> Iterator[None]:
    """Signals are heeded so; only the main thread is told of any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, heed) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
