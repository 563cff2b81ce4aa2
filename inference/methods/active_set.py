"""Newton's method for a maximum, in the interior or on kinks.

On kinks it is an active-set method: some residuals are held at zero, and Newton steps climb the
smooth piece on the others' side. Where r_A = 0 is held with multipliers l, a maximum has
gradient = sum_i l_i grad r_i with j_i <= l_i <= 0, j_i < 0 the jump of the slope across r_i = 0;
and the Hessian of density - l r_A is negative definite on the null space of grad r_A.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import scipy
import torch
from torch import Tensor

from ..program.kinks import Kinks

# Newton steps below this (relative to 1 + |u|) mean the mode is found to double precision.
STEP_TOLERANCE = 1e-10
_MOST_STEPS = 100
# A gradient counts as a sum of multipliers where what is left of it is smaller than this.
_LEFT = 1e-7
# Curvature below this share of the largest is rounding.
_BENT = 1e-12
# Newton's steps that promise less, in nats, leave the way to directions that do not bend.
_GAINED = 1e-8
# Singular values, eigenvalues and jumps below this share of the largest are zero.
_ZERO = 1e-9


def hessian(function: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    """Exact second derivatives of a scalar function at `u` (d,), (d, d), symmetrised."""
    matrix = torch.autograd.functional.hessian(function, u)
    return (matrix + matrix.T) / 2


def newton(matrix: Tensor, gradient: Tensor) -> Tensor:
    """Newton's step, the shortest one where the information is singular.

    Args:
        matrix: second derivatives (d, d).
        gradient: first derivatives (d,).

    Returns:
        The step (d,); computed in coordinates whose own second derivatives are one.
    """
    scale = matrix.diagonal().abs().sqrt().clamp_min(1e-150)
    scaled = matrix / scale[:, None] / scale
    step = torch.linalg.lstsq(-scaled, (gradient / scale)[:, None], driver="gelsd").solution
    return step[:, 0] / scale


def size(step: Tensor, u: Tensor) -> float:
    """The largest share of 1 + |u| by which a step (d,) changes `u` (d,)."""
    return (step.abs() / (1 + u.abs())).max().item() if len(u) else 0.0


@dataclass(frozen=True)
class Mode:
    """Where a maximisation of a function of `u` ended.

    Attributes:
        u: maximiser in the unconstrained space, (d,).
        value: the maximum, nats.
        hessian: second derivatives at `u`, (d, d); on kinks, those along them, minus one across.
        step: Newton's step from `u`, (d,).
        escaped: the coordinates that run to infinity, (d,) of bool; none in an interior end.
        converged: Newton's step is below tolerance.
        on: what holds it: a kink, across which there is no second derivative; an edge, beyond
            which the density is zero; None where it is smooth.
    """

    u: Tensor
    value: float
    hessian: Tensor
    step: Tensor
    escaped: Tensor
    converged: bool
    on: Literal["kink", "edge"] | None = None


class _Local(NamedTuple):
    """The density near `u` to first order, coordinates scaled to be alike.

    Attributes:
        gradient: of the piece, scaled (d,).
        across: gradients of the active residuals, scaled (a, d).
        jumps: what the slope in each of these residuals changes by as it passes zero (a,).
        residual: of the active ones (a,).
        multipliers: of the active ones, within their bounds (a,).
    """

    gradient: Tensor
    across: Tensor
    jumps: Tensor
    residual: Tensor
    multipliers: Tensor

    @property
    def left(self) -> Tensor:
        """What the multipliers leave of the gradient: the direction of steepest ascent (d,)."""
        return self.gradient - self.across.T @ self.multipliers


class ActiveSet:
    """The ascent to the maximum on kinks that is nearest to `u`.

    Its state is a point, the signs of the residuals there, and which are held at zero.

    Args:
        kinks: the density and its residuals.
        u: a point near the maximum (d,).
        limit: how far |u| may go (d,).
        near: residuals (m,) up to this are tried at zero first.
    """

    def __init__(self, kinks: Kinks, u: Tensor, limit: Tensor, near: Tensor):
        self.kinks, self.u, self.limit = kinks, u, limit
        residuals = kinks.residuals(u)
        self.side = torch.where(residuals < 0, -1.0, 1.0).to(u)  # where the density is taken
        self.active = residuals.abs() <= near
        self.met = torch.zeros_like(self.active)  # on the way, so that they lie ahead
        self.scale = kinks.slopes(u)
        self.blocked = False  # the last step could not begin
        self._start()

    def _start(self) -> None:
        """Hold the smallest residuals that can all be brought to zero at once."""
        beside = self.kinks.across(self.u, self.side, self.active)
        lengths = beside.rows.norm(dim=1).clamp_min(1e-300)
        index = self.active.nonzero()[:, 0]
        self.active[index] = False
        held: list[int] = []
        for i in (beside.residual.abs() / lengths).argsort().tolist():
            if _consistent(beside.rows[[*held, i]], beside.residual[[*held, i]]):
                held.append(i)
        self.active[index[held]] = True

    def run(self) -> Mode:
        """Steps until none is left to take; where no kink holds the end, it is not polished."""
        for _ in range(_MOST_STEPS):
            here = self._local()
            if not here.gradient.isfinite().all():
                step, matrix, still = torch.zeros_like(self.u), -torch.eye(len(self.u)), False
                break
            if self._release(here):
                continue
            step, direction, matrix = self._step(here)
            still = size(step, self.u) < STEP_TOLERANCE
            if still:
                self.u = self.u + step  # residuals that are held are zero to the last digit
                break
            if not self._move(step, direction):
                break
        return self._end(here, step, matrix, still)

    # -- first order -----------------------------------------------------------------------------

    def _local(self) -> _Local:
        """The neighbourhood, without the residuals that are no peaks of the density."""
        while True:
            beside = self.kinks.across(self.u, self.side, self.active)
            rows, gradient = beside.rows / self.scale, beside.gradient / self.scale
            multipliers = _multipliers(rows, gradient, beside.jumps)
            here = _Local(gradient, rows, beside.jumps, beside.residual, multipliers)
            finite = here.jumps[here.jumps.isfinite()].abs()
            peaks = here.jumps < -_ZERO * max(finite.tolist(), default=1.0)
            if peaks.all():
                return here
            index = self.active.nonzero()[:, 0]
            passed = self.met[index] | (here.jumps == torch.inf)
            self.side[index[~peaks & passed]] *= -1
            self.active[index[~peaks]] = False
            self.met[index] = False

    # -- steps -----------------------------------------------------------------------------------

    def _step(self, here: _Local) -> tuple[Tensor, bool, Tensor]:
        """Newton's step; whether it is a mere direction; second derivatives along the kinks."""

        def lagrangian(u: Tensor) -> Tensor:
            value, residuals = self.kinks.piece(u, self.side)
            return value - here.multipliers @ (self.side * residuals)[self.active]

        matrix = hessian(lagrangian, self.u).nan_to_num() / self.scale[:, None] / self.scale
        normal, null = _split(here.across, here.residual)
        reduced = null.T @ matrix @ null
        slope = null.T @ (here.gradient + matrix @ normal)
        tangent, straight = _climb(reduced, slope)
        rising = bool(straight.norm() > _ZERO * (1 + here.gradient.norm()))
        direction = rising and bool(slope @ tangent < _GAINED)
        if self.blocked:  # by a kink that was just let go: the steepest way leads away from it
            direction, straight = True, null.T @ here.gradient
        if direction:  # where nothing bends down, as far as the next kink
            tangent = straight / straight.norm().clamp_min(1e-300)
        outward = null @ reduced @ null.T - (torch.eye(len(null)).to(null) - null @ null.T)
        full = outward * self.scale[:, None] * self.scale
        return (normal + null @ tangent) / self.scale, direction, full

    def _move(self, step: Tensor, direction: bool) -> bool:
        """Go along a step, no further than to the next kink; False where nothing rises."""
        before = self._value(self.u)
        length = 1.0
        room = (self.limit - self.u.abs()).clamp(min=0)
        longest = ((room + 2 * self.u.abs() * (self.u * step < 0)) / step.abs()).min().item()
        if direction:
            length = self._stretch(step, before, longest)
        for _ in range(40):
            length, met = self._met(step, min(length, longest))
            there = self.u + length * step
            if self._value(there) >= before - 1e-9 * (1 + abs(before)):
                self.u = there
                self.active, self.met = self.active | met, met
                blocked = size(length * step, self.u) < STEP_TOLERANCE
                stuck, self.blocked = blocked and self.blocked, blocked
                return not stuck
            length /= 2
        return False

    def _stretch(self, step: Tensor, before: float, longest: float) -> float:
        """How often a direction can be doubled while the density rises and no kink is met."""
        length, best = 1e-3, before
        while length < longest and length < 1e9:
            value = self._value(self.u + 2 * length * step)
            if not value > best or self._met(step, 2 * length)[1].any():
                break
            length, best = 2 * length, value
        return 2 * length

    def _met(self, step: Tensor, length: float) -> tuple[float, Tensor]:
        """The length cut at the first kink that is met on the way, and which are met there."""
        low, high = 0.0, length
        before, after = self._residuals(self.u), self._residuals(self.u + length * step)
        crossing = self._crossing(after)
        if not crossing.any():
            return length, crossing
        small = 1e-10 * before.abs() + 1e-14 * before.abs().max()
        for count in range(60):
            share = torch.where(crossing, (before / (before - after)).clamp(0, 1), torch.inf)
            met = crossing & (share <= share.min() + 1e-12)
            # By secants, which are exact where residuals are linear, and by halves in turn.
            length = low + (high - low) * (0.5 if count % 2 else share.min().item())
            here = self._residuals(self.u + length * step)
            if (here.abs() <= small)[met].all() or not low < length < high:
                break
            if self._crossing(here).any():
                high, after, crossing = length, here, self._crossing(here)
            else:
                low, before = length, here
        return length, met

    def _crossing(self, residuals: Tensor) -> Tensor:
        """Which residuals, not held, are on the other side (m,)."""
        return ~self.active & (residuals * self.side < 0)

    def _release(self, here: _Local) -> bool:
        """Let go of the kinks whose multipliers are beyond their bounds; False if none is."""
        index = self.active.nonzero()[:, 0]
        rise = here.across @ here.left / here.across.norm(dim=1).clamp_min(1e-300)
        least = _LEFT * (1 + here.gradient.norm())
        slack = 1e-6 * torch.where(here.jumps.isfinite(), here.jumps.abs(), here.multipliers.abs())
        up = (rise > least) & (here.multipliers >= -slack)
        down = (rise < -least) & (here.multipliers <= here.jumps + slack)
        if not (up | down).any():
            return False
        self.side[index[down]] *= -1
        self.active[index[up | down]] = False
        return True

    def _end(self, here: _Local, step: Tensor, matrix: Tensor, still: bool) -> Mode:
        """Where the steps ended; it is a maximum where no direction rises, to first order."""
        small = bool(here.left.norm() <= _LEFT * (1 + here.gradient.norm()))
        on = "kink" if self.active.any() else None
        on = "edge" if here.jumps.isinf().any() else on
        escaped, value = self.u.abs() >= self.limit - 1, self._value(self.u)
        return Mode(self.u, value, matrix, step, escaped, still and small, on)

    def _value(self, u: Tensor) -> float:
        """The density; on an edge, that of the inner side."""
        with torch.no_grad():
            value = self.kinks.density(u).item()
        if not np.isfinite(value):
            value = self.kinks.piece(u.detach().clone().requires_grad_(), self.side)[0].item()
        return value if np.isfinite(value) else -np.inf

    def _residuals(self, u: Tensor) -> Tensor:
        return self.kinks.piece(u.detach().clone().requires_grad_(), self.side)[1].detach()


