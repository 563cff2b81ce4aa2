"""A run beside its reference: how far its means, sds and joint draws are off, also in words.

Differences of means are in the reference's sds, those of sds as ratios; each comes with its Monte
Carlo error, and is named only beyond four of them.

The reference knows what a run cannot know of itself, so it has the last word: a run that calls its
parameters right and is off loses that answer (and `pass` with it), one that did not know gains it
where it agrees. Numbers that a run says not to use are not shown.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..core.problem import PURPOSES
from .diagnostics import PURPOSES_IN_WORDS
from .reference import Row, noise_of_predictions, of_predictions, stacked

# Standard errors beyond which a difference is told from Monte Carlo noise, over all parameters.
SURE = 4.0
# Differences below these are of no consequence: sds of the reference, and parts of a ratio.
_MEAN_MATTERS, _SD_MATTERS = 0.1, 0.05
# What is wrong with a mean, in posterior sds, and with an sd, as a share of the posterior's.
_SHIFT, _SHARE = 0.25, 0.25
# Total variation of predictions, mean over rows, beyond noise.
_PREDICTS = 0.02
# Standard errors (of means in sds, of sd ratios) with which nothing can be told.
_VAGUE = 0.08
# Times its noise beyond which a distance is told from none.
_BEYOND_NOISE = 1.5

METRICS = ("elbo", "elbo_se", "log_evidence", "khat", "elpd_loo", "elpd_loo_se", "elpd_test")
SCORES = ("accuracy", "log_score", "brier", "ece", "entropy", "mutual_information")
_MOMENTS = ["mean", "sd", "hdi_low", "hdi_high", "mcse_mean", "mcse_sd"]
THE_REFERENCE, _NOTHING = "the reference", "nothing to compare it with"
# Purpose to the columns that are shown for it.
_COLUMNS = {"evidence": ("log_evidence",), "loo": ("elpd_loo", "elpd_loo_se")}


def scalars(summary: pd.DataFrame, reference: Row | None) -> pd.DataFrame:
    """Mean and sd of each scalar, and how far they are from the reference, with errors.

    Args:
        summary: a row per scalar.
        reference: None where there is none, and so no differences.

    Returns:
        mean, sd, hdi_low, hdi_high, mcse_mean, mcse_sd; reference_mean, reference_sd, mean_error
        (reference's sds), mean_error_se, sd_ratio, sd_ratio_se.
    """
    each = summary.reindex(columns=_MOMENTS)
    if reference is None:
        return each
    other = reference.summary.reindex(index=each.index, columns=_MOMENTS)
    # What the reference holds fixed, up to rounding, has no sd to measure by.
    sd = other["sd"].where(other["sd"] > 1e-10 * other["mean"].abs() + 1e-300)
    error = np.hypot(each["mcse_mean"].fillna(0), other["mcse_mean"].fillna(0))
    ratio = each["sd"] / sd
    ours, theirs = each["mcse_sd"] / each["sd"], other["mcse_sd"] / sd
    return each.assign(
        reference_mean=other["mean"],
        reference_sd=sd,
        mean_error=(each["mean"] - other["mean"]) / sd,
        mean_error_se=error / sd,
        sd_ratio=ratio,
        sd_ratio_se=ratio * np.hypot(ours.fillna(0), theirs.fillna(0)),
    )


def line(row: Row, each: pd.DataFrame, reference: Row | None) -> dict[str, Any]:
    """A run's line of the table, column to value; what does not apply is absent.

    Args:
        row: the run.
        each: its `scalars` beside the reference.
        reference: what it is compared with.
    """
    record, metrics = row.record, row.record["metrics"]
    columns: dict[str, Any] = {k: metrics[k] for k in METRICS + SCORES if k in metrics}
    status, reasons = record["verdict"]["status"], record["verdict"]["reasons"]
    columns |= {"verdict": status, "reason": "" if status == "pass" else reasons[0]}
    columns["time_s"] = record["timing"]["fit_s"]
    if row.chains:
        columns["ess"] = float(row.summary["ess_bulk"].to_numpy().min())
        columns["ess_per_s"] = columns["ess"] / columns["time_s"]
    if reference is None:
        return columns | {"reading": _NOTHING}
    if reference.log_evidence is not None and "elbo" in columns:
        columns["gap"] = reference.log_evidence - columns["elbo"]
    if reference.label == row.label:
        return columns | {"reading": THE_REFERENCE}
    if reference.predictions is not None:
        return columns | _of_networks(row.predictions, reference.predictions)
    columns |= _worst(each) | _distance(row, reference)
    return columns | {"reading": _reading(columns, each)}


def _of_networks(ours: xr.Dataset | None, theirs: xr.Dataset) -> dict[str, Any]:
    """A network beside another: how far apart their predictions are, and how sure that is."""
    if ours is None or set(ours) != set(theirs):
        return {"reading": _NOTHING}
    apart, noise = of_predictions(ours, theirs), noise_of_predictions(theirs)
    reading = f"predicts otherwise by {apart:.2g} (mean total variation, noise {noise:.2g})"
    if apart < _BEYOND_NOISE * noise:
        reading = "predicts as the reference does"
    return {"distance": apart, "distance_floor": noise, "reading": reading}


def _distance(row: Row, reference: Row) -> dict[str, float]:
    """The distance of the joint draws; none for a point, or where sites are missing."""
    names, yardstick = list(reference.draws), reference.yardstick
    point = row.idata["posterior"].sizes["draw"] == 1
    if yardstick is None or point or not set(names) <= set(row.draws):
        return {}
    distance = yardstick.measure(stacked(row.draws, names), row.ess)
    return {} if distance is None else dict(zip(("distance", "distance_floor"), distance))


def _worst(each: pd.DataFrame) -> dict[str, Any]:
    """The largest difference of a mean, and the range of the sd ratios."""
    columns: dict[str, Any] = {}
    errors = each["mean_error"].abs().dropna()
    if len(errors):
        worst = errors.idxmax()
        columns |= {"mean_error": errors[worst], "worst": worst}
        columns["mean_error_se"] = each.loc[worst, "mean_error_se"]
    ratios = each["sd_ratio"].dropna()
    if len(ratios):
        columns |= {"sd_low": ratios.min(), "sd_high": ratios.max()}
        columns["sd_se"] = each["sd_ratio_se"].max()
    return columns


def _reading(columns: Mapping[str, Any], each: pd.DataFrame) -> str:
    """What the numbers say, in words; only differences beyond their errors are named."""
    parts = _named(each)
    noise = columns.get("distance_floor", np.inf)
    if not parts and columns.get("distance", 0) > _BEYOND_NOISE * noise:
        parts.append("each parameter agrees, the joint does not (correlations or tails)")
    if parts:
        return "; ".join(parts)
    if max(columns.get("mean_error_se", 0), columns.get("sd_se", 0)) > _VAGUE:
        return "too few effective draws to tell it from the reference"
    if "sd_low" not in columns and "mean_error" in columns:
        return "a point near the reference mean, without an interval"
    return "agrees with the reference" if "mean_error" in columns else ""


def _named(each: pd.DataFrame) -> list[str]:
    """Sds that are too narrow or too wide, and means that are shifted, in words."""
    parts = []
    ratio, bound = each["sd_ratio"], np.maximum(_SD_MATTERS, SURE * each["sd_ratio_se"])
    narrow, wide = each.loc[1 - ratio > bound], each.loc[ratio - 1 > bound]
    if len(narrow):
        least = narrow["sd_ratio"].min()
        parts.append(f"narrower ({_which(narrow, each)}, sd down to {least:.2g} of it)")
    if len(wide):
        most = wide["sd_ratio"].max()
        parts.append(f"wider ({_which(wide, each)}, sd up to {most:.3g} of it)")
    shift = each["mean_error"].abs()
    shifted = shift.loc[shift > np.maximum(_MEAN_MATTERS, SURE * each["mean_error_se"])]
    if len(shifted):
        parts.append(f"shifted ({shifted.idxmax()} by {shifted.max():.3g} sd)")
    return parts


def _which(some: pd.DataFrame, each: pd.DataFrame) -> str:
    """One scalar by name, several by their number."""
    if len(some) == 1:
        return str(some.index[0])
    return "all parameters" if len(some) == len(each) else f"{len(some)} of {len(each)}"


# -- who may be published, and for what --------------------------------------------------------


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
        off = line["distance"] - line["distance_floor"] > _PREDICTS
        answers["predictions"] = _corrected(answers["predictions"], "no" if off else "yes")
    return answers


def _corrected(own: str, seen: str) -> str:
    """An answer of the run's own, after what was seen: right ones lift what was not known."""
    return seen if seen == "no" or own == "not known" else own


def _parameters(each: pd.DataFrame) -> str:
    """Whether means and sds are those of the reference, beyond half the Monte Carlo error."""
    if "sd_ratio" not in each or np.isnan(each["sd_ratio"]).all():
        return "not known"
    shift, ratio = each["mean_error"].abs().to_numpy(), (each["sd_ratio"] - 1).abs().to_numpy()
    errors = SURE / 2 * each[["mean_error_se", "sd_ratio_se"]].to_numpy().T
    if (shift - _SHIFT > errors[0]).any() or (ratio - _SHARE > errors[1]).any():
        return "no"
    surely = (shift + errors[0] < _SHIFT) & (ratio + errors[1] < _SHARE)
    return "yes" if surely[~np.isnan(ratio)].all() else "not known"


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
