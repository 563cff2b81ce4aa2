"""Point estimates of a network's weights, by stochastic ascent: one of the many that are alike."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..core.problem import Context, Fit
from ..core.seeds import DISCRETE, FIT, seeded
from ..methods.svi import BEGIN, Pace, store, trained
from ..program.program import Program
from . import weights


def estimate(program: Program, pace: Pace, seed: int, context: Context, *, prior: bool) -> Fit:
    """A point estimate of a network's weights, one of the many that are alike."""
    values, ended = climbed(program, pace, prior=prior, seed=seed, context=context)
    with seeded(seed, DISCRETE):
        draws = program.complete({k: v[None] for k, v in values.items()})
    return Fit(draws={k: v[None] for k, v in draws.items()}, kind="point", params=values, **ended)


def climbed(
    program: Program, pace: Pace, *, prior: bool, seed: int, context: Context
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of a network at the top of a stochastic ascent: of log posterior or likelihood.

    Returns:
        Latent to value, and what a `Fit` says of the ascent.
    """
    with seeded(seed, FIT, BEGIN):
        points = weights.Points(program, program.start_of, prior=prior)
    with store():
        ended = trained(program, points.guide(), pace, seed, context)
        values = {name: value.detach().clone() for name, value in points.locs().items()}
    return values, ended
