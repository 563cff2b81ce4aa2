"""The No-U-Turn sampler (Hoffman and Gelman 2014) on the recorded density, in several chains."""

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from models.contract import Fault, Refused

from ..core.problem import Context, Finding, Fit
from ..core.seeds import CHAIN, FIT, seeded, spawn
from ..program import memory
from ..program.ahead import nutpie_model, nutpie_model_of
from ..program.graphs import How, Recorded, compiled
from ..program.native import Native
from ..program.program import Program
from ..program.record import Function
from ..program.sampling import over_draws
from .chains import Monitor, Results, latents, run

# Unconstrained dimensions up to which correlations are learnt by default.
_LOWRANK_MOST = 64
# How far a start is moved where the density is flat.
_OFF = 1e-3
# Draws around which an edge of the density is looked for, halvings that bring it near, and the
# fall that a trajectory may have before it diverges, nats (nutpie's).
_PROBES, _HALVINGS, _MOST_NATS = 200, 50, 1000.0
# Steps of warm-up below which it is called short, and step sizes that differ by too much.
_SHORT_WARMUP, _STEP_RATIO = 100, 2.0
# A chain is given up if so many steps in a row are this short.
_LAST_STEPS, _VANISHING = 100, 1e-12
# nutpie's name of each statistic, and ours.
_STATISTICS = {
    "diverging": "diverging",
    "energy": "energy",
    "logp": "lp",
    "depth": "tree_depth",
    "n_steps": "n_steps",
    "step_size_bar": "step_size",
    "mean_tree_accept": "acceptance_rate",
}


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
    compile: How = "traced",
    workers: Annotated[int, ">= 0"] = 0,
) -> Fit:
    """No-U-Turn sampling of the unconstrained density: Markov chains that end in the posterior.

    Args:
        program: model and data; discrete latents are summed out, then recovered.
        seed: seed; draws depend on it and on the number of the chain alone.
        context: whether to show progress, and the device.
        chains: independent chains, a process each.
        draws: draws kept of each chain.
        warmup: steps before them, in which step size and mass matrix adapt.
        target_accept: acceptance aimed at; closer to 1 takes smaller steps (fewer divergences).
            With 0.8 the non-centred eight schools diverge in most runs, with 0.9 in none, and ESS
            per second was no lower on the zoo's models.
        max_tree_depth: a trajectory has at most 2 to this power steps.
        metric: mass matrix, `lowrank` learns correlations; `auto` does so up to 64 dimensions,
            beyond which it costs more than it brings (a network of 354 weights: six times as
            long).
        compile: how the density runs: `traced`, `aot` (needs a C++ compiler; some 20 s once,
            then up to four times faster) or `plain` Pyro.
        workers: chains at once; 0 takes the cores there are.

    Raises:
        Refused: the model has no continuous latent. Fault: no starting point, no draw was made.
    """
    if not program.size:
        raise Refused("nuts needs a continuous latent, the model has none; use exact")
    memory.check(program, chains * draws)
    density, starts = _density_and_starts(program, seed, chains, compile, context)
    import nutpie  # noqa: F401  here, that the forked chains find it imported

    lowrank = metric == "lowrank" or (metric == "auto" and program.size <= _LOWRANK_MOST)
    settings = {"draws": draws, "tune": warmup, "target_accept": target_accept}
    settings |= {"maxdepth": max_tree_depth, "low_rank_modified_mass_matrix": lowrank}
    chain = NutpieChain(density, starts, seed, settings)
    how = {"workers": workers, "context": context, "threads": chain.is_native}
    results, stopped = run(chain, chains, draws=draws, warmup=warmup, **how)
    fit = _fit(program, results, stopped, seed, context.device)
    fit.findings += _unsettled(fit, warmup)
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
    starts = []
    for chain in range(chains):
        with seeded(seed, CHAIN, chain):
            u = program.start()
            # nutpie takes its first scales from the slopes. Units of a network that are off, with
            # biases at the mode of their prior, have slopes of zero.
            _, slope = program.density_and_gradient(u)
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


