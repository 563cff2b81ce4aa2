"""A network's weights at one of many modes: points, and a Gaussian by Gauss and Newton's matrix.

The Hessian of a network's log density is not negative definite where an ascent of batches ends.
The generalised Gauss-Newton matrix leaves out the second derivatives of the network itself
(Schraudolph 2002), and is the Hessian of the model whose outputs are linear in the weights. So the
Gaussian is of that model, and that model is what predicts with it: with the network at the drawn
weights, predictions are poor (Immer, Korzepa and Bauer 2021, arXiv:2008.08646).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from models.contract import Refused

from ..core.problem import Context, Finding, Fit
from ..core.seeds import DRAWS, FIT, seeded
from ..methods.ascent import AscentSettings
from ..methods.draws import one_chain
from ..methods.laplace import Structure
from ..methods.training import BEGIN, store, train
from ..program import memory
from ..program.handlers import run
from ..program.predictors import check_predictors
from ..program.program import Program
from ..program.sites import Values
from ..program.supports import elementwise
from .curvature import gauss_newton, prior_precision
from .layers import layers
from .weights import Points

# Weights up to which `auto` takes the full matrix.
_MOST_FULL = 5_000
_LOG_2_PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian of some of the weights, of that precision; the others stay at the mode.

    Attributes:
        at: site to the mode of its weights, of all sites.
        names: the sites of the weights that are random, in the order of the matrix.
        precision: of these weights, (d, d), or its diagonal (d,).
    """

    at: Values
    names: tuple[str, ...]
    precision: Tensor

    @property
    def size(self) -> int:
        """d, the number of random weights."""
        return len(self.precision)

    @cached_property
    def root(self) -> Tensor:
        """Lower-triangular root of the precision (d, d), or the roots of its diagonal (d,)."""
        full = self.precision.ndim == 2
        return torch.linalg.cholesky(self.precision) if full else self.precision.sqrt()

    def draw(self, draws: int) -> dict[str, Tensor]:
        """Draws of all weights, site to (draws, *shape)."""
        root = self.root
        noise = torch.randn(draws, self.size, dtype=root.dtype)
        if root.ndim == 2:
            away = torch.linalg.solve_triangular(root.T, noise.T, upper=True).T
        else:
            away = noise / root
        parts = away.split([self.at[name].numel() for name in self.names], dim=1)
        values = {name: value.expand(draws, *value.shape) for name, value in self.at.items()}
        for name, part in zip(self.names, parts):
            values[name] = self.at[name] + part.reshape(values[name].shape).to(values[name])
        return values

    def log_evidence(self, log_joint: float) -> float:
        """log p(data) by the log joint density at the mode: MacKay (2003), eq. 27.7, nats."""
        root = self.root
        half = (root.diagonal() if root.ndim == 2 else root).log().sum()
        return log_joint + 0.5 * self.size * _LOG_2_PI - float(half)


def estimate(
    program: Program, settings: AscentSettings, seed: int, context: Context, *, prior: bool
) -> Fit:
    """A point estimate of a network's weights, one of the many that are alike.

    Args:
        program: a network and its data.
        settings: how the mode is climbed.
        seed: seed of start and batches.
        context: whether to show progress.
        prior: whether it is the mode of the posterior (MAP), or of the likelihood (MLE).
    """
    values, ended = climb(program, settings, prior=prior, seed=seed, context=context)
    draws = one_chain(program, {name: value[None] for name, value in values.items()}, seed)
    return Fit(draws=draws, kind="point", params=values, **ended)


