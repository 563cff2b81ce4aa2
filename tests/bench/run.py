"""Benchmarks, interleaved, as medians of whole processes; prints Markdown for the README.

    pip install -e ".[bench]" && python tests/bench/run.py nuts svi rows density

`nuts` compares the libraries from command to prompt, `svi` a step against hand-written PyTorch,
`rows` is cost against work (and writes a figure), `density` one gradient against the memory's
bandwidth. Nothing else may run meanwhile.

Of `nuts`, a time is that of a whole process with no compiled code in a cache: the zoo's `run` with
its verdict, pictures and saved files; of a peer, import, data, sampling and its own summary. The
draws are judged afterwards, by the same code for all. Libraries that cannot be installed beside
each other have an interpreter each, and may be asked for in one command:

    python tests/bench/run.py nuts --libraries zoo,zoo-traced,numpyro,numpyro-0.20,pymc,nutpie \\
        --python numpyro=NP/bin/python numpyro-0.20=NP20/bin/python pymc=PM/bin/python \\
        nutpie=PM/bin/python

NP has numpyro and scikit-learn, NP20 the same with numpyro==0.20 and jax==0.9.1, PM pymc<6,
nutpie, numba and scikit-learn. Runs are appended to `nuts.jsonl` in --out. What that file has is
not run again, and the table is of all that it has: a new benchmark needs a new folder. Ratios are
of effective draws per second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(ROOT)]

from problems import FILES, ROWS, rows, verdict  # noqa: E402

PACKAGES = ("torch", "pyro-ppl", "numpyro", "jax", "pymc", "pytensor", "nutpie", "numpy")
COLUMNS = (
    "problem",
    "library",
    "process, s",
    "sampling, s",
    "min bulk ESS",
    "max R-hat",
    "divergences",
    "ESS/s",
    "of the best peer's",
    "the same, sampling alone",
)


class Cell(NamedTuple):
    """A problem by a library."""

    problem: str
    library: str


# Cell to its runs.
Runs = dict[Cell, list[dict[str, Any]]]


class Bench(NamedTuple):
    """How processes are started.

    Attributes:
        pythons: interpreter of each library, where it is not this one.
        settings: of the library `zoo`, KEY=VALUE.
        out: folder of results, with the rows of users' models in `data`.
    """

    pythons: Mapping[str, str]
    settings: Sequence[str]
    out: Path

    def one(self, cell: Cell, seed: int) -> dict[str, float]:
        """One whole process; its seconds, and what its draws are worth.

        Raises:
            RuntimeError: it failed.
        """
        is_zoo = cell.library.startswith("zoo")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            words = (self._zoo if is_zoo else self._peer)(cell, seed, folder)
            began = time.perf_counter()
            done = subprocess.run(
                words, env=_cold(folder), capture_output=True, text=True, check=False
            )
            took = time.perf_counter() - began
            if done.returncode:
                raise RuntimeError(f"{cell}: {done.stderr[-2000:]}")
            draws, found = _of_zoo(folder) if is_zoo else _of_peer(folder, done.stdout)
        return {"process_s": took, **found, **verdict(cell.problem, draws)}

    def python(self, library: str) -> str:
        """The interpreter of a library."""
        return self.pythons.get(library, sys.executable)

    def _zoo(self, cell: Cell, seed: int, folder: Path) -> list[str]:
        """The zoo's command."""
        problem, library = cell
        words = [self.python(library), str(ROOT / "zoo.py"), "run"]
        words += [str(FILES.get(problem, problem)), "--method", "nuts", "-q"]
        words += ["--seed", str(seed), "--out", str(folder / "runs")]
        if problem in FILES:
            words += ["--data", str(self.out / "data" / f"{problem}.npz")]
        settings = ["compile=traced"] if library == "zoo-traced" else self.settings
        return [*words, "--set", *settings] if settings else words

    def _peer(self, cell: Cell, seed: int, folder: Path) -> list[str]:
        """The command of a peer; NumPyro's releases are one library."""
        problem, library = cell
        words = [self.python(library), str(HERE / "sample.py"), library.partition("-")[0]]
        return [*words, problem, str(seed), str(self.out / "data"), str(folder / "draws.npz")]


def _cold(folder: Path) -> dict[str, str]:
    """The environment with empty caches of compiled code, and matplotlib's list of fonts."""
    import matplotlib

    caches = {"XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": str(folder)}
    caches["PYTENSOR_FLAGS"] = f"base_compiledir={folder / 'pytensor'}"
    return {**os.environ, **caches, "MPLCONFIGDIR": matplotlib.get_cachedir()}


