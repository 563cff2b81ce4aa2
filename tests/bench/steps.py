"""SVI steps of a VAE: the zoo against a hand-written PyTorch loop and NumPyro, on one core."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import pairwise
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

    from inference.core.problem import Context, Guide, Problem
    from inference.methods import ascent
    from inference.methods.ascent import AscentSettings
    from inference.methods.training import batches, gradient_of
    from inference.program.prepare import ready
    from inference.program.program import Program

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
    problem = ready(problem, dtype=torch.float32).problem
    parts = batches(problem, BATCH)
    settings = AscentSettings(STEPS, BATCH, lr=1e-3)
    gradient, flat = gradient_of(Program(problem), Guide(guide), settings, [next(parts)])

    def steps(count: int) -> None:
        how = AscentSettings(count, lr=1e-3, window=10 * count)
        ascent.Ascent(flat, how, Context()).run(gradient, parts)

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


# The zoo's own `vae` on images of MNIST's size whose pixels are drawn anew in each step.
PIXELS, HIDDEN, LATENT = 784, 200, 50


def grey_images() -> np.ndarray:
    """Chances of pixels, most of them none."""
    return np.random.default_rng(0).uniform(-1.5, 1, (ROWS, PIXELS)).clip(0, 1).astype("float32")


def vae_by_hand(particles: int) -> Callable[[int], None]:
    """ELBO, or the importance-weighted bound of several draws, as one writes it."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    grey = torch.as_tensor(grey_images())

    def layers(*sizes: int) -> nn.Sequential:
        pairs = [(nn.Linear(a, b), nn.Tanh()) for a, b in pairwise(sizes)]
        return nn.Sequential(*(part for pair in pairs for part in pair))

    encoder = nn.Sequential(layers(PIXELS, HIDDEN, HIDDEN), nn.Linear(HIDDEN, 2 * LATENT))
    decoder = nn.Sequential(layers(LATENT, HIDDEN, HIDDEN), nn.Linear(HIDDEN, PIXELS))
    optimiser = torch.optim.Adam(
        [*encoder.parameters(), *decoder.parameters()], lr=1e-3, fused=True
    )

    def bound(x: torch.Tensor) -> torch.Tensor:
        loc, log_scale = encoder(x).chunk(2, -1)
        noise = torch.randn(particles, *loc.shape)
        z = loc + log_scale.exp() * noise
        logits = decoder(z)
        fit = nn.functional.binary_cross_entropy_with_logits(
            logits, x.expand_as(logits), reduction="none"
        )
        weights = -fit.sum(-1) + (noise**2 / 2 - z**2 / 2 + log_scale).sum(-1)
        return weights.logsumexp(0).sum()

    def steps(count: int) -> None:
        parts = torch.randperm(ROWS).split(BATCH)
        for i in range(count):
            x = torch.bernoulli(grey[parts[i % len(parts)]])
            optimiser.zero_grad()
            (-bound(x) * (ROWS / BATCH)).backward()
            optimiser.step()

    return steps


def vae_by_zoo(particles: int) -> Callable[[int], None]:
    """The same model, guide and bound through the loop of the zoo's runner."""
    import pyro
    import torch

    import models
    from inference.core import machine
    from inference.core.problem import Context
    from inference.methods import ascent
    from inference.methods.ascent import AscentSettings
    from inference.methods.guides import resolve
    from inference.methods.training import batches, gradient_of
    from inference.program.prepare import program_of
    from inference.program.program import Program

    pyro.clear_param_store()
    torch.set_num_threads(1)
    entry = models.load("vae")
    data = entry.data({"x": grey_images().reshape(-1, 28, 28)}, split=0.01)
    options = {"latent": LATENT, "hidden": f"{HIDDEN},{HIDDEN}", "likelihood": "bernoulli"}
    with machine.numbers("float32"):
        problem = program_of(entry, options, data).problem
        program = Program(problem)
        parts = batches(problem, BATCH)
        aim = "elbo" if particles == 1 else "iwae"
        settings = AscentSettings(STEPS, BATCH, particles, objective=aim, lr=1e-3)
        chosen = resolve("own", program)
        gradient, flat = gradient_of(program, chosen, settings, [next(parts)])

    def steps(count: int) -> None:
        how = AscentSettings(count, lr=1e-3, window=10 * count)
        ascent.Ascent(flat, how, Context()).run(gradient, parts)

    return steps


def interleaved(loops: list[Callable[[int], None]]) -> list[float]:
    """Milliseconds a step of each loop, medians of interleaved rounds."""
    times: list[list[float]] = [[] for _ in loops]
    for repeat in range(ROUNDS + 2):
        for loop, taken in zip(loops, times):
            began = time.perf_counter()
            loop(STEPS)
            if repeat >= 2:  # the first rounds compile
                taken.append((time.perf_counter() - began) / STEPS * 1e3)
    return [median(taken) for taken in times]


def table() -> str:
    """Milliseconds a step, all pinned to one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    lines = [
        "| VAE, batch 128 | hand-written PyTorch, ms | zoo, ms | NumPyro, ms |"
        " zoo of hand-written | NumPyro of hand-written |",
        "|---|---|---|---|---|---|",
    ]
    for name, sizes in SIZES.items():
        loops = [make(*sizes) for make in (by_hand, by_zoo, by_numpyro)]
        hand, zoo, numpyro = interleaved(loops)
        lines.append(
            f"| {name} | {hand:.2f} | {zoo:.2f} | {numpyro:.2f} | {zoo / hand:.2f} |"
            f" {numpyro / hand:.2f} |"
        )
    for name, particles in (("`vae` 784-200-200-50", 1), ("the same, `iwae`, 5 particles", 5)):
        hand, zoo = interleaved([make(particles) for make in (vae_by_hand, vae_by_zoo)])
        lines.append(f"| {name} | {hand:.2f} | {zoo:.2f} | | {zoo / hand:.2f} | |")
    os.sched_setaffinity(0, cores)
    return "\n".join(lines)
