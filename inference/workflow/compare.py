"""Several methods on one model, or runs that are there: in one table, or on one HTML page."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from models.contract import Entry, Fault, Interrupted, Refused, Stopped, UsageError

from ..core.ambient import alone
from ..core.arguments import checked
from ..core.zoo_warnings import ours_alone
from . import origin, study
from .plan import Plan, Request, columns
from .result import Run
from .run import load

if TYPE_CHECKING:
    from ..results.comparison import Row, Table


@checked
@alone()
def compare(
    *model_or_run: str | Path | Callable | Entry | Run,
    methods: str | Sequence[Any] | None = None,
    vary: str | Mapping[str, Sequence[Any]] | None = None,
    sizes: str | Sequence[int] | None = None,
    data: Any = None,
    target: str | None = None,
    features: str | Sequence[str] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "cpu",
    init: str | Path | Run | None = None,
    progress: bool = False,
    jobs: int = 1,
    **settings: Any,
) -> Table:
    """Several methods on one model, or runs that are there, in one table.

    The same data, split and seed for all. Each is compared with the exact posterior, or else the
    NUTS run that passes its verdict. A refused method keeps its row and gives the reason.

    Args:
        model_or_run: a model as for `run`; or runs: `Run` objects, or folders of saved ones.
        methods: such as `map,svi:mvn,nuts`, or a list, in which (`svi`, a Pyro function) will do;
            default `mle,map,laplace,svi:normal,svi:mvn,nuts,exact`.
        vary: a setting and its values, `prior_scale=0.1,1,10`: prior sensitivity.
        sizes: numbers of rows, `2,10,100`: the estimates as data grow, instead of the comparison.
        data, target, features, seed, device, init, progress: as for `run`.
        out: folder in which the runs and the comparison are saved; without one nothing is.
        jobs: runs at once; above 1 they disturb each other's times.
        settings: as for `run`; each method takes those that it knows.

    Returns:
        A DataFrame: a `Comparison`, or, with sizes, a row for each estimate of each parameter.

    Raises:
        UsageError, Fault: as `run`, for what concerns all methods; different data.

    Examples:
        >>> import zoo
        >>> table = zoo.compare("coin", methods="map,laplace,exact", data="HHT")
        >>> list(table.index), list(table.references.values())
        (['map', 'laplace', 'exact'], ['exact'])
    """
    from .sizes import grown

    if any(isinstance(given, Run) or study.is_run(given) for given in model_or_run):
        idle = {"methods": methods, "vary": vary, "sizes": sizes, "data": data, "init": init}
        idle |= {"target": target, "features": features, **settings}
        idle |= _given(seed=(seed, 0), device=(device, "cpu"), jobs=(jobs, 1))
        study.check_idle(idle, "runs that are there are compared as they are")
        return saved_table(_runs_compared(loaded(model_or_run)), out)
    if len(model_or_run) != 1:
        raise UsageError("compare takes one model, or folders of runs; see `zoo.py list runs`")
    request = Request(
        model=model_or_run[0],
        data=data,
        columns=columns(target, features),
        seed=seed,
        device=device,
        settings=settings,
        init=init,
    )
    if sizes is not None:
        idle = {"vary": vary, "init": init} | _given(jobs=(jobs, 1))
        study.check_idle(idle, "--sizes shows estimates as the data grow")
        return saved_table(grown(request, sizes, methods, progress), out)
    table = _methods_compared(request, study.jobs(methods, vary), progress, out, jobs)
    return saved_table(table, out)


def _given(**values: tuple[Any, Any]) -> dict[str, Any]:
    """Of arguments and their defaults, those that are another."""
    return {name: value for name, (value, default) in values.items() if value != default}


def loaded(given: Sequence[Any]) -> list[Run]:
    """The runs among what was given, those of folders loaded; studies are left out."""
    runs = (run if isinstance(run, Run) else run_folder(run) for run in given)
    return [run if isinstance(run, Run) else load(run) for run in runs if run is not None]


def run_folder(given: Any) -> Any:
    """A run, or its folder, as it is given; None for the folder of a study."""
    return None if study.is_study(given) else given


def has_posterior(run: Run) -> bool:
    """Whether a run has draws, or a point, of the posterior."""
    return "posterior" in run.groups.groups()


def _runs_compared(runs: Sequence[Run]) -> Table:
    from ..results import comparison

    for run in runs:
        if not has_posterior(run):
            raise UsageError("a run of the prior gives no posterior to compare; leave it out")
    return table_of(dict(zip(comparison.labels([run.record for run in runs]), runs)))


# -- methods on one model -----------------------------------------------------------------------


def _methods_compared(
    request: Request, jobs: Sequence[study.Job], progress: bool, out: Any, workers: int
) -> Table:
    """Every job on one model; all plans are made before the first is run."""
    from ..results import comparison
    from ..show import overlays

    requests = study.requests(request, jobs)
    plans = {label: study.plan_or_refusal(request) for label, request in requests.items()}
    sound = {label: plan for label, plan in plans.items() if isinstance(plan, Plan)}
    comparison.check_same_data(
        {label: {"data": origin.identity_of(plan.data)} for label, plan in sound.items()}
    )
    if workers == 1:
        begin = partial(study.begun_run, progress=progress, out=out)
        done = study.attempt(plans, begin, progress=progress)
    else:
        done = _at_once(requests, plans, out, workers)
    runs = {label: run for label, run in done.items() if isinstance(run, Run)}
    signal = study.stopped_by(done.values())
    if not runs and signal:
        raise Stopped(signal)
    if not runs:
        raise Refused(f"no method ran, the first because: {next(iter(done.values()))}")
    table = table_of(done)
    table.signal = signal
    shown = study.sensitivity(table.parameters, jobs, runs)
    if len(shown):
        table.notes += study.moved(shown)
        table.pictures["sensitivity"] = partial(overlays.sensitivity, shown)
    return table


def _at_once(
    requests: Mapping[str, Request], plans: Mapping[str, Any], out: Any, workers: int
) -> dict[str, Any]:
    """Label to run or fault, several at once: each is planned anew in a process of its own."""
    from ..core.jobs import each
    from ..core.signals import listening

    labels, done = list(plans), {}
    with listening() as heard:
        for i, result in each(partial(_remote, out=out), requests.values(), workers, heard):
            plan = plans[labels[i]]
            if isinstance(result, dict):
                result = Run(**result, _entry=plan.entry, _data=plan.data)
            done[labels[i]] = result
    left = Interrupted("not run, or interrupted before it had a result; run it again")
    left.signal = heard.signal
    if heard.signal:
        done = {k: v for k, v in done.items() if isinstance(v, Run | Refused)}
    return {label: done.get(label, left) for label in labels}


@alone()
def _remote(request: Request, out: Any) -> Any:
    """What makes up the run, without the functions that another process would not know."""
    plan = study.plan_or_refusal(request)
    begin = partial(study.begun_run, progress=False, out=out)
    (run,) = study.attempt({"": plan}, begin).values()
    if not isinstance(run, Run):
        return run
    return {name: getattr(run, name) for name in ("record", "groups", "verdict", "params")}


# -- the table ----------------------------------------------------------------------------------


def table_of(done: Mapping[str, Run | Fault]) -> Table:
    """The table and the pictures of runs, or of the faults that kept them from running."""
    from ..core import machine
    from ..results import comparison
    from ..show import report

    runs = {label: run for label, run in done.items() if isinstance(run, Run)}
    first = next(iter(runs.values())).record
    keys = comparison.posterior_keys({label: run.record for label, run in runs.items()})
    rows = [_row(label, run, keys.get(label, "")) for label, run in done.items()]
    exact = dict.fromkeys(keys.values())
    for label, run in runs.items():
        exact[keys[label]] = exact[keys[label]] or _exact_of(run)
    with machine.numbers():
        table = comparison.compare(rows, exact, seed=first["seed"])
    table.runs, table.html = dict(runs), report.comparison_html
    table.title = f"compare-{Path(first['model']).stem}"
    table.pictures |= _pictures(runs, exact)
    return table


def _pictures(runs: Mapping[str, Run], exact: Mapping[str, Any]) -> dict[str, Callable]:
    """Kind to what draws it, of those that these runs can fill."""
    from ..show import overlays, uncertainty

    results = {label: run.groups for label, run in runs.items()}
    truth = next(iter(exact.values())) if len(exact) == 1 else None
    pictures: dict[str, Callable] = {}
    if all(run.record.get("identified", True) for run in runs.values()):
        pictures["forest"] = partial(overlays.forest, results, truth)
        pictures["overlay"] = partial(overlays.overlay, results, truth)
    if any("held_out" in idata.groups() for idata in results.values()):
        pictures["calibration"] = partial(overlays.calibration, results)
    for kind in dict.fromkeys(k for idata in results.values() for k in uncertainty.kinds(idata)):
        pictures[kind] = partial(uncertainty.PICTURES[kind], results)
    return pictures


def _row(label: str, run: Run | Fault, key: str) -> Row:
    from ..results import comparison

    if isinstance(run, Run):
        return comparison.Row(label=label, posterior=key, record=run.record, idata=run.groups)
    status = "refused" if isinstance(run, Refused) else "failed"
    status = "interrupted" if isinstance(run, Interrupted) else status
    return comparison.Row(label=label, posterior=key, reason=str(run), status=status)


def _exact_of(run: Run) -> Any:
    """The exact truth where it can be had: a run loaded may have lost its data."""
    try:
        return run.exact
    except Fault:
        return None


def saved_table(table: Table, out: str | Path | None) -> Table:
    """The table, with its pictures saved under `out`, if that is given."""
    from ..show import style
    from ..storage import run_folder

    if out is None:
        return table
    stamp = time.strftime("%Y%m%d-%H%M%S")
    tables = {"table": table, "parameters": getattr(table, "parameters", None)}
    figures = {kind: style.saved(table.figure(kind)) for kind in table.figures()}
    given = {name: rows for name, rows in tables.items() if rows is not None}
    path = run_folder.save_tables(Path(out), f"{table.title}-{stamp}", given, figures)
    table.notes.append(f"saved in {path}")
    return table


# -- the report --------------------------------------------------------------------------------


@checked
@ours_alone()
def report(*run: str | Path | Run, out: str | Path | None = None) -> str:
    """One HTML page of several runs: verdicts first, then comparison, pictures, settings.

    Args:
        run: `Run` objects, or folders of saved ones; those of the same data are compared. What
            has no result (yet), or is no single run, is left out.
        out: file to write, `.html`; in Python without one nothing is written.

    Returns:
        The page; it needs no other file and no network.

    Raises:
        UsageError: no runs, or a file of another kind. Fault: a run that cannot be read.

    Examples:
        >>> import zoo
        >>> zoo.report(zoo.run("coin", method="exact", data="HHT"))[:15]
        '<!doctype html>'
    """
    from ..results import comparison
    from ..show import report as pages
    from ..storage import files, saved

    if not run:
        raise UsageError("a report needs runs; see `zoo.py list runs`")
    if out is not None and Path(out).suffix not in (".html", ".htm"):
        raise UsageError(f"--out {out} is no .html; name it so")
    if out is not None:
        files.check_writable(Path(out).absolute().parent)
    runs = loaded([given for given in run if not has_no_result(given)])
    if not runs:
        raise UsageError("none of these is a run with a result; see `zoo.py list runs`")
    named = dict(zip(comparison.labels([run.record for run in runs]), runs))
    alike: dict[str, dict[str, Run]] = {}
    for label, run in named.items():
        if has_posterior(run):
            alike.setdefault(run.record["data"]["sha256"], {})[label] = run
    tables = [table_of(part) for part in alike.values() if len(part) > 1]
    pictures = {label: saved.pictures(run.path) for label, run in named.items()}
    page = pages.report(named, tables, pictures)
    if out is not None:
        files.write_text(Path(out), page)
    return page


def has_no_result(given: Any) -> bool:
    """Whether it is the folder of a run that failed, or was stopped, before it had a result."""
    from ..storage.record import read_record

    if isinstance(given, Run) or not study.is_run(given):
        return False
    return "verdict" not in read_record(Path(given))
