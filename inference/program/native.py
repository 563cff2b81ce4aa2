"""A recorded graph as one small C file, compiled in a fraction of a second and run without Python.

No header but our own declarations of the mathematical functions is needed, and no fast-math: NaN
and infinity mean what they mean in torch. Where glibc has vector versions of the functions
(libmvec), loops over them are vectorised. The C holds shapes and no values, so that other data of
the same shapes use the same library, which is kept in the user's cache.
"""

from __future__ import annotations

import ctypes
import hashlib
import operator
import platform
import subprocess
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx

from ..core.compiled import c_compiler, checked, from_cache
from .loops import LINE, TYPES, Array, Steps, contiguous, source
from .operations import FUNCTIONS, HELPERS, LIBRARY, Unknown, operation
from .record import Recorded, is_random

# Arguments of operations that say what their output is like, which is known from the output.
_OF_OUTPUT = {"dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking"}
_FLAGS = "-O3 -march=native -fno-math-errno -fno-trapping-math -fopenmp-simd -shared -fPIC -w"
# Memory is used again for numbers of other types.
_FLAGS += " -fno-strict-aliasing"


# -- from a graph to C ----------------------------------------------------------------------------


class Written(NamedTuple):
    """A graph in C.

    Attributes:
        text: the function `run(given, results, scratch)`.
        scratch: bytes of memory that it needs.
        beside: what it is given after its arguments: tensors, and functions that draw them.
        results: an example of each result.
    """

    text: str
    scratch: int
    beside: list[Tensor | Callable[[], Tensor]]
    results: list[Tensor]


