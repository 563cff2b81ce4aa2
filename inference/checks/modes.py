"""Modes that a sample of the posterior has missed: climbs from far-away points, compared with it.

Points from the prior and elsewhere climb the density, a step of each growing while it gains. Where
one ends in a mode of comparable mass (density and width, as Laplace's approximation has them), the
sample does not know it if a straight line to the nearest of its draws crosses a valley, or if none
of its draws is nearly as high: a spike within a slab.
"""

import math
from collections.abc import Callable
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor

from ..program.program import Program
from ..program.sampling import over_draws
from .short_chains import Density, curvature

# Points that climb, and steps they make at most.
_POINTS, _STEPS = 48, 60
# Points along a line to the nearest draw, the depth of a valley (nats) and the mass of a mode
# that is reported, as its log share of the mode that the sample is in.
_ALONG, _VALLEY, _SHARE = 9, 3.0, -4.0
# Ends so many nats lower than the sample's mode, and more than so many modes, are not looked at.
_LOWEST, _MODES = 40.0, 5
# Newton's steps at an end that is weighed, and what one more may promise, nats: else it is none.
_NEWTON, _PROMISE = 5, 0.5
_HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


class Missed(NamedTuple):
    """A mode that a sample has missed.

    Attributes:
        top: where it is, in the unconstrained space (d,).
        log_share: log of its mass, relative to the mode that the sample is in.
    """

    top: Tensor
    log_share: float

    def __str__(self) -> str:
        times = math.exp(min(self.log_share, 5.0))
        mode = "the density has a mode that the draws have missed"
        return f"{mode}, of {times:.2g} times their mass"


def points(program: Program, u: Tensor) -> Tensor:
    """Where climbs begin: draws from the prior, points (m, d) mirrored at the origin, and wide."""
    third = _POINTS // 3
    points = [-u[torch.linspace(0, len(u) - 1, third).long()], 4 * torch.randn(third, u.shape[1])]
    if not program.improper():
        each = torch.arange(third)
        points.append(over_draws(lambda _: program.drawn_start(), each, program.elements))
    return torch.cat([part.to(u) for part in points])


def top(density: Density, points: Tensor) -> Tensor:
    """The highest end (1, d) of climbs from points (m, d)."""
    tops, heights = _climbed(density, points, torch.ones(points.shape[1], dtype=points.dtype))
    return tops[heights.argmax()][None]


def missed(
    density: Density,
    u: Tensor,
    value: Tensor,
    points: Tensor,
    fold: Callable[[Tensor], Tensor] = lambda points: points,
) -> Missed | None:
    """The mode of largest mass that a sample has missed; None: none was found.

    Args:
        density: log density and gradient at points (m, d).
        u: the sample (S, d).
        value: the log density there (S,).
        points: where climbs begin (m, d).
        fold: takes points (m, d) to those that are the same and near the sample: angles.
    """
    scale = u.std(0).clamp_min(1e-12)
    begin = torch.cat([u[value.argmax()][None], points])
    tops, heights = _climbed(density, begin, scale)
    tops = fold(tops)
    several = _several(tops, scale) & (heights > heights[0] - _LOWEST)
    tops, heights = tops[several], heights[several]
    unknown = _valleys(density, tops, u[_nearby(tops, heights, u, value, scale)])
    unknown[0] = False
    above = heights > value.max() + _depth(u.shape[1])
    unknown |= above
    if not unknown.any():
        return None
    home = -math.inf if above[0] else _weighed(density, tops[0], scale)[1]
    home = home if math.isfinite(home) else _mass_of(u, value)
    highest = tops[unknown][heights[unknown].argsort(descending=True)[:_MODES]]
    weighed = [_weighed(density, top, scale) for top in highest]
    top, mass = max(weighed, key=itemgetter(1))
    return Missed(top, mass - home) if mass - home > _SHARE else None


def _depth(d: int) -> float:
    """Nats by which draws of a Gaussian in d dimensions lie below its top, nearly all of them."""
    half = d / 2
    return half + 2 * math.sqrt(half) + 1


