"""What runs are compared with, and how far their draws and predictions are from it.

The reference is the posterior as well as it is known: an exact result, else draws of the model's
closed form, else the chains of most effective draws whose verdict is a pass.

To compare joint draws, both samples are taken to where the reference has mean 0 and covariance 1
(where it has too few draws to tell its covariance, variances 1), so that wrong correlations count
as much as wrong scales, and a distance of 0.2 reads "off by a fifth of a reference standard
deviation along a typical direction".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from .. import Method, about
from ..core.seeds import DRAWS, spawn
from .inference_data import HDI_PROB, InferenceData, draws_of, flattened, from_groups, summary

# Draws from a closed form that no run has sampled.
_EXACT_DRAWS = 4000
# What a closed form knows of a scalar, by column of a summary.
_KNOWN = ["mean", "sd", "hdi_low", "hdi_high"]
# Lower ends among which the shortest interval is looked for.
_ENDS = 2001
# Directions along which samples are compared, and random pairs of parts that are averaged.
_DIRECTIONS, _SPLITS = 64, 20
# Fewer effective draws than this say nothing about a joint distribution.
_FEWEST = 50
# With fewer effective draws than this a dimension, the reference's own covariance is so noisy that
# what it was whitened by is too near to it: scales are then taken one by one.
_DRAWS_OF_DIMENSION = 20
# Points at which the densities of two predictions are compared.
_POINTS = 400


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run of a comparison, or what kept it from running.

    Attributes:
        label: its name in the table.
        posterior: what posterior it approximates; runs of one key are compared with one reference.
        record: the run's record; empty where there is no run.
        idata: its result; empty where there is no run.
        reason: why there is no run.
        status: `refused`, `failed` or `interrupted`, where there is no run.
    """

    label: str
    posterior: str
    record: Mapping[str, Any] = field(default_factory=dict)
    idata: InferenceData = field(default_factory=InferenceData)
    reason: str = ""
    status: str = ""

    @property
    def method(self) -> Method:
        """What its method is, by the catalogue."""
        return about(self.record["method"])

    @cached_property
    def summary(self) -> pd.DataFrame:
        """The run's summary by scalar, exact numbers in the place of averages where it knows them.

        Real scalars only: a discrete latent has no mean to be off by.
        """
        table = replaced(summary(self.idata), self.record["exact"])
        real = self.draws
        return table.loc[[name for name in table.index if name.partition("[")[0] in real]]

    @cached_property
    def draws(self) -> dict[str, np.ndarray]:
        """The draws of the real sites, (S, *shape); of a network those of its predictions."""
        predictions = self.predictions
        draws = draws_of(self.idata) if predictions is None else flattened(predictions)
        return {name: values for name, values in draws.items() if values.dtype.kind == "f"}

    @property
    def predictions(self) -> xr.Dataset | None:
        """What a network's draws predict, by which it is compared; None for other models."""
        return self.idata["predictions"] if "predictions" in self.idata.groups() else None

    @property
    def chains(self) -> bool:
        """Whether the draws are those of Markov chains."""
        return "diverging" in self.idata.get("sample_stats", ())

    @property
    def ess(self) -> float:
        """Effective draws, by the poorest parameter; all of them where they are independent."""
        count = len(next(iter(self.draws.values()), ()))
        if not self.chains:
            return float(count)
        lowest = np.nanmin(self.summary[["ess_bulk", "ess_tail"]].to_numpy())
        return float(min(count, lowest))

    @property
    def log_evidence(self) -> float | None:
        """The log evidence that it states, nats; None where it states none."""
        return self.record["metrics"].get("log_evidence")

    @cached_property
    def yardstick(self) -> Yardstick | None:
        """The measure of joint draws that it gives as a reference; a network's are of no use."""
        if not self.draws or self.predictions is not None:
            return None
        return Yardstick(stacked(self.draws, list(self.draws)), self.ess)


def best(rows: Sequence[Row], truth: Any, seed: int) -> Row | None:
    """What the runs of one posterior are compared with; None where it is not known well enough.

    Args:
        rows: the runs.
        truth: the model's `Exact`, or None.
        seed: seed of draws from the truth.
    """
    exact = next((row for row in rows if row.method.result == "exact"), None)
    if exact is not None:
        return exact
    if truth is not None:
        return _drawn(truth, rows[0].idata, seed)
    chains = [row for row in rows if row.method.result == "chains"]
    passing = [row for row in chains if row.record["verdict"]["status"] == "pass"]
    return max(passing, key=lambda row: row.ess, default=None)


