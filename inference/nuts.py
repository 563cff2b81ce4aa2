"""The No-U-Turn sampler (Hoffman and Gelman 2014), multinomial variant, Pyro's kernel."""

from __future__ import annotations

from typing import Annotated

import pyro
import torch
from pyro.infer import NUTS
from torch import Tensor
from tqdm.auto import trange

from ._problem import Context, Fit, Problem, Refused
from .chains import CHAIN, DISCRETE, seeded
from .program import Program, over_draws


def nuts(
    problem: Problem,
    *,
    seed: int,
    context: Context,
    chains: Annotated[int, ">= 1"] = 4,
    draws: Annotated[int, ">= 4"] = 1000,
    warmup: Annotated[int, ">= 10"] = 1000,
    target_accept: Annotated[float, "> 0", "< 1"] = 0.8,
    max_tree_depth: Annotated[int, ">= 1", "<= 15"] = 10,
) -> Fit:
    """No-U-Turn sampling of the unconstrained density: Markov chains that end in the posterior.

    Args:
        problem: model and data; discrete latents are summed out, then recovered.
        seed: seed; draws depend on it and on the number of the chain alone.
        context: whether to show progress.
        chains: independent chains, run one after another.
        draws: draws kept of each chain.
        warmup: steps before them, in which step size and diagonal mass matrix adapt.
        target_accept: acceptance aimed at; closer to 1 takes smaller steps (fewer divergences).
        max_tree_depth: a trajectory has at most 2 to this power steps.

    Raises:
        Refused: the model has no continuous latent. Fault: no starting point.
    """
    program = Program(problem)
    if not program.size:
        raise Refused("nuts needs a continuous latent, the model has none; use exact")
    results = []
    for chain in range(chains):
        with seeded(seed, CHAIN, chain):
            kernel = _Kernel(program, target_accept, max_tree_depth)
            label = f"chain {chain + 1} of {chains}" if context.progress else None
            results.append(_chain(kernel, program.start(), warmup, draws, label))
    u = torch.stack([result.pop("u") for result in results])  # (chain, draw, d)
    stats = {name: torch.stack([r[name] for r in results]) for name in results[0]}
    with seeded(seed, DISCRETE):
        flat = {"u": u.flatten(0, 1)}
        values = program.complete(over_draws(lambda one: program.constrain(one["u"]), flat))
    return Fit(
        draws={name: value.unflatten(0, (chains, draws)) for name, value in values.items()},
        kind="chains",
        stats=stats,
    )


class _Kernel(NUTS):
    """Pyro's kernel on a flat density, which also tells the energy of each step."""

    def __init__(self, program: Program, target_accept: float, max_tree_depth: int):
        super().__init__(
            potential_fn=lambda params: -program.log_density(params["u"]),
            target_accept_prob=target_accept,
            max_tree_depth=max_tree_depth,
        )

    def _sample_r(self, name: str) -> tuple:
        r, r_unscaled = super()._sample_r(name)
        # The energy (Hamiltonian) at the start of the trajectory, as E-BFMI wants it.
        self.energy = self._kinetic_energy(r_unscaled) + self._potential_energy_last
        return r, r_unscaled


def _chain(
    kernel: _Kernel, start: Tensor, warmup: int, draws: int, label: str | None
) -> dict[str, Tensor]:
    """One chain: `u` (draw, d) and the statistics of each draw (draw,)."""
    kernel.initial_params = {"u": start}
    params = kernel.initial_params
    kept, stats = [], []
    with pyro.validation_enabled(False):
        kernel.setup(warmup)
        steps = trange(warmup + draws, desc=label, disable=label is None, mininterval=0.2)
        for step in steps:
            params = kernel.sample(params)
            if step >= warmup:
                kept.append(params["u"])
                stats.append(_statistics(kernel))
            if step % 50 == 0:
                steps.set_postfix_str("warm-up" if step < warmup else "sampling", refresh=False)
    diverging = torch.zeros(draws, dtype=torch.bool)
    diverging[[i for i in kernel.diagnostics()["divergences"] if i < draws]] = True
    columns = {name: torch.tensor([s[name] for s in stats]) for name in stats[0]}
    return {"u": torch.stack(kept), "diverging": diverging, **columns}


def _statistics(kernel: _Kernel) -> dict[str, float]:
    return {
        "energy": float(kernel.energy),
        "lp": -float(kernel._potential_energy_last),
        "step_size": float(kernel.step_size),
    }
