"""SIGINT and SIGTERM: the first asks a run to end with what it has, the second ends it at once."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from models.contract import Stopped


@dataclass
class Heard:
    """The signal that asked a run to stop, if one did."""

    signal: int | None = None

    @property
    def stopped(self) -> bool:
        """Whether nothing more is to be begun."""
        return self.signal is not None

    def tell(self, process: int) -> None:
        """Pass the signal on to a process, by its id; one that has ended is left alone."""
        with suppress(ProcessLookupError):
            os.kill(process, self.signal or 0)  # 0 is no signal


@contextmanager
def listening(on_first: Callable[[], None] | None = None) -> Iterator[Heard]:
    """Within it the first SIGINT or SIGTERM is noted; the second raises `Stopped`.

    Signals reach the main thread alone; in another one nothing is ever heard.

    Args:
        on_first: called at the first.
    """
    heard = Heard()
    if threading.current_thread() is not threading.main_thread():
        yield heard
        return

    def handle(number: int, _: Any) -> None:
        if heard.signal is not None:
            raise Stopped(number)
        heard.signal = number
        if on_first is not None:
            on_first()

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
