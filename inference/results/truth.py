"""What a closed form knows of each scalar, in the place of averages over draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from .inference_data import HDI_PROB

# Lower ends among which the shortest interval is looked for.
_ENDS = 2001


def truth_of(exact: Any) -> dict[str, dict[str, float]]:
    """Scalar name to mean, sd and HDI of its exact marginal; empty without an exact truth."""
    rows = {}
    for name, marginal in (exact.marginals if exact is not None else {}).items():
        low, high = exact_hdi(marginal)
        known = {"mean": marginal.mean(), "sd": marginal.std(), "hdi_low": low, "hdi_high": high}
        rows[name] = {column: float(value) for column, value in known.items()}
    return rows


def exact_hdi(marginal: Any, prob: float = HDI_PROB) -> tuple[float, float]:
    """The shortest interval that holds `prob` of a distribution, by its quantiles `ppf`.

    Exact up to the grid of lower ends, a step of (1 - prob) / 2000 in probability.
    """
    lower = np.linspace(0, 1 - prob, _ENDS)
    low, high = marginal.ppf(lower), marginal.ppf(lower + prob)
    best = int(np.argmin(high - low))
    return float(low[best]), float(high[best])


def replaced(table: pd.DataFrame, known: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """A summary with known numbers, which have no Monte Carlo error, in place of averages.

    Args:
        table: a row per scalar, of `inference_data.summary`.
        known: scalar name to column to value, of `truth_of`.
    """
    table = table.copy()
    for name in table.index.intersection(list(known)):
        table.loc[name, list(known[name])] = list(known[name].values())
        table.loc[name, ["mcse_mean", "mcse_sd"]] = 0.0
    return table


def with_truth(table: pd.DataFrame, known: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """The summary of exact draws: where all is known, without Monte Carlo errors and ESS."""
    table = replaced(table, known)
    all_known = set(table.index) <= set(known)
    return table[["mean", "sd", "hdi_low", "hdi_high"]] if all_known else table
