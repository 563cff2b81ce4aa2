"""Short chains from a fit's own draws: a sample of the posterior stays one when it is moved.

Many chains of Hamiltonian Monte Carlo start at draws of an approximation, and are moved together:
they share step size and mass matrix, which are learned from all of them. Each needs a few steps
alone, as it starts about where it belongs. How much of its start a chain still remembers is
measured, so that what is left of the start's error is known (`vouch.Moments`). The idea of many
short chains: Margossian et al. (2024), arXiv:2110.13017; of a common step: Hoffman, Radul and
Sountsov (2021), ChEES-HMC.
"""

import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..program import graphs
from ..program.program import Program
from ..program.sampling import NOT_VECTORISED, vectorises

# The fewest and the most chains, and elements, and products of elements and dimensions, that they
# share; and how many there are where each is computed apart.
_FEWEST, _MOST, _ALL_ELEMENTS, _PRODUCTS = 256, 4096, 20_000, 2_000_000
APART = 64
# Elements that are computed at once, so that they stay in the processor's cache, and the fewest
# and the most points.
_ELEMENTS, _LEAST, _LARGEST = 40_000, 64, 512
# Iterations, and how many of many chains, which are those of a quick model; the share of them that
# learn step size and mass matrix.
_ITERATIONS, _OF_MANY, _MANY, _LEARNING = 12, 24, 1000, 0.4
# Leapfrog steps of an iteration at most, and the length of a trajectory in posterior sds.
_MOST_STEPS, _LENGTH = 6, 1.5
_ACCEPTANCE = 0.8
# The mass matrix is of all directions where the chains are so many times the dimensions.
_CHAINS_OF_DIMENSION = 4
# Scales that the curvature may ask for, in sds of the start.
_NARROWEST, _WIDEST = 0.02, 30.0

# Points (m, d) to log density (m,), nats, and its gradient (m, d).
Density = Callable[[Tensor], tuple[Tensor, Tensor]]


class Sample(NamedTuple):
    """Where the chains were, in the unconstrained space.

    Attributes:
        start: where they began, (chains, d).
        u: where they were in the second part of their iterations, (iterations, chains, d).
        value: log density where they began (chains,).
        slope: its gradient there (chains, d).
    """

    start: Tensor
    u: Tensor
    value: Tensor
    slope: Tensor


def together(program: Program, points: Tensor) -> bool:
    """Whether the density of several points (m, d) can be computed together."""
    return vectorises(lambda draw: program.log_density(draw["u"]), {"u": points})


