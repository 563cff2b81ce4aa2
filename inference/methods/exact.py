"""The truth, where the model states it: independent draws from the closed form."""

from typing import Annotated

import numpy as np
import torch

from models.contract import Refused

from ..core.problem import Context, Fit
from ..core.seeds import DISCRETE, DRAWS, seeded, spawn
from ..program import memory
from ..program.program import Program


def exact(
    program: Program, *, seed: int, context: Context, draws: Annotated[int, ">= 2"] = 4000
) -> Fit:
    """Closed form, enumeration or quadrature: independent draws and the exact log evidence.

    Args:
        program: a program whose model states an exact truth, or has discrete latents alone.
        seed: seed of the draws.
        context: unused, there is nothing to show.
        draws: number of draws.

    Raises:
        Refused: the model states no exact truth for these options and data.
    """
    memory.check(program, draws)
    exact = program.problem.exact
    truth = exact() if exact is not None else None
    if truth is not None:
        rng, dtype = np.random.default_rng(spawn(seed, DRAWS)), torch.get_default_dtype()
        sample = truth.sample(draws, rng)
        with seeded(seed, DISCRETE):
            drawn = {k: torch.as_tensor(v, dtype=dtype) for k, v in sample.items()}
            values = program.complete(drawn)
        evidence = truth.log_evidence
    elif program.of("discrete") and not program.size:  # a sum over all their values
        with seeded(seed, DRAWS):
            values = program.complete({"draw": torch.arange(draws)})
        evidence = program.log_joint({}).item()
    else:
        raise Refused("no exact posterior is known for this model and data; use nuts")
    return Fit(
        draws={name: value[None] for name, value in values.items()},
        kind="independent",
        metrics={} if evidence is None else {"log_evidence": evidence},
        exact=truth,
    )
