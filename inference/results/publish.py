"""What a comparison leaves of each run's own verdict: who may be published, and for what.

The reference knows what a run cannot know of itself, so it has the last word: a run that calls its
parameters right and is off loses that answer (and `pass` with it), one that did not know gains it
where it agrees. Numbers that a run says not to use are not shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..core.problem import PURPOSES
from .diagnostics import PURPOSES_IN_WORDS
from .differences import SURE, THE_REFERENCE

# What is wrong with a mean, in posterior sds, and with an sd, as a share of the posterior's.
_SHIFT, _SHARE = 0.25, 0.25
# Total variation of predictions, mean over rows, beyond noise.
_PREDICTS = 0.02
# Purpose to the columns that are shown for it.
_COLUMNS = {"evidence": ("log_evidence",), "loo": ("elpd_loo", "elpd_loo_se")}


def trust(
    record: Mapping[str, Any], line: Mapping[str, Any], each: pd.DataFrame
) -> dict[str, str]:
    """Purpose to `yes`, `no` or `not known`, after a comparison with the reference.

    Args:
        record: the run's.
        line: its line of the table.
        each: its scalars beside the reference's; without columns of errors where there is none.
    """
    if record["verdict"]["status"] == "fail":
        return dict.fromkeys(PURPOSES, "no")
    own = record["verdict"].get("trust", {})
    answers = {purpose: own.get(purpose, "not known") for purpose in PURPOSES}
    if line["reading"] == THE_REFERENCE:
        return answers
    if record.get("identified", True):
        answers["parameters"] = _corrected(answers["parameters"], _parameters(each))
    elif "distance" in line:
        answers["predictions"] = _corrected(answers["predictions"], _predictions(line))
    return answers


def _corrected(own: str, seen: str) -> str:
    """An answer of the run's own, after what was seen: right ones lift what was not known."""
    return seen if seen == "no" or own == "not known" else own


def _parameters(each: pd.DataFrame) -> str:
    """Whether means and sds are those of the reference, beyond half the Monte Carlo error."""
    if "sd_ratio" not in each or each["sd_ratio"].isna().all():
        return "not known"
    shift, ratio = each["mean_error"].abs(), (each["sd_ratio"] - 1).abs()
    error, ratio_error = SURE * each["mean_error_se"], SURE * each["sd_ratio_se"]
    if ((shift > _SHIFT) & (shift - _SHIFT > error / 2)).any():
        return "no"
    if ((ratio > _SHARE) & (ratio - _SHARE > ratio_error / 2)).any():
        return "no"
    surely = (shift + error / 2 < _SHIFT) & (ratio + ratio_error / 2 < _SHARE)
    return "yes" if surely[each["sd_ratio"].notna()].all() else "not known"


def _predictions(line: Mapping[str, Any]) -> str:
    """Whether a network predicts as the reference does."""
    return "no" if line["distance"] - line["distance_floor"] > _PREDICTS else "yes"


def capped(line: Mapping[str, Any], answers: Mapping[str, str], own: Mapping[str, str]) -> dict:
    """The line without a pass that the reference contradicts.

    Args:
        line: of the table.
        answers: of `trust`.
        own: the run's own answers; one that said `no` itself is not contradicted.
    """
    lost = [p for p in ("parameters", "predictions") if answers[p] == "no" != own.get(p, "no")]
    if not lost:
        return dict(line)
    reason = f"the reference contradicts its {PURPOSES_IN_WORDS[lost[0]]}"
    status = "warn" if line["verdict"] == "pass" else line["verdict"]
    return {**line, "verdict": status, "reason": line["reason"] or reason}


def shown(line: Mapping[str, Any], answers: Mapping[str, str]) -> dict[str, Any]:
    """The line without numbers that the run says not to use."""
    unfit = sum((_COLUMNS[p] for p in _COLUMNS if answers[p] == "no"), ())
    return {name: np.nan if name in unfit else value for name, value in line.items()}


def hidden(
    records: Mapping[str, Mapping[str, Any]], answers: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """A note on each number that is not shown.

    Args:
        records: label to record.
        answers: label to purpose to answer, of `trust`.
    """
    notes = []
    for label, own in answers.items():
        because = records[label]["verdict"].get("because", {})
        for purpose, (name, *_) in _COLUMNS.items():
            if own[purpose] == "no" and name in records[label]["metrics"]:
                why = f": {because[purpose]}" if purpose in because else ""
                notes.append(f"{name} of {label} is not shown{why}")
    return notes


def last_line(answers: Mapping[str, Mapping[str, str]]) -> str:
    """Which runs may be published, and for what."""
    parts = []
    for purpose in PURPOSES:
        fit = [label for label, own in answers.items() if own[purpose] == "yes"]
        parts.append(f"{PURPOSES_IN_WORDS[purpose]} of {', '.join(fit) or 'none'}")
    return f"You may publish: {'; '.join(parts)}."
