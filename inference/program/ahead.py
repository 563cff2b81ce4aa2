"""A compiled density as C functions that a sampler calls without Python: 30 microseconds less.

AOTInductor's library and libtorch have C interfaces; thirty lines of C, which know neither and get
their functions as pointers, fit them to the signature that nutpie takes (that of its own compiled
models). Compiled in a tenth of a second beside the density, so where there is one there is the
other.
"""

import ctypes
import hashlib
import platform
import subprocess
import zipfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.compiled import checked, compiler, from_cache
from .native import Native

_SOURCE = r"""
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct density {
  int32_t (*run)(void *, void **, size_t, void **, size_t, void *, void *);
  int32_t (*tensor)(void *, int64_t, const int64_t *, const int64_t *, int64_t, int32_t, int32_t,
                    int32_t, void **);
  int32_t (*address)(void *, void **);
  int32_t (*drop)(void *);
  void (*set_threads)(int);
  void *model;
  int64_t *steps;
  int64_t lives;  /* tensors that the density reads beside u, */
  int64_t live[]; /* each: address, dtype, dimensions, sizes, strides */
};

int64_t value_and_gradient(uint64_t size, double *u, double *gradient, double *value,
                           struct density *self) {
  static __thread int alone = 0;
  if (!alone) { /* the sampler's thread would wake a team for each product */
    self->set_threads(1);
    alone = 1;
  }
  int64_t shape = size, stride = 1;
  void *input[1 + self->lives], *output[2], *where;
  if (self->tensor(u, 1, &shape, &stride, 0, 7 /* float64 */, 0 /* cpu */, 0, input)) return 1;
  int64_t *at = self->live;
  for (int64_t i = 1; i <= self->lives; i++) {
    int64_t n = at[2];
    if (self->tensor((void *)at[0], n, at + 3, at + 3 + n, 0, at[1], 0, 0, input + i)) return 1;
    at += 3 + 2 * n;
  }
  if (self->run(self->model, input, 1 + self->lives, output, 2, NULL, NULL)) return 1;
  self->address(output[0], &where);
  *value = *(double *)where;
  self->address(output[1], &where);
  memcpy(gradient, where, size * sizeof(double));
  self->drop(output[0]);
  self->drop(output[1]);
  for (uint64_t i = 0; i < size; i++)
    if (!isfinite(gradient[i])) return 3;
  return isfinite(*value) ? 0 : 4;
}

int64_t expand(uint64_t size, uint64_t expanded, double *u, double *out, struct density *self) {
  memcpy(out, u, size * sizeof(double));
  ++*self->steps;
  return 0;
}
"""
# The functions of the two libraries, in the order of the struct above.
_RUN = "AOTInductorModelContainerRunSingleThreaded"
_TORCH = ("create_tensor_from_blob", "get_data_ptr", "delete_tensor_object")