def _multipliers(across: Tensor, gradient: Tensor, jumps: Tensor) -> Tensor:
    """The multipliers within their bounds that leave least of the gradient, (a,)."""
    if len(jumps) == 0 or not (jumps < 0).all() or not gradient.isfinite().all():
        return torch.zeros_like(jumps)
    lengths = across.norm(dim=1)
    # Of unit gradients, so that residuals of any unit weigh alike.
    bounds = ((jumps * lengths).numpy(), np.zeros(len(jumps)))
    unit = (across / lengths[:, None]).T.numpy()
    fitted = scipy.optimize.lsq_linear(unit, gradient.numpy(), bounds, method="bvls", tol=1e-14)
    return torch.as_tensor(fitted.x).to(gradient) / lengths


def _split(across: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """The shortest step (d,) that brings residuals to zero; directions (d, k) that keep them."""
    d = across.shape[1]
    if len(across) == 0:
        return across.new_zeros(d), torch.eye(d).to(across)
    lengths = across.norm(dim=1)
    left, values, right = torch.linalg.svd(across / lengths[:, None])
    rank = int((values > _ZERO * values[0]).sum())
    coordinates = (left.T @ (residual / lengths))[:rank] / values[:rank]
    return -right[:rank].T @ coordinates, right[rank:].T


def _consistent(rows: Tensor, residual: Tensor) -> bool:
    """Whether a step brings all residuals to zero, to first order."""
    step, _ = _split(rows, residual)
    left = (residual + rows @ step).abs()
    return bool((left <= 1e-6 * residual.abs().max() + 1e-12).all())


def _climb(matrix: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Newton's step where a density bends down, and its slope where it does not; (k,) each."""
    if not len(matrix):
        return slope, slope
    scale = matrix.diagonal().abs().sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    bends, axes = torch.linalg.eigh(matrix / scale[:, None] / scale)
    along = axes.T @ (slope / scale)
    down = bends < -_BENT * bends.abs().max()
    step = torch.where(down, -along / torch.where(down, bends, 1.0), 0.0)
    return axes @ step / scale, axes @ torch.where(down, 0.0, along) / scale