def _mass_of(u: Tensor, value: Tensor) -> float:
    """Log mass of where a sample (S, d) of log density (S,) lies, as if it were a Gaussian."""
    spread = torch.cov(u.T).reshape(u.shape[1], u.shape[1])
    entropy = 0.5 * torch.linalg.slogdet(spread).logabsdet + u.shape[1] * (_HALF_LOG_2_PI + 0.5)
    return float(value.mean() + entropy)


def _several(tops: Tensor, scale: Tensor) -> Tensor:
    """Of several ends (m, d) at one place the first, (m,)."""
    away = torch.cdist(tops / scale, tops / scale) > 0.1 * math.sqrt(tops.shape[1])
    return torch.stack([row[:i].all() for i, row in enumerate(away)])


def _climbed(density: Density, u: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Where points (m, d) end that climb the density, and its values there."""
    value, slope = density(u)
    value = value.nan_to_num(-math.inf)
    size = torch.ones(len(u), 1, dtype=u.dtype)
    for _ in range(_STEPS):
        way = (slope * scale).nan_to_num(0.0, 0.0, 0.0)
        at = u + size * scale * way / way.norm(dim=1, keepdim=True).clamp_min(1e-300)
        there, gradient = density(at)
        better = there > value
        u = torch.where(better[:, None], at, u)
        slope = torch.where(better[:, None], gradient, slope)
        value = torch.where(better, there, value)
        size = size * torch.where(better[:, None], 1.6, 0.4)
    return u, value


def _nearby(tops: Tensor, heights: Tensor, u: Tensor, value: Tensor, scale: Tensor) -> Tensor:
    """The number of the draw by which the sample may know each end (m, d), (m,).

    That is the best of those that are nearer to it than to other ends, if it is about as high as
    draws of a Gaussian there are. Else the nearest of the sample's better half: a draw of the
    other half may lie in a valley itself.
    """
    away = torch.cdist(tops / scale, u / scale)
    mine = torch.zeros_like(away, dtype=torch.bool)
    mine[away.argmin(0), torch.arange(len(u))] = True
    own, best = torch.where(mine, value, -math.inf).max(1)
    near = own > heights - _depth(u.shape[1])
    nearest = torch.where(value >= value.median(), away, math.inf).argmin(1)
    return torch.where(near, best, nearest)


def _valleys(density: Density, tops: Tensor, draws: Tensor) -> Tensor:
    """Whether the straight way from each end (m, d) to a draw (m, d) crosses a valley, (m,)."""
    share = torch.linspace(0, 1, _ALONG, dtype=tops.dtype)[:, None, None]
    values, _ = density((tops + share * (draws - tops)).flatten(0, 1))
    values = values.nan_to_num(-math.inf).unflatten(0, (_ALONG, -1))
    return values.min(0).values < torch.minimum(values[0], values[-1]) - _VALLEY


def _weighed(density: Density, top: Tensor, scale: Tensor) -> tuple[Tensor, float]:
    """An end of a climb, brought to its top by Newton's steps, and Laplace's log mass of it.

    Minus infinity where it is no mode: a saddle, a ridge, a slope without an end.
    """
    for step in range(_NEWTON):
        value, slope = (part[0] for part in density(top[None]))
        # Its negated Hessian, in units of the scale.
        hessian = curvature(density, top[None], 1e-3 * scale) * scale[:, None] * scale
        if not hessian.isfinite().all():
            return top, -math.inf
        values, vectors = torch.linalg.eigh(hessian)
        if values[0] <= 0:
            return top, -math.inf
        along = vectors.T @ (slope * scale)
        promise = float(0.5 * (along.square() / values).sum())
        further = top + scale * (vectors @ (along / values))
        last = promise < 1e-3 or step == _NEWTON - 1
        if last or not density(further[None])[0] > value:
            break
        top = further
    if promise > _PROMISE:
        return top, -math.inf
    log_volume = len(top) * _HALF_LOG_2_PI - 0.5 * values.log().sum() + scale.log().sum()
    return top, float(value + log_volume)
