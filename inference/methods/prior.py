"""Prior and prior-predictive draws."""

from typing import Annotated, Any

import torch
from torch import Tensor

from models.contract import Refused

from ..core.problem import Context, Fit
from ..core.seeds import PRIOR, seeded
from ..program import memory
from ..program.program import Program
from ..program.sampling import over_draws


def prior(
    program: Program, *, seed: int, context: Context, draws: Annotated[int, ">= 2"] = 4000
) -> Fit:
    """Independent draws from the prior and of the data it predicts.

    Args:
        program: model and data; of the data only the shapes of what is observed are used.
        seed: seed of the draws.
        context: unused, there is nothing to show.
        draws: number of draws.

    Raises:
        Refused: a prior is improper and cannot be sampled.
    """
    memory.check(program, draws, observations=True)
    values = sample(program, seed, draws)
    return Fit(draws={name: value[None] for name, value in values.items()}, kind="prior")


def sample(
    program: Program, seed: int, draws: int, observed: int | None = None
) -> dict[str, Tensor]:
    """Every site of the model, observed ones too, drawn from the prior: (draws, *shape).

    Args:
        program: the model.
        seed: seed of the draws.
        draws: number of draws.
        observed: draws, the first ones, of which the observations are kept; None: all.

    Raises:
        Refused: a prior is improper and cannot be sampled.
    """
    if program.improper():
        names = ", ".join(program.improper())
        raise Refused(f"the prior of {names} is improper and cannot be sampled; give a proper one")
    observations = {site.name for site in program.of("observed")}

    def latents(_: Any) -> dict[str, Tensor]:
        return {k: v for k, v in program.prior().items() if k not in observations}

    whole = draws if observed is None else min(draws, observed)
    size = program.elements_of_run
    with seeded(seed, PRIOR):
        first = over_draws(program.prior, {"draw": torch.arange(whole)}, size)
        if whole == draws:
            return first
        rest = over_draws(latents, {"draw": torch.arange(whole, draws)}, size)
    return {k: torch.cat([v, rest[k]]) if k in rest else v for k, v in first.items()}
