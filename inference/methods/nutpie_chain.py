"""One chain of nutpie's No-U-Turn sampler (Seyboldt, Carlson and Carpenter) on a density.

It adapts its mass matrix from draws and gradients, so that 400 steps of warm-up do.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.contract import Fault

from ..core.seeds import CHAIN, spawn
from ..program.graphs import Recorded
from ..program.native import nutpie_model
from ..program.record import Function
from .chains import Monitor

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


@dataclass(frozen=True)
class NutpieChain:
    """What a chain needs; called with its number in a process of its own.

    Attributes:
        density: of the unconstrained vector (d,), with its gradient.
        starts: of each chain, (d,).
        seed: of all chains; each has a stream of its own.
        draws: after the warm-up.
        warmup: steps in which step size and mass matrix adapt.
        target_accept: acceptance aimed at.
        max_tree_depth: a trajectory has at most 2 to this power steps.
        lowrank: whether the mass matrix learns correlations.
    """

    density: Function
    starts: tuple[Tensor, ...]
    seed: int
    draws: int
    warmup: int
    target_accept: float
    max_tree_depth: int
    lowrank: bool

    def __call__(self, chain: int, monitor: Monitor) -> dict[str, np.ndarray]:
        """`u` (draw, d) and the statistics of each draw (draw,), in fewer draws if stopped.

        Raises:
            Fault: the sampler stopped, or its steps vanish.
        """
        sampler = self._sampler(chain, monitor)
        try:
            trace = self._finish(sampler, chain, monitor)
        except Fault:
            raise
        except RuntimeError as error:
            first = str(error).partition("\n")[0]
            raise Fault(f"the sampler stopped ({first}); check the model's supports") from error
        return _columns(trace, len(self.starts[chain]))

    def _sampler(self, chain: int, monitor: Monitor) -> Any:
        """The sampler, at work on a thread of its own."""
        import nutpie

        return nutpie.sample(
            self._native(chain, monitor) or self._of_python(chain, monitor),
            draws=self.draws,
            tune=self.warmup,
            chains=1,
            cores=1,
            seed=int(spawn(self.seed, CHAIN, chain).generate_state(1)[0]),
            progress_bar=False,
            target_accept=self.target_accept,
            maxdepth=self.max_tree_depth,
            low_rank_modified_mass_matrix=self.lowrank,
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
            monitor.tick(chain)
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


def _columns(trace: Any, size: int) -> dict[str, np.ndarray]:
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
        """Tell the sampler's own thread what the main one was told.

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
