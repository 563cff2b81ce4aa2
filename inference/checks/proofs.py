"""Before a run: its log density is the same each time, and its gradient is right.

No sampler or optimiser can see that a density is random (rows picked at random), or that a latent
lost its gradient on the way (`torch.tensor([a, b])`): each would go on, and end anywhere or never.
One more evaluation and one central difference tell. What is then said is what `check` finds.
"""

from __future__ import annotations

import math

import pyro
import torch
from torch import Tensor

from models.contract import Refused

from ..core.problem import Problem
from ..program.derivatives import difference
from ..program.program import Program
from .check import check

# Numbers of one run of the model above which it is looked at on some of the rows, and how many.
_LARGE, _ROWS = 100_000, 256
# Directions of which one must agree.
_DIRECTIONS = 3


def prove(problem: Problem) -> None:
    """Refuse a random density, and a wrong gradient.

    Raises:
        Refused: with the line of the model, as far as it is known.
    """
    with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope():
        torch.manual_seed(0)
        program = _some_rows(Program(problem))
        if not program.size:
            return
        u = program.start()
        first = program.log_density(u).detach()
        if not torch.isclose(program.log_density(u).detach(), first, rtol=1e-10, atol=1e-10):
            raise Refused(
                _told(
                    problem,
                    "the log density is another each time at the same values of the latents",
                )
            )
        if not _slopes(program, u):
            raise Refused(_told(problem, "the gradient of the log density is wrong"))


def _some_rows(program: Program) -> Program:
    large = program.elements_of_run > _LARGE and (program.problem.n or 0) > _ROWS
    return Program(program.problem.first(_ROWS)) if large else program


def _slopes(program: Program, u: Tensor) -> bool:
    """Whether the gradient at `u` equals central differences along one of some directions.

    Along others a kink may spoil them; a wrong gradient is wrong along all. Where the density is
    steep a step is short: near a pole it is steep as 1 / |u|, and would be stepped over.
    """
    value, gradient = program.density_and_gradient(u)
    parts = (1e-5, 1e-9, 1e-6) if u.dtype == torch.float64 else (2e-3, 1e-4, 1e-3)
    steep = gradient.abs()
    usual = steep[steep > 0].median() if steep.any() else torch.ones(())
    unknown = True  # an edge on all sides, of which nothing can be said
    for _ in range(_DIRECTIONS):
        signs = torch.randint(0, 2, u.shape) * 2.0 - 1
        way = signs * (0.5 + torch.rand(u.shape)) * usual / (usual + steep)
        sizes = (float((gradient * way).abs().sum()), float(value.abs()), 1.0)
        error = sum(part * size for part, size in zip(parts, sizes))
        slope = float(gradient @ way)
        numeric = difference(program.log_density, u, way, slope, error)
        if abs(numeric - slope) <= error:
            return True
        unknown &= not math.isfinite(numeric)
    return unknown


def _told(problem: Problem, otherwise: str) -> str:
    """What `check` finds wrong with the density."""
    crosses = [c for c in check(problem).crosses if c.name in ("plates", "density", "gradient")]
    if crosses:
        return str(crosses[0])
    return f"{otherwise}; see what `zoo.py check` says"
