"""Pareto-smoothed importance sampling: what a heavy tail of weights is replaced by, and k-hat.

Vehtari, Simpson, Gelman, Yao and Gabry (2024), Journal of Machine Learning Research 25(72),
arXiv:1507.02646, algorithm 1. All rows at once, and draws may have weights before.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

# Above it importance weights cannot be trusted (section 3.2.4 there).
KHAT_MAX = 0.7
# Draws that a tail must have more of, for a distribution to be fitted to it.
_FEWEST = 4
# Numbers that are worked on at once: they should stay in the processor's cache.
_ELEMENTS = 500_000


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
    quantiles = _upper_quantiles(_upper_shares(mass), khat[:, None], scale[:, None])
    # No weight becomes larger than the largest was.
    new = (quantiles + cut.exp()).log().clamp(max=0.0) + highest
    smoothed = torch.where(within & fitted[:, None], new, top[:, :longest])
    rows.scatter_(1, at[:, :longest], smoothed)
    return torch.where(fitted, khat, torch.inf)


def _upper_shares(mass: Tensor) -> Tensor:
    """Share of the tail that lies beyond the middle of each draw, (rows, tail)."""
    return (mass.cumsum(1) - mass / 2) / mass.sum(1, keepdim=True)


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
