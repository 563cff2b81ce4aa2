"""Chains in processes of their own: order, liveness and interruption.

Draws depend on (seed, chain) alone: each chain has its stream of random numbers and one thread, so
how many run at once, and in which order they end, changes nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing import RawArray, RawValue
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from models.contract import Died, Fault, Stopped

from ..core.jobs import each
from ..core.machine import cores
from ..core.problem import Finding
from ..core.signals import listening

# Draws of a chain cut short of which a statistic can be computed.
_FEWEST_DRAWS = 4


class Monitor:
    """What chains and their parent tell each other, in shared memory without locks.

    A process that is killed in the middle of anything leaves it usable.
    """

    def __init__(self, chains: int):
        self.steps = RawArray("q", chains)
        self._stop = RawValue("b", 0)

    def tick(self, chain: int) -> None:
        """One step of a chain is done."""
        self.steps[chain] += 1

    def stop(self) -> None:
        """Ask all chains to end, with what they have."""
        self._stop.value = 1

    @property
    def stopping(self) -> bool:
        """Whether a chain should end now."""
        return bool(self._stop.value)


# Results by name, and a chain: its number and the monitor to its results. It ends early, with what
# it has, when the monitor says so.
Results = dict[str, np.ndarray]
Chain = Callable[[int, Monitor], Results]


@dataclass
class Outcome:
    """How the chains ended.

    Attributes:
        results: number of the chain to its results, which may be short if all were stopped.
        died: what happened to a chain that left no results; None if none did.
        signal: the signal that stopped the run (SIGINT or SIGTERM), or None.
    """

    results: dict[int, Results] = field(default_factory=dict)
    died: str | None = None
    signal: int | None = None


def run(
    chain: Chain,
    chains: int,
    *,
    steps: int,
    workers: int = 0,
    progress: bool = False,
    apart: bool = True,
    finished: Mapping[int, Results] | None = None,
    save: Callable[[int, Results], None] = lambda *_: None,
    report: Callable[[Sequence[int]], None] = lambda _: None,
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
    monitor, outcome = Monitor(chains), Outcome(dict(finished or {}))
    for number in outcome.results:
        monitor.steps[number] = steps
    waiting = [number for number in range(chains) if number not in outcome.results]
    workers = (workers or cores()) if apart else 0

    with _shown(monitor, steps, progress, report) as show, listening(monitor.stop) as heard:
        how = {"shared": [monitor], "fork": True, "patience": None, "meanwhile": show}
        for i, result in each(chain, waiting, workers, heard, **how):
            name = f"chain {waiting[i] + 1}"
            if isinstance(result, Died):
                died, _, _ = str(result).partition(";")
                outcome.died = outcome.died or died.replace("its process", name)
                monitor.stop()
            elif isinstance(result, Exception):
                raise _fault(name, result)
            else:
                outcome.results[waiting[i]] = result
                save(waiting[i], result)
    outcome.results, outcome.signal = dict(sorted(outcome.results.items())), heard.signal
    return outcome


def _fault(name: str, error: Exception) -> Fault:
    """What a chain raised, in words."""
    if isinstance(error, Fault):
        return error
    first = str(error).partition("\n")[0]
    what = f"{name} failed ({type(error).__name__}: {first})"
    return Fault(f"{what}; check the model")


@contextmanager
def _shown(
    monitor: Monitor, steps: int, progress: bool, report: Callable[[Sequence[int]], None]
) -> Iterator[Callable[[], None]]:
    """A function that shows how far each chain is: on its bar, and to whoever wants a report."""
    reported: list[int] = []
    with ExitStack() as stack:
        bars = [
            stack.enter_context(
                tqdm(total=steps, desc=f"chain {i + 1}", position=i, mininterval=0.2, miniters=1)
            )
            for i in range(len(monitor.steps) if progress else 0)
        ]

        def show() -> None:
            done = list(monitor.steps)
            for bar, count in zip(bars, done):
                bar.update(count - bar.n)
            if reported != done:
                reported[:] = done
                report(done)

        yield show


def equally_long(
    outcome: Outcome, chains: int, draws: int
) -> tuple[list[Results], dict[str, Any]]:
    """Equally long chains out of what there is, and what a `Fit` says of a run cut short.

    Of chains of unequal length as many draws are kept as a table of chains by draws can hold.

    Raises:
        Stopped: a signal came before there were draws. Fault: a chain died before.
    """
    results, why = outcome.results, outcome.died
    if why is None and outcome.signal is None:
        return list(results.values()), {}
    why = why or "interrupted"
    lengths = sorted((len(result["u"]) for result in results.values()), reverse=True)
    lengths = [n for n in lengths if n >= _FEWEST_DRAWS]
    length = max(lengths, key=lambda n: n * sum(m >= n for m in lengths), default=None)
    if length is None:
        if outcome.signal is not None:
            raise Stopped(outcome.signal)
        raise Fault(f"{why} before there were draws; free memory, or lower --set chains")
    whole = [result for result in results.values() if len(result["u"]) >= length]
    what = f"{why}; kept are {length} of {draws} draws of {len(whole)} of {chains} chains"
    finding = Finding("fail", what, "resume it, or run it again")
    status = "failed" if outcome.died else "interrupted"
    cut = [{name: values[:length] for name, values in result.items()} for result in whole]
    return cut, {"findings": [finding], "status": status, "signal": outcome.signal}
