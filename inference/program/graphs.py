"""The ways of running a recorded graph, chosen here and nowhere else.

- `plain`: not recorded at all, the reference and the fallback;
- `traced`: by TorchScript, the fastest that needs no compiler (microseconds an operation, 2 cores,
  torch 2.13: TorchScript 1.5, the same graph as Python code 4.7; torch.compile and the next one
  want a C++ compiler);
- `aot`: compiled ahead of time by AOTInductor and kept in the user's cache; half a minute once.
"""

from __future__ import annotations

import hashlib
import io
import logging
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch._C._aoti import AOTIModelPackageLoader

from models.contract import Refused

from ..core.compiled import checked, compiler, from_cache, torch_works_in
from ..core.zoo_warnings import ZooWarning
from .native import Native
from .operations import Unknown
from .record import Function, Inputs, Recorded, Unrecordable, record

How = Literal["traced", "aot", "native", "plain"]
# Examples of a function's arguments, all of them at each point.
Points = Sequence[Inputs]

aten = torch.ops.aten


def compiled(
    function: Function, points: Points, *, how: How = "traced", live: Inputs = ()
) -> Function:
    """The function in a faster form, or itself, with a warning, where it cannot be recorded.

    The result is held against the function at each of `points`, with the same random numbers.

    Args:
        function: gives a tuple of tensors.
        points: examples of its arguments; the first is recorded.
        how: `traced`, `aot` or `plain`.
        live: tensors that it reads and that change between calls.

    Raises:
        Refused: `aot` without a C++ compiler, or without a cache of the user's alone.
    """
    if how == "plain":
        return function
    if how == "native":
        try:
            return faster(function, points, how=how, live=live)
        except Unknown as reason:
            note = f"{reason} has no form in C, so that the model runs traced, which is slower"
            warnings.warn(note, ZooWarning, stacklevel=2)
            how = "traced"
    try:
        return faster(function, points, how=how, live=live)
    except Refused:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    warnings.warn(f"the model runs untraced, which is slow ({why})", ZooWarning, stacklevel=2)
    return function


def faster(
    function: Function, points: Points, *, how: How = "traced", live: Inputs = ()
) -> Recorded:
    """As `compiled`, without a way back.

    Args:
        function: gives a tuple of tensors.
        points: examples of its arguments; the first is recorded.
        how: `traced` or `aot`.
        live: tensors that it reads and that change between calls.

    Raises:
        Unrecordable: it does what a graph cannot repeat, or the graph gives other values.
        Refused: `aot` without a C++ compiler, or without a cache of the user's alone.
    """
    graph = record(function, points[0], live)
    run = _WAYS[how](graph, points[0], live)
    run.outputs = graph.meta["wanted"]
    if not _same(run, function, points):
        raise Unrecordable("the recorded graph gave other values")
    return run


class Recordings:
    """Functions recorded once for many fits, which differ in the values of their data alone.

    A graph is held against its function anew for each fit, and recorded again if they differ;
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
        self, function: Function, points: Points, *, how: How = "traced", live: Inputs = ()
    ) -> Function:
        """As the function `compiled`, from the graph of an earlier fit if there is one."""
        shapes = [tensor.shape for point in points for tensor in point]
        key = (function.__qualname__, how, str(shapes), len(live))
        with torch.random.fork_rng(devices=[]):
            run = self._runs.get(key)
            if run is not None and not isinstance(run, Recorded):
                return function  # it cannot be recorded, as was told once
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


def _script_convolutions(graph: fx.GraphModule) -> None:
    """Put a function that TorchScript takes in the place of the gradient of convolutions.

    A trace takes neither its flags, which of three gradients are wanted, nor gradients that are
    not there: all three are computed.
    """
    for node in graph.graph.nodes:
        if node.target is aten.convolution_backward.default:
            grad, x, weight, _, *geometry, _ = node.args
            node.target, node.args = _of_convolution, (grad, x, weight, *geometry)
    graph.recompile()


def _of_convolution(grad: Tensor, x: Tensor, weight: Tensor, *geometry: Any) -> tuple[Tensor, ...]:
    """Gradients of a convolution's input, weights and biases."""
    plain = [list(value) if isinstance(value, Sequence) else value for value in geometry]
    return _scripted_gradient()(grad, x, weight, *plain)


