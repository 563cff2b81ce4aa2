"""The pool of processes: of chains, of several runs at once, of the fits of a calibration.

Results come back as they are ready, each with the number of its task, so that their order in time
changes nothing. A process computes on one thread; one that dies costs its own task alone. No
process outlives its parent, not even one that is killed. On a request to stop, nothing more is
begun, and what is under way ends with what it has.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

import cloudpickle
import torch
from tqdm.auto import tqdm

from models.contract import Died

from .signals import Heard

# Seconds between two looks at whether the parent lives, a signal came, or a task is done; and
# those that a task has to end with what it has, once it is asked to.
_LOOK, _PATIENCE = 0.1, 30.0
# Elsewhere forking is not safe (macOS) or not there.
_CAN_FORK = sys.platform == "linux"


class _Worker:
    """A process that does one task after another."""

    def __init__(self, pool: _Pool):
        self.pipe, theirs = pool.context.Pipe()
        arguments = (pool.function, pool.shared, theirs, os.getpid())
        self.process = pool.context.Process(target=_serve, args=arguments, daemon=pool.fork)
        with warnings.catch_warnings():
            # Python 3.12 and JAX warn that a child of a process with threads may hang on a lock
            # of theirs; a forked worker takes none of these.
            warnings.filterwarnings("ignore", ".*fork")
            self.process.start()
        theirs.close()
        self.number: int

    def give(self, number: int, task: Any) -> None:
        """Begin a task of that number."""
        self.number = number
        with suppress(BrokenPipeError):  # the process has just died: `result` will say so
            self.pipe.send_bytes(cloudpickle.dumps(task))

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
    """The processes: those that do a task, and those that wait for one.

    A forked process has the function already. A fresh one is sent it by value, so that it may be a
    closure or a function of `__main__`.
    """

    def __init__(self, function: Callable[..., Any], shared: Sequence[Any], fork: bool):
        forked = fork and _CAN_FORK
        self.context: Any = multiprocessing.get_context("fork" if forked else "spawn")
        self.function = function if forked else cloudpickle.dumps(function)
        self.shared, self.fork = shared, fork
        self.busy: list[_Worker] = []
        self.idle: list[_Worker] = []

    def begin(self, number: int, task: Any) -> None:
        """Give a task to a process, a new one if none waits."""
        worker = self.idle.pop() if self.idle else _Worker(self)
        worker.give(number, task)
        self.busy.append(worker)

    def results(self) -> Iterator[tuple[int, Any]]:
        """The tasks that end within a moment, each with its result."""
        ready = wait([worker.pipe for worker in self.busy], timeout=_LOOK)
        for worker in [worker for worker in self.busy if worker.pipe in ready]:
            self.busy.remove(worker)
            result = worker.result()
            if isinstance(result, Died):
                worker.end()
            else:
                self.idle.append(worker)
            yield worker.number, result

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
    fork: bool = False,
    threads: bool = False,
    patience: float | None = _PATIENCE,
    meanwhile: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, Any]]:
    """The number of each task and its result, as they come.

    A Ctrl-C reaches this process alone. After a signal nothing more is begun, and what is under
    way is asked to end with what it has.

    Args:
        function: takes a task, and then what is shared; an exception that it raises is a result.
        tasks: what is to be done, begun in this order.
        workers: processes at once; 0 does the tasks here, one after another, as does a worker of
            somebody's pool that may have no children, and a function that cannot be sent.
        heard: tells of a request to stop (`signals.listening`).
        tries: processes that may die of a task; after these its result is `Died`.
        shared: objects in memory that the processes share (`multiprocessing.RawArray`).
        fork: copies this process, where that can be done, with all that it has in memory, which
            then need not be sent; such processes begin none of their own. Else they are fresh.
        threads: takes threads of this process in their place, for tasks that are compiled code; a
            task that dies takes all with it. They see by themselves that they should stop.
        patience: how long tasks may take to end after a request to stop, seconds; those that take
            longer have no result. None waits for tasks that see by themselves that they should.
        meanwhile: called some ten times a second, for those who watch.
    """
    tasks = list(tasks)
    if threads and workers:
        function = partial(_result, function, shared=shared)
        yield from _in_threads(function, tasks, workers, heard, meanwhile)
        return
    waiting, deaths = [*range(len(tasks))][::-1], Counter()
    pool, deadline = None, None
    if workers and not multiprocessing.current_process().daemon:
        with suppress(pickle.PicklingError, AttributeError, TypeError):
            pool = _Pool(function, shared, fork)
    while pool is None and waiting and not heard.stopped:
        number = waiting.pop()
        yield number, _result(function, tasks[number], shared)
        meanwhile()
    if pool is None:
        return
    try:
        while pool.busy or (waiting and not heard.stopped):
            while waiting and len(pool.busy) < workers and not heard.stopped:
                number = waiting.pop()
                pool.begin(number, tasks[number])
            if heard.stopped and deadline is None and patience is not None:
                deadline = time.monotonic() + patience
                for worker in pool.busy:
                    heard.tell(worker.process.pid)
            if deadline is not None and time.monotonic() > deadline:
                return
            for number, result in pool.results():
                deaths[number] += isinstance(result, Died)
                if isinstance(result, Died) and deaths[number] < tries and not heard.stopped:
                    waiting.append(number)
                else:
                    yield number, result
            meanwhile()
    finally:
        pool.end()


def _in_threads(
    function: Callable[[Any], Any],
    tasks: Sequence[Any],
    workers: int,
    heard: Heard,
    meanwhile: Callable[[], None],
) -> Iterator[tuple[int, Any]]:
    """As `each`, in threads."""
    with futures.ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(function, task): number for number, task in enumerate(tasks)}
        while running:
            done, _ = futures.wait(running, _LOOK, futures.FIRST_COMPLETED)
            for future in [f for f in running if heard.stopped and f.cancel()]:
                del running[future]
            yield from ((running.pop(f), f.result()) for f in done if f in running)
            meanwhile()


def _result(function: Callable[..., Any], task: Any, shared: Sequence[Any]) -> Any:
    """The result of a task, or the exception that it raised."""
    try:
        return function(task, *shared)
    except Exception as error:
        return error


def _serve(function: Any, shared: Sequence[Any], pipe: Connection, parent: int) -> None:
    """What a process does: task after task, until its parent closes the pipe."""
    os.setpgrp()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    # The lock of bars is one of the system's else, which a process that is ended leaves behind.
    tqdm.set_lock(threading.RLock())
    function = pickle.loads(function) if isinstance(function, bytes) else function
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            task = pickle.loads(pipe.recv_bytes())
            pipe.send_bytes(cloudpickle.dumps(_result(function, task, shared)))


def _end_with(parent: int) -> None:
    """End this process, and those that it has begun, when its parent does."""
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os.killpg(os.getpid(), signal.SIGKILL)
