"""Point estimates: maximum likelihood and the posterior mode, polished by Newton's method.

Three ends of an optimisation are told apart, never a number in place of a refusal:

- interior: the gradient vanishes, the Hessian is negative definite, Newton steps shrink to zero;
- border: a coordinate runs to infinity in the unconstrained space while the density tends to a
  finite limit there, and the support is closed off by a bound (a coin with only heads);
- none: the density grows without bound, or its maximiser is at infinity (separable classes).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from ._problem import Context, Finding, Fit, Problem, Refused
from .chains import DISCRETE, FIT, seeded
from .mode import Mode, mode
from .program import Program, value_and_grad
from .settings import OF_NETWORKS, BadSetting
from .supports import elementwise
from .svi import Pace, climbed

# Smallest eigenvalue of the scaled information below which it counts as singular.
_SINGULAR = 1e-10


def mle(
    problem: Problem,
    *,
    seed: int,
    context: Context,
    starts: Annotated[int, ">= 1"] = 4,
    steps: Annotated[int | None, ">= 1", OF_NETWORKS] = None,
    lr: Annotated[float | None, "> 0", OF_NETWORKS] = None,
    batch_size: Annotated[int | None, ">= 1", OF_NETWORKS] = None,
) -> Fit:
    """Maximum likelihood: the peak of p(data given continuous latents), priors dropped.

    The weights of a network are climbed by `svi`'s ascent instead, and end where the steps do.

    Args:
        problem: model and data; discrete latents are summed out with their priors.
        seed: seed of the starting points.
        context: whether to show progress; of networks alone.
        starts: number of random starting points; the best end is taken.
        steps: steps of the ascent; of networks alone, as lr and batch_size.
        lr: its first learning rate.
        batch_size: rows in a step; None takes all.

    Raises:
        Refused: nothing is observed, the information is singular, or there is no maximiser.
        BadSetting: settings of networks for another model.
    """
    program = Program(problem)
    if not program.of("observed"):
        raise Refused("mle needs observations, nothing is observed; give data, or use map")
    pace = pace_of(problem, steps, lr, batch_size)
    if pace is not None:
        return _network(problem, pace, seed, context, prior=False)
    return _estimate(program, seed, starts, prior=False)


def map_(
    problem: Problem,
    *,
    seed: int,
    context: Context,
    starts: Annotated[int, ">= 1"] = 4,
    steps: Annotated[int | None, ">= 1", OF_NETWORKS] = None,
    lr: Annotated[float | None, "> 0", OF_NETWORKS] = None,
    batch_size: Annotated[int | None, ">= 1", OF_NETWORKS] = None,
) -> Fit:
    """Posterior mode of the density in the constrained space; equals mle under flat priors.

    The weights of a network are climbed by `svi`'s ascent instead, to one of many modes.

    Args:
        problem: model and data; discrete latents are summed out.
        seed: seed of the starting points.
        context: whether to show progress; of networks alone.
        starts: number of random starting points; the best end is taken.
        steps: steps of the ascent; of networks alone, as lr and batch_size.
        lr: its first learning rate.
        batch_size: rows in a step; None takes all.

    Raises:
        Refused: the density is unbounded, or its maximiser is at infinity.
        BadSetting: settings of networks for another model.
    """
    pace = pace_of(problem, steps, lr, batch_size)
    if pace is not None:
        return _network(problem, pace, seed, context, prior=True)
    return _estimate(Program(problem), seed, starts, prior=True)


def pace_of(
    problem: Problem, steps: int | None, lr: float | None, batch_size: int | None
) -> Pace | None:
    """How a network is climbed; None for a model whose mode is found by solvers.

    Raises:
        BadSetting: settings of networks for another model.
    """
    given = {"steps": steps, "lr": lr, "batch_size": batch_size}
    given = {name: value for name, value in given.items() if value is not None}
    if problem.identified and given:
        raise BadSetting(f"{', '.join(given)}: for networks alone; leave it out")
    if problem.identified:
        return None
    return Pace(**{"steps": 10_000, "lr": 1e-3, "schedule": "linear", **given})


def _network(problem: Problem, pace: Pace, seed: int, context: Context, *, prior: bool) -> Fit:
    """A point estimate of a network's weights, one of the many that are alike."""
    values, ended = climbed(problem, pace, prior=prior, seed=seed, context=context)
    program = Program(problem)
    with seeded(seed, DISCRETE):
        draws = program.complete({k: v[None] for k, v in values.items()})
    return Fit(draws={k: v[None] for k, v in draws.items()}, kind="point", params=values, **ended)


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
    supports = program.supports(mode.u + 15 * direction)
    snapped = {k: _snap(values[k], supports[k]) for k in where.split(", ")}
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


def _snap(value: Tensor, support: Any) -> Tensor | None:
    """The value with what is within rounding of a bound put on it; None if nothing is."""
    support = elementwise(support)
    simplex = support is constraints.simplex
    bounds = [getattr(support, bound, None) for bound in ("lower_bound", "upper_bound")]
    snapped, near = value, torch.zeros_like(value, dtype=torch.bool)
    for limit in [0.0] if simplex else [bound for bound in bounds if bound is not None]:
        limit = torch.as_tensor(limit, dtype=value.dtype)
        close = (snapped - limit).abs() < 1e-9 * (1 + limit.abs())
        snapped, near = torch.where(close, limit, snapped), near | close
    return snapped if near.any() else None


def _text(value: Tensor) -> str:
    return f"{value.item():g}" if value.numel() == 1 else str(value.tolist())
