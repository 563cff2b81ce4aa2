"""How far a sample lies from a reference, jointly, and how far two networks' predictions.

Both samples are taken to where the reference has mean 0 and covariance 1 (where it has too few
draws to tell its covariance, variances 1), so that wrong correlations count as much as wrong
scales, and a distance of 0.2 reads "off by a fifth of a reference standard deviation along a
typical direction".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

# Directions along which samples are compared, and random pairs of parts that are averaged.
_DIRECTIONS, _SPLITS = 64, 20
# Fewer effective draws than this say nothing about a joint distribution.
_FEWEST = 50
# With fewer effective draws than this a dimension, the reference's own covariance is so noisy that
# what it was whitened by is too near to it: scales are then taken one by one.
_DRAWS_OF_DIMENSION = 20


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
        self._projected = self._project(_thin(draws, ess))
        self._floors: dict[int, float] = {}

    def measure(self, draws: np.ndarray, ess: float) -> Distance | None:
        """The sliced 2-Wasserstein distance (Bonneel et al. 2015) of a sample (S, d).

        As many draws of both are compared as are independent on the poorer side, and at most
        half of the reference, that the floor can be taken from its two halves.

        Returns:
            None where there are too few effective draws, or draws that are not finite.
        """
        projected = self._project(_thin(draws, ess))
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
        if size not in self._floors:
            rng, values = np.random.default_rng(1), []
            for _ in range(_SPLITS):
                both = _some(self._projected, 2 * size, rng)
                values.append(_wasserstein(both[:size], both[size:]))
            self._floors[size] = float(np.quantile(values, 0.95))
        return self._floors[size]

    def _project(self, draws: np.ndarray) -> np.ndarray:
        """Draws (S, d) along the directions, in the reference's sds, (S, m)."""
        return (draws - self._loc) @ self._directions


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


def _thin(draws: np.ndarray, ess: float) -> np.ndarray:
    """As many draws as are effective, evenly spaced."""
    count = int(min(len(draws), max(ess, 1)))
    return draws[np.linspace(0, len(draws) - 1, count).round().astype(int)]


def _some(draws: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """So many of the draws, without replacement."""
    return draws[rng.permutation(len(draws))[:size]]


def _wasserstein(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Root mean square over directions of the 2-Wasserstein distance of equally many points.

    Args:
        ours, theirs: points along each direction, (S, m).
    """
    return float(np.sqrt(((np.sort(ours, axis=0) - np.sort(theirs, axis=0)) ** 2).mean()))


# -- predictions -------------------------------------------------------------------------------

# Points at which the densities of two predictions are compared.
_POINTS = 400


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
