"""Simulation-based calibration of a method on a model: many fits, in a folder of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import inference
from models.contract import Entry, Refused, Stopped, UsageError

from ..core import settings as settings_of
from ..core.ambient import alone
from ..core.arguments import checked
from . import origin
from .plan import Plan, Request, columns, entry_of
from .run import Watch, plan_of
from .study import check_idle

if TYPE_CHECKING:
    from ..checks.calibration import Calibration
    from ..checks.simulated import Simulated
    from ..program.program import Program
    from ..storage.run_folder import RunFolder


@checked
@alone()
def calibrate(
    model: str | Path | Callable | Entry,
    sbc: int = 500,
    *,
    method: str | None = None,
    guide: str | Path | Callable | None = None,
    data: Any = None,
    target: str | None = None,
    features: str | Sequence[str] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = False,
    jobs: int = 1,
    **settings: Any,
) -> Calibration:
    """Simulation-based calibration: does the truth lie anywhere among the draws, equally often?

    Args:
        model, method, guide, target, features, seed, progress, settings: as for `run`.
        sbc: data sets to simulate and fit; what they show does not depend on `jobs`.
        data: the design: its covariates and rows are kept, what is observed is simulated. With
            the setting `n`, default the simulated data of that many rows, else the model's.
        out: folder in which it is kept from the first fit on, so that `resume` can go on;
            without one nothing is saved.
        jobs: fits at once.

    Raises:
        UsageError, Fault: as `run`; Refused: improper priors, or nothing to infer.

    Examples:
        >>> import zoo
        >>> zoo.calibrate("coin", 20, method="exact", n=5).verdict.status
        'pass'
    """
    from ..checks import calibration
    from ..storage import run_folder

    if sbc < calibration.FEWEST:
        raise UsageError(f"sbc={sbc}: {calibration.FEWEST} fits at least; some 500 tell something")
    request = Request(
        model=model,
        method=method,
        guide=guide,
        data=_design(model, data, settings),
        columns=columns(target, features),
        seed=seed,
        settings=settings,
    )
    plan = plan_of(request)
    if plan.kind.result in ("point", "prior"):
        raise UsageError(f"{plan.method} gives no draws of a posterior; take another method")
    study = _Study(request, plan, sbc, jobs, progress)
    if out is None:
        return _calibrated(study)
    begun = origin.begun(plan)
    record = {**begun, "name": f"calibration-{begun['name']}", "calibration": sbc}
    arrays = run_folder.arrays_of(request.data)
    with run_folder.begin(Path(out), record["name"], record, arrays) as place:
        return _calibrated_in(place, study)


@dataclass(frozen=True)
class _Study:
    """A calibration: its request, which another process plans anew, and how it is computed."""

    request: Request
    plan: Plan
    n: int
    jobs: int = 1
    progress: bool = False


def _design(model: Any, data: Any, settings: Mapping[str, Any]) -> Any:
    """The source of the design: simulated rows where their number `n` is asked for."""
    entry, _ = entry_of(model, settings)
    if data is None and "n" in settings and "n" in settings_of.declared(entry.data):
        return "simulate"
    return data


def _calibrated_in(place: RunFolder, study: _Study) -> Calibration:
    """A calibration in its folder, which goes on from the fits that are there."""
    from ..show import style
    from ..storage import run_folder, seals

    began = time.perf_counter()
    earlier = {fit["i"]: fit for fit in seals.read_lines(place.path / run_folder.FITS)}
    place.restart(run_folder.FITS, earlier.values())  # without a line that a kill cut short
    done = len(earlier)

    def keep(fit: Mapping[str, Any]) -> None:
        nonlocal done
        place.append(run_folder.FITS, fit)
        done += 1
        place.journal.on_step({"step": done, "of": study.n})

    place.journal.on_start(place.record)
    table = _calibrated(study, earlier=earlier, keep=keep)
    verdict = {"status": table.verdict.status, "reasons": table.verdict.reasons}
    status = "interrupted" if table.signal else "done"
    timing = {"total_s": time.perf_counter() - began, "fits": done - len(earlier)}
    record = {**place.record, "status": status, "verdict": verdict, "timing": timing}
    figures = {kind: style.saved(table.figure(kind)) for kind in table.figures()}
    place.write_tables(record, {"table": table}, figures)
    table.notes.append(f"saved in {place.path}")
    return table


def _calibrated(study: _Study, **keeping: Any) -> Calibration:
    """The verdict on the method of a plan, over simulated data sets.

    Args:
        study: what to calibrate.
        keeping: `earlier` and `keep` of `simulated.run`.
    """
    from ..checks import calibration, simulated

    fit, token = simulation(study.plan).fit, str(time.time_ns())
    if study.jobs > 1:
        fit = partial(_remote_fit, token, study.request)
    fits, signal = simulated.run(
        fit, study.n, workers=study.jobs, progress=study.progress, **keeping
    )
    if signal and sum("rank" in fit for fit in fits) < calibration.FEWEST:
        raise Stopped(signal)
    plan = study.plan
    names = {"model": plan.name, "method": plan.method, "guide": plan.guide}
    return _judged(names, plan.data.source, fits, study.n, signal)


def simulation(plan: Plan) -> Simulated:
    """The method of a plan, to be fitted to data drawn from its model."""
    from ..checks.simulated import Simulated
    from ..core import machine
    from ..program import prepare

    entry, data, options = plan.entry, plan.data, plan.options

    def with_own(program: Program) -> Program:
        """What belongs to these data: a refusal, the exact truth."""
        own = {key: program.tensors[key].clone() for key in study.keys.values()}
        drawn = replace(data, tensors={**data.tensors, **own}, test=None)
        reason = entry.inference.refuses(plan.method, options, drawn)
        if reason:
            raise Refused(reason)
        known = partial(prepare.truth, entry, drawn, options) if entry.exact else None
        return program.changed(exact=known)

    with machine.numbers(plan.dtype):
        program = prepare.program_of(entry, options, data)
        method = inference.method(plan.method)
        study = Simulated(program, method, plan.settings, plan.seed, with_own)
    return study


# In a worker process: the study that it works on, under the token of its call.
_studies: dict[str, Simulated] = {}


@alone()
def _remote_fit(token: str, request: Request, i: int) -> dict[str, Any] | None:
    """The i-th fit, in another process, which plans and records once for all of its fits."""
    if token not in _studies:
        _studies.clear()
        _studies[token] = simulation(plan_of(request))
    return _studies[token].fit(i)


def resumed(place: RunFolder, given: Mapping[str, Any], watch: Watch) -> Calibration:
    """A calibration that was cut short, from its last fit on: see `resume.resumed`."""
    check_idle({"callbacks": watch.callbacks or None}, "a calibration tells nobody")
    origin.check_same_libraries(place.record)
    request = origin.request_of(place.record, given)
    plan = plan_of(request)
    origin.check_same_run(place.record, plan)
    study = _Study(request, plan, place.record["calibration"], watch.jobs, watch.progress)
    return _calibrated_in(place, study)


def saved(folder: Path) -> Calibration:
    """A calibration that is saved, judged again from its fits.

    Raises:
        Fault: it is damaged, or not done.
    """
    from ..storage import run_folder, saved, seals

    record = saved.read_result(folder)
    names = {key: record[key] for key in ("model", "method", "guide")}
    fits = seals.read_lines(folder / run_folder.FITS)
    return _judged(names, record["data"]["source"], fits, record["calibration"], 0)


def _judged(
    names: Mapping[str, str | None],
    design: str,
    fits: Sequence[Mapping[str, Any]],
    n: int,
    signal: int,
) -> Calibration:
    """The fits of a calibration as a table with its verdict and its picture."""
    from ..checks import calibration
    from ..show import overlays

    table = calibration.judge(fits, n)
    words = [Path(names["model"]).stem, names["method"], *origin.folder_words(names["guide"])]
    table.title, table.signal = "-".join(["calibration", *words]), signal
    table.notes.append(f"design: {design}")
    table.pictures["ranks"] = partial(overlays.ranks, table, " ".join(words))
    return table
