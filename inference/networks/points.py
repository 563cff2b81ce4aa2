"""Point estimates of a network's weights, by stochastic ascent: one of the many that are alike."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..core.problem import Context, Fit
from ..core.seeds import FIT, seeded
from ..methods.ascent import AscentSettings
from ..methods.draws import one_chain
from ..methods.training import BEGIN, store, train
from ..program.program import Program
from . import weights


def estimate(
    program: Program, settings: AscentSettings, seed: int, context: Context, *, prior: bool
) -> Fit:
    """A point estimate of a network's weights, one of the many that are alike.

    Args:
        program: a network and its data.
        settings: how the mode is climbed.
        seed: seed of start and batches.
        context: whether to show progress.
        prior: whether it is the mode of the posterior (MAP), or of the likelihood (MLE).
    """
    values, ended = climb(program, settings, prior=prior, seed=seed, context=context)
    draws = one_chain(program, {name: value[None] for name, value in values.items()}, seed)
    return Fit(draws=draws, kind="point", params=values, **ended)


def climb(
    program: Program, settings: AscentSettings, *, prior: bool, seed: int, context: Context
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of a network at the top of a stochastic ascent: of log posterior or likelihood.

    Args:
        program: a network and its data.
        settings: how it is climbed.
        prior: whether the log prior is part of what is climbed.
        seed: seed of start and batches.
        context: whether to show progress.

    Returns:
        Latent to value, and what a `Fit` holds of the ascent.
    """
    with seeded(seed, FIT, BEGIN):
        points = weights.Points(program, program.start_of, prior=prior)
    with store():
        ended = train(program, points.guide(), settings, seed, context)
        values = {name: value.detach().clone() for name, value in points.locs().items()}
    return values, ended
