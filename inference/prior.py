"""Prior and prior-predictive draws."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from ._problem import Context, Fit, Problem, Refused
from .chains import PRIOR, seeded
from .program import Program, over_draws


def prior(
    problem: Problem, *, seed: int, context: Context, draws: Annotated[int, ">= 2"] = 4000
) -> Fit:
    """Independent draws from the prior and of the data it predicts.

    Args:
        problem: model and data; of the data only the shapes of what is observed are used.
        seed: seed of the draws.
        context: unused, there is nothing to show.
        draws: number of draws.

    Raises:
        Refused: a prior is improper and cannot be sampled.
    """
    values = sample(Program(problem), seed, draws)
    return Fit(draws={name: value[None] for name, value in values.items()}, kind="prior")


def sample(program: Program, seed: int, draws: int) -> dict[str, Tensor]:
    """Every site of the model, observed ones too, drawn from the prior: (draws, *shape).

    Raises:
        Refused: a prior is improper and cannot be sampled.
    """
    if program.improper():
        names = ", ".join(program.improper())
        raise Refused(f"the prior of {names} is improper and cannot be sampled; give a proper one")
    with seeded(seed, PRIOR):
        return over_draws(program.prior, {"draw": torch.arange(draws)})
