"""The ways of running a recorded graph, chosen here and nowhere else.

- `native`: as compiled C, the default; what has no form in C is left to torch;
- `traced`: by torch alone, operation by operation, where there is no C compiler;
- `plain`: not recorded at all, the reference and the fallback.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, fx

from models.contract import Fault, Refused

from ..core.zoo_warnings import ZooWarning
from ..native.formulas import Unknown
from ..native.library import NoCompiler
from ..native.parts import in_c
from .record import Function, Inputs, Recorded, Unrecordable, record

How = Literal["native", "traced", "plain"]
# Examples of a function's arguments, all of them at each point.
Points = Sequence[Inputs]


def compiled(
    function: Function, points: Points, *, how: How = "native", live: Inputs = ()
) -> Function:
    """The function in a faster form, or itself, with a warning, where it cannot be recorded.

    The result is compared with the function at each of `points`, with the same random numbers.

    Args:
        function: gives a tuple of tensors.
        points: examples of its arguments; the first is recorded.
        how: `native`, `traced` or `plain`.
        live: tensors that it reads and that change between calls.

    Raises:
        Refused: the cache of compiled code is not the user's alone.
    """
    if how == "plain":
        return function
    try:
        return faster(function, points, how=how, live=live)
    except Fault:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    warnings.warn(f"the model runs untraced, which is slow ({why})", ZooWarning, stacklevel=2)
    return function


def faster(
    function: Function, points: Points, *, how: How = "native", live: Inputs = ()
) -> Recorded:
    """As `compiled`, without a way back.

    Args:
        function: gives a tuple of tensors.
        points: examples of its arguments; the first is recorded.
        how: `native` or `traced`.
        live: tensors that it reads and that change between calls.

    Raises:
        Unrecordable: it does what a graph cannot repeat, or the graph gives other values.
        Refused: the cache of compiled code is not the user's alone.
    """
    with torch.random.fork_rng(devices=[]):  # the draws after it are those of the function itself
        graph = record(function, points[0], live)
    live = [tensor.detach() for tensor in live]
    if how == "native" and all(tensor.device.type == "cpu" for tensor in (*points[0], *live)):
        run = _native(graph, function, points, live)
        if run is not None:
            return run
    run = Recorded(_Traced(graph), live, graph.meta["wanted"])
    if not _same(run, function, points):
        raise Unrecordable("the recorded graph gave other values")
    return run


def _native(
    graph: fx.GraphModule, function: Function, points: Points, live: list[Tensor]
) -> Recorded | None:
    """A graph as compiled C, as far as that can be; None where it cannot, with a note."""
    try:
        found = in_c(graph, [*points[0], *live])
    except NoCompiler as reason:
        _tell_once(f"{reason}: models run by torch, which is slower; install gcc, or {_EXTRA}")
        return None
    except Unknown:
        return None
    beside = [*live, *found.functions]
    wanted = graph.meta["wanted"]
    run = Recorded(found.whole or _Traced(found.graph), beside, wanted, found.by_torch)
    if _same(run, function, points, single=found.single):
        return run
    warnings.warn(_OTHER, ZooWarning, stacklevel=4)
    return None


@cache
def _tell_once(note: str) -> None:
    """Warn, and not again of the same in this process."""
    warnings.warn(note, ZooWarning, stacklevel=5)


_OTHER = "the compiled graph gave other values than torch, and is not used: the model is slower"
_EXTRA = 'pip install "bayeszoo[native]"'


class _Traced:
    """A graph as a Python function of torch's operations; can be sent to another process."""

    def __init__(self, graph: fx.GraphModule):
        code = graph.graph.python_code("self")
        names = {k: v for k, v in code.globals.items() if not isinstance(v, ModuleType)}
        self.__setstate__((code.src, names, SimpleNamespace(**dict(graph.named_buffers()))))

    def __call__(self, *arguments: Any) -> tuple[Tensor, ...]:
        return self._forward(self._constants, *arguments)

    def __getstate__(self) -> tuple[str, dict[str, Any], SimpleNamespace]:
        return self._code, self._names, self._constants

    def __setstate__(self, state: tuple[str, dict[str, Any], SimpleNamespace]) -> None:
        self._code, self._names, self._constants = state
        names = {"torch": torch, **self._names}
        exec(compile(self._code, "<recorded>", "exec"), names)
        self._forward = names["forward"]


def way_of(function: Function, earlier: str | None = None) -> How:
    """How a function runs.

    Args:
        function: as `compiled` gave it.
        earlier: how it ran in an earlier attempt, whose draws it goes on with; None if there is
            none.

    Raises:
        Refused: in another way, by which its draws would be others.
    """
    way: How = "plain"
    if isinstance(function, Recorded):
        way = "native" if function.is_native else "traced"
    if earlier not in (None, way):
        raise Refused(
            f"the run was begun with compile={earlier}, and here the model runs {way}: it would "
            "not end in the same draws; resume it where it was begun, or run it again"
        )
    return way


class Recordings:
    """Functions recorded once for many fits, which differ in the values of their data alone.

    A graph is compared with its function anew for each fit, and recorded again if they differ;
    whether it was recorded here or before changes neither results nor random numbers.

    Args:
        live: the data that change, in place, from fit to fit.
    """

    def __init__(self, live: Inputs):
        self.live = list(live)
        self._runs: dict[Any, Function] = {}
        self._memory: dict[str, Tensor] = {}

    @property
    def blank(self) -> bool:
        """Whether nothing was recorded yet: this is the first of the fits."""
        return not self._runs

    def compiled(
        self, function: Function, points: Points, *, how: How = "native", live: Inputs = ()
    ) -> Function:
        """As the function `compiled`, from the graph of an earlier fit if there is one."""
        shapes = [tensor.shape for point in points for tensor in point]
        key = (function.__qualname__, how, str(shapes), len(live))
        run = self._runs.get(key)
        if run is not None and not isinstance(run, Recorded):
            return function  # it cannot be recorded; the first fit has warned
        if run is None or not _same(run, function, points):
            live = [*live, *self.live]
            run = self._runs[key] = compiled(function, points, how=how, live=live)
        return run

    def memory(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor in the memory that the graphs read: that of the first one of its name."""
        first = self._memory.setdefault(name, tensor)
        if first.shape != tensor.shape:
            first = self._memory[name] = tensor
        return first.copy_(tensor)


def _same(run: Function, function: Function, points: Points, *, single: bool = False) -> bool:
    """Whether a recorded function gives what the function does, at each point."""
    ours = zip(*(_same_random(run, point) for point in points), strict=True)
    theirs = zip(*(_same_random(function, point) for point in points), strict=True)
    return all(_agree(a, b, single) for a, b in zip(ours, theirs, strict=True))


def _same_random(function: Function, arguments: Inputs) -> tuple[Tensor, ...]:
    """A function's values from the same random numbers each time, which are put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return function(*arguments)


def _agree(ours: Sequence[Tensor], theirs: Sequence[Tensor], single: bool) -> bool:
    """Equal to a relative 1e-10 (1e-4 in single precision), infinities in the same places.

    Of one output at several points: relative to the largest of all, for at a mode a gradient is
    the rounding of what cancels.
    """
    finite = [float(b[b.isfinite()].abs().max()) for b in theirs if b.isfinite().any()]
    tolerance = 1e-4 if single or theirs[0].dtype == torch.float32 else 1e-10
    same = {"rtol": tolerance, "atol": tolerance * max(finite, default=0.0), "equal_nan": True}
    return all(torch.allclose(a, b, **same) for a, b in zip(ours, theirs))