class _Writer:
    """Runs a graph once, and writes down what each node does in C.

    What torch gives on the way tells shapes, strides, and which tensors are views of which.

    Args:
        graph: as it was recorded.
        inputs: examples of its arguments.

    Attributes:
        steps: what has been written.
        given: the tensors that the function is given: arguments, constants, random draws.
        draws: the functions that draw these, by their number among the given.
        values: node to what torch gives; all stay alive, so that no two have one address.
        arrays: node to array, or several.
        memory: address of some memory to its name in C, and the element with which it begins.
    """

    def __init__(self, graph: fx.GraphModule, inputs: Sequence[Tensor]):
        self.steps = Steps()
        self.given: list[Tensor] = []
        self.draws: dict[int, Callable[[], Tensor]] = {}
        self.values: dict[fx.Node, Any] = {}
        self.arrays: dict[fx.Node, Any] = {}
        self.memory: dict[int, tuple[str, int]] = {}
        arguments = iter(inputs)
        for node in graph.graph.nodes:
            if node.op in ("placeholder", "get_attr"):
                own = node.op == "get_attr"
                value = getattr(graph, node.target) if own else next(arguments)
                self.values[node], self.arrays[node] = value, self._given(value)
            elif node.op == "call_function":
                args, kwargs = fx.map_arg((node.args, node.kwargs), self.values.__getitem__)
                self.values[node] = node.target(*args, **kwargs)
                self.arrays[node] = self._array(node, self.values[node])

    def _array(self, node: fx.Node, value: Any) -> Any:
        """The array of an operation, or several."""
        if node.target is operator.getitem:
            return self.arrays[node.args[0]][node.args[1]]
        return self._drawn(node, value) if is_random(node) else self._called(node, value)

    def _given(self, tensor: Tensor) -> Array:
        """A tensor that the function is given."""
        name = f"given{len(self.given)}"
        self.given.append(tensor)
        self.memory.setdefault(_address(tensor), (name, tensor.storage_offset()))
        if self.memory[_address(tensor)][0] == name:
            return self._view(tensor)
        return Array(name, tensor.dtype, tuple(tensor.shape), tensor.stride())

    def _drawn(self, node: fx.Node, value: Any) -> Array:
        """Random numbers, which torch draws before each call.

        Raises:
            Unknown: their distribution depends on what is computed.
        """
        if node.all_input_nodes or not isinstance(value, Tensor):
            raise Unknown(f"{node.target} of what is computed")
        self.draws[len(self.given)] = partial(node.target, *node.args, **node.kwargs)
        return self._given(value)

    def _view(self, tensor: Tensor) -> Array:
        """A tensor in memory that has a name."""
        name, start = self.memory[_address(tensor)]
        place = tensor.storage_offset() - start
        return Array(name, tensor.dtype, tuple(tensor.shape), tensor.stride(), place)

    def _called(self, node: fx.Node, value: Any) -> Any:
        """What an operation gives: views of what is there, or arrays that new steps fill."""
        tensors = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(tensor, Tensor) for tensor in tensors):
            raise Unknown(f"{node.target}, which gives no tensor")
        viewed = [_address(tensor) in self.memory for tensor in tensors]
        arrays = [self._view(t) if view else self._new(t) for t, view in zip(tensors, viewed)]
        result = arrays if isinstance(value, list | tuple) else arrays[0]
        if all(viewed) and not node.target._schema.is_mutable:
            return result
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), self.arrays.__getitem__)
        kwargs = {name: value for name, value in kwargs.items() if name not in _OF_OUTPUT}
        try:
            operation(node.target)(self.steps, result, *args, **kwargs)
        except (TypeError, KeyError) as error:
            raise Unknown(f"{node.target} with these arguments") from error
        return result

    def _new(self, tensor: Tensor) -> Array:
        """Memory of its own, laid out as torch has it."""
        if tensor.dtype not in TYPES:
            raise Unknown(f"numbers of type {tensor.dtype}")
        elements = tensor.untyped_storage().nbytes() // tensor.element_size()
        array = self.steps.new(tensor.dtype, tensor.shape, elements)
        self.memory[_address(tensor)] = (array.memory, 0)
        return self._view(tensor)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def written(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Written:
    """A graph in C.

    Args:
        graph: as it was recorded.
        inputs: examples of its arguments.

    Raises:
        Unknown: it has an operation that has no form in C.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        writer = _Writer(graph, inputs)
    last = next(node for node in graph.graph.nodes if node.op == "output")
    nodes = last.args[0][: graph.meta["wanted"]]
    results = [writer.values[node].detach() for node in nodes]
    declared = [
        f"const {TYPES[tensor.dtype]} *const given{i} = given[{i}];"
        for i, tensor in enumerate(writer.given)
    ]
    for i, (node, value) in enumerate(zip(nodes, results)):
        shape = tuple(value.shape)
        out = Array(f"result{i}", value.dtype, shape, contiguous(shape))
        writer.steps.write(out, "{0}", writer.arrays[node])
        declared.append(f"{out.type} *const {out.memory} = results[{i}];")
    body, scratch = source(writer.steps)
    lines = [_SIGNATURE, *declared, body, "}"]
    beside = [
        writer.draws.get(i, tensor.detach())
        for i, tensor in enumerate(writer.given)
        if i >= len(inputs)
    ]
    return Written("\n".join(lines), scratch, beside, results)


_SIGNATURE = "void run(void *const *given, void *const *results, char *scratch) {"


# -- from C to a library --------------------------------------------------------------------------


def _library(text: str) -> Path:
    """The library of some C, compiled where the cache does not have it.

    Raises:
        Unknown: there is no compiler, or it fails.
        Refused: the cache is not the user's alone.
    """
    command = c_compiler()
    if command is None:
        raise Unknown("there is no C compiler")
    key = hashlib.sha256("\n".join([text, *command, _processor()]).encode()).hexdigest()[:24]
    return from_cache(f"graph-{key}.so", partial(_compile, command, text))


def _compile(command: Sequence[str], text: str, path: Path) -> None:
    """Compile some C into a library."""
    file = path.with_suffix(".c")
    file.write_text(text)
    libraries = ["-lmvec"] if _has_vector_functions() else []
    words = [*command, *_FLAGS.split(), str(file), "-o", str(path), *libraries, "-lm"]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unknown(f"{command[0]} failed") from error


@cache
def _processor() -> str:
    """What the code of one processor must not be run on: the instructions that it knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    known = [line for line in lines if line.startswith(("flags", "Features"))]
    return " ".join([platform.machine(), platform.processor(), *known[:1]])


@cache
def _has_vector_functions() -> bool:
    """Whether the C library has vector versions of all functions, which gcc finds by attribute."""
    name, version = platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".") if part.isdecimal())
    return platform.machine() == "x86_64" and name == "glibc" and numbers >= (2, 35)


def _declared() -> str:
    """The mathematical functions, in both types."""
    mark = '__attribute__((simd("notinbranch"), const)) ' if _has_vector_functions() else ""
    lines = ["typedef long long i64;", "typedef unsigned long long u64;"]
    for name, (arguments, vector) in FUNCTIONS.items():
        for suffix, kind in (("", "double"), ("f", "float")):
            given = ", ".join([kind] * arguments)
            lines.append(f"{mark if vector else ''}{kind} {name}{suffix}({given});")
    return "\n".join([*lines, HELPERS])


# -- a library that is called ---------------------------------------------------------------------

