"""The pool of processes: of chains, of several runs at once, of the fits of a calibration.

Results come back as they are ready, each with the number of its task, so that their order in time
changes nothing. A process that dies costs its own task alone. No process outlives its parent, not
even one that is killed. On a request to stop, nothing more is begun, and what is under way ends
with what it has.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

import cloudpickle

from models.contract import Died

from .signals import Heard

# Seconds between two looks at whether the parent lives, a signal came, or a task is done; and
# those that a task has to end with what it has, once it is asked to.
_LOOK, _PATIENCE = 0.1, 30.0


@dataclass
class _Task:
    """A task, and how many more processes may die of it."""

    number: int
    task: Any
    tries: int


class _Function:
    """What processes do, with the memory that they share.

    A forked process has both already. A fresh one is sent the function by value, so that it may be
    a closure or a function of `__main__`.
    """

    def __init__(self, function: Callable[..., Any], shared: Sequence[Any]):
        self.function, self.shared = function, shared

    def __reduce__(self) -> tuple:
        return _Function._received, (cloudpickle.dumps(self.function), self.shared)

    @staticmethod
    def _received(function: bytes, shared: Sequence[Any]) -> _Function:
        return _Function(pickle.loads(function), shared)

    def result(self, task: Any) -> Any:
        """The result of a task, or the exception that it raised."""
        try:
            return self.function(task, *self.shared)
        except Exception as error:
            return error


class _Worker:
    """A process that does one task after another."""

    def __init__(self, function: _Function, context: Any):
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, theirs, os.getpid()))
        with warnings.catch_warnings():
            # Python 3.12 and JAX warn that a child of a process with threads may hang on a lock
            # of theirs; a forked worker takes none of these.
            warnings.filterwarnings("ignore", ".*fork")
            self.process.start()
        theirs.close()
        self.task: _Task

    def give(self, task: _Task) -> None:
        """Begin a task."""
        self.task = task
        with suppress(BrokenPipeError):  # the process has just died: `result` will say so
            self.pipe.send_bytes(cloudpickle.dumps(task.task))

    def result(self) -> Any:
        """The result of the task; `Died` where the process ended without one."""
        try:
            return pickle.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            return Died(f"its process died ({how}); run it again, with fewer at once")

    def end(self) -> None:
        """End the process, and those that it has begun."""
        self.pipe.close()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()


class _Pool:
    """The processes: those that do a task, and those that wait for one."""

    def __init__(self, work: _Function, context: Any):
        self.work, self.context = work, context
        self.busy: list[_Worker] = []
        self.idle: list[_Worker] = []

    def begin(self, task: _Task) -> None:
        """Give a task to a process, a new one if none waits."""
        worker = self.idle.pop() if self.idle else _Worker(self.work, self.context)
        worker.give(task)
        self.busy.append(worker)

    def results(self) -> Iterator[tuple[_Task, Any]]:
        """The tasks that end within a moment, each with its result."""
        ready = wait([worker.pipe for worker in self.busy], timeout=_LOOK)
        for worker in [worker for worker in self.busy if worker.pipe in ready]:
            self.busy.remove(worker)
            result = worker.result()
            if isinstance(result, Died):
                worker.end()
            else:
                self.idle.append(worker)
            yield worker.task, result

    def tell(self, heard: Heard) -> None:
        """Ask those at work to end with what they have."""
        for worker in self.busy:
            heard.tell(worker.process.pid)

    def end(self) -> None:
        """End all processes."""
        for worker in (*self.idle, *self.busy):
            worker.end()


def each(
    function: Callable[..., Any],
    tasks: Iterable[Any],
    workers: int,
    heard: Heard,
    *,
    tries: int = 1,
    shared: Sequence[Any] = (),
    start: Literal["spawn", "fork"] = "spawn",
    patience: float = _PATIENCE,
    meanwhile: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, Any]]:
    """The number of each task and its result, as they come.

    A Ctrl-C reaches this process alone. After a signal nothing more is begun, and what is under
    way is asked to end with what it has.

    Args:
        function: takes a task, and then what is shared; an exception that it raises is a result.
        tasks: what is to be done, begun in this order.
        workers: processes at once; 0 does the tasks here, one after another.
        heard: tells of a request to stop (`signals.listening`).
        tries: processes that may die of a task; after these its result is `Died`.
        shared: objects in memory that the processes share (`multiprocessing.RawArray`).
        start: `spawn` begins fresh processes; `fork` copies this one with all that it has in
            memory, which then need not be sent.
        patience: how long tasks may take to end after a request to stop, seconds; those that take
            longer have no result.
        meanwhile: called some ten times a second, for those who watch.
    """
    waiting = [_Task(number, task, tries) for number, task in enumerate(tasks)][::-1]
    work, deadline = _Function(function, shared), None
    while not workers and waiting and not heard.stopped:
        task = waiting.pop()
        yield task.number, work.result(task.task)
        meanwhile()
    pool = _Pool(work, multiprocessing.get_context(start))
    try:
        while workers and (pool.busy or (waiting and not heard.stopped)):
            while waiting and len(pool.busy) < workers and not heard.stopped:
                pool.begin(waiting.pop())
            if heard.stopped and deadline is None:
                deadline = time.monotonic() + patience
                pool.tell(heard)
            if deadline is not None and time.monotonic() > deadline:
                return
            for task, result in pool.results():
                task.tries -= 1
                if isinstance(result, Died) and task.tries and not heard.stopped:
                    waiting.append(task)
                else:
                    yield task.number, result
            meanwhile()
    finally:
        pool.end()


def _serve(work: _Function, pipe: Connection, parent: int) -> None:
    """What a process does: task after task, until its parent closes the pipe."""
    os.setpgrp()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            task = pickle.loads(pipe.recv_bytes())
            pipe.send_bytes(cloudpickle.dumps(work.result(task)))


def _end_with(parent: int) -> None:
    """End this process, and those that it has begun, when its parent does."""
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os.killpg(os.getpid(), signal.SIGKILL)
