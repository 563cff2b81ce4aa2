"""Laplace's approximation: a Gaussian at the mode of the *unconstrained* density.

That of a network, whose Hessian is of no use, is in `gauss_newton.py`.
"""

import math
from typing import Annotated, Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor

from models.contract import BadSetting, Refused

from .. import METHODS, load
from ..core.problem import Context, Fit
from ..core.seeds import DRAWS, FIT, seeded
from ..core.settings import OF_NETWORKS
from ..program import memory
from ..program.kinks import Kinks
from ..program.program import Program, further_draws
from ..program.sampling import over_draws
from .ascent import AscentSettings
from .draws import one_chain
from .ends import refuse_steps
from .mode import Mode, mode

# Which weights of a network are random, and how.
Structure = Literal["auto", "full", "last", "diagonal"]
_HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)
# How many sds the Gaussian reaches, and what share of the precision kinks within reach may make.
_REACH = 4.0
_MISSED = 0.05


def laplace(
    program: Program,
    *,
    seed: int,
    context: Context,
    draws: Annotated[int, ">= 2"] = 4000,
    starts: Annotated[int, ">= 1"] = 4,
    structure: Annotated[Structure, OF_NETWORKS] = "auto",
    steps: Annotated[int | None, ">= 1", OF_NETWORKS] = None,
    lr: Annotated[float | None, "> 0", OF_NETWORKS] = None,
    batch_size: Annotated[int | None, ">= 1", OF_NETWORKS] = None,
) -> Fit:
    """Gaussian at the mode of the unconstrained density, with its exact Hessian.

    The mode of the density of `u = T^-1(x)` differs from that of x (`map`) by the Jacobian of T;
    with log evidence = log p(u*) + d/2 log 2 pi - log det(-H)/2 (MacKay 2003, eq. 27.7).

    A network is climbed as by `map` to one of its many modes; there the generalised Gauss-Newton
    matrix stands in for the Hessian, and predictions are those of the network made linear in its
    weights (Immer, Korzepa and Bauer 2021, arXiv:2008.08646). Its log evidence is of that one
    mode, and given where the matrix is of all weights.

    Args:
        program: model and data; discrete latents are summed out, then recovered.
        seed: seed of starting points and draws.
        context: whether it is one of many fits, whose k-hat is of these draws alone.
        draws: independent draws from the Gaussian, mapped to the constrained space.
        starts: number of random starting points; the best mode is taken; not of networks.
        structure: which weights of a network are random, and how: `full`, all of them jointly;
            `last`, those of the last layer, the rest at the mode; `diagonal`, all, independently.
            `auto` is `full` up to 5,000 weights, else `last`.
        steps: steps of a network's ascent; of networks alone, as lr and batch_size.
        lr: its first learning rate.
        batch_size: rows in a step; None takes all.

    Raises:
        Refused: no mode in the interior, a Hessian there that is not negative definite, or kinks
            of the density within reach; of a network a prior that is not log-concave, or
            observations of another kind than known.
        BadSetting: settings of networks for another model.
    """
    how = AscentSettings.of_network(program.problem, steps=steps, lr=lr, batch_size=batch_size)
    if how is not None:
        of_network = load(METHODS["laplace"].network)
        return of_network(program, how, structure, draws, seed, context)
    if structure != "auto":
        raise BadSetting("structure: for networks alone; leave it out")
    if not program.size:
        raise Refused("laplace needs a continuous latent, the model has none; use exact")
    memory.check(program, draws, hessian=True)
    _refuse_laplace_sites(program)
    with seeded(seed, FIT):
        points = [program.start() for _ in range(starts)]
    refuse_steps(program.log_density, points[0])
    end = mode(program, points, jacobian=True)
    root = _root(end)
    _refuse_kinks(program, end.u, root)
    evidence = end.value + program.size * _HALF_LOG_2_PI + root.diagonal().log().sum()
    return Fit(
        kind="independent",
        params={"loc": end.u, "scale_tril": root},
        # An improper prior has no scale of its own: what it gives as evidence is arbitrary.
        metrics={} if program.improper() else {"log_evidence": evidence.item()},
        point=program.constrain(end.u),
        **_sample(program, end.u, root, draws, seed, context),
    )


def _sample(
    program: Program, loc: Tensor, root: Tensor, draws: int, seed: int, context: Context
) -> dict[str, Any]:
    """What a `Fit` holds of the Gaussian: draws, log p, log q and their ratios at further ones."""
    with seeded(seed, DRAWS):
        values, log_p, log_q = _draw(program, loc, root, draws)
        more = 0 if context.of_many else further_draws(program, program.log_joint, values)
        ratios = log_p - log_q
        if more > draws:
            _, log_p_further, log_q_further = _draw(program, loc, root, more)
            ratios = log_p_further - log_q_further
    log_densities = {"log_p": log_p[None], "log_q": log_q[None], "log_ratios": ratios}
    return {"draws": one_chain(program, values, seed), **log_densities}