# The function as a sampler wants it, and one that counts its draws. 3 and 4 tell nutpie that the
# trajectory left where gradient or value are finite.
_SAMPLED = """
struct task { void **given; char *scratch; i64 *steps; };
i64 density(u64 size, double *u, double *gradient, double *value, struct task *task) {
  void *given[NUMBER] = {u};
  for (i64 i = 1; i < NUMBER; i++) given[i] = task->given[i];
  void *results[] = {value, gradient};
  run(given, results, task->scratch);
  for (u64 i = 0; i < size; i++) if (!__builtin_isfinite(gradient[i])) return 3;
  return __builtin_isfinite(*value) ? 0 : 4;
}
i64 expand(u64 size, u64 expanded, double *u, double *out, struct task *task) {
  for (u64 i = 0; i < size; i++) out[i] = u[i];
  ++*task->steps;
  return 0;
}
"""


class Native(Recorded):
    """A graph as compiled C; can be sent to another process.

    Args:
        graph: as it was recorded.
        inputs: examples of its arguments.
        live: further arguments, read where they lie in each call.

    Raises:
        Unknown: an operation has no form in C, or there is no compiler.
        Refused: the cache is not the user's alone.
    """

    def __init__(self, graph: fx.GraphModule, inputs: Sequence[Tensor], live: Sequence[Tensor]):
        self.live = [tensor.detach() for tensor in live]
        whole = [*inputs, *self.live]
        if any(tensor.device.type != "cpu" for tensor in whole):
            raise Unknown("a graph on a GPU")
        self._ways = [(tensor.shape, tensor.stride(), tensor.dtype) for tensor in whole]
        text, self._bytes, self._beside, self._results = written(graph, whole)
        number = str(len(whole) + len(self._beside))
        text = "\n".join([_declared(), text, _SAMPLED.replace("NUMBER", number)])
        self.path = _library(text)
        self._load()

    def _load(self) -> None:
        self._code = ctypes.CDLL(str(self.path))
        for name, address in _blas().items():
            ctypes.c_void_p.in_dll(self._code, name).value = address
        self._run = self._code.run
        self._run.argtypes, self._run.restype = [ctypes.c_void_p] * 3, None
        self._scratch = _Memory(self._bytes)

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        results = [torch.empty(result.shape, dtype=result.dtype) for result in self._results]
        given = self._given(arguments)
        self._run(_pointers(given), _pointers(results), self._scratch.address)
        return tuple(results)

    def _given(self, arguments: Sequence[Tensor]) -> list[Tensor]:
        """All that the function is given, laid out as in the recording."""
        laid = [_laid_out(t, *way) for t, way in zip((*arguments, *self.live), self._ways)]
        return laid + [b if isinstance(b, Tensor) else b() for b in self._beside]

    def __getstate__(self) -> dict[str, Any]:
        own = ("_code", "_run", "_scratch")
        return {name: value for name, value in vars(self).items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        checked(self.path)
        self._load()

    def task(self, u: Tensor, steps: int) -> Task:
        """What `density` and `expand` need beside u (d,), for one chain.

        Args:
            u: an unconstrained vector (d,), float64.
            steps: address of a number that counts the draws.
        """
        return Task(self._code, self._given([u]), _Memory(self._bytes), steps)


@cache
def _blas() -> dict[str, int]:
    """The addresses of torch's own products of matrices."""
    torch_library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    functions = {name: getattr(torch_library, f"{name}_") for name in LIBRARY}
    return {name: ctypes.cast(f, ctypes.c_void_p).value or 0 for name, f in functions.items()}


class Task:
    """The functions of a library for one chain, and the memory that is the chain's alone.

    Attributes:
        functions: the library, with `density` and `expand`.
        data: what both are handed at each call.
    """

    def __init__(self, functions: ctypes.CDLL, given: list[Tensor], scratch: _Memory, steps: int):
        self.functions, self._given, self._scratch = functions, given, scratch
        self._table = np.array([tensor.data_ptr() for tensor in given], dtype=np.uint64)
        numbers = [self._table.ctypes.data, scratch.address, steps]
        self.data = np.array(numbers, dtype=np.uint64)


class _Memory:
    """Some bytes, and the address in them from which a line of the cache begins."""

    def __init__(self, count: int):
        self._bytes = np.empty(count + LINE, dtype=np.uint8)
        self.address = -(-self._bytes.ctypes.data // LINE) * LINE


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _laid_out(tensor: Tensor, shape: Any, stride: Any, dtype: torch.dtype) -> Tensor:
    """A tensor in the layout of a recording.

    Raises:
        ValueError: it has another shape or type.
    """
    if tensor.stride() == stride and tensor.shape == shape and tensor.dtype == dtype:
        return tensor
    if tensor.shape != shape or tensor.dtype != dtype:
        raise ValueError(f"{tuple(tensor.shape)} in place of {tuple(shape)}")
    return torch.empty_strided(shape, stride, dtype=dtype).copy_(tensor)