# -- one chain -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class NutpieChain:
    """One chain of nutpie (Seyboldt, Carlson and Carpenter), called with its number.

    It adapts its mass matrix from draws and gradients, so that 400 steps of warm-up do.

    Attributes:
        density: of the unconstrained vector (d,), with its gradient.
        starts: of each chain, (d,).
        seed: of all chains; each has a stream of its own.
        settings: the sampler's own, by nutpie's names.
    """

    density: Function
    starts: tuple[Tensor, ...]
    seed: int
    settings: Mapping[str, Any]

    @property
    def is_native(self) -> bool:
        """Whether the density is compiled code, which takes doubles and needs no Python."""
        return isinstance(self.density, Native) and self.starts[0].dtype == torch.float64

    def __call__(self, chain: int, monitor: Monitor) -> Results:
        """`u` (draw, d) and the statistics of each draw (draw,), in fewer draws if stopped.

        Raises:
            Fault: the sampler stopped, or its steps vanish.
        """
        sampler = self._sampler(chain, monitor)
        try:
            trace = self._finish(sampler, chain, monitor)
        except RuntimeError as error:
            first = str(error).partition("\n")[0]
            raise Fault(f"the sampler stopped ({first}); check the model's supports") from error
        return _columns(trace, len(self.starts[chain]))

    def _sampler(self, chain: int, monitor: Monitor) -> Any:
        """The sampler, at work on a thread of its own."""
        import nutpie

        return nutpie.sample(
            self._native(chain, monitor) or self._of_python(chain, monitor),
            **self.settings,
            chains=1,
            cores=1,
            seed=int(spawn(self.seed, CHAIN, chain).generate_state(1)[0]),
            progress_bar=False,
            store_divergences=True,
            return_raw_trace=True,
            blocking=False,
        )

    def _finish(self, sampler: Any, chain: int, monitor: Monitor) -> Any:
        """The trace, whole or as far as it is when the monitor says stop."""
        looked = 0
        while not monitor.stopping:
            try:
                return sampler.wait(timeout=0.1)
            except TimeoutError:
                if monitor.steps[chain] >= looked + _LAST_STEPS:
                    looked = monitor.steps[chain]
                    _check_steps(sampler)
        return sampler.abort()

    def _native(self, chain: int, monitor: Monitor) -> Any:
        """The model of a compiled density, called without Python; None for others."""
        start = self.starts[chain]
        if self.is_native:
            return nutpie_model_of(self.density, start, monitor.steps, chain)
        package = self.density.package if isinstance(self.density, Recorded) else None
        if package is None or start.dtype != torch.float64 or sys.platform != "linux":
            return None
        begin, live = (lambda _: start.numpy()), self.density.live
        try:
            return nutpie_model(package, len(start), begin, monitor.steps, chain, live)
        except (OSError, RuntimeError, subprocess.CalledProcessError):
            return None  # the same draws through Python

    def _of_python(self, chain: int, monitor: Monitor) -> Any:
        """The model of a density that is called through Python."""
        from nutpie.compiled_pyfunc import from_pyfunc

        def expand(u: np.ndarray) -> dict[str, np.ndarray]:
            monitor.steps[chain] += 1
            return {"u": u}

        start = self.starts[chain].cpu().numpy().astype(float)
        return from_pyfunc(
            len(start),
            lambda: _for_numpy(self.density, self.starts[chain]),
            lambda *_: expand,
            [np.dtype("float64")],
            [(len(start),)],
            ["u"],
            make_initial_point_fn=lambda _: start,
        )


def _check_steps(sampler: Any) -> None:
    """Give up a chain whose steps vanish: it would go on for hours, and end nowhere.

    Raises:
        Fault: the last steps are all far below any scale.
    """
    _, (statistics,) = sampler.inspect().get_arrow_trace()
    size = _column(statistics, "step_size")[-_LAST_STEPS:]
    if size.max() < _VANISHING:
        sampler.abort()
        raise Fault(
            f"the sampler's steps vanish ({size[-1]:.1g}): the density is not smooth, or its "
            "gradient is wrong; see what `zoo.py check` says"
        )


def _columns(trace: Any, size: int) -> Results:
    """The draws after the warm-up and their statistics, out of nutpie's Arrow tables."""
    import pyarrow

    ((draws,), (statistics,)) = trace.get_arrow_trace()
    tuning = int(_column(statistics, "tuning").sum())
    columns = {ours: _column(statistics, name)[tuning:] for name, ours in _STATISTICS.items()}
    columns = {k: v.astype("int64") if v.dtype.kind == "u" else v for k, v in columns.items()}
    # Where a divergence has an end it is finite.
    nowhere = np.asarray(pyarrow.array(statistics.column("divergence_end")).is_null())[tuning:]
    columns["left"] = columns["diverging"] & nowhere
    return {"u": _column(draws, "u").reshape(-1, size)[tuning:], **columns}


def _column(table: Any, name: str) -> np.ndarray:
    """A column of one of nutpie's Arrow tables."""
    import pyarrow

    values = pyarrow.array(table.column(name))
    values = values.flatten() if name == "u" else values
    return values.to_numpy(zero_copy_only=False)


def _for_numpy(density: Function, like: Tensor) -> Callable[[np.ndarray], tuple]:
    """Value and gradient for nutpie, of arrays, in the dtype and on the device of `like`."""
    # Set up once for the sampler's thread, which does nothing else: a microsecond counts here.
    settled: dict[int, Any] = {}  # not threading.local: it is forgotten between calls from Rust
    plain = like.dtype == torch.float64 and like.device.type == "cpu"

    def settle() -> None:
        """Give the sampler's own thread the settings of the main one.

        Left to itself it wakes a team of threads for each product (5 to 50 times slower). And a
        recorded graph has its gradient in it: that torch keeps none is said once, not each time.
        """
        torch.set_num_threads(1)
        mode = settled[threading.get_ident()] = torch.inference_mode(isinstance(density, Recorded))
        mode.__enter__()

    def value_and_gradient(u: np.ndarray) -> tuple[float, np.ndarray]:
        if threading.get_ident() not in settled:
            settle()
        if plain:
            value, gradient = density(torch.from_numpy(u))
            return value.item(), gradient.numpy()
        value, gradient = density(torch.from_numpy(u).to(like))
        return value.item(), gradient.cpu().numpy().astype(float)

    return value_and_gradient
