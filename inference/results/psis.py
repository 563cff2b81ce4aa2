"""Importance weights: their heavy tails smoothed (PSIS), and what is computed by them.

With log weights r_s = log p(y, x_s) - log q(x_s) at draws x_s of an approximation q, the ELBO is
the mean of r, and the log evidence log mean exp(r), once the tail is smoothed. Leave-one-out: a
draw s of the posterior has the weight 1 / p(y_i | s) for row i, one of an approximation the weight
p(y, s) / q(s) / p(y_i | s).

Smoothing: Vehtari, Simpson, Gelman, Yao and Gabry (2024), Journal of Machine Learning Research
25(72), arXiv:1507.02646, algorithm 1; here all rows at once, and draws may have weights before.
Leave-one-out: Vehtari, Gelman and Gabry (2017), Statistics and Computing 27, arXiv:1507.04544, and
by draws of an approximation Magnusson et al. (2019), arXiv:1904.10679.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.problem import Fit
from . import mixing
from .inference_data import InferenceData, add_group

# Above it importance weights cannot be trusted (Vehtari et al. 2024, section 3.2.4).
KHAT_MAX = 0.7
# Draws that a tail must have more of, for a distribution to be fitted to it.
_FEWEST = 4
# Numbers that are worked on at once: they should stay in the processor's cache.
_ELEMENTS = 500_000
# Range of log weights that are equal up to rounding: they have no tail, whatever is fitted to
# their noise.
_EQUAL = 1e-6
# Nats that rows of high k-hat may hold of p_loo, all together, and count for nothing.
NEGLIGIBLE = 0.05


def khat_bound(draws: int) -> float:
    """The k-hat up to which so many draws are enough (Vehtari et al. 2024, eq. 13)."""
    return min(KHAT_MAX, 1 - 1 / math.log10(draws)) if draws > 1 else -math.inf


def psis(log_weights: np.ndarray, base: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed log weights, and k-hat; infinite where the tail is too short to be fitted.

    Args:
        log_weights: log importance ratios up to a constant, not minus them, (..., draws).
        base: weights that the draws have before, (draws,); None: all the same. The tail is then
            that of the ratios among weighted draws, and the result leaves `base` out.

    Returns:
        Log weights (..., draws), of the same constant, and k-hat (...).
    """
    values = torch.as_tensor(np.asarray(log_weights), dtype=torch.float64)
    rows = values.reshape(-1, values.shape[-1])
    draws = rows.shape[1]
    weights = np.ones(draws) if base is None else np.asarray(base, dtype=float)
    weights = torch.as_tensor(weights / weights.sum())
    share, longest = _tail_of(weights, base is None)
    smoothed, khat = rows.clone(), rows.new_full((len(rows),), torch.inf)
    if longest > _FEWEST:
        step = max(1, _ELEMENTS // (longest * _grid_of(longest)))
        for start in range(0, len(rows), step):
            some = slice(start, start + step)
            khat[some] = _smooth(smoothed[some], weights, share, longest)
    return smoothed.reshape(values.shape).numpy(), khat.reshape(values.shape[:-1]).numpy()


def _tail_of(weights: Tensor, equal: bool) -> tuple[float, int]:
    """The share of the weight that makes the tail, and the most draws that it has.

    It is min(S / 5, 3 sqrt(S)) of S effective draws.
    """
    effective = 1 / float(weights.square().sum())
    count = math.ceil(min(effective / 5, 3 * math.sqrt(effective)) - 1e-9)
    longest = count if equal else 2 * count
    return count / effective, min(longest, len(weights) - 1)


def _grid_of(longest: int) -> int:
    """Points at which the likelihood of a tail is evaluated."""
    return 30 + math.isqrt(longest)


def _smooth(rows: Tensor, weights: Tensor, share: float, longest: int) -> Tensor:
    """Smooth log weights (rows, draws) in place; gives k-hat, (rows,).

    Args:
        rows: log ratios.
        weights: that the draws have before, (draws,), of sum 1.
        share: of the weight, that makes the tail.
        longest: draws that a tail may have.
    """
    top, at = rows.topk(longest + 1, dim=1)  # descending
    highest, mass = top[:, :1], weights[at]
    within = (mass.cumsum(1) <= share * (1 + 1e-9))[:, :longest]
    # The threshold is the largest ratio that is no more in the tail.
    last = within.sum(1, keepdim=True)
    cut = (top.gather(1, last) - highest).clamp(min=math.log(torch.finfo(rows.dtype).tiny))
    beyond = top[:, :longest] - highest
    within &= beyond > cut
    mass = mass[:, :longest] * within
    excess = (beyond.exp() - cut.exp()) * within
    khat, scale = _generalised_pareto(excess, mass)
    fitted = (within.sum(1) > _FEWEST) & khat.isfinite()
    # The share of the tail that lies beyond the middle of each draw.
    shares = (mass.cumsum(1) - mass / 2) / mass.sum(1, keepdim=True)
    quantiles = _upper_quantiles(shares, khat[:, None], scale[:, None])
    # No weight becomes larger than the largest was.
    new = (quantiles + cut.exp()).log().clamp(max=0.0) + highest
    smoothed = torch.where(within & fitted[:, None], new, top[:, :longest])
    rows.scatter_(1, at[:, :longest], smoothed)
    return torch.where(fitted, khat, torch.inf)


def _upper_quantiles(shares: Tensor, khat: Tensor, scale: Tensor) -> Tensor:
    """What so large a share of a generalised Pareto distribution lies beyond."""
    flat = khat.abs() < 1e-10
    log = shares.log()
    return scale * torch.where(flat, -log, torch.expm1(-khat * log) / torch.where(flat, 1, khat))


def _generalised_pareto(excess: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """Shape and scale by the empirical Bayes estimate of Zhang and Stephens (2009), eq. 7 to 9.

    The shape has a weak prior, ten draws of 0.5 (Vehtari et al. 2024, appendix G).

    Args:
        excess: by how much the draws exceed the threshold, descending, (rows, tail).
        mass: their weights, zero for those that are not in the tail, (rows, tail).
    """
    total = mass.sum(1, keepdim=True)
    n = total.square() / mass.square().sum(1, keepdim=True)
    mass = mass / total
    grid = _grid_of(excess.shape[1])
    j = torch.arange(1, grid + 1, dtype=excess.dtype)
    theta = (1 - (grid / (j - 0.5)).sqrt()) / (3 * _lower_quartile(excess, mass, n))
    theta = theta + 1 / excess[:, :1]  # (rows, grid)
    shape = (torch.log1p(-theta[:, :, None] * excess[:, None, :]) @ mass[:, :, None])[..., 0]
    log_likelihood = n * ((-theta / shape).log() - shape - 1)
    likelihood = log_likelihood.nan_to_num(nan=-torch.inf).softmax(1)
    likelihood = likelihood * (likelihood >= 10 * torch.finfo(excess.dtype).eps)
    theta = (theta * likelihood).sum(1, keepdim=True) / likelihood.sum(1, keepdim=True)
    shape = (torch.log1p(-theta * excess) * mass).sum(1)
    scale, n = -shape / theta[:, 0], n[:, 0]
    return (n * shape + 10 * 0.5) / (n + 10), scale


def _lower_quartile(excess: Tensor, mass: Tensor, n: Tensor) -> Tensor:
    """The draw that a quarter of the tail does not exceed, (rows, 1)."""
    from_below = 1 - mass.cumsum(1) + mass
    reached = from_below >= (n / 4 + 0.5 + 1e-9).floor().clamp(min=1) / n - 1e-9
    # The last of the descending draws up to which so much lies below.
    return excess.gather(1, (reached.sum(1, keepdim=True) - 1).clamp(min=0))


# -- metrics by weights ------------------------------------------------------------------------


def log_evidence(log_ratios: Tensor) -> float | None:
    """Log of the mean of importance weights p / q, nats; None where k-hat says that they fail.

    Args:
        log_ratios: log p - log q of independent draws, (draws,).
    """
    ratios = log_ratios.numpy()
    if np.ptp(ratios) <= _EQUAL:
        return float(ratios.mean())
    smoothed, khat = psis(ratios)
    if not khat < KHAT_MAX:
        return None
    return float(np.logaddexp.reduce(smoothed) - np.log(len(ratios)))


def metrics(fit: Fit, idata: InferenceData, improper: bool = False) -> dict[str, float]:
    """The fit's own metrics, and by its weights `elbo`, `elbo_se`, `khat`, `log_evidence`, nats.

    A guide's log evidence is by importance weights, where their k-hat allows. Weights of rows that
    are independent have a k-hat each: `khat` is then their median, and `khat_high` the share above
    0.7. What stands behind `khat` is kept in `idata`, to be drawn. Leave-one-out is in `loo.py`.

    Args:
        fit: what the method returned.
        idata: its InferenceData, which gains the group `rows` and the attribute `khat`.
        improper: whether a prior is, so that there is no evidence.
    """
    numbers = dict(fit.metrics)
    if fit.log_ratios is None:
        return numbers
    ratios = fit.log_ratios.numpy()
    if ratios.ndim == 2:  # (draws, rows)
        numbers |= _of_rows(ratios, idata)
        ratios = ratios.sum(1)
    numbers["elbo"] = float(ratios.mean())
    numbers["elbo_se"] = float(ratios.std(ddof=1) / np.sqrt(len(ratios)))
    if "khat" not in numbers:
        numbers["khat"] = float(psis(ratios)[1]) if np.ptp(ratios) > _EQUAL else 0.0
        estimate = None if improper else log_evidence(fit.log_ratios)
        if estimate is not None and numbers["khat"] < KHAT_MAX:
            numbers.setdefault("log_evidence", estimate)
    idata.attrs["khat"] = numbers["khat"]
    return numbers


def _of_rows(ratios: np.ndarray, idata: InferenceData) -> dict[str, float]:
    """Median k-hat of the rows and the share that is high; each is kept in the group `rows`."""
    with np.errstate(all="ignore"):
        tails = psis(ratios.T)[1]
    add_group(idata, "rows", {"khat": ("row", tails)})
    return {"khat": float(np.median(tails)), "khat_high": float((tails > KHAT_MAX).mean())}


# -- leave-one-out by weights ------------------------------------------------------------------


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
        regressions whose truth is known. Rows share their draws, so the errors of rows are added
        draw by draw, not in squares; draws of chains are as many as are effective of their
        influence (Vehtari et al. 2017, section 2.2).

        Args:
            chains: number of chains; None of independent draws.
        """
        k = self.khat.clip(0, 0.99)
        influence = (1 + (k / (1 - k)) ** 2) @ self.influence
        error = float(np.sqrt(np.square(influence).sum()))
        if chains is not None and np.ptp(influence) > 0:
            error *= np.sqrt(influence.size / mixing.ess(influence.reshape(chains, -1), "mean"))
        return float(np.hypot(error, self.idle))


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


def _log_mean(rows: np.ndarray, log_weights: np.ndarray | None = None) -> np.ndarray:
    """log p(y_i | y), the log of the weighted mean likelihood, (n,); equal weights when None."""
    log_weights = np.zeros(rows.shape[1]) if log_weights is None else log_weights
    return _log_sum_exp(rows + log_weights) - _log_sum_exp(log_weights[None])


def _log_sum_exp(values: np.ndarray) -> np.ndarray:
    """By torch, which is ten times as fast as SciPy here."""
    return torch.as_tensor(values).logsumexp(1).numpy()
