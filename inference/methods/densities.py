"""Densities of the unconstrained vector that guides are made of and torch lacks.

Both can be batched by `torch.func.vmap`, which torch's low-rank normal cannot.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

_HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


class _Vector(TorchDistribution):
    """A density of vectors (d,) that knows how to draw one."""

    support = constraints.real_vector
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (torch's own name and type)
    has_rsample = True

    def __init__(self, loc: Tensor):
        self.loc = loc
        super().__init__(event_shape=loc.shape, validate_args=False)

    def _noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)


class LowRankNormal(_Vector):
    """Normal with covariance S (I + F F^T) S, S diagonal, of low rank plus diagonal.

    Args:
        loc: mean (d,).
        scale: the diagonal of S (d,), positive.
        factor: F (d, rank).
    """

    def __init__(self, loc: Tensor, scale: Tensor, factor: Tensor):
        super().__init__(loc)
        self.scale, self.factor = scale, factor

    def rsample(self, sample_shape: torch.Size = ()) -> Tensor:
        d, rank = self.factor.shape
        along = _times(self._noise(*sample_shape, rank), self.factor.T)
        return self.loc + self.scale * (self._noise(*sample_shape, d) + along)

    def log_prob(self, value: Tensor) -> Tensor:
        """By Woodbury's identity and the determinant lemma, in O(d rank^2)."""
        v = (value - self.loc) / self.scale
        inner = self.factor.T @ self.factor
        root = torch.linalg.cholesky(inner + torch.eye(len(inner), dtype=v.dtype, device=v.device))
        along = torch.linalg.solve_triangular(root, _times(v, self.factor)[..., None], upper=False)
        square = (v**2).sum(-1) - (along[..., 0] ** 2).sum(-1)
        log_root = self.scale.log().sum() + root.diagonal().log().sum()
        return -0.5 * square - log_root - v.shape[-1] * _HALF_LOG_2_PI


class Flowing(_Vector):
    """The law of loc + L T(z) with z standard normal.

    Args:
        loc: location (d,).
        tril: L, lower triangular (d, d).
        transform: T, with `call_and_ladj` (zuko).
    """

    def __init__(self, loc: Tensor, tril: Tensor, transform: Any):
        super().__init__(loc)
        self.tril, self.transform = tril, transform
        self._drawn: tuple[Tensor | None, Tensor | None] = (None, None)

    def rsample(self, sample_shape: torch.Size = ()) -> Tensor:
        z = self._noise(*sample_shape, len(self.loc))
        v, log_slope = self.transform.call_and_ladj(z)
        u = self.loc + _times(v, self.tril.T)
        self._drawn = (u, self._log_q(z, log_slope))
        return u

    def log_prob(self, value: Tensor) -> Tensor:
        """Of the last draw as it was drawn; elsewhere by the inverse, d passes of each network."""
        if value is self._drawn[0]:
            return self._drawn[1]
        away = (value - self.loc)[..., None]
        v = torch.linalg.solve_triangular(self.tril, away, upper=False)[..., 0]
        z = self.transform.inv(v)
        return self._log_q(z, self.transform.log_abs_det_jacobian(z, v))

    def _log_q(self, z: Tensor, log_slope: Tensor) -> Tensor:
        log_base = -0.5 * (z**2).sum(-1) - z.shape[-1] * _HALF_LOG_2_PI
        return log_base - log_slope - self.tril.diagonal().log().sum()


def _times(v: Tensor, matrix: Tensor) -> Tensor:
    """`v @ matrix`, with no squeeze in place inside, which a recorded graph does not survive."""
    return (v[..., None, :] @ matrix)[..., 0, :]
