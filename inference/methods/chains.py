"""Chains in processes of their own: randomness, order, liveness and interruption.

Draws depend on (seed, chain) alone: each chain has its stream of random numbers, one thread and
one process, so how many run at once, and in which order they end, changes nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pickle import PicklingError
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from models.contract import Fault

from ..core.machine import cores
from ..core.signals import listening

# -- a chain and those who watch it ------------------------------------------------------------


class Monitor:
    """What chains and their parent tell each other, in shared memory without locks.

    A process that is killed in the middle of anything leaves it usable.
    """

    def __init__(self, chains: int, context: Any = multiprocessing):
        self.steps = context.RawArray("q", chains)
        self._stop = context.RawValue("b", 0)
        self._parent = os.getpid()

    def tick(self, chain: int) -> None:
        """One step of a chain is done."""
        self.steps[chain] += 1

    def stop(self) -> None:
        """Ask all chains to end, with what they have."""
        self._stop.value = 1

    @property
    def stopping(self) -> bool:
        """Whether a chain should end now; a chain without a parent ends on the spot."""
        if os.getpid() != self._parent and os.getppid() != self._parent:
            os._exit(1)
        return bool(self._stop.value)


# A chain: its number and the monitor to its results by name. Ends early, with what it has, when
# the monitor says so.
Chain = Callable[[int, Monitor], dict[str, np.ndarray]]


def _ignore(*_: Any) -> None:
    """Where nobody wants to know."""


@dataclass
class Outcome:
    """How the chains ended.

    Attributes:
        results: number of the chain to its results, which may be short if all were stopped.
        died: what happened to a chain that left no results; None if none did.
        signal: the signal that stopped the run (SIGINT or SIGTERM), or None.
        save: called with the number and the results of each chain that ends.
    """

    results: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)
    died: str | None = None
    signal: int | None = None
    save: Callable[[int, dict[str, np.ndarray]], None] = _ignore

    def add(self, number: int, result: dict[str, np.ndarray]) -> None:
        """The results of a chain that ended."""
        self.results[number] = result
        self.save(number, result)

    def waiting(self, monitor: Monitor) -> list[int]:
        """The chains that have not run."""
        return [i for i in range(len(monitor.steps)) if i not in self.results]


def run(
    chain: Chain,
    chains: int,
    *,
    steps: int,
    workers: int = 0,
    progress: bool = False,
    apart: bool = True,
    finished: Mapping[int, dict[str, np.ndarray]] | None = None,
    save: Callable[[int, dict[str, np.ndarray]], None] = _ignore,
    report: Callable[[Sequence[int]], None] = _ignore,
) -> Outcome:
    """Run chains in processes, as many at once as there are workers.

    A chain that dies, or a first signal to stop, ends the others with what they have; a second
    signal ends them without.

    Args:
        chain: what a process does.
        chains: how many.
        steps: steps of a chain, for its progress bar.
        workers: processes at once; 0 takes the cores there are.
        progress: whether to show a bar for each chain.
        apart: False runs them here, one after another (a GPU's memory is of one process).
        finished: number of a chain to its results, of chains that need not run.
        save: called with the number and the results of each chain that ends.
        report: called now and then with how many steps each chain has done.

    Raises:
        Fault: whatever a chain raised.
    """
    context = multiprocessing.get_context(_start_method())
    monitor, outcome = Monitor(chains, context), Outcome(dict(finished or {}), save=save)
    for number in outcome.results:
        monitor.steps[number] = steps
    with _bars(chains, steps, progress) as bars, listening(monitor.stop) as heard:
        reported: list[int] = []

        def show(done: Sequence[int]) -> None:
            bars(done)
            if reported != list(done):
                reported[:] = done
                report(done)

        running = _Run(chain, context, monitor, outcome, show)
        # A worker of somebody's pool may have no children.
        if not apart or multiprocessing.current_process().daemon:
            running.here()
        else:
            running.apart(workers or cores())
    outcome.results, outcome.signal = dict(sorted(outcome.results.items())), heard.signal
    return outcome


def _start_method() -> str:
    """Forked processes share the data and the graph, and import nothing.

    Where forking is not safe (macOS) or not there (Windows) the chain is sent to fresh ones.
    """
    return "fork" if sys.platform == "linux" else "spawn"


@dataclass(frozen=True)
class _Run:
    """Chains at work.

    Attributes:
        chain: what each does.
        context: in which processes are made.
        monitor: what chains and parent tell each other.
        outcome: of those that have ended.
        show: called with how many steps each has done.
    """

    chain: Chain
    context: Any
    monitor: Monitor
    outcome: Outcome
    show: Callable[[Sequence[int]], None]

    def here(self) -> None:
        """Run one after another, in this process."""
        for number in self.outcome.waiting(self.monitor):
            if not self.monitor.stopping:
                self.outcome.add(number, self.chain(number, self.monitor))
                self.show(self.monitor.steps)

    def apart(self, workers: int) -> None:
        """Run each in a process of its own, so many at once."""
        waiting, running = self.outcome.waiting(self.monitor), {}
        try:
            while running or (waiting and not self.monitor.stopping):
                while waiting and len(running) < workers and not self.monitor.stopping:
                    number = waiting.pop(0)
                    try:
                        pipe, process = self._start(number, [*running])
                    except (PicklingError, AttributeError, TypeError):
                        # Cannot be sent to another process (spawned ones only).
                        return self.here()
                    running[pipe] = number, process
                sentinels = [process.sentinel for _, process in running.values()]
                wait([*running, *sentinels], timeout=0.1)
                self.show(self.monitor.steps)
                for pipe in [p for p, (_, process) in running.items() if _ended(p, process)]:
                    self._collect(*running.pop(pipe), pipe)
            self.show(self.monitor.steps)
        finally:
            for _, process in running.values():
                process.kill()
                process.join()

    def _start(
        self, number: int, others: Sequence[Connection]
    ) -> tuple[Connection, multiprocessing.Process]:
        """Our end of the pipe to a chain, and its process."""
        ours, theirs = self.context.Pipe(duplex=False)
        # A forked chain has the parent's ends of the pipes too. It closes them, or what it sends
        # to a parent that was killed would wait for ever to be read.
        idle = [ours, *others] if self.context.get_start_method() == "fork" else []
        arguments = (self.chain, number, self.monitor, theirs, idle)
        process = self.context.Process(target=_child, args=arguments, daemon=True)
        with warnings.catch_warnings():
            # Python 3.12 and JAX warn that a child of a process with threads may hang on a lock of
            # theirs; ours takes none: it runs on one thread, prints nothing, ends by its pipe.
            warnings.filterwarnings("ignore", ".*fork")
            process.start()
        theirs.close()
        return ours, process

    def _collect(self, number: int, process: multiprocessing.Process, pipe: Connection) -> None:
        """Take the results of a chain that ended; one without any stops the others.

        Raises:
            Fault: what the chain raised.
        """
        try:
            result = pipe.recv() if pipe.poll() else None
        except (EOFError, OSError):
            result = None
        process.join()
        pipe.close()
        if isinstance(result, Fault):
            raise result
        if result is not None:
            return self.outcome.add(number, result)
        code = process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        self.outcome.died = self.outcome.died or f"chain {number + 1} died ({how})"
        self.monitor.stop()


def _ended(pipe: Connection, process: multiprocessing.Process) -> bool:
    return pipe.poll() or not process.is_alive()


def _child(
    chain: Chain, number: int, monitor: Monitor, pipe: Connection, idle: Sequence[Connection]
) -> None:
    """A chain in its own process: results or a fault go back through the pipe."""
    for other in idle:
        other.close()
    for number_ in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number_, signal.SIG_IGN)  # the parent says when to stop
    torch.set_num_threads(1)
    try:
        result = chain(number, monitor)
    except Fault as fault:
        result = fault
    except Exception as error:
        first = str(error).partition("\n")[0]
        what = f"chain {number + 1} failed ({type(error).__name__}: {first})"
        result = Fault(f"{what}; check the model")
    try:
        pipe.send(result)
    except BrokenPipeError:  # the parent is gone, and nobody wants it
        os._exit(1)


@contextmanager
def _bars(chains: int, steps: int, progress: bool) -> Iterator[Callable[[Sequence[int]], None]]:
    """A function that shows how far each chain is."""
    with ExitStack() as stack:
        bars = [
            stack.enter_context(
                tqdm(total=steps, desc=f"chain {i + 1}", position=i, mininterval=0.2, miniters=1)
            )
            for i in range(chains if progress else 0)
        ]

        def show(done: Sequence[int]) -> None:
            for bar, count in zip(bars, done):
                bar.update(count - bar.n)

        yield show
