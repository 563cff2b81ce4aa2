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
_HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


def findings(program: Program, density: Density, u: Tensor) -> list[Finding]:
    """A warning where the sample has missed a mode.

    Args:
        program: the model.
        density: its unconstrained log density and gradient.
        u: draws of the sample in the unconstrained space (S, d).
    """
    share = missed(density, u, _points(program, u))
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


def missed(density: Density, u: Tensor, points: Tensor) -> float | None:
    """The largest log share of mass of a mode missed, relative to the sample's; None: none.

    Args:
        density: log density and gradient at points (m, d).
        u: the sample (S, d).
        points: where climbs begin (m, d).
    """
    scale = u.std(0).clamp_min(1e-12)
    value, _ = density(u)
    best, u = u[value.argmax()], u[value >= value.median()]  # not what lies in a valley itself
    tops, heights = _climbed(density, torch.cat([best[None], points]), scale)
    home, own = _mass(density, tops[0], scale), []
    for top, height in zip(tops[1:], heights[1:]):
        if not height > heights[0] - 40 or any(_near(top, other, scale) for other in own):
            continue
        own.append(top)
        if not _valley(density, top, u, scale):
            continue
        share = _mass(density, top, scale) - home
        if share > _SHARE:
            return share
    return None


def _near(top: Tensor, other: Tensor, scale: Tensor) -> bool:
    return bool(((top - other) / scale).norm() < 0.1 * math.sqrt(len(top)))


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


def _valley(density: Density, top: Tensor, u: Tensor, scale: Tensor) -> bool:
    """Whether the straight way from a mode to the nearest draw crosses a valley."""
    nearest = u[((u - top) / scale).norm(dim=1).argmin()]
    share = torch.linspace(0, 1, _ALONG, dtype=u.dtype)[:, None]
    values, _ = density(top + share * (nearest - top))
    ends = torch.minimum(values[0], values[-1])
    return bool(values.nan_to_num(-math.inf).min() < ends - _VALLEY)


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
