"""The mode of a density: L-BFGS from several starts, polished by Newton's method.

Three ends of an optimisation are told apart: in the interior the gradient vanishes, the Hessian is
negative definite and Newton steps shrink to zero; where they do not, some coordinates escape to
infinity in the unconstrained space, to a bound of the support or without a bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from scipy import optimize
from torch import Tensor

from .graph import Function, compiled
from .program import Program, value_and_grad
from .supports import elementwise

# Newton steps below this (relative to 1 + |u|) mean the mode is found to double precision.
_STEP_TOLERANCE = 1e-10
# |u| at which a value is within 1e-11 (relative) of a bound, and floating point still resolves it.
_FAR = 25.0
# A slope, nats for a step of one outwards, that far out belongs to no maximum.
_RISING = 1e-4


@dataclass(frozen=True)
class Mode:
    """Where a maximisation of a function of `u` ended.

    Attributes:
        u: maximiser in the unconstrained space, (d,).
        value: the maximum, nats.
        hessian: second derivatives at `u`, (d, d).
        step: Newton's step from `u`, (d,).
        escaped: the coordinates that run to infinity, (d,) of bool; none in an interior end.
        converged: Newton's step is below tolerance.
    """

    u: Tensor
    value: float
    hessian: Tensor
    step: Tensor
    escaped: Tensor
    converged: bool


def mode(
    program: Program, starts: list[Tensor], *, jacobian: bool = False, prior: bool = True
) -> Mode:
    """The mode of a program's density; where there are Laplace priors, it may lie on their kinks.

    Args:
        program: the model and its data.
        starts: unconstrained vectors (d,) to climb from.
        jacobian: of the density of the unconstrained vector, not of the constrained values.
        prior: with the priors of the continuous latents.
    """
    density = partial(program.log_density, jacobian=jacobian, prior=prior)
    kinks = _kinks(program) if prior else None
    if kinks is None:
        return maximise(density, starts, limits(program))
    return _maximise_with_kinks(density, starts, limits(program), kinks)


def limits(program: Program) -> Tensor:
    """How far |u| may go, (d,): to where bounded supports are a rounding error from the bound."""
    limit = torch.full((program.size,), torch.inf)
    for name, (part, _) in program.layout.items():
        if elementwise(program.sites[name].support) is not constraints.real:
            limit[part] = _FAR
    return limit


def maximise(function: Callable[[Tensor], Tensor], starts: list[Tensor], limit: Tensor) -> Mode:
    """The best local maximum of a function of `u` over several starting points.

    L-BFGS-B from each start (Byrd et al. 1995), then Newton steps with the exact Hessian.
    """
    return _polish(function, _climb(function, starts, limit), limit)


def _climb(
    function: Callable[[Tensor], Tensor],
    starts: list[Tensor],
    upper: Tensor,
    lower: Tensor | None = None,
) -> Tensor:
    """The best end of L-BFGS-B from several starts, on the function recorded once."""
    recorded = compiled(partial(value_and_grad, function), [(u,) for u in starts])
    lower = -upper if lower is None else lower
    ends = [_ascend(recorded, u, list(zip(lower.tolist(), upper.tolist()))) for u in starts]
    return max(ends, key=lambda end: end[1])[0]


def _ascend(
    recorded: Function, u: Tensor, bounds: list[tuple[float, float]]
) -> tuple[Tensor, float]:
    def negative(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = recorded(torch.as_tensor(x, dtype=u.dtype))
        if not (value.isfinite() and gradient.isfinite().all()):
            return np.inf, np.zeros_like(x)
        return -value.item(), -gradient.numpy().astype(float)

    found = optimize.minimize(
        negative,
        u.numpy().astype(float),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": 5000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-9},
    )
    return torch.as_tensor(found.x, dtype=u.dtype), -float(found.fun)


@dataclass(frozen=True)
class _Kinks:
    """Where the density has kinks -rate |u - loc|, one of each per coordinate; rate 0: none."""

    loc: Tensor
    rate: Tensor

    def penalty(self, u: Tensor) -> Tensor:
        """The kinks' part of the density, (d,) to a scalar."""
        return -(self.rate * (u - self.loc).abs()).sum()


def _kinks(program: Program) -> _Kinks | None:
    """The Laplace priors, whose modes are sparse; None where there are none."""
    loc, rate = torch.zeros(program.size), torch.zeros(program.size)
    for name, (part, _) in program.layout.items():
        site = program.sites[name]
        if isinstance(site.base, dist.Laplace):
            loc[part] = site.base.loc.expand(site.shape).flatten()
            rate[part] = 1 / site.base.scale.expand(site.shape).flatten()
    return _Kinks(loc, rate) if rate.any() else None


