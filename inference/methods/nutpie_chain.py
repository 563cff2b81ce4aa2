"""One chain of nutpie's No-U-Turn sampler, in a thread or a process of its own.

Of the package `nutpie` the compiled part alone is loaded (3 ms): its `__init__` imports ArviZ and
pandas (1.2 s), which sampling does not need.
"""

import ctypes
import importlib.machinery
import importlib.util
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
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
        draws: kept.
        warmup: steps before them.
        lowrank: whether correlations are learnt.
        settings: the sampler's own, by nutpie's names.
    """

    density: Function
    starts: tuple[Tensor, ...]
    seed: int
    draws: int
    warmup: int
    lowrank: bool
    settings: Mapping[str, Any]

    @cached_property
    def is_native(self) -> bool:
        """Whether the density is compiled code, which takes doubles and needs no Python."""
        whole = isinstance(self.density, Recorded) and isinstance(self.density.run, Native)
        return whole and self.starts[0].dtype == torch.float64

    def __call__(self, chain: int, monitor: Monitor) -> Results:
        """`u` (draw, d) and the statistics of each draw (draw,), in fewer draws if stopped.

        Raises:
            Fault: the sampler stopped, or its steps vanish.
        """
        points = np.empty((self.warmup + self.draws, len(self.starts[chain])))
        sampler = self._sampler(chain, monitor, points)
        try:
            trace = self._finish(sampler, chain, monitor)
        except RuntimeError as error:
            first = str(error).partition("\n")[0]
            raise Fault(f"the sampler stopped ({first}); check the model's supports") from error
        return _columns(trace, points)

    def _sampler(self, chain: int, monitor: Monitor, points: np.ndarray) -> Any:
        """The sampler, at work on a thread of its own; it writes each draw into `points`."""
        lib = sampler_library()
        seed = int(spawn(self.seed, CHAIN, chain).generate_state(1)[0])
        settings = (lib.PyNutsSettings.LowRank if self.lowrank else lib.PyNutsSettings.Diag)(seed)
        counts = {"num_tune": self.warmup, "num_draws": self.draws, "num_chains": 1}
        values = {**self.settings, **counts, "store_divergences": True}
        later = hasattr(settings, "update")  # nutpie 0.16.9
        if later:
            settings.update(values)
        else:
            for name, value in values.items():
                setattr(settings, name, value)
        begin, model = (self._of_c if self.is_native else self._of_python)(chain, monitor, points)
        callback = (None, 100) if later else ()
        none, storage = lib.ProgressType.none(), lib.PyStorage.arrow()
        return begin(settings, 1, model, none, *callback, storage)

    def _finish(self, sampler: Any, chain: int, monitor: Monitor) -> Any:
        """The trace, whole or as far as it is when the monitor says stop."""
        looked = 0
        while not monitor.stopping:
            try:
                sampler.wait(0.1)
                break
            except TimeoutError:
                if monitor.steps[chain] >= looked + _LAST_STEPS:
                    looked = monitor.steps[chain]
                    _check_steps(sampler)
        else:
            sampler.abort()
        return sampler.take_results()

    def _of_c(self, chain: int, monitor: Monitor, points: np.ndarray) -> tuple[Callable, Any]:
        """What begins the chain of a density in C, which is called without Python."""
        lib, start = sampler_library(), self.starts[chain]
        counter = ctypes.addressof(monitor.steps) + chain * ctypes.sizeof(ctypes.c_int64)
        task = self.density.run.task([start, *self.density.live], counter, points)
        density, expand = map(_address, (task.functions.density, task.functions.expand))
        data, size, begin = task.data.ctypes.data, len(start), start.numpy()
        value = lib.LogpFunc(density, data, task)  # keeps the task as long as it lives
        expanded = lib.ExpandFunc(size, 1, expand, data, task)
        variables, sizes = _variables(lib)
        how = (variables, size, sizes, {}, lambda _: begin, None)
        return lib.PySampler.from_pymc, lib.PyMcModel(value, expanded, *how)

    def _of_python(self, chain: int, monitor: Monitor, points: np.ndarray) -> tuple[Callable, Any]:
        """What begins the chain of a density that is called through Python."""
        lib, start = sampler_library(), self.starts[chain].cpu().numpy().astype(float)
        nothing = {"last": np.zeros(1)}

        def expand(u: np.ndarray) -> dict[str, np.ndarray]:
            points[monitor.steps[chain]] = u
            monitor.steps[chain] += 1
            return nothing

        variables, sizes = _variables(lib)
        model = lib.PyModel(
            lambda: _for_numpy(self.density, self.starts[chain]),
            lambda *_: expand,
            variables,
            len(start),
            dim_sizes=sizes,
            coords={},
            init_point_func=lambda _: start,
            transform_adapter=None,
        )
        return lib.PySampler.from_pyfunc, model


def sampler_library() -> Any:
    """The compiled part of nutpie, without the rest of the package where that can be."""
    name = "nutpie._lib"
    if name not in sys.modules:
        try:
            _load(name)
        except (ImportError, AttributeError):
            import nutpie  # noqa: F401
    return sys.modules[name]


def _load(name: str) -> None:
    """Load a part of a package, and not the package, under its full name.

    Raises:
        ImportError: there is none. AttributeError: it cannot be loaded by itself.
    """
    package = importlib.util.find_spec(name.partition(".")[0])  # imports nothing
    places = package.submodule_search_locations if package else None
    spec = importlib.machinery.PathFinder.find_spec(name, places)
    if not places or spec is None or spec.loader is None:
        raise ImportError(name)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _variables(lib: Any) -> tuple[Any, dict[str, int]]:
    """What nutpie keeps of a draw itself: a number, for it keeps something."""
    sizes: dict[str, int] = {}  # is filled
    return lib.PyVariable.new_variables(["last"], ["float64"], [(1,)], sizes, {}), sizes


def _check_steps(sampler: Any) -> None:
    """Give up a chain whose steps vanish: it would go on for hours, and end nowhere.

    Raises:
        Fault: the last steps are all far below any scale.
    """
    _, (statistics,) = sampler.inspect().get_arrow_trace()
    size = statistics.column("step_size").to_numpy()[-_LAST_STEPS:]
    if size.max() < _VANISHING:
        sampler.abort()
        raise Fault(
            f"the sampler's steps vanish ({size[-1]:.1g}): the density is not smooth, or its "
            "gradient is wrong; see what `zoo.py check` says"
        )


def _columns(trace: Any, points: np.ndarray) -> Results:
    """The draws after the warm-up and their statistics, out of nutpie's Arrow tables."""
    _, (statistics,) = trace.get_arrow_trace()
    warm = int(statistics.column("tuning").to_numpy().sum())
    columns = {
        ours: statistics.column(name).to_numpy()[warm:] for name, ours in _STATISTICS.items()
    }
    columns = {k: v.astype("int64") if v.dtype.kind == "u" else v for k, v in columns.items()}
    # Where a divergence has an end it is finite.
    ends = statistics.column("divergence_end").to_pylist()[warm:]
    columns["left"] = columns["diverging"] & np.array([end is None for end in ends], dtype=bool)
    return {"u": points[warm : statistics.num_rows], **columns}


def _address(function: Any) -> int:
    """Where a function of ctypes lies."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0


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