def _draw(
    program: Program, loc: Tensor, root: Tensor, draws: int
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Constrained draws (S, *shape), and log p and log q there (S,)."""
    noise = torch.randn(draws, program.size)
    u = {"u": loc + noise @ root.T}
    log_q_u = -0.5 * (noise**2).sum(1) - program.size * _HALF_LOG_2_PI
    log_q_u = log_q_u - root.diagonal().log().sum()
    elements = program.elements
    values = over_draws(lambda at: program.constrain(at["u"]), u, elements)
    log_p = over_draws(program.log_joint, values, elements)
    log_p_u = over_draws(lambda at: program.log_density(at["u"]), u, elements)
    # log q(x) = log q(u) - log|dT/du|, and that Jacobian is log p(u) - log p(x).
    return values, log_p, log_q_u - (log_p_u - log_p)


def _root(end: Mode) -> Tensor:
    """Lower-triangular root of the covariance (-H)^-1, (d, d).

    Raises:
        Refused: the end of the maximisation is no mode in the interior of a smooth density.
    """
    if end.on is not None:
        place = {"kink": "a kink", "edge": "an edge"}[end.on]
        raise Refused(
            f"the mode lies on {place} of the density, where it has no second derivative; use map "
            "for the mode, svi or nuts for the posterior"
        )
    if end.escaped.any() or not end.converged:
        raise Refused(
            "the unconstrained density has no mode that the optimiser can reach (it runs to "
            "infinity or does not converge); use nuts, or a proper prior"
        )
    try:
        precision = torch.linalg.cholesky(-end.hessian)
        return torch.linalg.cholesky(torch.cholesky_inverse(precision))
    except torch.linalg.LinAlgError:
        raise Refused(
            "the Hessian at the mode is not negative definite, so the Gaussian does not exist; "
            "use nuts, or reparameterise what is redundant"
        ) from None


# -- where the density is not smooth ----------------------------------------------------------


def _refuse_laplace_sites(program: Program) -> None:
    """Refuse Laplace densities, whose kinks the Hessian does not see."""
    for site in program.of("latent", "observed"):
        if isinstance(site.base, dist.Laplace | dist.AsymmetricLaplace):
            part = "prior" if site.role == "latent" else "likelihood"
            where = "at zero, where the mode may lie"
            if site.role == "observed":
                where = "where a residual is zero, which the Hessian does not see"
            raise Refused(
                f"the Laplace {part} of {site.name} has no second derivative {where}; use map "
                "for the mode, svi or nuts for the posterior, or a normal or Student-t one"
            )


def _refuse_kinks(program: Program, loc: Tensor, root: Tensor) -> None:
    """Refuse a Gaussian within whose reach the density has kinks that matter."""
    kinks = Kinks.of(program.log_density, loc)
    if kinks is None:
        return
    missed, near = _missed(kinks, loc, root)
    share = torch.linalg.eigvalsh(missed).abs().max().item() if missed.isfinite().all() else 1.0
    if share > _MISSED:
        lines = ", ".join(kinks.lines(near))
        raise Refused(
            f"the density has kinks within reach of the Gaussian ({lines}), which its Hessian "
            f"does not see: they make {share:.0%} of its precision; use svi or nuts"
        )


def _missed(kinks: Kinks, loc: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """The second derivatives that kinks have on average, which a Hessian does not see.

    Across a kink the slope jumps by j, a second derivative of j times a delta function. Its mean
    under the Gaussian is j phi(r / s) / s, with s the sd of the residual r.

    Returns:
        The derivatives in sds of the Gaussian (d, d), and which kinks are within reach (m,).
    """
    residuals = kinks.residuals(loc)
    sides = torch.where(residuals < 0, -1.0, 1.0).to(residuals)
    slopes = kinks.gradients(loc) @ root  # of the residuals, in sds of the Gaussian
    spread = slopes.norm(dim=1).clamp_min(1e-300)
    near = residuals.abs() < _REACH * spread
    missed = torch.zeros_like(root)
    for i in near.nonzero()[:, 0]:
        slope, alone = slopes[i], torch.zeros_like(near)
        alone[i] = True
        # The kink's most likely point: there the slopes on its two sides are compared.
        at = loc - root @ slope * residuals[i] / slope.square().sum()
        jump = kinks.across(at, sides, alone).jumps[0]
        chance = torch.exp(-0.5 * (residuals[i] / spread[i]) ** 2 - _HALF_LOG_2_PI) / spread[i]
        missed = missed + jump * chance * torch.outer(slope, slope)
    return missed, near
