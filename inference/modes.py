"""Modes that a sample of the posterior has missed: climbs from far-away points, compared with it.

Points from the prior and elsewhere climb the density, a step of each growing while it gains. Where
one ends in a mode of comparable mass (density and width, as Laplace's approximation has them),
from which a straight line to the nearest draw crosses a valley, the sample does not know it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._problem import Finding
from .program import Program, over_draws

if TYPE_CHECKING:
    from .short_chains import Density

# Points that climb, and steps they make at most.
_POINTS, _STEPS = 48, 60
# Points along a line to the nearest draw, the depth of a valley (nats) and the mass of a mode
# that is told of, as its log share of the mode that the sample is in.
_ALONG, _VALLEY, _SHARE = 9, 3.0, -4.0
# Ends so many nats lower than the sample's mode, and more than so many modes, are not looked at.
_LOWEST, _MODES = 40.0, 5
_HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


def findings(program: Program, density: Density, u: Tensor, value: Tensor) -> list[Finding]:
    """A warning where the sample has missed a mode.

    Args:
        program: the model.
        density: its unconstrained log density and gradient.
        u: draws of the sample in the unconstrained space (S, d).
        value: the log density there (S,).
    """
    share = missed(density, u, value, _points(program, u))
    if share is None:
        return []
    what = f"the density has a mode that the draws have missed ({_chance(share)} of theirs)"
    spoils = ("parameters", "evidence")
    return [Finding("warn", what, "use nuts with more chains", spoils, ("predictions", "loo"))]


def _chance(log_share: float) -> str:
    return f"of about {math.exp(min(log_share, 5.0)):.2g} times the mass"


def _points(program: Program, u: Tensor) -> Tensor:
    """Where climbs begin: draws from the prior, the sample mirrored at the origin, and wide."""
    third = _POINTS // 3
    points = [-u[torch.linspace(0, len(u) - 1, third).long()], 4 * torch.randn(third, u.shape[1])]
    if not program.improper():
        nothing = {"draw": torch.arange(third)}
        points.append(over_draws(lambda _: program.drawn_start(), nothing, program.elements))
    return torch.cat([part.to(u) for part in points])


def missed(density: Density, u: Tensor, value: Tensor, points: Tensor) -> float | None:
    """The log share of mass of a mode missed, relative to the sample's; None: none was found.

    Args:
        density: log density and gradient at points (m, d).
        u: the sample (S, d).
        value: the log density there (S,).
        points: where climbs begin (m, d).
    """
    scale = u.std(0).clamp_min(1e-12)
    begin = torch.cat([u[value.argmax()][None], points])
    tops, heights = _climbed(density, begin, scale)
    several = _several(tops, scale) & (heights > heights[0] - _LOWEST)
    tops = tops[several]
    missed = _valleys(density, tops, _nearby(tops, u, value, scale))
    missed[0] = False
    if not missed.any():
        return None
    home = _mass(density, tops[0], scale)
    share = max(_mass(density, top, scale) - home for top in tops[missed][:_MODES])
    return share if share > _SHARE else None


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


def _nearby(tops: Tensor, u: Tensor, value: Tensor, scale: Tensor) -> Tensor:
    """The draw by which the sample may know each end (m, d): the best of those nearest to it.

    Where none is, the nearest of the better half, as one of the others may lie in a valley itself.
    """
    away = torch.cdist(tops / scale, u / scale)
    mine = torch.zeros_like(away, dtype=torch.bool)
    mine[away.argmin(0), torch.arange(len(u))] = True
    best = torch.where(mine, value, -math.inf).argmax(1)
    nearest = torch.where(value >= value.median(), away, math.inf).argmin(1)
    return u[torch.where(mine.any(1), best, nearest)]


def _valleys(density: Density, tops: Tensor, nearby: Tensor) -> Tensor:
    """Whether the straight way from each end (m, d) to a draw (m, d) crosses a valley, (m,)."""
    share = torch.linspace(0, 1, _ALONG, dtype=tops.dtype)[:, None, None]
    values, _ = density((tops + share * (nearby - tops)).flatten(0, 1))
    values = values.nan_to_num(-math.inf).unflatten(0, (_ALONG, -1))
    return values.min(0).values < torch.minimum(values[0], values[-1]) - _VALLEY


def _mass(density: Density, top: Tensor, scale: Tensor) -> float:
    """Laplace's log mass of a mode; minus infinity where it is none."""
    step = 1e-3 * scale
    moves = torch.diag(step)
    value, _ = density(top[None])
    _, ahead = density(top + moves)
    _, behind = density(top - moves)
    hessian = (ahead - behind) / (2 * step[:, None])
    curvature = -0.5 * (hessian + hessian.T) * scale[:, None] * scale
    values = torch.linalg.eigvalsh(curvature)
    if not values.isfinite().all() or values.min() <= 0:
        return -math.inf
    log_scale = scale.log().sum()
    return float(value[0] + len(top) * _HALF_LOG_2_PI - 0.5 * values.log().sum() + log_scale)
