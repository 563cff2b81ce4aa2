"""Point estimates: maximum likelihood and the posterior mode, polished by Newton's method.

Three ends of an optimisation are told apart, never a number in place of a refusal:

- interior: the gradient vanishes, the Hessian is negative definite, Newton steps shrink to zero;
- border: a coordinate runs to infinity in the unconstrained space while the density tends to a
  finite limit there, and the support is closed off by a bound (a coin with only heads);
- none: the density grows without bound, or its maximiser is at infinity (separable classes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from scipy import optimize
from torch import Tensor

from ._problem import Context, Finding, Fit, Problem, Refused
from .chains import DISCRETE, FIT, seeded
from .graph import Function, compiled
from .program import Program, value_and_grad

# Newton steps below this (relative to 1 + |u|) mean the mode is found to double precision.
_STEP_TOLERANCE = 1e-10
# Smallest eigenvalue of the scaled information below which it counts as singular.
_SINGULAR = 1e-10
# |u| at which a value is within 1e-11 (relative) of a bound, and floating point still resolves it.
_FAR = 25.0


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


def mle(
    problem: Problem,
    *,
    seed: int,
    context: Context,
    starts: Annotated[int, ">= 1"] = 4,
) -> Fit:
    """Maximum likelihood: the peak of p(data given continuous latents), priors dropped.

    Args:
        problem: model and data; discrete latents are summed out with their priors.
        seed: seed of the starting points.
        context: unused, there is nothing to show.
        starts: number of random starting points; the best end is taken.

    Raises:
        Refused: nothing is observed, the information is singular, or there is no maximiser.
    """
    program = Program(problem)
    if not program.of("observed"):
        raise Refused("mle needs observations, nothing is observed; give data, or use map")
    return _estimate(program, seed, starts, prior=False)


def map_(
    problem: Problem,
    *,
    seed: int,
    context: Context,
    starts: Annotated[int, ">= 1"] = 4,
) -> Fit:
    """Posterior mode of the density in the constrained space; equals mle under flat priors.

    Args:
        problem: model and data; discrete latents are summed out.
        seed: seed of the starting points.
        context: unused, there is nothing to show.
        starts: number of random starting points; the best end is taken.

    Raises:
        Refused: the density is unbounded, or its maximiser is at infinity.
    """
    return _estimate(Program(problem), seed, starts, prior=True)


def _estimate(program: Program, seed: int, starts: int, *, prior: bool) -> Fit:
    name = "the posterior density" if prior else "the likelihood"
    if not program.size:
        raise Refused("the model has no continuous latent to estimate; use exact")
    with seeded(seed, FIT):
        points = [program.start() for _ in range(starts)]
    found = mode(program, points, prior=prior)
    if found.escaped.any():
        density = partial(program.log_density, jacobian=False, prior=prior)
        values, findings = _border(program, density, found, name)
    else:
        values, findings = program.constrain(found.u), _interior(program, found, name)
    with seeded(seed, DISCRETE):
        draws = program.complete({k: v[None] for k, v in values.items()})
    return Fit(
        draws={k: v[None] for k, v in draws.items()},
        kind="point",
        metrics={"log_joint" if prior else "log_likelihood": found.value},
        point=values,
        findings=findings,
    )


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
        if _elementwise(program.sites[name].fn.support) is not constraints.real:
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
    return Mode(u, value.item(), matrix, step, escaped, converged)


def _newton(matrix: Tensor, gradient: Tensor) -> Tensor:
    """Newton's step, the shortest one where the information is singular."""
    scale = matrix.diagonal().abs().sqrt().clamp_min(1e-150)
    scaled = matrix / scale[:, None] / scale
    step = torch.linalg.lstsq(-scaled, (gradient / scale)[:, None], driver="gelsd").solution
    return step[:, 0] / scale


def _size(step: Tensor, u: Tensor) -> float:
    return (step.abs() / (1 + u.abs())).max().item() if len(u) else 0.0


def _interior(program: Program, mode: Mode, name: str) -> list[Finding]:
    if not program.size:
        return []
    information = -mode.hessian
    scale = information.diagonal().abs().sqrt()
    if (scale == 0).any():
        raise Refused(
            f"{name} has no curvature in {_at(program, scale == 0)}, in which it is flat or rises "
            "for ever; use a proper prior"
        )
    eigenvalues, vectors = torch.linalg.eigh(information / scale[:, None] / scale)
    if eigenvalues[0] < _SINGULAR:
        worst = vectors[:, 0].abs() > 0.1
        raise Refused(
            f"{name} has no unique maximum, its information is singular in "
            f"{_at(program, worst)}; drop what is redundant, or use a proper prior"
        )
    if not mode.converged:
        gradient = "the last Newton step was not below tolerance"
        return [Finding("fail", f"the optimiser has not converged ({gradient})", "rescale data")]
    return []


def _at(program: Program, which: Tensor) -> str:
    """The sites that own the marked coordinates of `u`, in words."""
    names = [n for n, (part, _) in program.layout.items() if which[part].any()]
    return ", ".join(names)


def _border(
    program: Program, function: Callable[[Tensor], Tensor], mode: Mode, name: str
) -> tuple[dict[str, Tensor], list[Finding]]:
    """An escape judged: a finite density at a bound of the support, or no maximiser at all."""
    where = _at(program, mode.escaped)
    direction = torch.where(mode.escaped, mode.step, torch.zeros_like(mode.u))
    if not direction.isfinite().all() or not direction.any():
        direction = torch.where(mode.escaped, mode.u.sign(), torch.zeros_like(mode.u))
    direction = direction / direction.abs().max()
    _, slope = value_and_grad(function, mode.u)
    # Where the density is not concave, Newton's step points downhill.
    direction = torch.where(slope * direction < -1e-4, -direction, direction)
    if (slope * direction).sum() > 1e-4 or not slope.isfinite().all():
        raise Refused(
            f"{name} is unbounded as {where} nears the border of its support, so it has no "
            "maximum; use a prior that is bounded there, or a method that integrates"
        )
    values = program.constrain(mode.u + 15 * direction)
    snapped = {k: _snap(values[k], program.sites[k].fn.support) for k in where.split(", ")}
    if any(on_bound is None for on_bound in snapped.values()):
        raise Refused(
            f"{name} has no finite maximiser ({where} runs to infinity, improper posterior); "
            "use a proper prior"
        )
    spots = ", ".join(f"{k} = {_text(v)}" for k, v in snapped.items())
    finding = Finding(
        "warn",
        f"the maximum lies at the border of the support ({spots})",
        "it is over-confident and has no standard error; compare with nuts or exact",
    )
    return values | snapped, [finding]


def _elementwise(support: Any) -> Any:
    """The constraint on single elements, out of its `independent` wrappers."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def _snap(value: Tensor, support: Any) -> Tensor | None:
    """The value with what is within rounding of a bound put on it; None if nothing is."""
    support = _elementwise(support)
    simplex = support is constraints.simplex
    bounds = [getattr(support, bound, None) for bound in ("lower_bound", "upper_bound")]
    snapped = value
    for limit in [0.0] if simplex else [bound for bound in bounds if bound is not None]:
        limit = torch.as_tensor(limit, dtype=value.dtype)
        close = (snapped - limit).abs() < 1e-9 * (1 + limit.abs())
        snapped = torch.where(close, limit, snapped)
    return None if torch.equal(snapped, value) else snapped


def _text(value: Tensor) -> str:
    return f"{value.item():g}" if value.numel() == 1 else str(value.tolist())
