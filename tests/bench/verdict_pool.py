"""Tasks in processes of their own, each ended when it takes too long.

The zoo's own `inference.pool` has no time limit, and cannot serve here: the workers import the zoo
of another folder, such as an earlier commit, which may have none.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

_CONTEXT = multiprocessing.get_context("spawn")


class _Worker:
    """A process that does one task after another."""

    def __init__(self, begin: Callable[[], Callable[[Any], Any]]):
        self.pipe, theirs = _CONTEXT.Pipe()
        # A daemon: chains then run in it, one after another, and end with it.
        self.process = _CONTEXT.Process(target=_serve, args=(begin, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.task: Any = None
        self.until = 0.0

    def give(self, task: Any, seconds: float) -> None:
        """Begin a task, which has so many seconds."""
        self.task, self.until = task, time.monotonic() + seconds
        self.pipe.send(task)

    def end(self) -> None:
        """End the process and what it has begun."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            self.process.kill()
        self.process.join()


def _serve(begin: Callable[[], Callable[[Any], Any]], pipe: Connection) -> None:
    os.setpgrp()
    do = begin()
    with suppress(EOFError, BrokenPipeError):  # whoever asked has ended
        while True:
            pipe.send(do(pipe.recv()))


def mapped(
    begin: Callable[[], Callable[[Any], Any]], tasks: Iterable[Any], jobs: int, seconds: float
) -> Iterator[tuple[Any, Any]]:
    """Each task and its result as they come; None of one that took too long or died.

    Args:
        begin: called once in each process, gives the function of a task.
        tasks: what is to be done, in this order.
        jobs: processes.
        seconds: that a task may take.
    """
    waiting = iter(tasks)
    idle, busy = [], []
    try:
        while True:
            while len(busy) < jobs and (task := next(waiting, None)) is not None:
                worker = idle.pop() if idle else _Worker(begin)
                worker.give(task, seconds)
                busy.append(worker)
            if not busy:
                return
            wait([worker.pipe for worker in busy], timeout=0.5)
            for worker in list(busy):
                if (ended := _outcome(worker)) is None:
                    continue
                busy.remove(worker)
                task, result, alive = ended
                if alive:
                    idle.append(worker)
                yield task, result
    finally:
        for worker in (*idle, *busy):
            worker.end()


def _outcome(worker: _Worker) -> tuple[Any, Any, bool] | None:
    """Task, result and whether the process lives on; None of a task that still runs."""
    if worker.pipe.poll():
        try:
            return worker.task, worker.pipe.recv(), True
        except EOFError:  # it died
            pass
    elif time.monotonic() < worker.until and worker.process.is_alive():
        return None
    worker.end()
    return worker.task, None, False
