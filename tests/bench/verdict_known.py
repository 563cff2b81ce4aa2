"""Posteriors in closed form: what a case states, and that of normals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats
from verdict_case import Draws

_DRAWS = 40_000


class Known(NamedTuple):
    """A posterior in closed form.

    Attributes:
        draws: independent draws, site to (S, *shape).
        log_evidence, elpd_loo: exact; None where not known.
    """

    draws: Draws
    log_evidence: float | None = None
    elpd_loo: float | None = None


def gaussian(design: np.ndarray, y: np.ndarray, prior: np.ndarray, noise: float) -> Known:
    """The posterior of w where y ~ N(design w, noise^2) and w ~ N(0, prior).

    Args:
        design: (n, k).
        y: (n,).
        prior: covariance (k, k).
        noise: sd of y.
    """
    precision = np.linalg.inv(prior) + design.T @ design / noise**2
    covariance = np.linalg.inv(precision)
    mean = covariance @ design.T @ y / noise**2
    rng = np.random.default_rng(0)
    draws = rng.multivariate_normal(mean, covariance, size=_DRAWS)
    marginal = design @ prior @ design.T + noise**2 * np.eye(len(y))
    evidence = stats.multivariate_normal(np.zeros(len(y)), marginal).logpdf(y)
    # Of a normal vector, each element given the others: precision q_ii, residual (Q y)_i / q_ii.
    inverse = np.linalg.inv(marginal)
    spread = np.diag(inverse) ** -0.5
    loo = stats.norm.logpdf(inverse @ y / np.diag(inverse), 0.0, spread).sum()
    return Known({"w": draws}, float(evidence), float(loo))
