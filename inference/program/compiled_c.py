"""A recorded graph as one small C file, compiled in a fraction of a second and called natively."""

import ctypes
import hashlib
import operator
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from . import loops
from .loops import TYPES, Array, Steps
from .operations import Unknown, operation

# What an output is made of is known from the output itself.
_OF_OUTPUT = {"dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking"}


class Written(NamedTuple):
    """A graph in C.

    Attributes:
        text: the function `run(given, results, scratch)`.
        scratch: bytes of memory that it needs.
        constants: tensors that it reads after its arguments.
        outputs: an example of each result.
    """

    text: str
    scratch: int
    constants: list[Tensor]
    outputs: list[Tensor]


class _Writer(fx.Interpreter):
    """Runs a graph once, and writes down what each node does in C."""

    def __init__(self, graph: fx.GraphModule):
        super().__init__(graph, garbage_collect_values=False)
        self.steps = Steps()
        self.given: list[Tensor] = []
        self.arrays: dict[fx.Node, Any] = {}
        # Address of memory to its name in C, and the element with which it begins there.
        self.memory: dict[int, tuple[str, int]] = {}
        self.alive: list[Any] = []

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.alive.append(value)
        if n.op in ("placeholder", "get_attr"):
            self.arrays[n] = self._given(value)
        elif n.target is operator.getitem:
            self.arrays[n] = self.arrays[n.args[0]][n.args[1]]
        elif n.op == "call_function":
            self.arrays[n] = self._called(n, value)
        return value

    def _given(self, tensor: Tensor) -> Array:
        """An argument or a constant."""
        key, name = tensor.untyped_storage()._cdata, f"given{len(self.given)}"
        self.given.append(tensor)
        self.memory.setdefault(key, (name, tensor.storage_offset()))
        if self.memory[key][0] != name:
            return Array(name, tensor.dtype, tuple(tensor.shape), tensor.stride())
        return self._view(tensor)

    def _view(self, tensor: Tensor) -> Array:
        """A tensor in memory that has a name."""
        name, start = self.memory[tensor.untyped_storage()._cdata]
        place = tensor.storage_offset() - start
        return Array(name, tensor.dtype, tuple(tensor.shape), tensor.stride(), place)

    def _called(self, node: fx.Node, value: Any) -> Any:
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), self.arrays.__getitem__)
        outs = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(out, Tensor) for out in outs):
            raise Unknown(f"{node.target}, which gives no tensor")
        views = [out.untyped_storage()._cdata in self.memory for out in outs]
        arrays = [self._view(out) if view else self._new(out) for out, view in zip(outs, views)]
        result = arrays if isinstance(value, list | tuple) else arrays[0]
        if all(views) and not node.target._schema.is_mutable:
            return result
        kwargs = {k: v for k, v in kwargs.items() if k not in _OF_OUTPUT}
        try:
            operation(node.target)(self.steps, result, *args, **kwargs)
        except (TypeError, KeyError) as error:
            raise Unknown(f"{node.target} with these arguments") from error
        return result

    def _new(self, tensor: Tensor) -> Array:
        storage = tensor.untyped_storage()
        if tensor.dtype not in TYPES:
            raise Unknown(f"numbers of type {tensor.dtype}")
        count = storage.nbytes() // tensor.element_size()
        array = self.steps.new(tensor.dtype, tensor.shape, count)
        self.memory[storage._cdata] = (array.memory, 0)
        return self._view(tensor)


