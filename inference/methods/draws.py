"""Draws: what a guide draws, its log density, and how draws are completed for a `Fit`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyro.distributions as dist
import torch
from torch import Tensor

from ..core.problem import Guide
from ..core.seeds import DISCRETE, FIT, seeded
from ..program.handlers import Batch, run, sum_of_factors
from ..program.program import Program
from ..program.sampling import base_of, over_draws


def one_chain(program: Program, values: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Draws as a `Fit` holds them, (1, S, *shape): discrete latents and deterministics added.

    Args:
        program: the model.
        values: continuous latent to draws (S, *shape).
        seed: of the discrete latents.
    """
    with seeded(seed, DISCRETE):
        draws = program.complete(values)
    return {name: value[None] for name, value in draws.items()}


def draw_one(program: Program, guide: Callable, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """One draw of the latents from a guide, and its log density, nats.

    Args:
        program: the model.
        guide: a Pyro function of the data keys.
        batch: rows that stand for all, by whose weight the density is multiplied.
    """
    trace = run(guide, batch.tensors)
    values = {name: trace.nodes[name]["value"] for name in program.layout}
    return values, sum_of_factors(trace, batch)


def draw(program: Program, guide: Callable, draws: int) -> tuple[dict[str, Tensor], Tensor]:
    """Draws (S, *shape) from a guide of all rows, and their log density (S,), nats."""
    everything = Batch(program.problem.tensors)

    def draw_with_density(_: Mapping) -> dict[str, Tensor]:
        values, log_q = draw_one(program, guide, everything)
        return {**values, "log q": log_q}

    values = over_draws(draw_with_density, {"draw": torch.arange(draws)}, program.elements)
    return values, values.pop("log q")


def all_draws(program: Program, chosen: Guide, seed: int) -> dict[str, Tensor] | None:
    """All that a guide draws (S, *shape), where its draws are finitely many; else None."""
    values = _point(program, chosen, seed) if chosen.all is None else chosen.all()
    return None if values is None else {name: value.detach() for name, value in values.items()}


def _point(program: Program, chosen: Guide, seed: int) -> dict[str, Tensor] | None:
    """The one value of each latent that the guide gives, if it gives the same each time."""
    with seeded(seed, FIT):
        first = run(chosen.guide, program.problem.tensors).nodes
        if not all(isinstance(base_of(first[k]["fn"]), dist.Delta) for k in program.layout):
            return None
        second = run(chosen.guide, program.problem.tensors).nodes
    if not all(torch.equal(first[k]["value"], second[k]["value"]) for k in program.layout):
        return None
    return {k: first[k]["value"][None] for k in program.layout}


def draws_labels(program: Program, chosen: Guide, seed: int) -> bool:
    """Whether a guide is a mixture over labels of its own, whose log q is not a draw's."""
    with seeded(seed, FIT):
        nodes = run(chosen.guide, program.problem.tensors).nodes.values()
    auxiliary = [node["fn"] for node in nodes if node.get("infer", {}).get("is_auxiliary")]
    return any(fn.support.is_discrete for fn in auxiliary)
