"""Value and gradient of a log density as the sampler calls it, in microseconds.

The C function that nutpie is handed is called by a loop in C, so that Python is entered once a
round; the traced density is called from Python, as in the sampler. Beside them stands what two
passes over the features X would take, one for X w and one for X' r, at the speed at which one core
adds up a gigabyte. Tables that fit a cache may be read faster than that.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from problems import FILES, rows

SIMULATED, FEATURES = (1_000, 10_000, 100_000, 1_000_000), 30
ROUNDS, ROUND_S, GIGABYTE = 7, 0.2, 2**30

_DRIVER = """
typedef long long i64; typedef unsigned long long u64;
typedef i64 density(u64 size, double *u, double *gradient, double *value, void *task);
i64 repeated(density *call, u64 size, double *u, double *gradient, double *value, void *task,
             i64 count) {
  i64 failed = 0;
  for (i64 i = 0; i < count; i++) failed |= call(size, u, gradient, value, task);
  return failed;
}
double sum(const double *x, i64 size) {
  double total = 0, part[32] = {0};
  for (i64 i = 0; i + 32 <= size; i += 32) for (int j = 0; j < 32; j++) part[j] += x[i + j];
  for (int j = 0; j < 32; j++) total += part[j];
  return total;
}
"""


def driver() -> ctypes.CDLL:
    """The loops in C, compiled."""
    from inference.core.compiled import c_compiler

    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "driver.c"), Path(folder, "driver.so")
        source.write_text(_DRIVER)
        words = [*(c_compiler() or ["cc"]), "-O3", "-march=native", "-shared", "-fPIC"]
        subprocess.run([*words, str(source), "-o", str(library)], check=True)
        code = ctypes.CDLL(str(library))
    code.repeated.argtypes = [ctypes.c_void_p, ctypes.c_uint64, *[ctypes.c_void_p] * 4]
    code.repeated.argtypes += [ctypes.c_int64]
    code.repeated.restype = ctypes.c_int64
    code.sum.argtypes, code.sum.restype = [ctypes.c_void_p, ctypes.c_int64], ctypes.c_double
    return code


def bandwidth(code: ctypes.CDLL) -> float:
    """Bytes that one core reads in a second from memory, the fastest of several rounds."""
    values = np.ones(GIGABYTE // 8)
    return GIGABYTE / fastest(lambda count: [_sum(code, values) for _ in range(count)])


def _sum(code: ctypes.CDLL, values: np.ndarray) -> None:
    if code.sum(values.ctypes.data, values.size) != values.size:
        raise RuntimeError("the sum of ones is wrong")


def fastest(loop: Callable[[int], Any]) -> float:
    """Seconds a call, of a loop that is given their number: the fastest of several rounds."""
    count = max(1, int(ROUND_S / _seconds(loop, 1)))
    return min(_seconds(loop, count) / count for _ in range(ROUNDS))


def _seconds(loop: Callable[[int], Any], count: int) -> float:
    began = time.perf_counter()
    loop(count)
    return time.perf_counter() - began


def program(name: str, **settings: int) -> Any:
    """A model with its data: one of the benchmark, or as it simulates."""
    import torch

    from inference.program.prepare import program_of
    from inference.workflow.plan import Request
    from inference.workflow.run import plan_of

    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)  # as in the sampler
    data = "simulate" if settings else rows(name) if name in FILES else None
    given = Request(model=FILES.get(name, name), method="nuts", data=data, settings=settings)
    plan = plan_of(given)
    return program_of(plan.entry, plan.options, plan.data)


def microseconds(code: ctypes.CDLL, name: str, **settings: int) -> list[float]:
    """A call of the native and of the traced density."""
    from inference.program.graphs import compiled

    ours = program(name, **settings)
    u = ours.start()
    points = [(u,), (5 * u,)]
    native, traced = (
        compiled(ours.density_and_gradient, points, how=how) for how in ("native", "traced")
    )
    loops = partial(_in_c, code, native, u), partial(_in_python, traced, u)
    return [1e6 * fastest(loop) for loop in loops]


def _in_c(code: ctypes.CDLL, native: Any, u: Any, count: int) -> None:
    """Call a native density as nutpie does.

    Raises:
        RuntimeError: it is not finite.
    """
    draws, value, gradient = ctypes.c_int64(), np.empty(1), np.empty(len(u))
    task = native.run.task([u], ctypes.addressof(draws), np.empty((1, len(u))))
    outputs = gradient.ctypes.data, value.ctypes.data, task.data.ctypes.data
    if code.repeated(task.functions.density, len(u), u.data_ptr(), *outputs, count):
        raise RuntimeError("a density is not finite")


def _in_python(traced: Callable, u: Any, count: int) -> None:
    import torch

    with torch.inference_mode():
        for _ in range(count):
            traced(u)


def table() -> str:
    """Markdown: microseconds a call of each way, and of two passes over the features."""
    code = driver()
    speed = bandwidth(code)
    lines = [
        f"{speed / 1e9:.1f} GB/s by one core",
        "",
        "| log density and gradient | native, us | traced, us | two passes over X, us |"
        " native of these |",
        "|---|---|---|---|---|",
    ]
    for name in ("logistic", "schools", "radon", "network"):
        native, traced = microseconds(code, name)
        lines.append(f"| {name} | {native:.2f} | {traced:.1f} | | |")
    for n in SIMULATED:
        native, traced = microseconds(code, "logistic", n=n, k=FEATURES)
        passes = 2 * 8 * n * FEATURES / speed * 1e6
        lines.append(
            f"| logistic, {n:,} x {FEATURES} | {native:,.1f} | {traced:,.1f} | {passes:,.1f} |"
            f" {native / passes:.2f} |"
        )
    return "\n".join(lines)
