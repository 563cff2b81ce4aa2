"""Cost against work: rows of logistic regression, chains on the cores there are."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path

import numpy as np

ROWS, FEATURES = (1_000, 10_000, 100_000, 1_000_000), 50
CHAINS = (1, 2, 4, 8)


def problem(n: int):
    """Logistic regression on n simulated rows."""
    import torch

    import models
    from inference.core.settings import declared
    from inference.program import prepare

    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    entry = models.load("logistic")
    options = {k: s.default for k, s in declared(entry.model).items()}
    return prepare.program_of(entry, options, entry.data("simulate", n=n, k=FEATURES)).problem


def microseconds(n: int) -> float:
    """A gradient of the traced density, the fastest of several rounds."""
    import torch

    from inference.program.graphs import compiled
    from inference.program.program import Program

    program = Program(problem(n))
    u = program.start()
    density = compiled(program.density_and_gradient, [(u,), (5 * u,)])
    rounds, count = [], max(3, 200_000 // n)
    with torch.inference_mode():
        for _ in range(7):
            began = time.perf_counter()
            for _ in range(count):
                density(u)
            rounds.append((time.perf_counter() - began) / count)
    return min(rounds) * 1e6


def megabytes(n: int, chains: int) -> float:
    """Memory that the chains add to their parent while they sample, shared pages counted once."""
    from inference.core.problem import Context
    from inference.methods.nuts import nuts
    from inference.program.program import Program

    ours = problem(n)
    settings = {"chains": chains, "workers": chains, "draws": 4, "warmup": 10}
    before, most, over = _proportional(), [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            most[0] = max(most[0], _proportional())

    watcher = threading.Thread(target=watch)
    watcher.start()
    nuts(Program(ours), seed=0, context=Context(), **settings)
    over.set()
    watcher.join()
    return (most[0] - before) / 1e6


def _proportional() -> float:
    """Bytes of this process and its children, a page of several divided among them."""
    import multiprocessing

    total = 0
    for process in ["self", *(child.pid for child in multiprocessing.active_children())]:
        try:
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue  # it has just ended
        total += sum(int(line.split()[1]) for line in text.splitlines() if line[:4] == "Pss:")
    return total * 1024


def seconds(chains: int) -> float:
    """Sampling the breast-cancer table with so many chains."""
    import models
    from inference.core.problem import Context
    from inference.core.settings import declared
    from inference.methods.nuts import nuts
    from inference.program import prepare
    from inference.program.program import Program

    entry = models.load("logistic")
    options = {k: s.default for k, s in declared(entry.model).items()}
    ours = prepare.program_of(entry, options, entry.data()).problem
    began = time.perf_counter()
    nuts(Program(ours), seed=0, context=Context(), chains=chains)
    return time.perf_counter() - began


def table(picture: Path) -> str:
    """Markdown of both, and a figure of them."""
    nuts_memory = partial(megabytes, chains=4)
    nuts_memory(ROWS[0])  # imports are no cost of the chains
    by_rows = [(n, microseconds(n), nuts_memory(n), n * FEATURES * 8 / 1e6) for n in ROWS]
    by_chains = [(chains, seconds(chains)) for chains in CHAINS]
    _draw(by_rows, by_chains, picture)
    lines = [
        "| rows | microseconds a gradient | data, MB | added by 4 chains, MB |",
        "|---|---|---|---|",
    ]
    lines += [f"| {n:,} | {us:,.0f} | {data:.1f} | {mb:.0f} |" for n, us, mb, data in by_rows]
    lines += ["", "| chains | seconds |", "|---|---|"]
    lines += [f"| {chains} | {taken:.1f} |" for chains, taken in by_chains]
    return "\n".join(lines)


def _draw(by_rows: list, by_chains: list, picture: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    rows, us, added, data = np.array(by_rows).T
    left.loglog(rows, us, "o-", color="#0072b2")
    left.set(xlabel="rows", ylabel="microseconds", title="A gradient")
    middle.loglog(rows, data, "s--", color="#999999", label="the data")
    middle.loglog(rows, added, "o-", color="#d55e00", label="added by 4 chains")
    middle.set(xlabel="rows", ylabel="MB", title="Memory")
    middle.legend()
    chains, taken = np.array(by_chains).T
    right.plot(chains, taken, "o-", color="#009e73")
    right.set(xlabel="chains", ylabel="seconds", title="Chains on two cores", ylim=(0, None))
    right.set_xticks(chains)
    figure.savefig(picture, dpi=130)
