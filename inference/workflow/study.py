"""Many runs from one request: which they are, one after the other, and what varies."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import inference
from models.contract import BadSetting, Entry, Fault, Interrupted, Refused, UsageError, nearest

from ..core.plain_text import plain
from .plan import Plan, Request, entry_of, homes, method_of
from .result import Run
from .run import Watch, carried_out, plan_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes:
        label: its name in the table.
        method: name of the method.
        guide: guide of svi, by name or as a Pyro function.
        varied: the setting that varies and its value here.
    """

    label: str
    method: str
    guide: Any = None
    varied: Mapping[str, Any] = field(default_factory=dict)


def jobs(
    methods: str | Sequence[Any] | None, vary: str | Mapping[str, Sequence[Any]] | None
) -> list[Job]:
    """Every method at every value of the setting that varies.

    Args:
        methods: `map,svi:mvn,nuts`, or a list of such words and of (`svi`, Pyro function).
        vary: `prior_scale=0.1,1,10`, or the same as a mapping; one setting.

    Raises:
        UsageError: no method, the prior (which is no posterior), or not one setting.
    """
    chosen = [
        _method(word) for word in words_of(inference.COMPARED if methods is None else methods)
    ]
    if not chosen:
        names = ",".join(inference.COMPARED)
        raise UsageError(f"there is nothing to compare; give --methods {names}")
    name, values = _varied(vary)
    if name is None:
        jobs = [Job(label, method, guide) for label, method, guide in chosen]
    else:
        jobs = [
            Job(f"{label} {name}={value}", method, guide, {name: value})
            for label, method, guide in chosen
            for value in values
        ]
    twice = [job.label for i, job in enumerate(jobs) if job.label in [j.label for j in jobs[:i]]]
    if twice:
        raise UsageError(f"{twice[0]} is asked for twice; leave one out")
    return jobs


def words_of(methods: str | Sequence[Any]) -> list[Any]:
    """The methods of a list, or of `map,svi:mvn,nuts`."""
    if isinstance(methods, str):
        return [word.strip() for word in methods.split(",") if word.strip()]
    return list(methods)


def _method(word: Any) -> tuple[str, str, Any]:
    """Label, method and guide."""
    if not isinstance(word, str):
        method, guide = word
        name = guide if isinstance(guide, str) else getattr(guide, "__name__", "guide")
        return f"{method}:{name}", method, guide
    method, _, guide = word.partition(":")
    if method in inference.METHODS and inference.METHODS[method].result == "prior":
        raise UsageError(f"{method} gives no posterior to compare; leave it out")
    return word, method, guide or None


def _varied(vary: str | Mapping[str, Sequence[Any]] | None) -> tuple[str | None, Sequence[Any]]:
    if vary is None:
        return None, ()
    if isinstance(vary, str):
        name, equals, values = vary.partition("=")
        vary = {
            name.strip(): [v.strip() for v in values.split(",") if v.strip()] if equals else []
        }
    if len(vary) != 1 or not all(len(values) for values in vary.values()):
        raise UsageError("--vary takes one setting and its values; write --vary name=0.1,1,10")
    ((name, values),) = vary.items()
    return name, values


def requests(request: Request, jobs: Sequence[Job]) -> dict[str, Request]:
    """Label to the request of each job: of the settings, those that its method knows.

    Raises:
        BadSetting: a setting that no method knows, or one to vary that a method does not know.
    """
    entry, name = entry_of(request.model, request.settings)
    known = {job.method: _settings_known(entry, job.method) for job in jobs}
    anywhere = sorted(set().union(*known.values()))
    for key in request.settings:
        if key not in anywhere:
            near = nearest(key, anywhere)
            raise BadSetting(f"there is no setting '{key}' here; {near}")
    requests = {}
    for job in jobs:
        _check_varied(job, name, known)
        own = {k: v for k, v in request.settings.items() if k in known[job.method]}
        requests[job.label] = replace(
            request, method=job.method, guide=job.guide, settings=own | dict(job.varied)
        )
    return requests


def _settings_known(entry: Entry, method: str) -> set[str]:
    return {key for home in homes(entry, method_of(method)).values() for key in home}


def _check_varied(job: Job, name: str, known: Mapping[str, set[str]]) -> None:
    """Refuse to vary what the method does not know.

    Raises:
        BadSetting: with the methods that know it, or the nearest name.
    """
    for key in set(job.varied) - known[job.method]:
        having = ",".join(method for method, names in known.items() if key in names)
        if not having:
            near = nearest(key, sorted(set().union(*known.values())))
            raise BadSetting(f"{name} has no setting '{key}' to vary; {near}")
        raise BadSetting(
            f"{job.method} on {name} has no setting '{key}' to vary; choose --methods {having}"
        )


def plan_or_refusal(request: Request) -> Plan | Refused:
    """The plan, or why there is none."""
    try:
        return plan_of(request)
    except Refused as refusal:
        return refusal


