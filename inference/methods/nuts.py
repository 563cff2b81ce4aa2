"""The No-U-Turn sampler (Hoffman and Gelman 2014) on the recorded density, in several chains."""

import warnings
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from models.contract import Refused

from ..core.problem import Context, Finding, Fit
from ..core.seeds import CHAIN, FIT, seeded
from ..core.zoo_warnings import ZooWarning
from ..program import memory
from ..program.graphs import How, compiled, way_of
from ..program.program import Program
from ..program.record import Function
from ..program.sampling import over_draws
from .chains import Results, kept_with, latents, run
from .nutpie_chain import NutpieChain, sampler_library

# Unconstrained dimensions up to which correlations are learnt by default.
_LOWRANK_MOST = 256
# How far a start is moved where the density is flat.
_OFF = 1e-3
# Draws around which an edge of the density is looked for, halvings that bring it near, and the
# fall that a trajectory may have before it diverges, nats (nutpie's).
_PROBES, _HALVINGS, _MOST_NATS = 200, 50, 1000.0
# Steps of warm-up below which it is called short, and step sizes that differ by too much.
_SHORT_WARMUP, _STEP_RATIO = 100, 2.0


def nuts(
    program: Program,
    *,
    seed: int,
    context: Context,
    chains: Annotated[int, ">= 1"] = 4,
    draws: Annotated[int, ">= 4"] = 1000,
    warmup: Annotated[int, ">= 10"] = 400,
    target_accept: Annotated[float, "> 0", "< 1"] = 0.9,
    max_tree_depth: Annotated[int, ">= 1", "<= 15"] = 10,
    metric: Literal["auto", "diagonal", "lowrank"] = "auto",
    compile: How = "native",
    workers: Annotated[int, ">= 0"] = 0,
) -> Fit:
    """No-U-Turn sampling of the unconstrained density: Markov chains that end in the posterior.

    Args:
        program: model and data; discrete latents are summed out, then recovered.
        seed: seed; draws depend on it and on the number of the chain alone.
        context: whether to show progress, and the device.
        chains: independent chains, a thread each; where the density is not compiled, a process.
        draws: draws kept of each chain.
        warmup: steps before them, in which step size and mass matrix adapt.
        target_accept: acceptance aimed at; closer to 1 takes smaller steps (fewer divergences).
            With 0.8 the non-centred eight schools diverge in most runs, with 0.9 one draw of
            12,000 did, and ESS per second was no lower on the zoo's models.
        max_tree_depth: a trajectory has at most 2 to this power steps.
        metric: mass matrix, `lowrank` learns correlations; `auto` does so up to 256 dimensions.
            On 26 posteriors of 10 to 360 (`tests/bench/metric.py`) it gave 1.4 times as many
            effective draws a second, reckoned as four seconds and half the processor's time of
            sampling: 6 at best, 0.6 at worst (a random walk).
        compile: how the density runs: `native` as compiled C (needs a C compiler, else it is
            `traced`, with a note), `traced` by torch, or `plain` Pyro.
        workers: chains at once; 0 takes the cores there are.

    Raises:
        Refused: the model has no continuous latent. Fault: no starting point, no draw was made.
    """
    if not program.size:
        raise Refused("nuts needs a continuous latent, the model has none; use exact")
    memory.check(program, chains * draws)
    earlier = kept_with(context.state, chains, "way")
    density, starts = _density_and_starts(program, seed, chains, earlier or compile, context)
    way = way_of(density, earlier)
    sampler_library()  # here, that forked chains find it loaded
    chain = NutpieChain(
        density,
        starts,
        seed,
        draws,
        warmup,
        lowrank=metric == "lowrank" or (metric == "auto" and program.size <= _LOWRANK_MOST),
        settings={"target_accept": target_accept, "maxdepth": max_tree_depth},
    )
    how = {"workers": workers, "context": context, "threads": chain.is_native, "way": way}
    results, stopped = run(chain, chains, draws=draws, warmup=warmup, **how)
    fit = _fit(program, results, stopped, seed, context.device)
    fit.findings += _unsettled(fit, warmup)
    fit.settings["compile"] = way
    return fit


