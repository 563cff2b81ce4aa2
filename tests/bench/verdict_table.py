"""The table of the verdict's error rates: how often a yes is wrong, and a right result gets none.

Two shares: of all fits to which the verdict says yes, those that are wrong; of the right fits at
default settings, those to which it says no or not known. A fit too short on purpose that was lucky
does not count in the second. Cases at the border count in neither and are told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from verdict_score import PURPOSES

Line = dict[str, Any]
_RESAMPLES = 2000


class Rate(NamedTuple):
    """A share and its intervals.

    Attributes:
        bad, of: how many, of how many.
        high: upper end of the 95 % Clopper-Pearson interval.
        by_model: 2.5 and 97.5 % points when models are drawn anew.
    """

    bad: int
    of: int
    high: float
    by_model: tuple[float, float]

    def __str__(self) -> str:
        if not self.of:
            return "none"
        low, high = self.by_model
        share = f"{self.bad}/{self.of} = {self.bad / self.of:.1%}"
        return f"{share} (<= {self.high:.1%}; models {low:.1%} to {high:.1%})"


def clopper_pearson(bad: int, of: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a share (Clopper and Pearson 1934)."""
    tail = (1 - level) / 2
    low = stats.beta.ppf(tail, bad, of - bad + 1) if bad else 0.0
    high = stats.beta.ppf(1 - tail, bad + 1, of - bad) if bad < of else 1.0
    return float(low), float(high)


def by_resampling(events: Sequence[tuple[str, bool]]) -> tuple[float, float]:
    """Interval of a share when the models, not their fits, are drawn anew.

    Args:
        events: model, and whether the event was bad.
    """
    names = sorted({name for name, _ in events})
    counts = np.array([[sum(b for n, b in events if n == name) for name in names]])
    sizes = np.array([[sum(n == name for n, _ in events) for name in names]])
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(names), size=(_RESAMPLES, len(names)))
    shares = counts[0][drawn].sum(1) / sizes[0][drawn].sum(1)
    low, high = np.quantile(shares, (0.025, 0.975))
    return float(low), float(high)


def rate(events: Sequence[tuple[str, bool]]) -> Rate:
    """The share of bad events."""
    bad, of = sum(b for _, b in events), len(events)
    if not of:
        return Rate(0, 0, 1.0, (0.0, 1.0))
    return Rate(bad, of, clopper_pearson(bad, of)[1], by_resampling(events))


def class_of(line: Line, purpose: str) -> str | None:
    """`right`, `border` or `wrong`; None where there is nothing to judge."""
    return line.get("is", {}).get(purpose, {}).get("class")


def yeses(lines: Iterable[Line], purpose: str) -> list[Line]:
    """The lines to which the verdict says yes, judged clearly."""
    said = (line for line in lines if line.get("says", {}).get(purpose) == "yes")
    return [line for line in said if class_of(line, purpose) in ("right", "wrong")]


def rights(lines: Iterable[Line], purpose: str) -> list[Line]:
    """The right results at default settings."""
    return [
        line for line in lines if line["sort"] == "default" and class_of(line, purpose) == "right"
    ]


def wrong_yeses(lines: Iterable[Line], *purposes: str) -> Rate:
    """Of the results to which the verdict says yes, how many are wrong."""
    lines = list(lines)
    return rate(
        [(r["case"], class_of(r, p) == "wrong") for p in purposes for r in yeses(lines, p)]
    )


def withheld(lines: Iterable[Line], *purposes: str) -> Rate:
    """Of the right results at default settings, how many get no yes."""
    lines = list(lines)
    return rate([(r["case"], r["says"][p] != "yes") for p in purposes for r in rights(lines, p)])


def table(lines: Sequence[Line]) -> str:
    """The rates by purpose and method, then each wrong yes and each right result without a yes."""
    told = [_counts(lines), "", "Of the yeses, wrong (those at the border are in neither):"]
    told += _rates(wrong_yeses, lines)
    told += ["", "Of the right results at default settings, without a yes:"]
    told += _rates(withheld, lines)
    told += ["", "Wrong, and yes:"]
    for purpose in PURPOSES:
        found = [r for r in yeses(lines, purpose) if class_of(r, purpose) == "wrong"]
        told += [f"  {purpose}: {_named(r)}: {_errors(r, purpose)}" for r in found]
    told += ["", "Right at default settings, and no yes:"]
    for purpose in PURPOSES:
        found = [r for r in rights(lines, purpose) if r["says"][purpose] != "yes"]
        told += [f"  {purpose}: {_named(r)}: {_reason(r, purpose)}" for r in found]
    return "\n".join(told)


def _counts(lines: Sequence[Line]) -> str:
    refused = [line for line in lines if "refused" in line]
    late = sum("late" in line for line in refused)
    fit, judge = (sum(line.get(key, 0) for line in lines) for key in ("fit_s", "judge_s"))
    border = {p: _at_border(lines, p) for p in PURPOSES}
    models = len({line["case"] for line in lines})
    return (
        f"{len(lines)} fits of {models} models: {fit:.0f} s of fitting, {judge:.0f} s of judging; "
        f"{len(refused)} refused or failed, {late} of them too late\n"
        f"yes, and at the border: {', '.join(f'{p} {n}' for p, n in border.items())}"
    )


def _rates(of: Callable[..., Rate], lines: Sequence[Line]) -> list[str]:
    """A line for all, for each purpose, and below it for each method and guide."""
    told = [f"  all: {of(lines, *PURPOSES)}"]
    labels = sorted({_label(line) for line in lines})
    for purpose in PURPOSES:
        told.append(f"  {purpose}: {of(lines, purpose)}")
        for label in labels:
            found = of([line for line in lines if _label(line) == label], purpose)
            told += [f"    {label}: {found}"] if found.of else []
    return told


def _at_border(lines: Sequence[Line], purpose: str) -> int:
    return sum(
        class_of(line, purpose) == "border" and line["says"][purpose] == "yes" for line in lines
    )


def _label(line: Line) -> str:
    return line["method"] + (f":{line['guide']}" if line["guide"] else "")


def _named(line: Line) -> str:
    settings = " ".join(f"{k}={v}" for k, v in line["settings"].items())
    return " ".join(
        filter(None, (f"[{line['case']}]", _label(line), settings, f"seed {line['seed']}"))
    )


def _errors(line: Line, purpose: str) -> str:
    errors = {k: v for k, v in line["is"][purpose].items() if k != "class"}
    return ", ".join(f"{k} {v}" for k, v in errors.items())


def _reason(line: Line, purpose: str) -> str:
    because = line.get("because", {}).get(purpose)
    return because or next(iter(line["reasons"]), line["status"])
