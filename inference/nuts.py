"""The No-U-Turn sampler (Hoffman and Gelman 2014) on the traced density.

Two engines: nutpie (Seyboldt, Carlson and Carpenter; adapts its mass matrix from draws and
gradients, so that 400 steps of warm-up do), and Pyro's own kernel as a reference.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import numpy as np
import pyro
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ._problem import Context, Fault, Fit, Problem, Refused, check_memory
from .chains import CHAIN, DISCRETE, FIT, seeded, spawn
from .program import Differentiable, Program, over_draws, traced

Density = Callable[[Tensor], tuple[Tensor, Tensor]]


def nuts(
    problem: Problem,
    *,
    seed: int,
    context: Context,
    chains: Annotated[int, ">= 1"] = 4,
    draws: Annotated[int, ">= 4"] = 1000,
    warmup: Annotated[int, ">= 10"] = 400,
    target_accept: Annotated[float, "> 0", "< 1"] = 0.8,
    max_tree_depth: Annotated[int, ">= 1", "<= 15"] = 10,
    metric: Literal["auto", "diagonal", "lowrank"] = "auto",
    engine: Literal["nutpie", "pyro"] = "nutpie",
) -> Fit:
    """No-U-Turn sampling of the unconstrained density: Markov chains that end in the posterior.

    Args:
        problem: model and data; discrete latents are summed out, then recovered.
        seed: seed; draws depend on it and on the number of the chain alone.
        context: whether to show progress.
        chains: independent chains, run one after another.
        draws: draws kept of each chain.
        warmup: steps before them, in which step size and mass matrix adapt.
        target_accept: acceptance aimed at; closer to 1 takes smaller steps (fewer divergences).
        max_tree_depth: a trajectory has at most 2 to this power steps.
        metric: mass matrix, `lowrank` learns correlations (nutpie only); `auto` does so up to
            64 dimensions, beyond which it costs more than it brings (a network of 354 weights:
            six times as long).
        engine: the sampler; `pyro` wants a longer warm-up and is much slower.

    Raises:
        Refused: the model has no continuous latent. Fault: no starting point.
    """
    program = Program(problem)
    if not program.size:
        raise Refused("nuts needs a continuous latent, the model has none; use exact")
    check_memory(chains * draws, program.size)
    with seeded(seed, FIT):
        density = traced(program.log_density, program.start())
    lowrank = metric == "lowrank" or (metric == "auto" and program.size <= _LOWRANK_MOST)
    run_chain = {"nutpie": partial(_nutpie_chain, lowrank=lowrank), "pyro": _pyro_chain}[engine]
    results = []
    for chain in range(chains):
        label = f"chain {chain + 1} of {chains}"
        bar = tqdm(total=warmup + draws, desc=label, disable=not context.progress, mininterval=0.2)
        with bar, seeded(seed, CHAIN, chain):
            start, number = program.start(), int(spawn(seed, CHAIN, chain).generate_state(1)[0])
            results.append(
                run_chain(
                    density, start, number, warmup, draws, target_accept, max_tree_depth, bar
                )
            )
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


# Unconstrained dimensions up to which correlations are learnt by default.
_LOWRANK_MOST = 64

_NUTPIE_STATS = {
    "diverging": "diverging",
    "energy": "energy",
    "logp": "lp",
    "depth": "tree_depth",
    "n_steps": "n_steps",
    "step_size_bar": "step_size",
    "mean_tree_accept": "acceptance_rate",
}


def _nutpie_chain(
    density: Density,
    start: Tensor,
    seed: int,
    warmup: int,
    draws: int,
    target_accept: float,
    max_tree_depth: int,
    bar: tqdm,
    *,
    lowrank: bool,
) -> dict[str, Tensor]:
    """One chain: `u` (draw, d) and the statistics of each draw (draw,)."""
    import nutpie

    def make_density() -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
        def value_and_grad(u: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = density(torch.from_numpy(u.astype(start.numpy().dtype)))
            return value.item(), gradient.numpy().astype(float)

        return value_and_grad

    def make_expand(*_: int) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        def expand(u: np.ndarray) -> dict[str, np.ndarray]:
            bar.update()
            return {"u": u}

        return expand

    size = len(start)
    model = nutpie.compiled_pyfunc.from_pyfunc(
        size,
        make_density,
        make_expand,
        [np.dtype("float64")],
        [(size,)],
        ["u"],
        make_initial_point_fn=lambda _: start.numpy().astype(float),
    )
    try:
        result = nutpie.sample(
            model,
            draws=draws,
            tune=warmup,
            chains=1,
            cores=1,
            seed=seed,
            save_warmup=False,
            progress_bar=False,
            target_accept=target_accept,
            maxdepth=max_tree_depth,
            low_rank_modified_mass_matrix=lowrank,
        )
    except RuntimeError as error:
        first = str(error).partition("\n")[0]
        raise Fault(f"the sampler stopped ({first}); check the model's supports") from error
    stats = result["sample_stats"]
    columns = {ours: stats[name].values[0] for name, ours in _NUTPIE_STATS.items()}
    columns = {k: v.astype("int64") if v.dtype.kind == "u" else v for k, v in columns.items()}
    u = torch.as_tensor(result["posterior"]["u"].values[0], dtype=start.dtype)
    return {"u": u, **{name: torch.as_tensor(column) for name, column in columns.items()}}


def _pyro_chain(
    density: Density,
    start: Tensor,
    seed: int,
    warmup: int,
    draws: int,
    target_accept: float,
    max_tree_depth: int,
    bar: tqdm,
) -> dict[str, Tensor]:
    """The same by Pyro's kernel, which draws from torch's current random state."""
    from pyro.infer import NUTS

    class Kernel(NUTS):
        """Pyro's kernel, which also tells the energy of each step."""

        def _sample_r(self, name: str) -> tuple:
            r, r_unscaled = super()._sample_r(name)
            # The Hamiltonian at the start of the trajectory, as E-BFMI wants it.
            self.energy = self._kinetic_energy(r_unscaled) + self._potential_energy_last
            return r, r_unscaled

    kernel = Kernel(
        potential_fn=lambda params: -Differentiable.apply(params["u"], density),
        target_accept_prob=target_accept,
        max_tree_depth=max_tree_depth,
    )
    kernel.initial_params = params = {"u": start}
    kept, stats = [], []
    with pyro.validation_enabled(False):
        kernel.setup(warmup)
        for step in range(warmup + draws):
            params = kernel.sample(params)
            bar.update()
            if step >= warmup:
                kept.append(params["u"])
                stats.append((kernel.energy, -kernel._potential_energy_last, kernel.step_size))
    diverging = torch.zeros(draws, dtype=torch.bool)
    diverging[[i for i in kernel.diagnostics()["divergences"] if i < draws]] = True
    columns = torch.as_tensor(stats, dtype=start.dtype).T
    named = dict(zip(("energy", "lp", "step_size"), columns))
    return {"u": torch.stack(kept), "diverging": diverging, **named}
