"""Error rates of the verdict: fits of models whose posterior is known, by every method.

    python tests/bench/verdicts.py --out DIR [--jobs 2] [--half tuned] [--models a,b] [--table]

Truths come first, those of `truths/` that are missing; then the fits, at default settings and at
settings made bad on purpose, with three seeds, to DIR/results.jsonl as they come. What is there
already is not done again, so that a run that was ended goes on. `--code` takes the zoo of another
folder, such as an earlier commit; `--table` prints what the results say.

Right and wrong are those of `verdict_score`; the table is that of `verdict_table`. A verdict that
has no `trust` says yes to parameters and predictions where it is `pass`, to evidence and loo where
there is a number besides.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from verdict_models import CASES, Job, jobs  # noqa: E402
from verdict_pool import mapped  # noqa: E402
from verdict_score import PURPOSES, judged  # noqa: E402
from verdict_table import table  # noqa: E402
from verdict_truth import truth_of  # noqa: E402

_LONGEST, _LONGEST_TRUTH = 120.0, 3600.0
_NUMBERS = {"evidence": "log_evidence", "loo": "elpd_loo"}


def zoo_of(code: str) -> Any:
    """The module `zoo` of a folder."""
    sys.path.insert(0, code)
    import zoo

    if Path(zoo.__file__).resolve().parent != Path(code).resolve():
        raise ImportError(f"zoo was imported from {zoo.__file__}, not from {code}")
    warnings.simplefilter("ignore")
    return zoo


def fitter(code: str, truths: Path) -> Callable[[Job], dict[str, Any]]:
    """The function that fits a job and judges it."""
    zoo = zoo_of(code)
    return lambda job: fitted(zoo, job, truths)


def truth_teller(code: str, truths: Path) -> Callable[[str], bool]:
    """The function that computes the truth of a case."""
    zoo = zoo_of(code)
    return lambda name: truth_of(CASES[name], truths, zoo.run) is not None


def fitted(zoo: Any, job: Job, truths: Path) -> dict[str, Any]:
    """What the verdict says of one fit, and how far its result is from the truth."""
    case = CASES[job.case]
    began = time.perf_counter()
    settings = {**case.options, **case.settings, **job.settings}
    try:
        run = zoo.run(
            case.model,
            method=job.method,
            guide=job.guide,
            data=case.data,
            seed=job.seed,
            progress=False,
            **settings,
        )
    except Exception as fault:
        return {"refused": f"{type(fault).__name__}: {fault}"[:300], "seconds": _since(began)}
    found = {"seconds": _since(began), "status": run.verdict.status, "says": answers(run)}
    found |= {k: round(v, 2) for k, v in run.record["timing"].items() if k in ("fit_s", "judge_s")}
    found["reasons"] = run.verdict.reasons
    if getattr(run.verdict, "trust", None) is not None:
        found["because"] = {k: answer.because for k, answer in run.verdict.trust.items()}
    found["khat"] = run.metrics.get("khat")
    truth = truth_of(case, truths, zoo.run)
    return found | {"is": judged(case, truth, run), "judged_s": _since(began) - found["seconds"]}


def answers(run: Any) -> dict[str, str]:
    """Purpose to `yes`, `no` or `not known`; without `trust` a verdict that passes says yes."""
    trust = getattr(run.verdict, "trust", None)
    if trust is not None:
        return {purpose: trust[purpose].answer for purpose in PURPOSES}
    passed = run.verdict.status == "pass"
    has = {p: _NUMBERS.get(p) is None or _NUMBERS[p] in run.metrics for p in PURPOSES}
    return {purpose: "yes" if passed and has[purpose] else "no" for purpose in PURPOSES}


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 2)


def wanted(half: str | None, names: str | None) -> list[str]:
    """The cases of a half, or those whose names begin so."""
    starts = tuple(names.split(",")) if names else ("",)
    found = [n for n, c in CASES.items() if n.startswith(starts) and half in (None, c.half)]
    if not found:
        raise SystemExit(f"error: no model begins with {names}; there are {', '.join(CASES)}")
    return found


def missing_truths(names: Iterable[str], truths: Path) -> list[str]:
    """The cases whose truth is not yet computed, the quick ones first."""
    left = [name for name in names if not (truths / f"{name}.json").exists()]
    return sorted(left, key=lambda name: CASES[name].is_long)


def todo(names: Iterable[str], file: Path, label: str) -> list[Job]:
    """The fits that are not yet done, all with the first seed before those with the next."""
    done = {line["key"] for line in lines(file) if line["label"] == label}
    every = [job for name in names for job in jobs(CASES[name])]
    return sorted((job for job in every if job.key() not in done), key=lambda job: job.seed)


def lines(file: Path) -> Iterator[dict[str, Any]]:
    """The results of a file; a last line that was cut short is left out."""
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def measure(given: argparse.Namespace, names: list[str], file: Path) -> None:
    """Compute the truths that are missing, then the fits that are."""
    truths = given.truths
    truths.mkdir(parents=True, exist_ok=True)
    left = missing_truths(names, truths)
    tell = partial(truth_teller, str(given.code), truths)
    for i, (name, found) in enumerate(mapped(tell, left, given.jobs, _LONGEST_TRUTH), 1):
        _say(f"truth {i}/{len(left)} {name}{'' if found else ': none'}")
    known = [name for name in names if (truths / f"{name}.json").exists()]
    if given.truths_alone:
        return
    tasks = todo(known, file, given.label)
    fit = partial(fitter, str(given.code), truths)
    for i, (job, found) in enumerate(mapped(fit, tasks, given.jobs, _LONGEST), 1):
        found = found or {"refused": f"took more than {_LONGEST:.0f} s, or died", "late": True}
        case = CASES[job.case]
        line = {"label": given.label, "key": job.key(), **job._asdict()}
        line |= {"family": case.family, "half": case.half, **found}
        with file.open("a") as out:
            print(json.dumps(line), file=out)
        _say(f"{i}/{len(tasks)} {job.key()} {found.get('status', 'refused')}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def commit_of(code: Path) -> str:
    """The commit of a folder, by which its results are told from others."""
    asked = ["git", "-C", str(code), "describe", "--always", "--dirty"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--truths", type=Path, default=HERE / "truths", help="their folder")
    parser.add_argument("--truths-alone", action="store_true", help="compute no fit")
    parser.add_argument("--code", type=Path, default=HERE.parent.parent, help="folder of zoo.py")
    parser.add_argument("--label", help="name of the code's state; default its commit")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--half", choices=("tuned", "reported", "fresh"))
    parser.add_argument("--models", help="beginnings of names, separated by commas")
    parser.add_argument("--table", action="store_true", help="only print the table of results")
    given = parser.parse_args()
    given.label = given.label or commit_of(given.code)
    given.out.mkdir(parents=True, exist_ok=True)
    file, names = given.out / "results.jsonl", wanted(given.half, given.models)
    if not given.table:
        measure(given, names, file)
    kept = [r for r in lines(file) if r["label"] == given.label and r["case"] in names]
    print(table(kept))


if __name__ == "__main__":
    main()
