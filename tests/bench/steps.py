"""SVI steps of a VAE: the zoo against a hand-written PyTorch loop and NumPyro, on one core."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median

import numpy as np

SIZES = {"64-64-20": (64, 64, 20), "784-400-20": (784, 400, 20)}
BATCH, ROWS, STEPS, ROUNDS = 128, 2048, 40, 15


def images(pixels: int) -> np.ndarray:
    """Binary rows, single precision."""
    return (np.random.default_rng(0).random((ROWS, pixels)) < 0.3).astype("float32")


def by_hand(pixels: int, hidden: int, latent: int) -> Callable[[int], None]:
    """A loop as one writes it: modules, autograd, fused Adam."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    x = torch.as_tensor(images(pixels))
    encoder = nn.Sequential(
        nn.Linear(pixels, hidden), nn.Softplus(), nn.Linear(hidden, 2 * latent)
    )
    decoder = nn.Sequential(nn.Linear(latent, hidden), nn.Softplus(), nn.Linear(hidden, pixels))
    optimiser = torch.optim.Adam(
        [*encoder.parameters(), *decoder.parameters()], lr=1e-3, fused=True
    )

    def steps(count: int) -> None:
        parts = torch.randperm(ROWS).split(BATCH)
        for i in range(count):
            batch = x[parts[i % len(parts)]]
            optimiser.zero_grad()
            loc, log_scale = encoder(batch).chunk(2, -1)
            scale = log_scale.exp()
            z = loc + scale * torch.randn_like(scale)
            logits = decoder(z)
            fit = nn.functional.binary_cross_entropy_with_logits(logits, batch, reduction="sum")
            kl = 0.5 * (loc**2 + scale**2 - 2 * log_scale - 1).sum()
            ((fit + kl) * (ROWS / BATCH)).backward()
            optimiser.step()

    return steps


def by_zoo(pixels: int, hidden: int, latent: int) -> Callable[[int], None]:
    """The same as a Pyro model and guide, through the loop of the zoo's runner."""
    import pyro
    import pyro.distributions as dist
    import torch
    from torch import nn

    from inference import ascent, svi
    from inference._problem import Context, Guide, Problem
    from inference.prepare import prepare
    from inference.program import Program
    from inference.state import State

    torch.manual_seed(0)
    torch.set_num_threads(1)
    pyro.clear_param_store()  # of the sizes before
    encode = nn.Sequential(nn.Linear(pixels, hidden), nn.Softplus(), nn.Linear(hidden, 2 * latent))
    decode = nn.Sequential(nn.Linear(latent, hidden), nn.Softplus(), nn.Linear(hidden, pixels))

    def model(x):
        pyro.module("decoder", decode)
        with pyro.plate("image", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(latent), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encode)
        with pyro.plate("image", len(x)):
            loc, log_scale = encode(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    problem = Problem(model=model, tensors={"x": torch.as_tensor(images(pixels))})
    problem = prepare(problem, dtype=torch.float32)
    parts = ascent.batches(problem, BATCH)
    pace = svi.Pace(STEPS, BATCH, lr=1e-3)
    gradient, flat = svi.prepared(Program(problem), Guide(guide), pace, [next(parts)])

    def steps(count: int) -> None:
        adam = ascent.Adam(flat, 1e-3)
        ascent.Ascent(adam, count, 10 * count, 1, State()).run(gradient, parts, Context())

    return steps


def by_numpyro(pixels: int, hidden: int, latent: int) -> Callable[[int], None]:
    """NumPyro's SVI with its update jitted."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import SVI, Trace_ELBO

    x = jnp.asarray(images(pixels))
    rng = np.random.default_rng(0)

    def layer(name: str, rows: int, columns: int):
        w = numpyro.param(f"{name}_w", 0.05 * rng.normal(size=(rows, columns)).astype("float32"))
        b = numpyro.param(f"{name}_b", np.zeros(columns, "float32"))
        return lambda values: values @ w + b

    def model(x):
        first, second = layer("d1", latent, hidden), layer("d2", hidden, pixels)
        with numpyro.plate("image", ROWS, subsample_size=BATCH):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(latent), 1.0).to_event(1))
            logits = second(jax.nn.softplus(first(z)))
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x):
        first, second = layer("e1", pixels, hidden), layer("e2", hidden, 2 * latent)
        loc, log_scale = jnp.split(second(jax.nn.softplus(first(x))), 2, -1)
        with numpyro.plate("image", ROWS, subsample_size=BATCH):
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), Trace_ELBO())
    state = [svi.init(jax.random.PRNGKey(0), x[:BATCH])]
    update = jax.jit(svi.update)

    def steps(count: int) -> None:
        parts = np.random.default_rng().permutation(ROWS).reshape(-1, BATCH)
        for i in range(count):
            state[0], loss = update(state[0], x[parts[i % len(parts)]])
        jax.block_until_ready(loss)

    return steps


def table() -> str:
    """Milliseconds a step, medians of interleaved rounds, all pinned to one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    lines = [
        "| VAE, batch 128 | hand-written PyTorch, ms | zoo, ms | NumPyro, ms |"
        " zoo of hand-written | NumPyro of hand-written |",
        "|---|---|---|---|---|---|",
    ]
    for name, sizes in SIZES.items():
        loops = [make(*sizes) for make in (by_hand, by_zoo, by_numpyro)]
        times: list[list[float]] = [[] for _ in loops]
        for repeat in range(ROUNDS + 2):
            for loop, taken in zip(loops, times):
                began = time.perf_counter()
                loop(STEPS)
                if repeat >= 2:  # the first rounds compile
                    taken.append((time.perf_counter() - began) / STEPS * 1e3)
        hand, zoo, numpyro = (median(taken) for taken in times)
        lines.append(
            f"| {name} | {hand:.2f} | {zoo:.2f} | {numpyro:.2f} | {zoo / hand:.2f} |"
            f" {numpyro / hand:.2f} |"
        )
    os.sched_setaffinity(0, cores)
    return "\n".join(lines)