def _density_and_starts(
    program: Program, seed: int, chains: int, how: How, context: Context
) -> tuple[Function, tuple[Tensor, ...]]:
    """The density as it will run, and a starting point (d,) for each chain."""
    with seeded(seed, FIT):
        # Far out too, and with every sign turned.
        u = program.start()
        points = [(u,), (5 * u,), (-u,), (program.start(),)]
        record = compiled if context.graphs is None else context.graphs.compiled
        density = record(program.density_and_gradient, points, how=how)
    if names := getattr(density, "by_torch", ()):
        text = f"{', '.join(names)} cannot be compiled, and is left to torch, which is slower"
        warnings.warn(text, ZooWarning, stacklevel=2)
    starts = []
    for chain in range(chains):
        with seeded(seed, CHAIN, chain):
            u = program.start()
            # nutpie takes its first scales from the slopes. Units of a network that are off, with
            # biases at the mode of their prior, have slopes of zero.
            _, slope = density(u)
            starts.append(torch.where(slope == 0, u + _OFF * torch.randn_like(u), u))
    return density, tuple(starts)


def _fit(
    program: Program, results: list[Results], stopped: dict[str, Any], seed: int, device: str
) -> Fit:
    """The chains in the constrained space, discrete latents and deterministics with them."""
    u = torch.as_tensor(np.stack([result.pop("u") for result in results]))  # (chain, draw, d)
    u = u.to(torch.get_default_dtype()).to(device)
    stats = {name: torch.as_tensor(np.stack([r[name] for r in results])) for name in results[0]}
    edge = _edge(program, u, stats, stats.pop("left"), seed)
    return Fit(
        draws=latents(program, u, seed),
        kind="chains",
        stats=stats,
        **{**stopped, "findings": [*stopped.get("findings", []), *edge]},
    )


def _edge(
    program: Program, u: Tensor, stats: dict[str, Tensor], left: Tensor, seed: int
) -> list[Finding]:
    """A note on steps that left the density's support, which are then no divergences.

    A divergence tells of curvature that the steps are too long for. A step to where the density is
    zero ends the trajectory too, but the chain is right: it stays among the points before it.
    """
    if not left.any() or (at := _beyond(program, u.flatten(0, 1), seed)) is None:
        return []
    stats["diverging"] = stats["diverging"] & ~left
    site = program.barred(at)
    line = program.line(site) if site else None
    where = (f", by the site {site}" if site else "") + (f", {line}" if line else "")
    text = (
        f"{int(left.sum())} of {left.numel()} draws met an edge beyond which the density is zero"
    )
    return [Finding("note", f"{text}{where}: the chains step back from it, and mix more slowly")]


def _beyond(program: Program, u: Tensor, seed: int) -> Tensor | None:
    """A point near the draws where the density falls to zero at once, not over many nats."""
    inner = u[:: max(1, len(u) // _PROBES)]
    with seeded(seed, FIT):
        outer = inner + u.std(0) * torch.randn_like(inner)

    def density(points: Tensor) -> Tensor:
        values = over_draws(lambda at: program.log_density(at["u"]), {"u": points})
        return torch.where(values.isnan(), torch.inf, values)

    start, zero = density(inner), density(outer) == -torch.inf
    if not zero.any():
        return None
    low, high = inner[zero], outer[zero]
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        outside = (density(middle) == -torch.inf)[:, None]
        low, high = torch.where(outside, low, middle), torch.where(outside, middle, high)
    jumps = density(low) > start[zero] - _MOST_NATS
    return high[jumps][0] if jumps.any() else None


def _unsettled(fit: Fit, warmup: int) -> list[Finding]:
    """Whether the warm-up was too short to learn step size and mass matrix.

    On the zoo's models the step sizes of four chains differed by a factor of 1.4 at most after
    100 to 400 steps, by up to 3.7 after 50, with trajectories 2 to 12 times as long.
    """
    last = fit.stats["step_size"][:, -1]
    ratio = float(last.max() / last.min())
    if warmup >= _SHORT_WARMUP and ratio < _STEP_RATIO:
        return []
    text = f"a warm-up of {warmup} steps is too short to learn the step size and the mass matrix"
    if warmup >= _SHORT_WARMUP:
        text = f"the warm-up did not settle: step sizes differ by a factor of {ratio:.1f}"
    return [Finding("warn", text, "give it more (--set warmup=400, or 1000)")]
