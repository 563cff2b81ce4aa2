"""The mode of a density: L-BFGS from several starts, polished by Newton's method.

Three ends of an optimisation are told apart: in the interior the gradient vanishes, the Hessian is
negative definite and Newton steps shrink to zero; where they do not, some coordinates escape to
infinity in the unconstrained space, to a bound of the support or without a bound.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy
import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

from ..program.graphs import compiled
from ..program.kinks import Kinks, value_and_grad
from ..program.program import Program
from ..program.record import Function
from ..program.supports import elementwise
from .active_set import STEP_TOLERANCE, ActiveSet, Mode, hessian, newton, size

# Over what share of a typical residual kinks are rounded, one after the other.
_WIDTHS = (1.0, 0.1, 1e-2, 1e-3, 1e-4)
# At so many widths starts join.
_JOIN = 3
# What a step on a smoothed density must gain, relative to it.
_ROUGH = 1e-11
# Newton's steps on a smoothed density, and what they must promise to gain, nats.
_MOST_IMPROVED, _MUCH = 20, 1e-3
# Ends of a smoothed ascent nearer than this, relative to 1 + |u|, are one.
_ALIKE = 1e-2
# |u| at which a value is within 1e-11 (relative) of a bound, and floating point still resolves it.
_FAR = 25.0
# A slope, nats for a step of one outwards, that far out belongs to no maximum.
_RISING = 1e-4


def mode(
    program: Program, starts: list[Tensor], *, jacobian: bool = False, prior: bool = True
) -> Mode:
    """The mode of a program's density, which may lie on kinks of it.

    Args:
        program: the model and its data.
        starts: unconstrained vectors (d,) to climb from.
        jacobian: of the density of the unconstrained vector, not of the constrained values.
        prior: with the priors of the continuous latents.
    """
    density = partial(program.log_density, jacobian=jacobian, prior=prior)
    return maximise(density, starts, limits(program))


def limits(program: Program) -> Tensor:
    """How far |u| may go, (d,): to where bounded supports are a rounding error from the bound.

    There is no limit where the bijection is affine in a coordinate, as in the first entry of an
    ordered vector or below the diagonal of a Cholesky factor.
    """
    limit = torch.full((program.size,), torch.inf)
    for name, (part, shape) in program.layout.items():
        support = program.sites[name].support
        if elementwise(support) is not constraints.real:
            limit[part] = torch.where(_affine(biject_to(support), shape), torch.inf, _FAR)
    return limit


def _affine(transform: Any, shape: tuple[int, ...]) -> Tensor:
    """In which of its coordinates (d,) a bijection is affine, the others held anywhere."""
    d = math.prod(shape)
    if transform.domain.event_dim == 0:  # elementwise, and not the identity
        return torch.zeros(d, dtype=torch.bool)
    base = torch.linspace(-1.0, 1.0, d)
    far = base + 3 * torch.stack([-torch.eye(d), torch.zeros(d, d), torch.eye(d)])  # (3, d, d)
    low, centre, high = transform(far.reshape(3, d, *shape)).flatten(2)
    bend = (low + high - 2 * centre).abs()
    return (bend <= 1e-9 * (1 + low.abs() + high.abs())).all(1)


def maximise(function: Callable[[Tensor], Tensor], starts: list[Tensor], limit: Tensor) -> Mode:
    """The best local maximum of a function of `u` over several starting points.

    L-BFGS-B from each start (Byrd et al. 1995), then Newton steps with the exact Hessian. Kinks
    are rounded at first, less and less; in the end they are held or passed exactly.
    """
    kinks = Kinks.of(function, starts[0])
    if kinks is not None:
        return _maximise_on_kinks(kinks, starts, limit)
    recorded = compiled(partial(value_and_grad, function), [(u,) for u in starts])
    u, _ = max((_ascend(recorded, u, limit) for u in starts), key=lambda end: end[1])
    return _polish(function, u, limit)


def _ascend(
    recorded: Function, u: Tensor, limit: Tensor, tolerance: float = 1e-15
) -> tuple[Tensor, float]:
    """The end of L-BFGS-B and its value, of a function that was recorded with its gradient.

    It stops where a step gains less than the tolerance, relative to the value.
    """

    def negative(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = recorded(torch.as_tensor(x, dtype=u.dtype))
        if not (value.isfinite() and gradient.isfinite().all()):
            return np.inf, np.zeros_like(x)
        return -value.item(), -gradient.numpy().astype(float)

    end = scipy.optimize.minimize(
        negative,
        u.numpy().astype(float),
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip((-limit).tolist(), limit.tolist())),
        options={"maxiter": 5000, "maxfun": 20000, "ftol": tolerance, "gtol": 1e-9},
    )
    return torch.as_tensor(end.x, dtype=u.dtype), -float(end.fun)


def _maximise_on_kinks(kinks: Kinks, starts: list[Tensor], limit: Tensor) -> Mode:
    """A maximum that may lie on kinks: L-BFGS-B on the density smoothed, then an active set."""

    def smoothed(u: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        return value_and_grad(lambda v: kinks.smoothed(v, width), u)

    ends, unit = [], kinks.typical(starts)
    recorded = compiled(smoothed, [(u, unit) for u in starts])
    for i, share in enumerate(_WIDTHS):
        # A wide rounding leaves one hill of many: some of the starts join when it is narrower.
        ends += starts[i::_JOIN] if i < _JOIN else []
        # Starts may be far off: a typical residual is less when they have come nearer.
        unit = torch.minimum(unit, torch.maximum(kinks.typical(ends), unit / 10)) if ends else unit
        width = share * unit
        climbed = [_ascend(lambda v, w=width: recorded(v, w), u, limit, _ROUGH)[0] for u in ends]
        smooth = partial(kinks.smoothed, width=width)
        ends = [_improved(smooth, u, limit) for u in _distinct(climbed)]
    modes = [_on_kinks(kinks, u, limit, 10 * width) for u in ends]
    return max(modes, key=lambda mode: mode.value)


def nearest(function: Callable[[Tensor], Tensor], u: Tensor, limit: Tensor) -> Mode:
    """The local maximum beside `u` by Newton's steps alone, which may lie on kinks."""
    kinks = Kinks.of(function, u)
    if kinks is None:
        return _polish(function, u, limit)
    return _on_kinks(kinks, u, limit, 1e-9 * kinks.typical([u]))


