"""Annealed importance sampling of log p(x) of rows: a truth that needs no encoder.

Chains walk from the prior of a row's latents to their posterior over the densities

    p_t(z) ~ p(z) p(x | z)^b_t,   0 = b_0 < b_1 < ... < b_T = 1,

each step a Hamiltonian one that leaves p_t as it is; the mean over chains of
exp(sum_t (b_t - b_{t-1}) log p(x | z_t-1)) is an unbiased estimate of p(x): Neal (2001),
Annealed importance sampling, doi:10.1023/A:1008923215028; for decoders Wu, Burda, Salakhutdinov
and Grosse (2017), arXiv:1611.04273, whose temperatures (sigmoid, delta 4) these are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from models.contract import Refused

from ..program.graphs import compiled
from ..program.program import Program
from ..program.row_latents import has_weights, log_prior_and_likelihood
from ..program.sampling import over_draws
from .importance import log_mean

# Leapfrog steps of a move; acceptance that step sizes are led to, and how fast (Wu et al.: 0.65).
_LEAPS, _ACCEPTED, _LEARN = 10, 0.65, 0.02
# Step size at the prior, whose scale is one.
_STEP = 0.5


class Annealed(NamedTuple):
    """log p(x) of rows by annealing, (rows,) each, nats.

    Attributes:
        log_p: log of the mean weight of the chains; on average a little too low.
        error: its standard error over the chains, by the delta method.
    """

    log_p: np.ndarray
    error: np.ndarray


def annealed(
    program: Program,
    temperatures: int,
    chains: int,
    report: Callable[[int], Any] = lambda _: None,
) -> Annealed:
    """log p(x) of the program's rows, from torch's current random state.

    Step sizes follow the acceptance of each row's moves, all along the way, as Wu et al. have it;
    so the moves are not quite those of a fixed kernel.

    Args:
        program: the model and the rows, its own parameters fitted.
        temperatures: number of moves.
        chains: of each row.
        report: called with the number of moves made.

    Raises:
        Refused: latents that are not of the rows, or not on the whole real line.
    """
    _check(program)
    path = _Path(program, chains)
    z = path.start()
    total = torch.zeros(chains, path.rows)
    sizes = torch.full((path.rows,), _STEP)
    at = temperatures_of(temperatures)
    for t in range(1, len(at)):
        _, likelihood, *_ = path.terms(z)
        total += (at[t] - at[t - 1]) * likelihood
        z, accepted = _moved(path, z, float(at[t]), sizes)
        sizes = sizes * torch.exp(_LEARN * torch.sign(accepted.mean(0) - _ACCEPTED))
        report(t)
    log_p, relative = log_mean(total.double())
    error = (relative / max(chains - 1, 1)).sqrt()
    return Annealed(log_p.numpy(), error.numpy())


def temperatures_of(moves: int, delta: float = 4.0) -> Tensor:
    """b_0 = 0 to b_T = 1, (moves + 1,): slow at both ends."""
    s = torch.sigmoid(delta * torch.linspace(-1, 1, moves + 1, dtype=torch.float64))
    return (s - s[0]) / (s[-1] - s[0])


def _check(program: Program) -> None:
    """Refuse latents that Hamiltonian moves of each row by itself cannot walk."""
    if not has_weights(program):
        raise Refused("annealing is of rows that have latents of their own, and no others")
    for site in program.of("latent"):
        if not _is_real(site.support):
            raise Refused(
                f"annealing is of latents on the whole real line, and '{site.name}' is not"
            )


def _is_real(support: Any) -> bool:
    """Whether it is the whole real line, for each of a vector's elements too."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real


class _Path:
    """Log prior and log likelihood of each row, and their gradients, at many latents at once.

    The latents of a row are a vector z, shape (chains, rows, d).
    """

    def __init__(self, program: Program, chains: int):
        self.program, self.chains, self.rows = program, chains, program.problem.n
        self.sites = [(site.name, site.shape[1:]) for site in program.of("latent")]
        self.terms = compiled(self._terms, [[self.start()]])

    def start(self) -> Tensor:
        """Draws from the prior."""
        drawn = over_draws(self.program.prior, {"draw": torch.arange(self.chains)})
        shape = self.chains, self.rows, -1
        return torch.cat([drawn[name].reshape(shape) for name, _ in self.sites], -1)

    def _values(self, z: Tensor) -> dict[str, Tensor]:
        """The latents (rows, *shape) in the vectors of one chain (rows, d)."""
        parts = z.split([math.prod(shape) for _, shape in self.sites], -1)
        sites = zip(self.sites, parts)
        return {name: part.reshape(self.rows, *shape) for (name, shape), part in sites}

    def _terms(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log p(z), log p(x | z), nats (chains, rows), and their gradients (chains, rows, d)."""
        z = z.detach().requires_grad_()

        def of_chain(z: Tensor) -> tuple[Tensor, Tensor]:
            return log_prior_and_likelihood(self.program, self._values(z))

        prior, likelihood = torch.func.vmap(of_chain)(z)
        (of_prior,) = torch.autograd.grad(prior.sum(), z, retain_graph=True)
        (of_likelihood,) = torch.autograd.grad(likelihood.sum(), z)
        return prior.detach(), likelihood.detach(), of_prior, of_likelihood


def _moved(path: _Path, z: Tensor, b: float, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """One Hamiltonian move under p(z) p(x | z)^b (Neal 2011, arXiv:1206.1901, section 3).

    Args:
        path: the densities.
        z: latents, (chains, rows, d).
        b: inverse temperature.
        sizes: of a leapfrog step, (rows,).

    Returns:
        The latents, and 1 where a chain's move was accepted, else 0, (chains, rows).
    """
    prior, likelihood, of_prior, of_likelihood = path.terms(z)
    momentum, step = torch.randn_like(z), sizes[:, None]
    before = prior + b * likelihood - momentum.square().sum(-1) / 2
    new, p = z, momentum + step / 2 * (of_prior + b * of_likelihood)
    for leap in range(_LEAPS):
        new = new + step * p
        prior, likelihood, of_prior, of_likelihood = path.terms(new)
        p = p + (step if leap < _LEAPS - 1 else step / 2) * (of_prior + b * of_likelihood)
    after = prior + b * likelihood - p.square().sum(-1) / 2
    accepted = torch.rand_like(before).log() < after - before  # not where it is not a number
    return torch.where(accepted[..., None], new, z), accepted.to(z.dtype)
