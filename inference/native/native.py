"""Functions of a compiled library, called with tensors, or by a sampler without Python."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.compiled import checked
from .library import loaded
from .loops import LINE

# The first function as a sampler wants it, and one that counts and keeps its draws. 3 and 4 tell
# nutpie that the trajectory left where gradient or value are finite. A sampler's thread has no
# other for its products: it would wake a team for each.
_SAMPLED = """
struct task { void **given; char *scratch; i64 *steps; double *points; };
i64 density(u64 size, double *u, double *gradient, double *value, struct task *task) {
  static __thread int alone = 0;
  if (!alone) { set_threads(1); alone = 1; }
  void *given[NUMBER] = {u};
  for (i64 i = 1; i < NUMBER; i++) given[i] = task->given[i];
  void *results[] = {value, gradient};
  run0(given, results, task->scratch);
  for (u64 i = 0; i < size; i++) if (!__builtin_isfinite(gradient[i])) return 3;
  return __builtin_isfinite(*value) ? 0 : 4;
}
i64 expand(u64 size, u64 expanded, double *u, double *out, struct task *task) {
  double *point = task->points + *task->steps * size;
  for (u64 i = 0; i < size; i++) point[i] = u[i];
  *out = 0;
  ++*task->steps;
  return 0;
}
"""


def sampled(given: int) -> str:
    """The C functions `density` and `expand` beside a `run0` that is given so many tensors."""
    return _SAMPLED.replace("NUMBER", str(given))


class Layout(NamedTuple):
    """How a tensor lies in memory."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> Layout:
        """The layout of a tensor."""
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype)

    def laid_out(self, tensor: Tensor) -> Tensor:
        """A tensor in this layout.

        Raises:
            ValueError: it has another shape or type.
        """
        if tensor.shape != self.shape or tensor.dtype != self.dtype:
            raise ValueError(f"{tuple(tensor.shape)} in place of {self.shape}")
        if tensor.stride() == self.stride:
            return tensor
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype).copy_(tensor)


class Native:
    """One function of a library: tensors to a list of tensors; can be sent to another process.

    Args:
        path: the library.
        name: the function `name(given, results, scratch)`.
        scratch: bytes of memory that it needs.
        given: layout of each argument.
        constants: what it is given after these.
        results: an example of each result, which are laid out one element after another.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        scratch: int,
        given: Sequence[Tensor],
        constants: Sequence[Tensor],
        results: Sequence[Tensor],
    ):
        self.path, self.name, self._bytes = path, name, scratch
        self._given = [Layout.of(tensor) for tensor in given]
        self._constants = list(constants)
        self._results = [(tuple(tensor.shape), tensor.dtype) for tensor in results]
        self._load()

    def _load(self) -> None:
        self._code = loaded(self.path)
        self._run = self._code[self.name]
        self._run.argtypes, self._run.restype = [ctypes.c_void_p] * 3, None
        self._scratch = _Memory(self._bytes)
        count = len(self._given) + len(self._constants)
        self._pointers = (ctypes.c_void_p * count)()
        self._pointers[len(self._given) :] = [t.data_ptr() for t in self._constants]
        self._out = (ctypes.c_void_p * len(self._results))()

    def __call__(self, *arguments: Tensor) -> list[Tensor]:
        laid = [layout.laid_out(tensor) for layout, tensor in zip(self._given, arguments)]
        results = [torch.empty(shape, dtype=dtype) for shape, dtype in self._results]
        for i, tensor in enumerate(laid):
            self._pointers[i] = tensor.data_ptr()
        for i, tensor in enumerate(results):
            self._out[i] = tensor.data_ptr()
        self._run(self._pointers, self._out, self._scratch.address)
        return results

    def __getstate__(self) -> dict[str, Any]:
        own = ("_code", "_run", "_scratch", "_pointers", "_out")
        return {name: value for name, value in vars(self).items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        checked(self.path)
        self._load()

    def task(self, arguments: Sequence[Tensor], steps: int, points: np.ndarray) -> Task:
        """What `density` and `expand` need beside u (d,), for one chain.

        Args:
            arguments: an unconstrained vector (d,), float64, and what else the function is given.
            steps: address of a number that counts the draws.
            points: of the draws, (draw, d), float64.
        """
        laid = [layout.laid_out(tensor) for layout, tensor in zip(self._given, arguments)]
        return Task(self._code, [*laid, *self._constants], _Memory(self._bytes), steps, points)


class Task:
    """The functions of a library for one chain, and the memory that is the chain's alone.

    Attributes:
        functions: the library, with `density` and `expand`.
        data: what both are handed at each call.
    """

    def __init__(
        self,
        functions: ctypes.CDLL,
        given: list[Tensor],
        scratch: _Memory,
        steps: int,
        points: np.ndarray,
    ):
        self.functions, self._alive = functions, (given, scratch, points)
        self._table = np.array([tensor.data_ptr() for tensor in given], dtype=np.uint64)
        numbers = [self._table.ctypes.data, scratch.address, steps, points.ctypes.data]
        self.data = np.array(numbers, dtype=np.uint64)


class _Memory:
    """Some bytes, and the address in them from which a line of the cache begins."""

    def __init__(self, count: int):
        self._bytes = np.empty(count + LINE, dtype=np.uint8)
        self.address = -(-self._bytes.ctypes.data // LINE) * LINE