def count(program: Program) -> int:
    """How many chains a model is given: more of a small one, which is as quick."""
    elements = program.elements
    most = min(_MOST, _ALL_ELEMENTS // elements, _PRODUCTS // (elements * program.size))
    return max(_FEWEST, most)


def density_of(program: Program, like: Tensor) -> Density | None:
    """The unconstrained log density and its gradient at many points together.

    Args:
        program: the model.
        like: points (m, d) as they will be given.

    Returns:
        None of a model that neither takes several points nor can be recorded: it would be slow.
    """

    def together(u: Tensor) -> tuple[Tensor, Tensor]:
        """All points (m, d) at once, by `vmap`."""
        leaf = u.detach().requires_grad_()
        values = torch.func.vmap(program.log_density)(leaf)
        (slopes,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach(), slopes

    def alone(u: Tensor) -> tuple[Tensor, Tensor]:
        """A single point (1, d)."""
        value, slope = program.density_and_gradient(u[0])
        return value[None], slope[None]

    at_once = max(_LEAST, min(_LARGEST, _ELEMENTS // program.elements))
    for function, size in ((together, at_once), (alone, 1)):
        points = like[torch.arange(size) % len(like)]
        with warnings.catch_warnings(), suppress(*NOT_VECTORISED):
            warnings.filterwarnings("ignore", "There is a performance drop")
            run = graphs.faster(function, [(points,), (0.5 * points,)])
            return partial(_in_parts, run, size)
    return None


def _in_parts(run: Density, size: int, u: Tensor) -> tuple[Tensor, Tensor]:
    """Density and gradient at points (m, d), as many at a time as a graph was recorded for."""
    missing = -len(u) % size
    padded = torch.cat([u, u[:1].expand(missing, -1)])
    values, slopes = zip(*(map(torch.clone, run(points)) for points in padded.split(size)))
    return torch.cat(values)[: len(u)], torch.cat(slopes)[: len(u)]


def around(density: Density, point: Tensor, count: int) -> Tensor:
    """Draws (count, d) of the Gaussian that the curvature at a point (1, d) gives."""
    precision = curvature(density, point, 1e-4 * (1 + point[0].abs())).nan_to_num(0.0)
    values, vectors = torch.linalg.eigh(precision)
    # A root of its inverse; of the identity where the curvature is not positive, or tiny.
    root = vectors * torch.where(values > _WIDEST**-2, values, 1.0).rsqrt()
    return point + torch.randn(count, point.shape[1], dtype=point.dtype) @ root.T


def curvature(density: Density, point: Tensor, step: Tensor) -> Tensor:
    """The negated Hessian (d, d) of a log density, by central differences of its gradient.

    Args:
        density: log density and gradient at points (m, d).
        point: where, (1, d).
        step: half the distance of the differences, by coordinate (d,).
    """
    moves = torch.diag(step)
    _, ahead = density(point + moves)
    _, behind = density(point - moves)
    hessian = (ahead - behind) / (2 * step[:, None])
    return -0.5 * (hessian + hessian.T)


def still(density: Density, points: Tensor) -> Sample:
    """Points (chains, d) as they are, those of no finite density left out."""
    value, slope = density(points)
    fine = value.isfinite() & slope.isfinite().all(1)
    return Sample(points[fine], points[fine][None], value[fine], slope[fine])


def moved(density: Density, begun: Sample) -> Sample:
    """Hamiltonian Monte Carlo from where a sample is `still`, by torch's current random state."""
    u, value, slope = begun.start, begun.value, begun.slope
    root, step = _from_slopes(u, slope), 1.0 / u.shape[1] ** 0.25
    positions, iterations = [], _OF_MANY if len(u) >= _MANY else _ITERATIONS
    learning = round(_LEARNING * iterations)
    for iteration in range(iterations):
        u, value, slope, rate = _iteration(density, u, value, slope, root, step)
        if iteration < learning:
            step = min(2.0, step * math.exp(1.5 * (rate - _ACCEPTANCE)))
            if iteration in (learning // 2, learning - 1):
                root = _from_points(u, root)
        else:
            positions.append(u)
    return begun._replace(u=torch.stack(positions))


def _iteration(
    density: Density, u: Tensor, value: Tensor, slope: Tensor, root: Tensor, step: float
) -> tuple[Tensor, Tensor, Tensor, float]:
    """A trajectory of each chain, accepted or not (Neal 2011, section 5.2), and the mean rate."""
    step = step * float(torch.rand(()) * 0.4 + 0.8)
    steps = max(1, min(_MOST_STEPS, round(_LENGTH / step)))
    momentum = torch.randn_like(u)
    energy = value - 0.5 * momentum.square().sum(1)
    at, there, gradient = u, value, slope
    for _ in range(steps):
        momentum = momentum + 0.5 * step * gradient @ root
        at = at + step * momentum @ root.T
        there, gradient = density(at)
        gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
        momentum = momentum + 0.5 * step * gradient @ root
    rise = there - 0.5 * momentum.square().sum(1) - energy
    chance = rise.nan_to_num(-math.inf, math.inf, -math.inf).clamp_max(0.0).exp()
    taken = torch.rand(len(u), dtype=u.dtype) < chance
    u = torch.where(taken[:, None], at, u)
    slope = torch.where(taken[:, None], gradient, slope)
    return u, torch.where(taken, there, value), slope, float(chance.mean())


def _from_slopes(u: Tensor, slope: Tensor) -> Tensor:
    """A root (d, d) of the posterior's covariance, as the gradients at the start tell it.

    The gradient of a Gaussian is linear in u; the coefficients of a regression on u are minus its
    precision, whatever u was drawn from.
    """
    scale = u.std(0).clamp_min(1e-12)
    v, slope = (u - u.mean(0)) / scale, slope * scale  # in sds of the start
    if len(u) < _CHAINS_OF_DIMENSION * u.shape[1]:
        precision = -(v * slope).mean(0)
        sds = torch.where(precision > 0, precision, 1.0).rsqrt().clamp(_NARROWEST, _WIDEST)
        return torch.diag(scale * sds)
    linear = torch.linalg.lstsq(v, slope - slope.mean(0)).solution
    values, vectors = torch.linalg.eigh(-0.5 * (linear + linear.T))
    sds = torch.where(values > 0, values, 1.0).rsqrt().clamp(_NARROWEST, _WIDEST)
    return scale[:, None] * vectors * sds


def _from_points(u: Tensor, root: Tensor) -> Tensor:
    """A root of the covariance of the chains where they are now."""
    if len(u) < _CHAINS_OF_DIMENSION * u.shape[1]:
        return torch.diag(u.std(0).clamp_min(1e-12))
    covariance = torch.cov(u.T).reshape(u.shape[1], u.shape[1])
    factor, failed = torch.linalg.cholesky_ex(covariance)
    return root if failed else factor
