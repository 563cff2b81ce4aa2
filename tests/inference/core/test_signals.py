"""Signals: the first is noted and heeded, the second ends, and the caller's handlers come back."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from inference.core.signals import listening
from models.contract import Stopped


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_heeded_and_the_second_stops(number):
    before, heeded = signal.getsignal(number), []
    with pytest.raises(Stopped) as stopped, listening(lambda: heeded.append(1)) as heard:
        os.kill(os.getpid(), number)
        assert heard.signal == number and heeded == [1]
        os.kill(os.getpid(), number)
    assert stopped.value.signal == number and heeded == [1]
    assert signal.getsignal(number) is before


def test_a_thread_hears_nothing():
    heard = []

    def listen():
        with listening() as one:
            heard.append(one.signal)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert heard == [None]
