"""Point estimates: maximum likelihood and the posterior mode, polished by Newton's method.

How an end of the maximisation is judged is in `ends.py`.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

from models.contract import BadSetting, Refused

from .. import METHODS, load
from ..core.problem import Context, Fit, Problem
from ..core.seeds import DISCRETE, FIT, seeded
from ..core.settings import OF_NETWORKS
from ..program import memory
from ..program.program import Program
from .ends import judged, refuse_steps
from .mode import mode
from .svi import Pace


def mle(
    program: Program,
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
        program: model and data; discrete latents are summed out with their priors.
        seed: seed of the starting points.
        context: whether to show progress; of networks alone.
        starts: number of random starting points; the best end is taken.
        steps: steps of the ascent; of networks alone, as lr and batch_size.
        lr: its first learning rate.
        batch_size: rows in a step; None takes all.

    Raises:
        Refused: nothing is observed, the likelihood jumps, or its maximiser is not unique or at
            infinity.
        BadSetting: settings of networks for another model.
    """
    if not program.of("observed"):
        raise Refused("mle needs observations, nothing is observed; give data, or use map")
    pace = pace_of(program.problem, steps, lr, batch_size)
    if pace is not None:
        return load(METHODS["mle"].network)(program, pace, seed, context, prior=False)
    return _estimate(program, seed, starts, prior=False)


def map_(
    program: Program,
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
        program: model and data; discrete latents are summed out.
        seed: seed of the starting points.
        context: whether to show progress; of networks alone.
        starts: number of random starting points; the best end is taken.
        steps: steps of the ascent; of networks alone, as lr and batch_size.
        lr: its first learning rate.
        batch_size: rows in a step; None takes all.

    Raises:
        Refused: the density is unbounded or jumps, or its maximiser is at infinity or not unique.
        BadSetting: settings of networks for another model.
    """
    pace = pace_of(program.problem, steps, lr, batch_size)
    if pace is not None:
        return load(METHODS["map"].network)(program, pace, seed, context, prior=True)
    return _estimate(program, seed, starts, prior=True)


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


def _estimate(program: Program, seed: int, starts: int, *, prior: bool) -> Fit:
    if not program.size:
        raise Refused("the model has no continuous latent to estimate; use exact")
    program = Program(program.problem, narrowed=False)
    memory.check(program, hessian=True)
    with seeded(seed, FIT):
        points = [program.start() for _ in range(starts)]
    refuse_steps(partial(program.log_density, jacobian=False, prior=prior), points[0])
    found = mode(program, points, prior=prior)
    values, findings = judged(program, found, prior=prior)
    with seeded(seed, DISCRETE):
        draws = program.complete({k: v[None] for k, v in values.items()})
    return Fit(
        draws={k: v[None] for k, v in draws.items()},
        kind="point",
        metrics={"log_joint" if prior else "log_likelihood": found.value},
        point=values,
        findings=findings,
    )