def climb(
    program: Program, settings: AscentSettings, *, prior: bool, seed: int, context: Context
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of a network at the top of a stochastic ascent: of log posterior or likelihood.

    Args:
        program: a network and its data.
        settings: how it is climbed.
        prior: whether the log prior is part of what is climbed.
        seed: seed of start and batches.
        context: whether to show progress.

    Returns:
        Latent to value, and what a `Fit` holds of the ascent.
    """
    with seeded(seed, FIT, BEGIN):
        points = Points(program, program.start_of, prior=prior)
    with store():
        ended = train(program, points.guide(), settings, seed, context)
        values = {name: value.detach().clone() for name, value in points.locs().items()}
    return values, ended


def network(
    program: Program,
    settings: AscentSettings,
    structure: Structure,
    draws: int,
    seed: int,
    context: Context,
) -> Fit:
    """Laplace's approximation of a network's weights, at one of many modes.

    Args:
        program: a network and its data.
        settings: how the mode is climbed.
        structure: which weights the matrix is of: `full` of all, `last` of the last layer's, the
            rest fixed; `diagonal` of all, as if they were independent, which leaves out that
            weights make up for each other, and so is far too unsure. `auto` is `full` up to 5,000
            weights, else `last`.
        draws: independent draws of the Gaussian.
        seed: seed of start, batches and draws.
        context: whether to show progress.

    Raises:
        Refused: an observed distribution or a latent of another kind, a prior that is not
            log-concave, or a matrix that does not fit into memory.
    """
    memory.check(program, draws)
    with seeded(seed, FIT):
        _check(program)
        # A prior that will not do is mostly found before the climb.
        prior_precision(program, program.constrain(program.start()), tuple(program.layout))
    if structure == "auto":
        structure = "full" if program.size <= _MOST_FULL else "last"
    _check_matrix(program, structure)
    values, ended = climb(program, settings, prior=True, seed=seed, context=context)
    normal, metrics = gaussian(program, values, structure), {}
    if structure == "full":
        with torch.no_grad():
            metrics["log_evidence"] = normal.log_evidence(float(program.log_joint(values)))
    with seeded(seed, DRAWS):
        drawn = normal.draw(draws)
    ended["settings"] |= {"structure": structure}
    ended["findings"] = [*ended["findings"], _note(normal, structure, program.size)]
    return Fit(
        draws=one_chain(program, drawn, seed),
        kind="independent",
        params=values,
        metrics=metrics,
        linear_at=values,
        **ended,
    )


def _note(normal: Gaussian, structure: str, size: int) -> Finding:
    """What was done, in words."""
    which = {
        "full": f"all {size:,} weights and biases",
        "last": f"the {normal.size:,} weights and biases of the last layer, the other "
        f"{size - normal.size:,} fixed at the mode",
        "diagonal": f"all {size:,} weights and biases as if they were independent",
    }[structure]
    text = (
        "the precision is the generalised Gauss-Newton matrix, not the Hessian, plus that of the "
        f"prior, of {which} (structure={structure}); predictions are those of the network made "
        "linear in its weights at the mode, one of many"
    )
    return Finding("note", text)


def _check(program: Program) -> None:
    """Refuse a model of which the matrix would not be what it is taken for."""
    if not program.of("observed") or not program.size:
        raise Refused("laplace of a network needs weights and observations; give it data")
    if program.has_factor or program.of("discrete"):
        raise Refused(
            "the Gauss-Newton matrix is of observed distributions alone, and the model has a "
            "pyro.factor or a discrete latent; use svi or nuts"
        )
    for site in program.of("latent"):
        if site.plates or elementwise(site.support) is not constraints.real:
            raise Refused(
                f"laplace of a network is for weights, and {site.name} is bounded or in a plate; "
                "fix it, or use svi or nuts"
            )
    check_predictors({site.name: site.fn for site in program.of("observed")})
    for name, node in run(program.model, program.tensors).nodes.items():
        if name in program.sites and not (node["scale"] == 1 and node["mask"] is None):
            raise Refused(
                f"{name} is scaled or masked, which the Gauss-Newton matrix does not know; leave "
                "that out, or use svi or nuts"
            )


def _check_matrix(program: Program, structure: Structure) -> None:
    """Refuse a matrix that does not fit into memory."""
    size = sum(program.sites[name].value.numel() for name in _names(program, structure))
    needed = 3 * 8.0 * size**2  # the matrix, its root, and a part of it that is being added
    if structure != "diagonal":
        other = "diagonal" if structure == "last" else "last"
        fix = f"use --set structure={other}"
        memory.refuse_more(needed, f"the matrix of {size:,} weights takes", fix)


def _names(program: Program, structure: Structure) -> tuple[str, ...]:
    """The sites of the weights that are random."""
    return tuple(layers(program)[-1].sites if structure == "last" else program.layout)


def gaussian(program: Program, at: Values, structure: Structure) -> Gaussian:
    """The Gaussian at a mode: Gauss-Newton matrix of all rows plus the prior's precision.

    Args:
        program: the network and its data.
        at: site to weights, the mode.
        structure: `full`, `last` or `diagonal`.

    Raises:
        Refused: the prior is not log-concave at the mode, or its weights depend on each other.
    """
    names = _names(program, structure)
    prior = prior_precision(program, at, names).double()
    diagonal = structure == "diagonal"
    precision = gauss_newton(program, at, names, diagonal=diagonal)
    (precision if diagonal else precision.diagonal()).add_(prior)
    return Gaussian(at, names, precision)
