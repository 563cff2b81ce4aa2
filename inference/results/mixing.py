"""How much draws say: R-hat, effective sample sizes, Monte Carlo errors, shortest intervals.

Draws of one quantity are (chain, draw). As in ArviZ and `posterior` (R): chains are split in
halves, ranks are Blom's normal scores (Vehtari et al. 2021, arXiv:1903.08008, sections 3 and 4).
ArviZ itself gives the same numbers, after a second of imports.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.fft import irfft, rfft

# Draws of a chain below which nothing can be said.
_FEWEST = 4
_TAILS = (0.05, 0.95)


def ess(draws: np.ndarray, kind: str) -> float:
    """Effective sample size.

    Args:
        draws: (chain, draw).
        kind: `bulk`, `tail` (the smaller of those of the 5 % and 95 % quantiles), or of the
            `mean`.

    Returns:
        NaN of fewer than four draws, and of draws that are none.
    """
    if _unusable(draws):
        return np.nan
    if kind == "tail":
        return min(_effective(_halves(draws <= end)) for end in _quantiles(draws, _TAILS))
    halves = _halves(draws)
    return _effective(_scores(halves) if kind == "bulk" else halves)


def r_hat(draws: np.ndarray) -> float:
    """Rank-normalised split R-hat, of location and of spread the larger (ibid., section 4).

    Args:
        draws: (chain, draw).

    Returns:
        NaN of a single chain, of what never moves, and as for `ess`.
    """
    if _unusable(draws) or len(draws) < 2:
        return np.nan
    halves = _halves(draws)
    spread = np.abs(halves - np.median(halves))
    return max(_between(_scores(halves)), _between(_scores(spread)))


def errors(draws: np.ndarray) -> tuple[float, float]:
    """Monte Carlo standard errors of the mean and of the standard deviation of (chain, draw)."""
    if _unusable(draws):
        return np.nan, np.nan
    squares = (draws - draws.mean()) ** 2
    variance = squares.sum() / (squares.size - 1)
    mean = np.sqrt(variance / _effective(_halves(draws)))
    spread = squares.sum() / squares.size
    of_squares = ((squares**2).mean() - spread**2) / _effective(_halves(squares))
    return float(mean), float(np.sqrt(of_squares / spread / 4))


def bfmi(energy: np.ndarray) -> np.ndarray:
    """Energy-Bayesian fraction of missing information of energies (chain, draw), of each chain.

    Betancourt (2016), arXiv:1604.00695.
    """
    return np.square(np.diff(energy, axis=1)).mean(axis=1) / np.var(energy, axis=1, ddof=1)


def hdi(draws: np.ndarray, prob: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the shortest intervals that hold `prob` of the draws (S, cells), (cells,) each."""
    ordered = np.sort(draws, axis=0)
    inside = int(np.floor(prob * len(ordered)))
    widths = np.subtract(ordered[inside:], ordered[: len(ordered) - inside], dtype=np.float64)
    shortest = widths.argmin(axis=0)[None]
    ends = (np.take_along_axis(ordered, at, 0)[0] for at in (shortest, shortest + inside))
    low, high = ends
    return low, high


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks among all values, from 1, in their shape; equal ones have their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place.ravel()].reshape(values.shape)


# -- parts --------------------------------------------------------------------------------------


def _unusable(draws: np.ndarray) -> bool:
    """Whether draws are too few, or no numbers."""
    return draws.shape[1] < _FEWEST or bool(np.isnan(draws).any())


def _halves(draws: np.ndarray) -> np.ndarray:
    """Each chain as two, (2 chain, draw // 2); the middle draw of an odd number is left out."""
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, -half:]])


def _scores(draws: np.ndarray) -> np.ndarray:
    """Normal scores of the ranks among all draws."""
    shares = torch.as_tensor((ranks(draws) - 0.375) / (draws.size + 0.25))
    return torch.special.ndtri(shares).numpy()


def _quantiles(draws: np.ndarray, shares: tuple[float, ...]) -> list[float]:
    """Quantiles of all draws as R has them (its type 7), rounded as ArviZ rounds them."""
    ordered = np.sort(draws, axis=None)
    size, quantiles = len(ordered), []
    for share in shares:
        place = size * share + (1 - share)
        below = int(np.clip(np.floor(place), 1, size - 1))
        part = np.clip(place - below, 0, 1)
        quantiles.append((1 - part) * ordered[below - 1] + part * ordered[below])
    return quantiles


def _between(draws: np.ndarray) -> float:
    """Gelman and Rubin's ratio of chains (chain, draw)."""
    size = draws.shape[1]
    within = np.mean(np.var(draws, axis=1, ddof=1))
    between = size * np.var(np.mean(draws, axis=1), ddof=1)
    return float(np.sqrt((between / within + size - 1) / size))


def _effective(chains: np.ndarray) -> float:
    """Effective sample size of chains (chain, draw) as they are (ibid., equations 10 to 13)."""
    chains = np.asarray(chains, dtype=float)
    count, size = chains.shape
    if np.ptp(chains) < np.finfo(float).resolution:
        return chains.size
    covariances = _autocovariances(chains)
    within = covariances[0] * size / (size - 1.0)
    total = within * (size - 1.0) / size
    if count > 1:
        total += np.var(chains.mean(axis=1), ddof=1)
    correlations = 1.0 - (within - covariances) / total
    correlations[0] = 1.0
    time = max(_time(correlations), 1 / np.log10(chains.size))
    return float(chains.size / time)


def _time(correlations: np.ndarray) -> float:
    """Autocorrelation time, by Geyer's initial monotone sequence (1992), of (lag,)."""
    pairs = correlations[: len(correlations) // 2 * 2].reshape(-1, 2).sum(axis=1)
    most = max(0, (len(correlations) - 3) // 2)  # pairs of which the next one is looked at
    ended = np.flatnonzero(~(pairs[:most] > 0))
    last = int(ended[0]) if len(ended) else most
    even = correlations[2 * last]
    rest = even if even > 0 or pairs[last] >= 0 else 0.0
    return -1.0 + 2.0 * np.minimum.accumulate(pairs[:last]).sum() + rest


def _autocovariances(chains: np.ndarray) -> np.ndarray:
    """Autocovariances by lag (draw,), the mean of those of the chains (chain, draw)."""
    size = chains.shape[1]
    padded = 1 << (2 * size - 1).bit_length()  # a power of two, for speed
    spectrum = rfft(chains - chains.mean(axis=1, keepdims=True), n=padded, axis=1)
    spectrum *= np.conjugate(spectrum)
    by_chain = irfft(spectrum, n=padded, axis=1)[:, :size] / size
    return np.ascontiguousarray(by_chain.T).mean(axis=1)