def _all_gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same as TorchScript reads it: every type stated, none of them a union."""
    biases = weight.size(1) * groups if transposed else weight.size(0)
    return torch.ops.aten.convolution_backward(
        grad, x, weight, [biases], stride, padding, dilation, transposed, output_padding, groups,
        [True, True, True],
    )  # fmt: skip


@cache
def _scripted_gradient() -> Callable[..., tuple[Tensor, ...]]:
    with warnings.catch_warnings(action="ignore"):  # deprecated
        return torch.jit.script(_all_gradients)


class _Scripted(Recorded):
    """A graph run by TorchScript; can be sent to another process.

    Args:
        graph: the recorded operations; changed on the way.
        inputs: examples of its arguments.
        live: further arguments, read where they lie in each call.
    """

    def __init__(self, graph: fx.GraphModule, inputs: Inputs, live: Inputs):
        def flat(*arguments: Tensor) -> tuple[Tensor, ...]:
            return graph(*arguments)

        self.live = [*(tensor.detach() for tensor in live), *_with_matrices(graph)]
        _script_convolutions(graph)
        with warnings.catch_warnings(action="ignore"):  # deprecated, and told so four times
            # Of a function: calling a traced module costs another 10 microseconds.
            self.run = torch.jit.trace(flat, (*inputs, *self.live), check_trace=False)

    def __getstate__(self) -> tuple[bytes, list[Tensor], int | None]:
        buffer = io.BytesIO()
        torch.jit.save(self.run, buffer)
        return buffer.getvalue(), self.live, self.outputs

    def __setstate__(self, state: tuple[bytes, list[Tensor], int | None]) -> None:
        code, self.live, self.outputs = state
        self.run = torch.jit.load(io.BytesIO(code))


def _with_matrices(graph: fx.GraphModule) -> list[Tensor]:
    """Make those constants of a graph that are matrices further arguments of it.

    TorchScript (torch 2.13) gets the shapes of constants wrong in products of matrices.

    Returns:
        Their values, in the order of the arguments.
    """
    matrices, nodes = [], graph.graph.nodes
    last = [node for node in nodes if node.op == "placeholder"][-1]
    for node in [node for node in nodes if node.op == "get_attr"]:
        value = getattr(graph, node.target)
        if value.ndim > 1:
            with graph.graph.inserting_after(last):
                last = graph.graph.placeholder(f"matrix_{len(matrices)}")
            node.replace_all_uses_with(last)
            graph.graph.erase_node(node)
            matrices.append(value)
    graph.recompile()
    return matrices


class _AheadOfTime(Recorded):
    """A graph compiled by AOTInductor, its code kept in the user's cache.

    Arguments as of `_Scripted`.

    Raises:
        Refused: there is no C++ compiler, or no cache of the user's alone.
    """

    def __init__(self, graph: fx.GraphModule, inputs: Inputs, live: Inputs):
        self.live = [tensor.detach() for tensor in live]
        inputs = [*inputs, *self.live]
        self._load(from_cache(f"{_key(graph, inputs)}.pt2", partial(_compile, graph, inputs)))

    def _load(self, package: Path) -> None:
        # What `torch._inductor.aoti_load_package` wraps: importing that one takes 1.5 s, and its
        # wrapper 25 microseconds a call.
        loaded = AOTIModelPackageLoader(str(package), "model", True, 1, -1)
        self.package = package
        self.run = lambda *arguments: tuple(loaded.boxed_run(list(arguments)))

    def __getstate__(self) -> tuple[Path | None, list[Tensor], int | None]:
        return self.package, self.live, self.outputs

    def __setstate__(self, state: tuple[Path, list[Tensor], int | None]) -> None:
        package, self.live, self.outputs = state
        self._load(checked(package))


def _compile(graph: fx.GraphModule, inputs: Inputs, path: Path) -> None:
    """Compile a graph for these inputs into a package of AOTInductor.

    Raises:
        Refused: there is no C++ compiler.
    """
    if compiler() is None:
        raise Refused("compile=aot needs a C++ compiler (g++), there is none; use compile=traced")
    # For one compilation, not for many: 17 s in place of 29 for a network of 354 weights.
    configs = {"aot_inductor.compile_wrapper_opt_level": "O0"}
    configs |= {"aot_inductor.precompile_headers": False, "cpp.threads": 1}
    configs |= {"fallback_random": True}  # torch's own stream, that draws are those of `traced`
    with torch_works_in(path.parent), _without_asides():
        from torch._inductor import aoti_compile_and_package

        exported = torch.export.export(graph, tuple(inputs))
        aoti_compile_and_package(exported, package_path=str(path), inductor_configs=configs)


@contextmanager
def _without_asides() -> Iterator[None]:
    """What torch says about its own use of itself is for its authors."""
    log = logging.getLogger("torch._inductor.ir")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        log.setLevel(before)


_WAYS = {"traced": _Scripted, "aot": _AheadOfTime, "native": Native}


def _key(graph: fx.GraphModule, inputs: Inputs) -> str:
    """All that determines the code: operations, constants, shapes, torch, processor."""
    digest = hashlib.sha256(graph.code.encode())
    digest.update(f"{torch.__version__} {platform.machine()}".encode())
    digest.update(torch.backends.cpu.get_cpu_capability().encode())
    for tensor in [*inputs, *graph.buffers()]:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} {tensor.device};".encode())
    for tensor in graph.buffers():
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _same(run: Function, function: Function, points: Points) -> bool:
    """Whether a recorded function gives what the function does, at each point."""
    return all(_agree(_same_random(run, p), _same_random(function, p)) for p in points)


def _same_random(function: Function, arguments: Inputs) -> tuple[Tensor, ...]:
    """A function's values from the same random numbers each time, which are put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return function(*arguments)


def _agree(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> bool:
    """Equal to a relative 1e-10 (1e-4 in single precision), infinities in the same places."""
    for a, b in zip(ours, theirs, strict=True):
        tolerance = 1e-10 if b.dtype == torch.float64 else 1e-4
        finite = b[b.isfinite()]
        scale = float(finite.abs().max()) if finite.numel() else 0.0
        if not torch.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True):
            return False
    return True