def written(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Written:
    """A graph in C.

    Raises:
        Unknown: it has an operation that has no form in C.
    """
    writer = _Writer(graph)
    with torch.no_grad():
        results = writer.run(*inputs)
    last = next(n for n in graph.graph.nodes if n.op == "output")
    nodes = list(last.args[0])[: graph.wanted]
    if len(last.args[0]) > graph.wanted:
        raise Unknown("random numbers that nobody uses")
    outputs = [results[i] for i in range(graph.wanted)]
    declared = []
    for i, (node, value) in enumerate(zip(nodes, outputs)):
        out = Array(f"out{i}", value.dtype, tuple(value.shape), loops.contiguous(value.shape))
        writer.steps.write(out, "{0}", writer.arrays[node])
        declared.append(f"{out.type} *const out{i} = results[{i}];")
    given = [
        f"const {TYPES[t.dtype]} *const given{i} = given[{i}];" for i, t in enumerate(writer.given)
    ]
    body, scratch = loops.source(writer.steps, set())
    text = "\n".join(
        ["void run(void *const *given, void *const *results, char *scratch) {", *given, *declared]
        + [body, "}"]
    )
    return Written(text, scratch, writer.given[len(inputs) :], outputs)


_VECTOR = (
    "acos acosh asin asinh atan atanh cbrt cos cosh erf erfc exp exp2 expm1 "
    "log log10 log1p log2 sin sinh tan tanh"
).split()
_VECTOR2 = ["atan2", "hypot", "pow"]
_SCALAR = "floor ceil trunc rint fabs sqrt".split()


def _header() -> str:
    simd = '__attribute__((simd("notinbranch"), const)) '
    lines = ["typedef long long i64;"]
    for s, t in (("", "double"), ("f", "float")):
        lines += [f"{simd}{t} {name}{s}({t});" for name in _VECTOR]
        lines += [f"{simd}{t} {name}{s}({t}, {t});" for name in _VECTOR2]
        lines += [f"{t} {name}{s}({t});" for name in _SCALAR]
        lines += [f"{t} fmod{s}({t}, {t});"]
    lines.append(_SPECIAL)
    return "\n".join(lines)


_SPECIAL = """
double lgamma_r(double, int *);
static double log_gamma(double x) { int sign; return lgamma_r(x, &sign); }
static double digamma(double x) {
  double sum = 0;
  if (x == 0) return __builtin_copysign(__builtin_inf(), -x);
  if (x < 0) {
    if (x == floor(x)) return __builtin_nan("");
    double pi = 3.14159265358979323846, part = x - floor(x);
    sum = -pi / tan(pi * part);
    x = 1 - x;
  }
  while (x < 10) { sum -= 1 / x; x += 1; }
  double y = 1 / (x * x);
  double tail = y * (1. / 12 - y * (1. / 120 - y * (1. / 252 - y * (1. / 240 - y * (1. / 132
                - y * (691. / 32760 - y * (1. / 12)))))));
  return sum + log(x) - 0.5 / x - tail;
}
"""

FLAGS = "-O3 -march=native -fno-math-errno -fno-trapping-math -fopenmp-simd -shared -fPIC".split()


class Native:
    """A graph that is called like its function."""

    def __init__(self, graph, inputs, live=()):
        self.written = written(graph, [*inputs, *live])
        self.live = list(live)
        text = _header() + "\n" + self.written.text
        self.text = text
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        path = Path(f"/tmp/me/nat/{key}.so")
        if not path.exists():
            src = path.with_suffix(".c")
            src.write_text(text)
            subprocess.run(["gcc", *FLAGS, str(src), "-o", str(path), "-lmvec", "-lm"], check=True)
        self.path = path
        self.library = ctypes.CDLL(str(path))
        self.scratch = torch.empty(self.written.scratch + 64, dtype=torch.uint8)
        self.base = -(-self.scratch.data_ptr() // 64) * 64
        self.shapes = [t.shape for t in self.written.outputs]

    def __call__(self, *args):
        outs = [torch.empty(t.shape, dtype=t.dtype) for t in self.written.outputs]
        given = [*args, *self.live, *self.written.constants]
        g = (ctypes.c_void_p * len(given))(*(t.data_ptr() for t in given))
        o = (ctypes.c_void_p * len(outs))(*(t.data_ptr() for t in outs))
        self.library.run(g, o, ctypes.c_void_p(self.base))
        return tuple(outs)
