"""Distributions that the libraries lack: exact marginals without a name, and priors of weights.

The marginals answer as frozen scipy distributions do: `pdf`, `cdf`, `ppf`, `mean`, `std`,
`support`. The priors are distributions of Pyro.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor


class Gridded:
    """A density known on a grid fine enough for linear interpolation.

    Args:
        grid: increasing values, shape (m,).
        density: density there up to a factor, shape (m,).
    """

    def __init__(self, grid: np.ndarray, density: np.ndarray):
        steps = np.diff(grid)
        mass = np.concatenate([[0.0], np.cumsum(steps * (density[1:] + density[:-1]) / 2)])
        self.grid, self.density, self._cdf = grid, density / mass[-1], mass / mass[-1]

    def pdf(self, x: np.ndarray) -> np.ndarray:
        """Density; zero outside the grid."""
        return np.interp(x, self.grid, self.density, left=0.0, right=0.0)

    def cdf(self, x: np.ndarray) -> np.ndarray:
        """Cumulative probability."""
        return np.interp(x, self.grid, self._cdf, left=0.0, right=1.0)

    def ppf(self, q: np.ndarray) -> np.ndarray:
        """Quantiles."""
        return np.interp(q, self._cdf, self.grid)

    def mean(self) -> float:
        """Mean, by the trapezoidal rule."""
        return float(np.trapezoid(self.grid * self.density, self.grid))

    def std(self) -> float:
        """Standard deviation, by the trapezoidal rule."""
        square = np.trapezoid((self.grid - self.mean()) ** 2 * self.density, self.grid)
        return float(np.sqrt(square))

    def support(self) -> tuple[float, float]:
        """Ends of the grid."""
        return float(self.grid[0]), float(self.grid[-1])


class NormalMixture(Gridded):
    """A mixture of normals; mean and sd in closed form, quantiles from a grid.

    Args:
        weights: shares that add up to one, shape (m,).
        locs: means, shape (m,).
        scales: standard deviations, shape (m,).
    """

    def __init__(self, weights: np.ndarray, locs: np.ndarray, scales: np.ndarray):
        self.weights, self.locs, self.scales = weights, locs, scales
        grid = np.linspace(self.mean() - 8 * self.std(), self.mean() + 8 * self.std(), 2001)
        super().__init__(grid, self.pdf(grid))

    def pdf(self, x: np.ndarray) -> np.ndarray:
        """Density."""
        z = (np.asarray(x)[..., None] - self.locs) / self.scales
        # By hand: scipy's own density takes three times as long, and there are a million of them.
        return np.exp(-0.5 * z**2) @ (self.weights / (self.scales * np.sqrt(2 * np.pi)))

    def mean(self) -> float:
        """Mean."""
        return float(self.weights @ self.locs)

    def std(self) -> float:
        """Standard deviation: variance within plus variance between."""
        between = self.weights @ (self.locs - self.mean()) ** 2
        return float(np.sqrt(self.weights @ self.scales**2 + between))


# -- priors of weights -------------------------------------------------------------------------


class ScaleMixture(dist.TorchDistribution):
    """A mixture of two normals around zero, one much narrower: most weights small, some large.

    Blundell, Cornebise, Kavukcuoglu and Wierstra (2015), arXiv:1505.05424, eq. 7.

    Args:
        wide, narrow: their standard deviations.
        share: probability of the wide one.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (torch's own name and type)
    support = constraints.real

    def __init__(self, wide: float, narrow: float, share: float = 0.5, batch_shape: Any = ()):
        self.wide, self.narrow, self.share = wide, narrow, share
        super().__init__(torch.Size(batch_shape), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ScaleMixture:
        return ScaleMixture(self.wide, self.narrow, self.share, batch_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        wide = torch.rand(shape) < self.share
        return torch.randn(shape) * torch.where(wide, self.wide, self.narrow)

    def log_prob(self, value: Tensor) -> Tensor:
        wide = _log_normal(value, self.wide) + math.log(self.share)
        narrow = _log_normal(value, self.narrow) + math.log(1 - self.share)
        return torch.logaddexp(wide, narrow)


def _log_normal(value: Tensor, scale: float) -> Tensor:
    return -0.5 * (value / scale) ** 2 - math.log(scale * math.sqrt(2 * math.pi))


class LogUniform(dist.ImproperUniform):
    """The density 1 / |w|: no scale is preferred. It has no integral and cannot be sampled.

    Args:
        batch_shape: shape of independent weights.
    """

    def __init__(self, batch_shape: Any = ()):
        super().__init__(constraints.real, torch.Size(batch_shape), torch.Size())

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogUniform:
        return LogUniform(batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return -value.abs().log()