def _maximise_with_kinks(
    function: Callable[[Tensor], Tensor], starts: list[Tensor], limit: Tensor, kinks: _Kinks
) -> Mode:
    """A maximum that may lie on kinks: u = loc + p - q with p, q >= 0 makes the penalty linear.

    L-BFGS-B on (u or p, q), then Newton on the coordinates that are off their kinks. Plain L-BFGS
    on |u| stops far from the solution.
    """
    kinked = kinks.rate > 0

    def split(v: Tensor) -> Tensor:
        """Log density of (u + p, q): q counts where there is a kink."""
        plus, minus = v.chunk(2)
        u = torch.where(kinked, kinks.loc + plus - minus, plus)
        smooth = function(u) - kinks.penalty(u)
        return smooth - (kinks.rate * (plus + minus))[kinked].sum()

    def ends(u: Tensor) -> Tensor:
        away = u - kinks.loc
        plus = torch.where(kinked, away.clamp(min=0), u)
        return torch.cat([plus, torch.where(kinked, (-away).clamp(min=0), torch.zeros_like(u))])

    lower = torch.cat([torch.where(kinked, 0.0, -limit), torch.zeros_like(limit)])
    upper = torch.cat([limit, torch.where(kinked, torch.inf, 0.0)])
    plus, minus = _climb(split, [ends(u) for u in starts], upper, lower).chunk(2)
    u = torch.where(kinked, kinks.loc + plus - minus, plus)
    return _polish_off_kinks(function, u, limit, kinks)


def _polish_off_kinks(
    function: Callable[[Tensor], Tensor], u: Tensor, limit: Tensor, kinks: _Kinks
) -> Mode:
    """Newton on the free coordinates; on a kink the slope must not exceed the penalty's."""
    free = (kinks.rate == 0) | ((u - kinks.loc).abs() > 1e-6)
    held = torch.where(free, u, kinks.loc)

    def whole(v: Tensor) -> Tensor:
        return held.masked_scatter(free, v)

    mode = _polish(lambda v: function(whole(v)), held[free], limit[free])
    _, slope = value_and_grad(lambda x: function(x) - kinks.penalty(x), whole(mode.u))
    optimal = bool((slope.abs() <= kinks.rate * (1 + 1e-6))[~free].all())
    matrix = -torch.eye(len(u), dtype=u.dtype)
    matrix[free.nonzero(), free.nonzero()[:, 0]] = mode.hessian
    step, escaped = torch.zeros_like(u), torch.zeros_like(free)
    step[free], escaped[free] = mode.step, mode.escaped
    return Mode(whole(mode.u), mode.value, matrix, step, escaped, mode.converged and optimal)


def hessian(function: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    """Exact second derivatives at `u`, (d, d), symmetrised."""
    matrix = torch.autograd.functional.hessian(function, u)
    return (matrix + matrix.T) / 2


def _polish(function: Callable[[Tensor], Tensor], u: Tensor, limit: Tensor) -> Mode:
    """Newton's method; its step tells an interior mode (it shrinks) from an escape (it does not).

    Where the density levels off exponentially towards infinity, Newton's step is constant.
    """
    value, gradient = value_and_grad(function, u)
    matrix = hessian(function, u)
    step = first = _newton(matrix, gradient)
    for _ in range(8):
        if _size(step, u) < _STEP_TOLERANCE or ((u + step).abs() > limit).any():
            break
        new, new_gradient = value_and_grad(function, u + step)
        if not new >= value - 1e-9 * (1 + value.abs()):
            break
        u, value, gradient = u + step, new, new_gradient
        matrix = hessian(function, u)
        step = _newton(matrix, gradient)
    converged = _size(step, u) < _STEP_TOLERANCE
    running = _size(step, u) > 0.3 * _size(first, u) and not converged
    escaped = (u.abs() >= limit - 1) | (running & (step.abs() > 1e-3 * (1 + u.abs())))
    # Near the peak of a funnel curvatures are so far apart that Newton's step means nothing.
    rising = (u.abs() > limit / 2) & (gradient * u.sign() > _RISING)
    if rising.any() and not converged:
        escaped = rising
    return Mode(u, value.item(), matrix, step, escaped, converged)


def _newton(matrix: Tensor, gradient: Tensor) -> Tensor:
    """Newton's step, the shortest one where the information is singular."""
    scale = matrix.diagonal().abs().sqrt().clamp_min(1e-150)
    scaled = matrix / scale[:, None] / scale
    step = torch.linalg.lstsq(-scaled, (gradient / scale)[:, None], driver="gelsd").solution
    return step[:, 0] / scale


def _size(step: Tensor, u: Tensor) -> float:
    return (step.abs() / (1 + u.abs())).max().item() if len(u) else 0.0
