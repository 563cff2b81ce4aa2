"""Estimates as the data grow: from the first n rows of one sequence, for several n."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import inference
from models.contract import Data, Entry, Stopped, UsageError

from ..core import settings
from . import study
from .plan import Request, entry_of, model_options, read_data
from .result import Run

if TYPE_CHECKING:
    import pandas as pd

    from ..results.comparison import Table


def grown(request: Request, sizes: str | Sequence[int], methods: Any, progress: bool) -> Table:
    """The estimates from the first n rows of one sequence, and what each predicts of the next.

    Args:
        request: model, data and settings.
        sizes: the numbers of rows, `2,10,100`, or a list.
        methods: as for `compare`, one of them at most with more than a point; None takes `mle`,
            `map` and the posterior, exact where the model knows it.
        progress: whether to show progress.

    Raises:
        UsageError: no rows that could grow, or more asked for than there are.
    """
    from ..results.comparison import Table
    from ..show import overlays

    entry, name = entry_of(request.model, request.settings)
    whole = _sequence(entry, name, request, row_counts(sizes, None)[-1])
    counts = row_counts(sizes, whole.n)
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for n in counts:
        part = _first_rows(whole, n)
        chosen = estimators(methods) or _estimators(entry, request.settings, part)
        for job in study.jobs(chosen, None):
            (of_job,) = study.requests(replace(request, data=part), [job]).values()
            begin = partial(study.begun_run, progress=progress)
            (run,) = study.attempt({job.label: study.plan_or_refusal(of_job)}, begin).values()
            if study.stopped_by([run]):
                raise Stopped(study.stopped_by([run]))
            if isinstance(run, Run):
                rows += estimates(n, job.method, run.summary())
                rows += _next(run, whole, counts[-1])
            else:
                notes.append(f"n = {n}: {run}")
    table = Table(rows, columns=["n", "estimate", "parameter", "value", "low", "high"])
    table.notes += notes
    table.title = f"sizes-{Path(name).stem}"
    table.pictures["asymptopia"] = partial(overlays.asymptopia, table)
    return table


def row_counts(words: str | Sequence[int], most: int | None) -> list[int]:
    """The numbers of rows to look at, increasing.

    Args:
        words: `2,10,100`, or a list.
        most: rows that there are; None where they are simulated.

    Raises:
        UsageError: not whole positive numbers, or more than there are.
    """
    listed = words.split(",") if isinstance(words, str) else list(words)
    try:
        counts = sorted({int(word) for word in listed})
    except ValueError:
        counts = []
    if not counts or counts[0] < 1:
        raise UsageError(f"--sizes {words} are no numbers of rows; write --sizes 2,10,100")
    if most is not None and counts[-1] > most:
        raise UsageError(f"there are {most} rows, --sizes asks for {counts[-1]}; take fewer")
    return counts


def _sequence(entry: Entry, name: str, request: Request, largest: int) -> Data:
    """All rows of a study of growing data, simulated unless they are given, and one more."""
    declared = settings.declared(entry.data)
    given = {k: v for k, v in request.settings.items() if k in declared}
    options = {k: settings.check(declared[k], v) for k, v in given.items()}
    options |= {k: v for k, v in request.columns.items() if v is not None}
    source = "simulate" if request.data is None else request.data
    if isinstance(source, str) and source == "simulate":
        if "n" not in declared:
            raise UsageError(f"{name} simulates no data that could grow; give --data")
        options["n"] = largest + 1
    whole = read_data(entry, source, options)
    if whole.n is None:
        raise UsageError(f"the data of {name} have no rows that could grow; leave --sizes out")
    return whole


def _first_rows(data: Data, n: int) -> Data:
    tensors = {**data.tensors, **{key: data.tensors[key][:n] for key in data.rows.keys}}
    return replace(data, tensors=tensors, test=None, source=f"{data.source}, first {n} rows")


def estimators(methods: str | Sequence[Any] | None) -> list[Any]:
    """The methods of a study of growing data, of which one at most has more than a point.

    Raises:
        UsageError: two posteriors, which one table could not tell apart.
    """
    words = [] if methods is None else study.words_of(methods)
    if sum(word not in inference.POINTS for word in words) > 1:
        raise UsageError(
            "--sizes takes one method for the posterior beside mle and map; leave the others out"
        )
    return words


def _estimators(entry: Entry, given: Mapping[str, Any], data: Data) -> list[str]:
    """The point estimates and the posterior, exact where the model knows it."""
    options = model_options(entry, given)
    known = (
        entry.exact is not None and entry.inference.refuses(inference.EXACT, options, data) is None
    )
    return [*inference.POINTS, inference.EXACT if known else inference.SAMPLER]


def estimates(n: int, method: str, summary: pd.DataFrame) -> list[dict[str, Any]]:
    """What one method says of each scalar from n rows; `value`, and an interval if it has one."""
    name = method if method in inference.POINTS else "posterior"
    interval = {"low": "hdi_low", "high": "hdi_high"}
    return [
        {
            "n": n,
            "estimate": name,
            "parameter": parameter,
            "value": float(row["mean"]),
            **{ours: float(row.get(theirs, math.nan)) for ours, theirs in interval.items()},
        }
        for parameter, row in summary.iterrows()
    ]


def _next(run: Run, whole: Data, at: int) -> list[dict[str, Any]]:
    """What the run predicts of the row after the sequence; none if it has no such row.

    A probability has no interval.
    """
    predicted = run.record["data"]["predicted"]
    if set(whole.rows.keys) <= set(predicted):
        at = 0  # any row: nothing of it is looked at
    if at >= whole.n or len(predicted) != 1:
        return []
    row = {key: whole.tensors[key][at : at + 1] for key in whole.rows.keys}
    value, low, high = _of_next_row(run, predicted[0], row)
    method = run.record["method"]
    line = {
        "n": run.data.n,
        "estimate": method if method in inference.POINTS else "predictive",
        "parameter": f"P(next {predicted[0]} = 1)" if math.isnan(low) else f"next {predicted[0]}",
    }
    return [{**line, "value": value, "low": low, "high": high}]


def _of_next_row(run: Run, site: str, row: Mapping[str, Any]) -> tuple[float, float, float]:
    """The mean of a new observation, and its interval, by the closed form where there is one."""
    from .predict import next_row

    if inference.METHODS[run.record["method"]].result == "exact":
        known = run.exact.predictive.get(site)
        if known is not None:
            return float(known.mean()), math.nan, math.nan
    return next_row(run.fitted, row)
