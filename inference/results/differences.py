"""A run beside its reference: how far its means, sds and joint draws are off, also in words.

Differences of means are in the reference's sds, those of sds as ratios; each comes with its Monte
Carlo error, and is named only beyond four of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .distance import Yardstick, noise_of_predictions, of_predictions
from .reference import Row

# Standard errors beyond which a difference is told from Monte Carlo noise, over all parameters.
SURE = 4.0
# Differences below these are of no consequence: sds of the reference, and parts of a ratio.
_MEAN_MATTERS, _SD_MATTERS = 0.1, 0.05
# Standard errors (of means in sds, of sd ratios) with which nothing can be told.
_VAGUE = 0.08
# Times its noise beyond which a distance is told from none.
_BEYOND_NOISE = 1.5

METRICS = ("elbo", "elbo_se", "log_evidence", "khat", "elpd_loo", "elpd_loo_se", "elpd_test")
SCORES = ("accuracy", "log_score", "brier", "ece", "entropy", "mutual_information")
_MOMENTS = ["mean", "sd", "hdi_low", "hdi_high", "mcse_mean", "mcse_sd"]
THE_REFERENCE, _NOTHING = "the reference", "nothing to compare it with"


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
    relative = np.hypot(
        (each["mcse_sd"] / each["sd"]).fillna(0), (other["mcse_sd"] / sd).fillna(0)
    )
    return each.assign(
        reference_mean=other["mean"],
        reference_sd=sd,
        mean_error=(each["mean"] - other["mean"]) / sd,
        mean_error_se=error / sd,
        sd_ratio=ratio,
        sd_ratio_se=ratio * relative,
    )


def line(
    row: Row, each: pd.DataFrame, reference: Row | None, yardstick: Yardstick | None
) -> dict[str, Any]:
    """A run's line of the table, column to value; what does not apply is absent.

    Args:
        row: the run.
        each: its `scalars` beside the reference.
        reference: what it is compared with.
        yardstick: of the reference's joint draws; None of a network.
    """
    record, metrics = row.record, row.record["metrics"]
    columns: dict[str, Any] = {k: metrics[k] for k in METRICS + SCORES if k in metrics}
    status, reasons = record["verdict"]["status"], record["verdict"]["reasons"]
    columns |= {"verdict": status, "reason": "" if status == "pass" else reasons[0]}
    columns["time_s"] = record["timing"]["fit_s"]
    if row.chains:
        columns["ess"] = float(row.summary["ess_bulk"].min())
        columns["ess_per_s"] = columns["ess"] / columns["time_s"]
    if reference is None:
        return columns | {"reading": _NOTHING}
    if reference.log_evidence is not None and "elbo" in columns:
        columns["gap"] = reference.log_evidence - columns["elbo"]
    if reference.label == row.label:
        return columns | {"reading": THE_REFERENCE}
    if reference.predictions is not None:
        return columns | _of_networks(row, reference)
    columns |= _worst(each) | _distance(row, reference, yardstick)
    return columns | {"reading": _reading(columns, each)}


def _of_networks(row: Row, reference: Row) -> dict[str, Any]:
    """A network beside another: how far apart their predictions are, and how sure that is."""
    ours, theirs = row.predictions, reference.predictions
    if ours is None or set(ours) != set(theirs):
        return {"reading": _NOTHING}
    apart, noise = of_predictions(ours, theirs), noise_of_predictions(theirs)
    reading = f"predicts otherwise by {apart:.2g} (mean total variation, noise {noise:.2g})"
    if apart < _BEYOND_NOISE * noise:
        reading = "predicts as the reference does"
    return {"distance": apart, "distance_floor": noise, "reading": reading}


def _distance(row: Row, reference: Row, yardstick: Yardstick) -> dict[str, float]:
    """The distance of the joint draws; none for a point, or where sites are missing."""
    names = list(reference.draws)
    if row.idata["posterior"].sizes["draw"] == 1 or not set(names) <= set(row.draws):
        return {}
    distance = yardstick.measure(stacked(row.draws, names), row.ess)
    if distance is None:
        return {}
    return {"distance": distance.value, "distance_floor": distance.floor}


def stacked(draws: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """All scalars of the sites beside each other, (S, d)."""
    return np.concatenate([draws[k].reshape(len(draws[k]), -1) for k in names], axis=1)


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
    ratio, error = each["sd_ratio"], SURE * each["sd_ratio_se"]
    narrow = ratio[(1 - ratio > _SD_MATTERS) & (1 - ratio > error)]
    wide = ratio[(ratio - 1 > _SD_MATTERS) & (ratio - 1 > error)]
    if len(narrow):
        parts.append(f"narrower ({_which(narrow, each)}, sd down to {narrow.min():.2g} of it)")
    if len(wide):
        parts.append(f"wider ({_which(wide, each)}, sd up to {wide.max():.3g} of it)")
    shift = each["mean_error"].abs()
    shifted = shift[(shift > _MEAN_MATTERS) & (shift > SURE * each["mean_error_se"])]
    if len(shifted):
        parts.append(f"shifted ({shifted.idxmax()} by {shifted.max():.3g} sd)")
    return parts


def _which(some: pd.Series, each: pd.DataFrame) -> str:
    """One scalar by name, several by their number."""
    if len(some) == 1:
        return str(some.index[0])
    return "all parameters" if len(some) == len(each) else f"{len(some)} of {len(each)}"
