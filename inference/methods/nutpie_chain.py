"""One chain of nutpie's No-U-Turn sampler, in a thread or a process of its own."""

import ctypes
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.contract import Fault

from ..core.seeds import CHAIN, spawn
from ..native.native import Native
from ..program.record import Function, Recorded
from .chains import Monitor, Results

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
        whole = isinstance(self.density, Recorded) and isinstance(self.density.run, Native)
        return whole and self.starts[0].dtype == torch.float64

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

        model = self._of_c if self.is_native else self._of_python
        return nutpie.sample(
            model(chain, monitor),
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

    def _of_c(self, chain: int, monitor: Monitor) -> Any:
        """The model of a density in C, which is called without Python."""
        from nutpie.compile_pymc import CompiledPyMCModel

        start = self.starts[chain]
        counter = ctypes.addressof(monitor.steps) + chain * ctypes.sizeof(ctypes.c_int64)
        task = self.density.run.task([start, *self.density.live], counter)
        size, code, begin = len(start), task.functions, start.numpy()
        return CompiledPyMCModel(
            dims={},
            compiled_logp_func=_address(code.density),
            compiled_expand_func=_address(code.expand),
            initial_point_func=lambda _: begin,
            shared_data={},
            user_data=task.data,
            n_expanded=size,
            shape_info=(["u"], [slice(0, size)], [(size,)]),
            logp_func=task,  # kept as long as the model is
            expand_func=None,
            _n_dim=size,
            _shapes={"u": (size,)},
            _coords={},
        )

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


def _address(function: Any) -> SimpleNamespace:
    """What nutpie asks of a compiled function: where it is."""
    return SimpleNamespace(address=ctypes.cast(function, ctypes.c_void_p).value)