def _of_zoo(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Draws by site and the times of the only run in a folder."""
    import arviz as az

    (record,) = folder.glob("runs/*/run.json")
    idata = az.from_netcdf(record.with_name("idata.nc"))
    draws = {str(k): v.values for k, v in idata["posterior"].data_vars.items()}
    found = {"sampling_s": json.loads(record.read_text())["timing"]["fit_s"]}
    return draws, {**found, "divergences": int(idata["sample_stats"]["diverging"].sum())}


def _of_peer(folder: Path, printed: str) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Draws by site that a peer saved, and the times that it printed last."""
    with np.load(folder / "draws.npz") as file:
        return dict(file), json.loads(printed.splitlines()[-1])


def nuts(bench: Bench, cells: Sequence[Cell], repeats: int) -> None:
    """All cells in turn, as often as is asked for; results go to a file as they come."""
    file = bench.out / "nuts.jsonl"
    _write_rows(bench.out / "data")
    done = {(cell, run["seed"]) for cell, runs in _read(file).items() for run in runs}
    coming = [(cell, seed) for seed in range(repeats) for cell in cells]
    coming = [run for run in coming if run not in done]
    _warm(bench, [cell.library for cell, _ in coming])
    for cell, seed in coming:
        line = json.dumps({**cell._asdict(), "seed": seed, **bench.one(cell, seed)})
        with file.open("a") as lines:
            print(line, file=lines)
        print(line, file=sys.stderr, flush=True)
    print(table(_read(file)))


def _write_rows(folder: Path) -> None:
    """The rows of users' models, as files."""
    folder.mkdir(exist_ok=True)
    for name in FILES:
        np.savez(folder / f"{name}.npz", **rows(name))


def _warm(bench: Bench, libraries: Sequence[str]) -> None:
    """Run each library once without a clock: bytecode and fonts are no cost of a run."""
    for library in dict.fromkeys(libraries):
        bench.one(Cell("coin", library), 0)


def _read(file: Path) -> Runs:
    """The runs in a file by problem and library, none where there is no file."""
    runs: Runs = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        run = json.loads(line)
        runs.setdefault(Cell(run["problem"], run["library"]), []).append(run)
    return runs


def table(runs: Runs) -> str:
    """Markdown: medians of times and ESS, the worst R-hat, and ESS per second beside peers."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    rates = {cell: [_rate(runs[cell], of) for of in ("process_s", "sampling_s")] for cell in runs}
    for cell in sorted(runs, key=lambda cell: list(ROWS).index(cell.problem)):
        peers = [r for c, r in rates.items() if c.problem == cell.problem and _is_peer(c)]
        best = [max(column) for column in zip(*peers)]
        ratios = [f"{own / peer:.2f}" for own, peer in zip(rates[cell], best)] or ["", ""]
        words = [*cell, *_figures(runs[cell]), f"{rates[cell][0]:.4g}", *ratios]
        lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines)


def _is_peer(cell: Cell) -> bool:
    return not cell.library.startswith("zoo")


def _rate(runs: Sequence[Mapping[str, Any]], of: str) -> float:
    """Effective draws per second."""
    return median(run["ess"] / run[of] for run in runs)


def _figures(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the table says of a cell."""
    total, sampling, ess = (
        median(run[key] for run in runs) for key in ("process_s", "sampling_s", "ess")
    )
    r_hat, divergences = (max(run[key] for run in runs) for key in ("r_hat", "divergences"))
    return [f"{total:.1f}", f"{sampling:.1f}", f"{ess:.0f}", f"{r_hat:.4f}", str(divergences)]


def machine(bench: Bench, libraries: Sequence[str]) -> str:
    """The machine and the versions of each library's interpreter, a line each."""
    lines = [f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"]
    for python in dict.fromkeys([sys.executable, *map(bench.python, libraries)]):
        code = "import sys; from importlib.metadata import distributions as d; "
        code += "found = {x.metadata['Name'].lower(): x.version for x in d()}; "
        code += "print(', '.join(f'{n} {found[n]}' for n in sys.argv[1:] if n in found))"
        words = [python, "-c", code, *PACKAGES]
        lines.append(subprocess.run(words, check=True, capture_output=True, text=True).stdout[:-1])
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="+", choices=["nuts", "svi", "rows", "density"])
    parser.add_argument("--problems", default="coin,linear,logistic,schools,radon,network")
    parser.add_argument("--libraries", default="zoo,zoo-traced,numpyro")
    parser.add_argument("--python", nargs="+", default=[], metavar="LIBRARY=PATH")
    parser.add_argument("--zoo-set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    pythons = dict(pair.split("=", 1) for pair in given.python)
    bench = Bench(pythons, given.zoo_set, given.out.resolve())
    libraries = given.libraries.split(",")
    print(machine(bench, libraries))
    if "nuts" in given.what:
        cells = [Cell(p, library) for p in given.problems.split(",") for library in libraries]
        nuts(bench, cells, given.repeats)
    if "svi" in given.what:
        import steps

        print(steps.table())
    if "rows" in given.what:
        import work

        print(work.table(given.out / "work.png"))
    if "density" in given.what:
        import density

        print(density.table())


if __name__ == "__main__":
    main()