def begun_run(plan: Plan, *, progress: bool, out: str | Path | None = None) -> Run:
    """One of many runs; its pictures are left to the comparison."""
    watch = Watch(progress=progress, figures=False)
    return carried_out(plan, watch, time.perf_counter(), out)


def sensitivity(
    parameters: pd.DataFrame, jobs: Sequence[Job], runs: Mapping[str, Any]
) -> pd.DataFrame:
    """Where each value of the varied setting puts each parameter, by method.

    Args:
        parameters: those of a `Comparison`, by run and parameter.
        jobs: what was asked for.
        runs: label to run; its record has the value as it was used.

    Returns:
        Columns setting, value, method, parameter, mean, sd, low, high.
    """
    import pandas as pd

    from ..results.comparison import by

    parts = []
    for job in jobs:
        if not job.varied or job.label not in runs:
            continue
        (setting,) = job.varied
        record = runs[job.label].record
        value = {**record["options"], **record["settings"]}[setting]
        part = parameters.loc[job.label].reset_index()
        part = part.assign(setting=setting, value=value, method=by(record))
        parts.append(part.rename(columns={"hdi_low": "low", "hdi_high": "high"}))
    columns = ["setting", "value", "method", "parameter", "mean", "sd", "low", "high"]
    return pd.concat(parts)[columns] if parts else pd.DataFrame(columns=columns)


def moved(table: pd.DataFrame) -> list[str]:
    """In words, how far the varied setting moves the posterior means, by method.

    Args:
        table: as `sensitivity` gives it.
    """
    sentences = []
    for method, part in table.groupby("method", sort=False):
        means = part.pivot(index="parameter", columns="value", values="mean")
        sds = part.pivot(index="parameter", columns="value", values="sd")
        smallest = sds.min(axis=1).where(sds.min(axis=1) > 1e-10 * means.abs().max(axis=1))
        spread = ((means.max(axis=1) - means.min(axis=1)) / smallest).dropna()
        if len(spread) and means.shape[1] > 1:
            setting, worst = part["setting"].iloc[0], spread.idxmax()
            values = list(dict.fromkeys(part["value"]))
            sentences.append(
                f"{method}: over {setting} = {values[0]} .. {values[-1]}, mean of {worst} moves"
                f" by {spread.max():.2g} of its smallest sds, the median parameter by "
                f"{spread.median():.2g}"
            )
    return sentences


# -- one after the other, or several at once --------------------------------------------------


def attempt(
    plans: Mapping[str, Any],
    begin: Callable[[Any], Any],
    *,
    progress: bool = False,
) -> dict[str, Any]:
    """Label to run, or to the fault that kept it from running.

    After an interruption nothing more is begun.

    Args:
        plans: label to what `begin` takes, or to a fault, which stays.
        begin: makes the run (`zoo.Run`) of a plan.
        progress: whether to tell each outcome on standard error.
    """
    done: dict[str, Any] = {}
    for label, plan in plans.items():
        stopped = stopped_by(done.values())
        done[label] = Interrupted("not run") if stopped else _one(plan, begin)
        if progress:
            print(plain(f"{label}: {_outcome(done[label])}"), file=sys.stderr)
    return done


def _one(plan: Any, begin: Callable[[Any], Any]) -> Any:
    if isinstance(plan, Fault):
        return plan
    try:
        return begin(plan)
    except Fault as fault:
        return fault
    except KeyboardInterrupt:
        return Interrupted("interrupted before it had a result; run it again")


def stopped_by(outcomes: Iterable[Any]) -> int:
    """The signal that interrupted one of the runs; 0 if none did."""
    return max((_signal_of(outcome) for outcome in outcomes), default=0)


def _signal_of(outcome: Any) -> int:
    if isinstance(outcome, Interrupted):
        return int(outcome.signal)
    return 0 if isinstance(outcome, Fault) else outcome.record["signal"] or 0


def _outcome(outcome: Any) -> str:
    if isinstance(outcome, Fault):
        return str(outcome)
    return f"{outcome.verdict.status}, {outcome.record['timing']['fit_s']:.1f} s"


# -- what is given ------------------------------------------------------------------------------


def is_run(given: Any) -> bool:
    """Whether it is the folder of a single run."""
    from ..storage import run_folder

    named = isinstance(given, str | Path) and (Path(given) / "run.json").is_file()
    return named and not (Path(given) / run_folder.FITS).exists()


def is_study(given: Any) -> bool:
    """Whether it is the folder of a comparison or a calibration, which lie among the runs."""
    from ..storage import run_folder

    if not isinstance(given, str | Path) or is_run(given):
        return False
    return any((Path(given) / name).is_file() for name in ("table.csv", run_folder.FITS))


def check_idle(options: Mapping[str, Any], why: str) -> None:
    """Refuse options that would have no effect.

    Raises:
        UsageError: naming the first that was given.
    """
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise UsageError(f"{why}, {given[0]} would have no effect; leave it out")