def _on_kinks(kinks: Kinks, u: Tensor, limit: Tensor, near: Tensor) -> Mode:
    """The end of an active-set method from `u`; residuals up to `near` are tried at zero first."""
    end = ActiveSet(kinks, u, limit, near).run()
    return end if end.on else _polish(kinks.density, end.u, limit)


def _improved(function: Callable[[Tensor], Tensor], u: Tensor, limit: Tensor) -> Tensor:
    """Newton's steps, halved until they rise, where L-BFGS has left much to gain: wild scales."""
    for _ in range(_MOST_IMPROVED):
        value, gradient = value_and_grad(function, u)
        matrix = hessian(function, u)
        if not (gradient.isfinite().all() and matrix.isfinite().all()):
            break
        step = newton(matrix, gradient)
        lengths = [step * 0.5**k for k in range(10)]
        rising = [s for s in lengths if ((u + s).abs() <= limit).all() and function(u + s) > value]
        if not rising or not gradient @ step > _MUCH:
            break
        u = u + rising[0]
    return u


def _distinct(ends: list[Tensor]) -> list[Tensor]:
    """Ends that are not alike."""
    distinct: list[Tensor] = []
    for u in ends:
        if all(size(u - other, u) > _ALIKE for other in distinct):
            distinct.append(u)
    return distinct


def _polish(function: Callable[[Tensor], Tensor], u: Tensor, limit: Tensor) -> Mode:
    """Newton's method; its step tells an interior mode (it shrinks) from an escape (it does not).

    Where the density levels off exponentially towards infinity, Newton's step is constant.
    """
    value, gradient = value_and_grad(function, u)
    matrix = hessian(function, u)
    step = first = newton(matrix, gradient)
    for _ in range(8):
        if size(step, u) < STEP_TOLERANCE or ((u + step).abs() > limit).any():
            break
        new, new_gradient = value_and_grad(function, u + step)
        if not new >= value - 1e-9 * (1 + value.abs()):
            break
        u, value, gradient = u + step, new, new_gradient
        matrix = hessian(function, u)
        step = newton(matrix, gradient)
    # Where there is no curvature, the shortest step is none although the density may rise.
    left = ((gradient + matrix @ step).abs() * (1 + u.abs())).sum() > 1e-6 * (1 + value.abs())
    converged = size(step, u) < STEP_TOLERANCE and not left
    running = size(step, u) > 0.3 * size(first, u) and not converged
    escaped = (u.abs() >= limit - 1) | (running & (step.abs() > 1e-3 * (1 + u.abs())))
    # Near the peak of a funnel curvatures are so far apart that Newton's step means nothing.
    rising = (u.abs() > limit / 2) & (gradient * u.sign() > _RISING)
    if rising.any() and not converged:
        escaped = rising
    return Mode(u, value.item(), matrix, step, escaped, converged)
