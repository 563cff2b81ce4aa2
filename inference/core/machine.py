"""Where and how a run computes: number type, threads, device, versions."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from models.contract import BadSetting, Refused, UsageError, nearest

from .. import METHODS, Method

if TYPE_CHECKING:
    from models.contract import Data

DEVICES = ("auto", "cpu", "cuda")


def precision(method: Method | None, data: Data, *, identified: bool, asked: bool) -> str:
    """The number type in which a run computes: `float64` or `float32`.

    The data have a type of their own: `float32` of images, else `float64`, unless the user asks
    for another. A run takes it in three cases:

    - Its steps are stochastic (the method fits a guide): the noise of a gradient estimate is far
      larger than rounding, and half the memory is half the time.
    - The latents are not identified (the weights of a network): what is judged is predictions,
      which do not depend on the last digits of a weight.
    - The user asks for it.

    Otherwise a run computes in `float64`, whatever the data: R-hat, a Hessian and the zero of a
    gradient need the digits.

    Args:
        method: its record in the catalogue; None of what looks at the density alone (`check`).
        data: the data set.
        identified: whether the model's latents are identified.
        asked: whether the user has chosen the data's type (the option `dtype`).

    Raises:
        Refused: single precision is asked for, and is not enough for the method.
    """
    stochastic = method is not None and method.takes_guide
    if identified and not (stochastic or asked):
        return "float64"
    if method and identified and not method.single and data.dtype == "float32":
        name = method.function.rpartition(":")[2].strip("_")
        raise Refused(
            f"{name} needs float64, seven digits do not tell where the mode is; leave dtype out "
            "and write .to(x.dtype) at what is float32, or use nuts or svi"
        )
    return data.dtype


@contextmanager
def numbers(dtype: str = "float64") -> Iterator[None]:
    """One number type and one thread while a run computes; the caller's are put back after."""
    before, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(getattr(torch, dtype))
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        torch.set_num_threads(threads)


def tolerance(dtype: torch.dtype) -> float:
    """The relative difference of log densities that rounding explains."""
    return 1e-8 if dtype == torch.float64 else 1e-4


def device(name: str, method: str) -> str:
    """The device of that name, `auto` for the GPU where there is one that the method can use.

    Raises:
        UsageError: no device has that name, or the method runs on the processor alone.
        BadSetting: there is no such device here.
    """
    if name not in DEVICES:
        raise UsageError(f"there is no device '{name}'; {nearest(name, DEVICES)}")
    if name == "cpu":
        return name
    able = METHODS[method].on_gpu
    if name == "cuda" and not able:
        raise UsageError(f"{method} runs on the processor alone; leave --device out")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise BadSetting("torch finds no CUDA device here; use --device cpu")
    return "cuda" if able and there else "cpu"


@contextmanager
def on(device: str) -> Iterator[None]:
    """New tensors on a device; the caller's default is put back after."""
    if device == "cpu":  # torch's default: saying so costs each operation a microsecond
        yield
        return
    with torch.device(device):
        yield


# The libraries that draws depend on.
OF_DRAWS = ("torch", "pyro-ppl", "numpy", "scipy", "nutpie")


def versions(names: Sequence[str] = (*OF_DRAWS, "arviz")) -> dict[str, str]:
    """What a run's numbers depend on: Python, libraries, this code, the processor."""
    installed = {name: version(name) for name in names}
    instructions = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    ours = {"python": sys.version.split()[0], "zoo": _own_version(), "instructions": instructions}
    return ours | installed


@cache
def _own_version() -> str:
    """A hash of the project's sources: draws of another state of it may be others."""
    digest, house = hashlib.sha256(), Path(__file__).parents[2]
    for folder in ("inference", "models"):
        for path in sorted((house / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    digest.update((house / "zoo.py").read_bytes())
    return digest.hexdigest()[:12]


def cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
