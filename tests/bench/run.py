"""Benchmarks, interleaved, as medians of whole processes; prints Markdown for the README.

    pip install -e ".[bench]" && python tests/bench/run.py nuts svi rows

`nuts` compares the libraries to the verdict with cold caches, `svi` a step against hand-written
PyTorch, `rows` is cost against work (and writes a figure). Nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]


def one(library: str, problem: str, seed: int) -> dict[str, float]:
    """One whole process, with an empty cache; seconds are those of the process."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "XDG_CACHE_HOME": cache, "TMPDIR": cache}
        words = [sys.executable, str(HERE / "sample.py"), library, problem, str(seed)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{library} {problem}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def nuts(problems: list[str], libraries: list[str], repeats: int, out: Path) -> None:
    """Every library on every problem, in turn; results go to a file as they come."""
    results: dict[tuple[str, str], list[dict]] = {}
    for repeat in range(repeats):
        for problem in problems:
            for library in libraries:
                found = one(library, problem, repeat)
                results.setdefault((problem, library), []).append(found)
                line = {"problem": problem, "library": library, "seed": repeat, **found}
                with out.open("a") as file:
                    print(json.dumps(line), file=file)
                print(json.dumps(line), file=sys.stderr, flush=True)
    print(table(results))


def table(results: dict[tuple[str, str], list[dict]]) -> str:
    """Markdown: medians of time, ESS and R-hat, and ESS per second against NumPyro's."""
    lines = [
        "| problem | library | process, s | sampling, s | min bulk ESS | max R-hat | ESS/s |"
        " of NumPyro's |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (problem, library), runs in results.items():
        total, sampling, ess = (
            median(r[k] for r in runs) for k in ("total_s", "sampling_s", "ess")
        )
        rate = median(r["ess"] / r["total_s"] for r in runs)
        peers = results.get((problem, "numpyro"), [])
        ratio = f"{rate / median(r['ess'] / r['total_s'] for r in peers):.2f}" if peers else ""
        worst = max(r["r_hat"] for r in runs)
        lines.append(
            f"| {problem} | {library} | {total:.1f} | {sampling:.1f} | {ess:.0f} | {worst:.4f} |"
            f" {rate:.4g} | {ratio} |"
        )
    return "\n".join(lines)


def machine() -> str:
    """The machine and the versions, in a line."""
    from importlib.metadata import version

    names = ("torch", "pyro-ppl", "nutpie", "numpyro", "jax")
    found = ", ".join(f"{name} {version(name)}" for name in names)
    where = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    return f"{where}; {found}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="+", choices=["nuts", "svi", "rows"])
    parser.add_argument("--problems", default="coin,linear,logistic,network")
    parser.add_argument("--libraries", default="zoo,zoo-aot,numpyro")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    print(machine())
    if "nuts" in given.what:
        problems, libraries = given.problems.split(","), given.libraries.split(",")
        nuts(problems, libraries, given.repeats, given.out / "nuts.jsonl")
    if "svi" in given.what:
        import steps

        print(steps.table())
    if "rows" in given.what:
        import work

        print(work.table(given.out / "work.png"))


if __name__ == "__main__":
    main()
