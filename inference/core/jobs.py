"""Tasks in processes of their own: what is done is kept, and no process outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import cloudpickle

from models.contract import Died

from .signals import Heard

_CONTEXT = multiprocessing.get_context("spawn")
# Seconds between looks at whether the parent lives, or a signal came; and those that a task has
# to end with what it has, once it is told to.
_LOOK, _PATIENCE = 0.25, 30.0


@dataclass
class _Task:
    """What is to be done, and how often a process may die of it."""

    number: int
    what: Any
    tries: int


class _Worker:
    """A process that does one task after another."""

    def __init__(self, function: bytes):
        self.pipe, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_serve, args=(function, theirs, os.getpid()))
        self.process.start()
        theirs.close()
        self.task: _Task | None = None

    def give(self, task: _Task) -> None:
        """Begin a task."""
        self.task = task
        with suppress(BrokenPipeError):  # it died meanwhile, which is seen where it is looked at
            self.pipe.send_bytes(cloudpickle.dumps(task.what))

    def result(self) -> Any:
        """What became of the task; `Died` where the process ended without a result."""
        try:
            return pickle.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            return Died(f"its process died ({how}); run it again, with fewer at once")

    def stop(self, number: int) -> None:
        """Ask the task, by a signal, to end with what it has."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def end(self) -> None:
        """End the process, and those that it has begun."""
        self.pipe.close()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()


def each(
    function: Callable[[Any], Any],
    tasks: Iterable[Any],
    workers: int,
    heard: Heard,
    *,
    tries: int = 1,
) -> Iterator[tuple[int, Any]]:
    """The number of each task and its result, as they come.

    A Ctrl-C reaches this process alone. After a signal nothing more is begun, and what is under
    way is asked to end with what it has.

    Args:
        function: takes a task; what it raises is a result too.
        tasks: what is to be done, in this order.
        workers: processes.
        heard: the signal, once there was one (`signals.listening`).
        tries: how often a task is begun whose process dies; `Died` is its result after these.
    """
    waiting = [_Task(i, task, tries) for i, task in enumerate(tasks)][::-1]
    sent, idle, busy = cloudpickle.dumps(function), [], []
    until = None
    try:
        while busy or (waiting and heard.signal is None):
            while waiting and len(busy) < workers and heard.signal is None:
                worker = idle.pop() if idle else _Worker(sent)
                worker.give(waiting.pop())
                busy.append(worker)
            if heard.signal is not None and until is None:
                until = time.monotonic() + _PATIENCE
                for worker in busy:
                    worker.stop(heard.signal)
            if until is not None and time.monotonic() > until:
                return
            for pipe in wait([worker.pipe for worker in busy], timeout=_LOOK):
                (worker,) = (one for one in busy if one.pipe is pipe)
                busy.remove(worker)
                task, result = worker.task, worker.result()
                task.tries -= 1
                if not isinstance(result, Died):
                    idle.append(worker)
                else:
                    worker.end()
                    if task.tries and heard.signal is None:
                        waiting.append(task)
                        continue
                yield task.number, result
    finally:
        for worker in (*idle, *busy):
            worker.end()


def _serve(function: bytes, pipe: Connection, parent: int) -> None:
    """What a worker does: task after task, until there is nobody who asks."""
    os.setpgrp()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    do = pickle.loads(function)
    with suppress(EOFError, BrokenPipeError):
        while True:
            task = pickle.loads(pipe.recv_bytes())
            pipe.send_bytes(cloudpickle.dumps(_done(do, task)))


def _done(do: Callable[[Any], Any], task: Any) -> Any:
    try:
        return do(task)
    except Exception as error:
        return error


def _end_with(parent: int) -> None:
    """End this process, and those that it has begun, when its parent does."""
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os.killpg(os.getpid(), signal.SIGKILL)
