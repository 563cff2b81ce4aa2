"""PSIS-LOO: leave-one-out by draws, with importance weights that are Pareto-smoothed.

A draw s of the posterior has the weight 1 / p(y_i | s) for row i, one of an approximation q the
weight p(y, s) / q(s) / p(y_i | s).

References: Vehtari, Gelman and Gabry (2017), Statistics and Computing 27, arXiv:1507.04544;
Vehtari et al. (2024), arXiv:1507.02646; Magnusson et al. (2019), arXiv:1904.10679, for draws of
an approximation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from .inference_data import ess
from .psis import psis

# Nats that rows of high k-hat may hold of p_loo, all together, and count for nothing.
NEGLIGIBLE = 0.05


class Weighted(NamedTuple):
    """Leave-one-out by weighted draws.

    Attributes:
        elpd: log p(y_i | y_-i), nats, (n,).
        khat: of the weights of each row; zero of rows that do not count, (n,).
        influence: how far each draw moves the elpd of each row, (n, draws); sums to 0 over draws.
        of_all: log p(y_i | y), nats, (n,).
        idle: nats that the weights of the rows that do not count move.
        apart: by how much a second way of weighting changed the sum of elpd, nats.
    """

    elpd: np.ndarray
    khat: np.ndarray
    influence: np.ndarray
    of_all: np.ndarray
    idle: float = 0.0
    apart: float = 0.0

    def mcse(self, chains: int | None) -> float:
        """Monte Carlo error of the sum of elpd, nats.

        The draws show too little of a heavy tail for the spread of their weights to be its error:
        it is multiplied by 1 + (k / (1 - k))^2, with which errors are within four of it on
        regressions whose truth is known.
        """
        k = self.khat.clip(0, 0.99)
        return float(np.hypot(mcse((1 + (k / (1 - k)) ** 2) @ self.influence, chains), self.idle))


def weighted(
    rows: np.ndarray, log_ratios: np.ndarray | None, bound: float, khat: float | None = None
) -> Weighted:
    """Leave-one-out by draws of the posterior or of an approximation.

    p / q / p(y_i) is smoothed as one. Where its k-hat is too high, which may be by chance, p / q
    and 1 / p(y_i) are smoothed one after the other, and the larger k-hat of these two counts: the
    tail of a product of independent weights is the heavier one of theirs. (Errors are within four
    of the reported one either way, on regressions whose truth is known and guides too narrow, too
    wide or without correlations; of too narrow ones four in ten more have an answer.)

    Args:
        rows: log likelihood, nats (n, draws).
        log_ratios: log p - log q, (draws,); None of draws of the posterior.
        bound: what k-hat may be.
        khat: of p / q, from as many draws as there are; None: from these.
    """
    if log_ratios is None:
        return _counted(_estimate(rows, *psis(-rows), _log_mean(rows)), bound)
    base, khat_of_these = psis(log_ratios)
    as_one = _estimate(rows, *psis(log_ratios - rows), _log_mean(rows, base))
    as_one = _counted(as_one, bound)
    bad = np.flatnonzero(as_one.khat > bound)
    khat = float(khat_of_these) if khat is None else khat
    return _in_turn(as_one, rows, bad, base, khat) if len(bad) else as_one


def _estimate(
    rows: np.ndarray, log_weights: np.ndarray, khat: np.ndarray, of_all: np.ndarray
) -> Weighted:
    """The weighted mean likelihood of each row, and each draw's part in its error.

    To first order log(sum w p / sum w) moves with the draws as sum w (p / mean - 1) does
    (Vehtari et al. 2024, section 3.3).
    """
    log_weights = log_weights - _log_sum_exp(log_weights)[:, None]
    elpd = _log_sum_exp(log_weights + rows)
    influence = np.exp(log_weights + rows - elpd[:, None]) - np.exp(log_weights)
    return Weighted(elpd, khat, influence, of_all)


def _in_turn(
    as_one: Weighted, rows: np.ndarray, bad: np.ndarray, base: np.ndarray, base_khat: float
) -> Weighted:
    """The same with some rows weighted by p / q and 1 / p(y_i) in turn, where that lowers k-hat.

    Args:
        as_one: leave-one-out of all rows, by weights that are smoothed as one.
        rows: log likelihood, (n, draws).
        bad: places of the rows to be weighted anew.
        base: log p - log q, smoothed, (draws,).
        base_khat: its k-hat.
    """
    then, khat = psis(-rows[bad], np.exp(base - base.max()))
    other = _estimate(rows[bad], base + then, np.maximum(base_khat, khat), as_one.of_all[bad])
    lower = other.khat < as_one.khat[bad]
    changed, elpd, khat = bad[lower], as_one.elpd.copy(), as_one.khat.copy()
    elpd[changed], khat[changed] = other.elpd[lower], other.khat[lower]
    as_one.influence[changed] = other.influence[lower]
    apart = abs(float((elpd - as_one.elpd).sum()))
    return as_one._replace(elpd=elpd, khat=khat, apart=apart)


def _counted(estimate: Weighted, bound: float) -> Weighted:
    """The same with k-hat zero where it is too high and the weights move next to nothing.

    A row that all draws predict alike (a class that is certain) has the wildest of tails, that of
    rounding errors too, and needs no weights.
    """
    moved = np.abs(estimate.of_all - estimate.elpd)
    high = np.flatnonzero(~(estimate.khat <= bound))
    high = high[np.argsort(moved[high])]
    idle = high[np.cumsum(moved[high]) <= NEGLIGIBLE]
    khat = estimate.khat.copy()
    khat[idle] = 0.0
    return estimate._replace(khat=khat, idle=float(moved[idle].sum()))


def mcse(influence: np.ndarray, chains: int | None) -> float:
    """Monte Carlo error of an average to which each draw adds its influence (draws,).

    Rows share their draws, so the errors of rows are added draw by draw, not in squares; draws of
    chains are as many as are effective of their influence (Vehtari et al. 2017, section 2.2).

    Args:
        influence: of each draw, chain after chain; they add up to zero.
        chains: number of chains; None of independent draws.
    """
    independent = float(np.sqrt(np.square(influence).sum()))
    if chains is None or not np.ptp(influence) > 0:
        return independent
    effective = float(ess(influence.reshape(chains, -1), "mean"))
    return independent * float(np.sqrt(influence.size / effective))


def _log_mean(rows: np.ndarray, log_weights: np.ndarray | None = None) -> np.ndarray:
    """log p(y_i | y), the log of the weighted mean likelihood, (n,); equal weights when None."""
    log_weights = np.zeros(rows.shape[1]) if log_weights is None else log_weights
    return _log_sum_exp(rows + log_weights) - _log_sum_exp(log_weights[None])


def _log_sum_exp(values: np.ndarray) -> np.ndarray:
    """By torch, which is ten times as fast as SciPy here."""
    return torch.as_tensor(values).logsumexp(1).numpy()