def _drawn(truth: Any, like: InferenceData, seed: int) -> Row:
    """A closed form that no run has sampled, with the labels of a run."""
    draws = truth.sample(_EXACT_DRAWS, np.random.default_rng(spawn(seed, DRAWS)))
    draws = {name: np.asarray(values, dtype=float)[None] for name, values in draws.items()}
    posterior = like["posterior"]
    dims = [dim for dim in posterior.dims if dim not in ("chain", "draw")]
    sample = from_groups(
        {"posterior": draws},
        coords={str(dim): list(posterior[dim].values) for dim in dims},
        dims={name: list(posterior[name].dims[2:]) for name in draws},
    )
    record = {"exact": truth_of(truth), "metrics": {"log_evidence": truth.log_evidence}}
    return Row(label="exact", posterior="", record=record, idata=sample)


# -- what a closed form knows of each scalar ---------------------------------------------------


def truth_of(exact: Any) -> dict[str, dict[str, float]]:
    """Scalar name to mean, sd and HDI of its exact marginal; empty without an exact truth."""
    known = {}
    for name, marginal in (exact.marginals if exact is not None else {}).items():
        numbers = (marginal.mean(), marginal.std(), *exact_hdi(marginal))
        known[name] = dict(zip(_KNOWN, map(float, numbers)))
    return known


def exact_hdi(marginal: Any, prob: float = HDI_PROB) -> tuple[float, float]:
    """The shortest interval that holds `prob` of a distribution, by its quantiles `ppf`.

    Exact up to the grid of lower ends, a step of (1 - prob) / 2000 in probability.
    """
    lower = np.linspace(0, 1 - prob, _ENDS)
    low, high = marginal.ppf(lower), marginal.ppf(lower + prob)
    shortest = int(np.argmin(high - low))
    return float(low[shortest]), float(high[shortest])


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
    return table.filter(_KNOWN) if set(table.index) <= set(known) else table


# -- the distance of joint draws ---------------------------------------------------------------


class Distance(NamedTuple):
    """The distance of a sample, and what equally many draws of the reference would show.

    `floor` is the 95 % quantile between two parts of the reference itself: a distance below it
    cannot be told from Monte Carlo noise.
    """

    value: float
    floor: float


