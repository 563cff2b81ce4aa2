"""Chains in processes of their own: order, liveness and interruption.

Draws depend on (seed, chain) alone: each chain has its stream of random numbers and one thread, so
how many run at once, and in which order they end, changes nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import RawArray, RawValue
from typing import Any

import numpy as np
from torch import Tensor
from tqdm.auto import tqdm

from models.contract import Died, Fault, Stopped

from ..core.jobs import each
from ..core.machine import cores
from ..core.problem import Context, Finding, State
from ..core.seeds import DISCRETE, seeded
from ..core.signals import listening
from ..program.program import Program
from ..program.sampling import over_draws

# Draws of a chain cut short of which a statistic can be computed.
_FEWEST_DRAWS = 4


class Monitor:
    """What chains and their parent tell each other, in shared memory without locks.

    A process that is killed in the middle of anything leaves it usable.

    Attributes:
        steps: how many each chain has done; it counts its own.
    """

    def __init__(self, chains: int):
        self.steps = RawArray("q", chains)
        self._stop = RawValue("b", 0)

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


def run(
    chain: Chain,
    chains: int,
    *,
    draws: int,
    warmup: int,
    workers: int,
    context: Context,
    threads: bool = False,
    **kept: Any,
) -> tuple[list[Results], dict[str, Any]]:
    """Run chains in processes or threads, as many at once as there are workers.

    A chain that dies, or a first signal to stop, ends the others with what they have; a second
    signal ends them without. A chain that came to its end is kept for a resume.

    Args:
        chain: what each of them does; of its results `u` tells how many draws there are.
        chains: how many.
        draws: of each.
        warmup: steps before them.
        workers: processes at once; 0 takes the cores there are.
        context: whether to show a bar for each chain, and run them apart (a GPU's memory is of one
            process); callbacks, and the state of an earlier attempt.
        threads: takes threads in the place of processes, for a chain that runs without Python.
        kept: numbers that are kept with each chain.

    Returns:
        The results of equally long chains, in their order, and what a `Fit` says of a run that was
        cut short: `findings`, `status`, `signal`.

    Raises:
        Fault: whatever a chain raised, or a chain died before there were draws.
        Stopped: a signal came before there were draws.
    """
    monitor, results, died = Monitor(chains), _finished(context.state, chains, draws), None
    for number in results:
        monitor.steps[number] = warmup + draws
    waiting = [number for number in range(chains) if number not in results]
    workers = (workers or cores()) if context.apart and context.device == "cpu" else 0
    with _shown(monitor, warmup + draws, context) as show, listening(monitor.stop) as heard:
        beside = [context.beside] if threads else []

        def meanwhile() -> None:
            while beside and not results:  # short chains are over before this would be
                beside.pop()()
            show()

        how = {"shared": [monitor], "fork": True, "patience": None, "meanwhile": meanwhile}
        how["threads"] = threads
        for i, result in each(chain, waiting, workers, heard, **how):
            name = f"chain {waiting[i] + 1}"
            if isinstance(result, Died):
                end, _, _ = str(result).partition(";")
                died = died or end.replace("its process", name)
                monitor.stop()
            elif isinstance(result, Exception):
                monitor.stop()
                if isinstance(result, Fault):
                    raise result
                first = str(result).partition("\n")[0]
                failed = f"{name} failed ({type(result).__name__}: {first})"
                raise Fault(f"{failed}; check the model") from result
            else:
                results[waiting[i]] = result
                if len(result["u"]) == draws:  # the sampler can only begin a chain anew
                    context.state.save(f"chain-{waiting[i]}", result, **kept)
    in_order = [results[number] for number in sorted(results)]
    if died is None and heard.signal is None:
        return in_order, {}
    return _equally_long(in_order, chains, draws, died, heard.signal)


def _finished(state: State, chains: int, draws: int) -> dict[int, Results]:
    """The chains of an earlier attempt that had come to their end, by number."""
    saved = {chain: state.load(f"chain-{chain}") for chain in range(chains)}
    results = {chain: arrays[0] for chain, arrays in saved.items() if arrays is not None}
    return {chain: result for chain, result in results.items() if len(result["u"]) == draws}


def kept_with(state: State, chains: int, name: str) -> Any:
    """A number that an earlier attempt kept with its chains; None where no chain had ended."""
    saved = [state.load(f"chain-{chain}") for chain in range(chains)]
    return next((numbers.get(name) for _, numbers in filter(None, saved)), None)


@contextmanager
def _shown(monitor: Monitor, steps: int, context: Context) -> Iterator[Callable[[], None]]:
    """A function that shows how far each chain is: on its bar, and to the callbacks."""
    chains, reported = len(monitor.steps), []
    shown, how = chains if context.progress else 0, {"mininterval": 0.2, "miniters": 1}
    bars = [tqdm(total=steps, desc=f"chain {i + 1}", position=i, **how) for i in range(shown)]

    def show() -> None:
        done = list(monitor.steps)
        for bar, count in zip(bars, done):
            bar.update(count - bar.n)
        if reported != done:
            reported[:] = done
            step = {"step": sum(done), "of": chains * steps, "chains": done}
            context.callbacks.on_step(step)

    try:
        yield show
    finally:
        for bar in bars:
            bar.close()


def _equally_long(
    results: list[Results], chains: int, draws: int, died: str | None, signal: int | None
) -> tuple[list[Results], dict[str, Any]]:
    """Equally long chains out of what there is, and what a `Fit` says of them: see `run`.

    Of chains of unequal length as many draws are kept as a table of chains by draws can hold.
    """
    why = died or "interrupted"
    lengths = sorted((len(result["u"]) for result in results), reverse=True)
    lengths = [n for n in lengths if n >= _FEWEST_DRAWS]
    length = max(lengths, key=lambda n: n * sum(m >= n for m in lengths), default=None)
    if length is None:
        if signal is not None:
            raise Stopped(signal)
        raise Fault(f"{why} before there were draws; free memory, or lower --set chains")
    long = [result for result in results if len(result["u"]) >= length]
    message = f"{why}; kept are {length} of {draws} draws of {len(long)} of {chains} chains"
    finding = Finding("fail", message, "resume it, or run it again")
    status = "failed" if died else "interrupted"
    cut = [{name: values[:length] for name, values in result.items()} for result in long]
    return cut, {"findings": [finding], "status": status, "signal": signal}


def latents(program: Program, u: Tensor, seed: int) -> dict[str, Tensor]:
    """What chains of the unconstrained vector say of all sites.

    Args:
        program: the model and its data.
        u: unconstrained vectors (chain, draw, d).
        seed: of the run; discrete latents are drawn from a stream of their own.

    Returns:
        Site, discrete and deterministic ones included, to tensor (chain, draw, *shape).
    """
    points = {"u": u.flatten(0, 1)}
    with seeded(seed, DISCRETE):
        constrained = over_draws(lambda at: program.constrain(at["u"]), points, program.elements)
        values = program.complete(constrained)
    return {name: value.unflatten(0, u.shape[:2]) for name, value in values.items()}
