"""Before a run: its log density is the same each time, and its gradient is right.

No sampler or optimiser can see that a density is random (rows picked at random), or that a latent
lost its gradient on the way (`torch.tensor([a, b])`): each would go on, and end anywhere or never.
One more evaluation and one central difference tell. The refusal is then that of `check`.
"""

from __future__ import annotations

import math

import pyro
import torch
from torch import Tensor

from models.contract import Refused

from ..core.problem import Problem
from ..program.kinks import difference
from ..program.program import Program
from .check import check

# Numbers of one run of the model above which it is looked at on some of the rows, and how many.
_LARGE, _ROWS = 100_000, 256
# Directions of which one must agree.
_DIRECTIONS = 3


def prove(program: Program) -> None:
    """Refuse a random density, and a wrong gradient.

    Raises:
        Refused: with the line of the model, as far as it is known.
    """
    with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope():
        torch.manual_seed(0)
        program = _some_rows(program)
        if not program.size:
            return
        u = program.start()
        first, again = program.log_density(u).detach(), program.log_density(u).detach()
        if not torch.isclose(again, first, rtol=1e-10, atol=1e-10):
            random = "the log density is another each time at the same values of the latents"
            raise _refusal(program.problem, random)
        if not _has_right_slope(program, u):
            raise _refusal(program.problem, "the gradient of the log density is wrong")


def _some_rows(program: Program) -> Program:
    """The program of fewer rows, where that of all takes long."""
    large = program.elements_of_run > _LARGE and (program.problem.n or 0) > _ROWS
    return program.first(_ROWS) if large else program


def _has_right_slope(program: Program, u: Tensor) -> bool:
    """Whether the gradient at `u` equals central differences along one of some directions.

    Along others a kink may spoil them; a wrong gradient is wrong along all. Where the density is
    steep a step is short: near a pole it is steep as 1 / |u|, and would be stepped over.
    """
    value, gradient = program.density_and_gradient(u)
    parts = (1e-5, 1e-9, 1e-6) if u.dtype == torch.float64 else (2e-3, 1e-4, 1e-3)
    steep = gradient.abs()
    usual = steep[steep > 0].median() if steep.any() else torch.ones(())
    unknown = True  # an edge on all sides, which tells nothing
    for _ in range(_DIRECTIONS):
        signs = torch.randint(0, 2, u.shape) * 2.0 - 1
        direction = signs * (0.5 + torch.rand(u.shape)) * usual / (usual + steep)
        sizes = (float((gradient * direction).abs().sum()), float(value.abs()), 1.0)
        error = sum(part * size for part, size in zip(parts, sizes))
        slope = float(gradient @ direction)
        numeric = difference(program.log_density, u, direction, slope, error)
        if abs(numeric - slope) <= error:
            return True
        unknown &= not math.isfinite(numeric)
    return unknown


def _refusal(problem: Problem, otherwise: str) -> Refused:
    """The refusal that names the problem `check` finds in the density, or else these words."""
    for line in check(problem).failed:
        if line.name in ("plates", "density", "gradient"):
            return Refused(str(line))
    return Refused(f"{otherwise}; see what `zoo.py check` says")
