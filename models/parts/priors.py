"""Priors of weights that Pyro lacks: a mixture of two scales, and the log-uniform density."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor


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