class Yardstick:
    """A reference sample, against which others of the same scalars are measured.

    Args:
        draws: independent draws, or the draws of chains, shape (S, d).
        ess: effective number of draws among them; so many are used.
    """

    def __init__(self, draws: np.ndarray, ess: float):
        self._loc = draws.mean(0)
        self._directions = _whitening(draws, ess) @ _directions(draws.shape[1])
        self._projected = self._project(draws, ess)

    def measure(self, draws: np.ndarray, ess: float) -> Distance | None:
        """The sliced 2-Wasserstein distance (Bonneel et al. 2015) of a sample (S, d).

        As many draws of both are compared as are independent on the poorer side, and at most
        half of the reference, that the floor can be taken from its two halves.

        Returns:
            None where there are too few effective draws, or draws that are not finite.
        """
        projected = self._project(draws, ess)
        size = min(len(projected), len(self._projected) // 2)
        if size < _FEWEST or not np.isfinite(projected).all():
            return None
        rng = np.random.default_rng(0)
        values = [
            _wasserstein(_some(projected, size, rng), _some(self._projected, size, rng))
            for _ in range(_SPLITS)
        ]
        return Distance(float(np.mean(values)), self._floor(size))

    def _floor(self, size: int) -> float:
        """The 95 % quantile of distances between two parts of the reference of so many draws."""
        rng = np.random.default_rng(1)
        parts = (np.split(_some(self._projected, 2 * size, rng), 2) for _ in range(_SPLITS))
        return float(np.quantile([_wasserstein(*pair) for pair in parts], 0.95))

    def _project(self, draws: np.ndarray, ess: float) -> np.ndarray:
        """Of draws (S, d) as many as are effective, along the directions, in sds (s, m)."""
        count = int(min(len(draws), max(ess, 1)))
        even = draws[np.linspace(0, len(draws) - 1, count).round().astype(int)]
        return (even - self._loc) @ self._directions


def stacked(draws: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """All scalars of the sites beside each other, (S, d)."""
    return np.concatenate([draws[k].reshape(len(draws[k]), -1) for k in names], axis=1)


def _directions(d: int) -> np.ndarray:
    """Unit vectors (d, m), the same for all samples."""
    if d == 1:
        return np.ones((1, 1))
    directions = np.random.default_rng(2).normal(size=(d, _DIRECTIONS))
    return directions / np.linalg.norm(directions, axis=0)


def _whitening(draws: np.ndarray, ess: float) -> np.ndarray:
    """A matrix (d, d) after which the draws have covariance 1 where they vary.

    Of few effective draws it is diagonal: each scalar is brought to variance 1 alone.
    """
    scale = draws.std(0)
    scale = np.where(scale > 0, scale, np.inf)
    if ess < _DRAWS_OF_DIMENSION * draws.shape[1]:
        return np.diag(1 / scale)
    covariance = np.cov((draws - draws.mean(0)) / scale, rowvar=False)
    values, vectors = np.linalg.eigh(np.atleast_2d(covariance))
    # A deterministic site is a function of others: it adds no direction of its own.
    keep = values > 1e-10 * values.max()
    root = np.where(keep, 1 / np.sqrt(np.where(keep, values, 1.0)), 0.0)
    return (vectors * root) @ vectors.T / scale[:, None]


def _some(draws: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """So many of the draws, without replacement."""
    return draws[rng.permutation(len(draws))[:size]]


def _wasserstein(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Root mean square over directions of the 2-Wasserstein distance of equally many points.

    Args:
        ours, theirs: points along each direction, (S, m).
    """
    return float(np.sqrt(((np.sort(ours, axis=0) - np.sort(theirs, axis=0)) ** 2).mean()))


# -- the distance of predictions ---------------------------------------------------------------


def of_predictions(ours: xr.Dataset, theirs: xr.Dataset) -> float:
    """Mean over rows of the total variation of two predictive distributions, 0 to 1.

    Of classes half the sum of the differences of their probabilities, each the mean over draws;
    of a continuous observation that of the normals of their means and variances.

    Args:
        ours, theirs: `probability` (chain, draw, row, class but the last), or `mean` and `sd`
            (chain, draw, row).
    """
    if "probability" in ours:
        gaps = _probabilities(ours) - _probabilities(theirs)
        return float(0.5 * np.abs(gaps).sum(-1).mean())
    return float(np.mean([_between(*pair) for pair in zip(_normals(ours), _normals(theirs))]))


def noise_of_predictions(reference: xr.Dataset) -> float:
    """The distance of a reference's halves from each other: that of noise, if they are chains."""
    for dim in ("chain", "draw"):
        if reference.sizes[dim] > 1:
            halves = [reference.isel({dim: slice(i, None, 2)}) for i in (0, 1)]
            # Each half has twice the variance of all, and there are two: four times that of one.
            return of_predictions(*halves) / 2
    return 0.0


def _probabilities(predictions: xr.Dataset) -> np.ndarray:
    """Probabilities of all classes, (rows, classes)."""
    means = predictions["probability"].values.mean((0, 1))
    return np.concatenate([means, 1 - means.sum(-1, keepdims=True)], axis=-1)


def _normals(predictions: xr.Dataset) -> np.ndarray:
    """Mean and standard deviation of each row by the law of total variance, (rows, 2)."""
    means, sds = predictions["mean"].values, predictions["sd"].values
    variance = (sds**2).mean((0, 1)) + means.var((0, 1))
    return np.stack([means.mean((0, 1)), np.sqrt(variance)], -1)


def _between(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Total variation of two normals, given as mean and standard deviation: a sum over a grid."""
    both = np.stack([ours, theirs])
    low, high = (both[:, 0] - 6 * both[:, 1]).min(), (both[:, 0] + 6 * both[:, 1]).max()
    at = np.linspace(low, high, _POINTS)
    densities = [np.exp(-0.5 * ((at - m) / s) ** 2) / s for m, s in both]
    step = (at[1] - at[0]) / np.sqrt(2 * np.pi)
    return float(0.5 * np.abs(densities[0] - densities[1]).sum() * step)