def _pointer(function: Any) -> int:
    """The address of a function of ctypes."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _address(function: Any) -> SimpleNamespace:
    """What nutpie asks of a compiled function: where it is."""
    return SimpleNamespace(address=_pointer(function))


# Torch's numbers of the types that data have.
_TYPES = {torch.float64: 7, torch.float32: 6, torch.int64: 4, torch.int32: 3, torch.bool: 11}


def nutpie_model(
    package: Path,
    size: int,
    start: Callable[[int], np.ndarray],
    steps: ctypes.Array,
    chain: int,
    live: Sequence[Tensor] = (),
) -> Any:
    """A model that nutpie samples from, of the density in a package of AOTInductor.

    Args:
        package: the `.pt2` file; its graph maps a vector (d,) to value and gradient, float64.
        size: d.
        start: seed to starting point.
        steps: steps of each chain, in shared memory; counted up at each draw.
        chain: the chain whose steps are counted.
        live: further arguments of the graph, read where they lie.

    Raises:
        RuntimeError: the density cannot be loaded, or a live tensor has an odd type.
    """
    if any(tensor.dtype not in _TYPES for tensor in live):
        raise RuntimeError("a tensor has a type that is not passed on")
    adapter = ctypes.CDLL(str(_adapter()))
    counter = ctypes.addressof(steps) + chain * ctypes.sizeof(ctypes.c_int64)
    pointers = [*_loaded(package), counter, len(live)]
    pointers += [number for tensor in live for number in _described(tensor)]
    data = np.array(pointers, dtype=np.uint64)
    return _model(adapter.value_and_gradient, adapter.expand, data, size, start)


def nutpie_model_of(density: Native, u: Tensor, steps: ctypes.Array, chain: int) -> Any:
    """A model that nutpie samples from, of a density in C.

    Args:
        density: maps a vector (d,) to value and gradient, float64.
        u: starting point (d,).
        steps: steps of each chain, counted up at each draw.
        chain: the chain whose steps are counted.
    """
    counter = ctypes.addressof(steps) + chain * ctypes.sizeof(ctypes.c_int64)
    task = density.task(u, counter)
    code, start = task.functions, u.numpy()
    return _model(code.density, code.expand, task.data, len(u), lambda _: start, task)


def _model(
    density: Any,
    expand: Any,
    data: np.ndarray,
    size: int,
    start: Callable[[int], np.ndarray],
    alive: Any = None,
) -> Any:
    """nutpie's model of two functions of ctypes, and of what both are handed."""
    from nutpie.compile_pymc import CompiledPyMCModel

    return CompiledPyMCModel(
        dims={},
        compiled_logp_func=_address(density),
        compiled_expand_func=_address(expand),
        initial_point_func=start,
        shared_data={},
        user_data=data,
        n_expanded=size,
        shape_info=(["u"], [slice(0, size)], [(size,)]),
        logp_func=alive,  # kept as long as the model is
        expand_func=None,
        _n_dim=size,
        _shapes={"u": (size,)},
        _coords={},
    )


@cache
def _loaded(package: Path) -> tuple[int, ...]:
    """The addresses of the functions that the adapter calls, and that of the model.

    In the order of `struct density`; the libraries stay loaded as long as the process lives.
    """
    library = ctypes.CDLL(str(from_cache(f"{package.stem}.so", partial(_extract, package))))
    libtorch = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    model = ctypes.c_void_p()
    create = library.AOTInductorModelContainerCreateWithDevice
    if create(ctypes.byref(model), ctypes.c_size_t(1), b"cpu", None):
        raise RuntimeError("the compiled density cannot be loaded")
    functions = [getattr(library, _RUN), *(getattr(libtorch, f"aoti_torch_{n}") for n in _TORCH)]
    functions.append(libtorch.omp_set_num_threads)
    return (*map(_pointer, functions), model.value or 0)


def _described(tensor: Tensor) -> tuple[int, ...]:
    """Address, type, dimensions, sizes and strides, as the adapter reads them."""
    sizes = *tensor.shape, *tensor.stride()
    return tensor.data_ptr(), _TYPES[tensor.dtype], tensor.ndim, *sizes


def _adapter() -> Path:
    """The C functions above as a library in the cache."""
    key = hashlib.sha256(f"{_SOURCE} {platform.machine()}".encode()).hexdigest()[:16]
    return from_cache(f"adapter-{key}.so", _compile)


def _compile(path: Path) -> None:
    """Compile the C functions into a library.

    Raises:
        RuntimeError: there is no C compiler.
    """
    command = compiler()
    if command is None:
        raise RuntimeError("there is no C compiler")
    source = path.with_suffix(".c")
    source.write_text(_SOURCE)
    flags = ["-x", "c", "-O2", "-shared", "-fPIC", str(source), "-o", str(path)]
    subprocess.run([command, *flags], check=True, capture_output=True)


def _extract(package: Path, path: Path) -> None:
    """Copy the one shared library out of a package, which is a zip archive."""
    with zipfile.ZipFile(checked(package)) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".so"))
        path.write_bytes(archive.read(name))
