"""First derivatives of a density, and its kinks: where a model takes |r|, a maximum or a branch.

Each kink is an absolute value of some residual r(u) (`tapes.py`). With the signs of all residuals
fixed, the density is smooth: the abs-normal form of Griewank and Walther (2016,
doi:10.1080/10556788.2016.1189549). `Kinks` gives these smooth pieces, and smoothed versions of the
whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor

from .tapes import Piece, Smooth, Tape

Density = Callable[[Tensor], Tensor]

# Residuals of an operation at which a jump of the density is looked for, and steps to reach one.
_MOST_LOOKED_AT, _MOST_TO_ZERO = 3, 8
# Random signs from which typical slopes are estimated.
_MOST_SIGNS = 16


class Kinks:
    """A density (d,) to a scalar, whose kinks are where one of m residuals is zero.

    Attributes:
        density: the function.
        places: the user's line of each operation that has kinks.
        sizes: how many residuals each has.
        compared: whether each asks for the sign of a residual.
    """

    def __init__(self, density: Density, tape: Tape):
        self.density, self.places = density, tape.places
        self.sizes = [r.numel() for r in tape.residuals]
        self.compared = [id(r) in tape.compared for r in tape.residuals]

    @property
    def count(self) -> int:
        """m, the number of residuals."""
        return sum(self.sizes)

    def lines(self, which: Tensor) -> list[str]:
        """The user's lines of some of the residuals, (m,) of bool, in their order."""
        parts = zip(self.places, which.split(self.sizes))
        return sorted({place for place, part in parts if place and part.any()})

    def typical(self, points: list[Tensor]) -> Tensor:
        """The median size of the residuals of each operation at some points, (m,)."""
        each = torch.stack([self.residuals(u) for u in points]).abs().split(self.sizes, dim=1)
        sizes = [part.median() if part.numel() else part.new_ones(()) for part in each]
        sizes = [torch.where(size > 0, size, 1.0) for size in sizes]
        return torch.cat([size.expand(n) for size, n in zip(sizes, self.sizes)])

    @classmethod
    def of(cls, density: Density, u: Tensor) -> Kinks | None:
        """The kinks that a run at `u` meets; None where there are none, or they change nothing."""
        u = u.detach().requires_grad_()
        tape = _tape(density, u)
        kinks = cls(density, tape)
        if not kinks.count:
            return None
        signs = torch.where(tape.flat() < 0, -1.0, 1.0).to(u)
        sides = [kinks.piece(u, side)[0] for side in (signs, -signs)]
        slopes = [torch.autograd.grad(side, u, allow_unused=True)[0] for side in sides]
        same = sides[0] == sides[1] and torch.equal(*slopes)
        return None if same else kinks

    def residuals(self, u: Tensor) -> Tensor:
        """r(u), (m,), detached."""
        return _tape(self.density, u.detach().requires_grad_()).flat().detach()

    def steps(self, u: Tensor) -> list[str]:
        """The user's lines where the density jumps from one finite value to another, near `u`."""
        residuals = self.residuals(u).abs()
        steps = torch.zeros(self.count, dtype=torch.bool)
        for part, compared in zip(torch.arange(self.count).split(self.sizes), self.compared):
            for i in part[residuals[part].argsort()[:_MOST_LOOKED_AT]] if compared else ():
                steps[i] = self._steps_at(u, i)
        return self.lines(steps)

    def _steps_at(self, u: Tensor, i: Tensor) -> bool:
        """Whether the density jumps where one residual, the i-th, is zero.

        Such a point is looked for by Newton's steps from `u` (d,).
        """
        signs, crossed = u.new_ones(self.count), torch.zeros(self.count, dtype=torch.bool)
        crossed[i] = True
        for _ in range(_MOST_TO_ZERO):
            residuals = self.residuals(u)
            signs = torch.where(residuals < 0, -1.0, 1.0).to(u)
            beside = self.across(u, signs, crossed)
            length = beside.rows.square().sum()
            if not length > 0 or not beside.residual > 1e-12:
                break
            u = u - beside.rows[0] * beside.residual / length
        beyond = self.piece(u.requires_grad_(), torch.where(crossed, -signs, signs))[0]
        return bool(beside.jumps.isinf().all() and beyond.isfinite())

    def gradients(self, u: Tensor) -> Tensor:
        """The gradients of all residuals, (m, d)."""

        def residuals(v: Tensor) -> Tensor:
            return _tape(self.density, v).flat()

        return cast(Tensor, torch.autograd.functional.jacobian(residuals, u, vectorize=False))

    def slopes(self, u: Tensor) -> Tensor:
        """A typical slope of the residuals in each coordinate, (d,); one where there is none.

        The root mean square over random signs of their sum.
        """
        u = u.detach().clone().requires_grad_()
        residuals = _tape(self.density, u).flat()
        noise = torch.Generator().manual_seed(0)
        total = torch.zeros_like(u)
        for _ in range(_MOST_SIGNS):
            signs = torch.randint(0, 2, residuals.shape, generator=noise).to(u) * 2 - 1
            total += _gradient(signs @ residuals, u).square()
        slopes = (total / (_MOST_SIGNS * self.count)).sqrt()
        return torch.where(slopes > 0, slopes, 1.0)

    def piece(self, u: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
        """Density and residuals (m,), differentiable, of the piece with these signs (m,)."""
        with Piece(signs) as tape:
            value = self.density(u)
        return value, tape.flat()

    def smoothed(self, u: Tensor, width: Tensor) -> Tensor:
        """The density with each kink rounded over its width (m,)."""
        with Smooth(width):
            return self.density(u)

    def across(self, u: Tensor, signs: Tensor, which: Tensor) -> Across:
        """The density on both sides of some kinks, the others on the sides that `signs` say.

        Args:
            u: a point at or near these kinks (d,).
            signs: of all residuals (m,).
            which: the kinks in question, (m,) of bool.
        """
        u = u.detach().clone().requires_grad_()
        value, residuals = self.piece(u, signs)
        gradient = _gradient(value, u)
        rows, jumps = [gradient.new_zeros(0, len(u))], [gradient.new_zeros(0)]
        for i in which.nonzero()[:, 0]:
            row = signs[i] * _gradient(residuals[i], u)
            other = signs.clone()
            other[i] = -other[i]
            beyond = self.piece(u, other)[0]
            jump = (gradient - _gradient(beyond, u)) @ row / row.square().sum().clamp_min(1e-300)
            # Of the densities themselves, not of what their slopes differ by on the way to r = 0.
            drop = (value - beyond).detach() - jump * (signs[i] * residuals[i]).detach()
            rows.append(row[None])
            jumps.append(_jump(jump, drop, value.detach())[None])
        residual = (signs * residuals)[which].detach()
        return Across(gradient, torch.cat(rows), torch.cat(jumps), residual)


def _tape(density: Density, u: Tensor) -> Tape:
    """The residuals of a run at `u` (d,)."""
    with Tape() as tape:
        density(u)
    return tape


class Across(NamedTuple):
    """A density beside some of its kinks, whose residuals are positive on the side in question.

    Attributes:
        gradient: of the density on its piece (d,).
        rows: gradients of the residuals (a, d).
        jumps: what the slope in each residual changes by as it passes zero upwards (a,); minus
            infinity at an edge, beyond which the density drops; infinity where it is higher.
        residual: the residuals (a,).
    """

    gradient: Tensor
    rows: Tensor
    jumps: Tensor
    residual: Tensor


def _jump(slope: Tensor, drop: Tensor, value: Tensor) -> Tensor:
    """The jump of a slope, infinite where the density itself drops by more than rounding.

    Args:
        slope: its jump.
        drop: by how much the density is lower beyond the kink, nats.
        value: the density, nats.
    """
    if not drop.isfinite():
        return torch.full_like(slope, -torch.inf)
    steps = drop.abs() > 1e-6 * (1 + value.abs())
    return torch.where(steps, -drop.sign() * torch.inf, slope)


def _gradient(value: Tensor, u: Tensor) -> Tensor:
    """The gradient of a scalar (d,), detached; zero where it does not depend on `u`."""
    if not value.requires_grad:
        return torch.zeros_like(u)
    (gradient,) = torch.autograd.grad(value, u, retain_graph=True, materialize_grads=True)
    return gradient.detach()


# -- derivatives -------------------------------------------------------------------------------


def value_and_grad(function: Callable[[Tensor], Tensor], u: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient of a scalar function at `u`, both detached."""
    u = u.detach().requires_grad_()
    value = function(u)
    (gradient,) = torch.autograd.grad(value, u)
    return value.detach(), gradient


def difference(
    function: Callable[[Tensor], Tensor], u: Tensor, way: Tensor, slope: float, error: float
) -> float:
    """The central difference of a function at `u` along `way`, of the first step that agrees.

    A kink within a step (an absolute value, a rectifier) spoils the larger ones, rounding the
    smallest; both errors together are least at about the cube root of the rounding unit.

    Args:
        function: of `u` (d,), a scalar.
        u: where.
        way: a direction (d,).
        slope: the derivative that it should equal.
        error: by which it may differ.
    """
    numeric, usual = math.nan, 1.65 * torch.finfo(u.dtype).eps ** (1 / 3)
    for step in (usual, 10 * usual, usual / 10):
        with torch.no_grad():
            rise = function(u + step * way) - function(u - step * way)
        numeric = float(rise) / (2 * step)
        if abs(numeric - slope) <= error:
            break
    return numeric
