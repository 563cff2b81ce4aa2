"""Is an approximation's result that of the posterior? Compared with short chains from its draws.

Short chains of Hamiltonian Monte Carlo (`short_chains.py`) start at draws of the fit and go where
the posterior has them. Where means and standard deviations of its latents, or what it predicts,
are other than theirs, the fit is wrong, whatever its objective or its k-hat says; where the chains
have forgotten their start and are still where the fit is, it is right. Where no such chains can be
had, importance-weighted moments of its own draws stand in for them.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.problem import Finding, Fit
from ..core.seeds import VOUCH, seeded
from ..program.program import Program
from ..program.row_latents import is_of_rows
from ..program.sampling import over_draws
from ..results.groups import cell_names
from ..results.psis import KHAT_MAX, log_evidence, psis
from . import agreement, modes, posteriors, short_chains
from .short_chains import Density

# A mean off by more, in posterior sds, is wrong, and so is an sd outside of these shares of
# the posterior's; a little less than what users are promised (0.25 sd, a quarter), as chains err.
_SHIFT, _NARROW, _WIDE = 0.24, 0.76, 1.25
# Beyond this error of a ratio of sds, tails are too heavy for them: quantiles are compared.
_HEAVY = 0.06
# From 5 to 95 % of a normal, in its sds.
_SDS_OF_WIDTH = 3.29
# Memory of the start beyond which the chains tell nothing.
_FORGETS = 0.6
# Total variation of predictions, mean over rows, that is no difference to a user.
_PREDICTS = 0.02
# The same where they began at draws that are wrong, and may not have come all the way.
_PREDICTS_FROM_AFAR = 0.015
# Products of elements, dimensions and chains up to which chains take a second or two.
_MOST = 3e7
# Iterations whose draws stand for the posterior where each is computed apart.
_ITERATIONS_OF_FEW = 4
# Effective draws by importance weights that tell moments well enough, and their k-hat.
_FEWEST, _KHAT = 400, 0.5
# The fewest that may contradict chains.
_FEW_BESIDE = 100
# Chains that are needed to say anything.
_FEW = 32
# Nats by which an evidence may be off.
_NATS = 0.4

# Latent to draws (S, *shape).
Tensors = Mapping[str, Tensor]


class Moments(NamedTuple):
    """The fit's moments compared with those of a reference, scalar by scalar, (d,) each.

    Attributes:
        shift: mean of the fit less the reference's, in sds of the reference.
        ratio: sd of the fit over the reference's.
        memory: the share of the fit's own error that the reference may still have; 0 is none.
    """

    shift: Tensor
    ratio: Tensor
    memory: Tensor

    @property
    def shifted(self) -> bool:
        """Whether a mean is off."""
        return bool(self.shift.abs().max() > _SHIFT)

    @property
    def wrong(self) -> bool:
        """Whether a mean or an sd is off."""
        return self.shifted or bool(self.ratio.min() < _NARROW or self.ratio.max() > _WIDE)

    @property
    def known(self) -> bool:
        """Whether the reference has forgotten where it began."""
        return bool(self.memory.max() < _FORGETS)


def findings(
    program: Program, fit: Fit, metrics: Mapping[str, float], seed: int
) -> list[Finding] | None:
    """What a fit may be used for, as far as that was measured.

    Args:
        program: what was inferred, on the processor.
        fit: what a method returned.
        metrics: its metrics; of interest is the evidence.
        seed: seed of the chains.

    Returns:
        None where there is nothing to measure by: k-hat alone then judges an approximation.
    """
    if fit.kind == "prior" or fit.exact is not None or fit.status == "failed":
        return []
    if not program.problem.identified:
        return None
    with seeded(seed, VOUCH):
        by_chains = _by_chains(program, fit, seed) if _are_chains_quick(program) else None
    if by_chains is not None:
        return _of_evidence(fit, metrics) + by_chains
    if fit.kind == "chains":
        return None
    moments = None if fit.kind == "point" else _weighted(program, fit)
    return [_UNMEASURED] if moments is None else _of_weights(program, moments)


def chains_predict_alike(program: Program, fit: Fit, seed: int) -> bool:
    """Whether each chain predicts the rows as the others do, beyond all noise.

    Chains may disagree on latents that can be swapped, or have either sign, and agree on this.
    """
    chains = len(next(iter(fit.draws.values())))
    if chains < 2 or not program.of("observed") or not _are_chains_quick(program):
        return False
    few = not short_chains.together(program, torch.zeros(2, program.size))
    latents = {name: fit.draws[name] for name in program.layout}
    with seeded(seed, VOUCH):
        for chain in range(chains):
            others = torch.arange(chains) != chain
            alone = {name: value[chain] for name, value in latents.items()}
            rest = {name: value[others].flatten(0, 1) for name, value in latents.items()}
            apart = agreement.total_variation(program, alone, rest, few=few)
            if apart is None or apart.seen > _PREDICTS:
                return False
    return True


def _are_chains_quick(program: Program) -> bool:
    """Whether short chains of the model take no more than a second or two."""
    if not program.size or is_of_rows(program):
        return False
    return program.elements * program.size * short_chains.count(program) < _MOST


def _by_chains(program: Program, fit: Fit, seed: int) -> list[Finding] | None:
    """What short chains say of the fit; of what is chains itself, whether it missed a mode.

    None where the density is slow, or has no value at nearly all of the draws.
    """
    ours = {name: fit.draws[name].flatten(0, 1) for name in program.layout}
    few = not short_chains.together(program, _start(program, ours, 2))
    count = short_chains.APART if few else short_chains.count(program)
    start = _start(program, ours, count)
    density = short_chains.density_of(program, start)
    if density is None:
        return None
    if fit.kind == "point":
        # At the border of a support it is infinite, or where the density has no slope.
        points = torch.cat([start, modes.points(program, torch.zeros_like(start))])
        top = modes.top(density, points[points.isfinite().all(1)])
        start = short_chains.around(density, top, count)
    sample = short_chains.still(density, start)
    if len(sample.start) < _FEW:
        return None
    if fit.kind != "chains":
        sample = short_chains.moved(density, sample)
    u = sample.u[-_ITERATIONS_OF_FEW:] if few else sample.u
    fold = posteriors.fold(program, sample.start, seed)
    theirs = _constrained(program, fold(u.flatten(0, 1)))
    reported, known, bound = [], True, _PREDICTS
    if fit.kind != "chains":
        begun = _constrained(program, sample.start)
        moments = _moments(_flat(program, ours), _flat(program, theirs), _flat(program, begun))
        known, bound = moments.known, _PREDICTS_FROM_AFAR if moments.wrong else _PREDICTS
        reported += _of_parameters(program, moments, fit) if fit.kind == "independent" else []
    points = modes.points(program, sample.start)
    other = modes.missed(density, sample.start, sample.value, points, fold)
    if other is not None:
        reported.append(Finding("warn", str(other), _FIX, ("parameters", "evidence"), ("loo",)))
        theirs = _with_other(program, density, theirs, other, len(sample.start))
    if program.of("observed") and (fit.kind != "chains" or other is not None):
        apart = agreement.total_variation(program, ours, theirs, few=few)
        # How the mass is shared with another mode is known about, no more.
        known &= other is None or (apart is not None and apart.surely < _PREDICTS / 2)
        reported += _of_predictions(apart, known, bound, fit)
    return reported


_FIX = "use nuts with more chains"


def _with_other(
    program: Program, density: Density, theirs: Tensors, other: modes.Missed, count: int
) -> dict[str, Tensor]:
    """Draws of which those of a mode that was missed have their share."""
    begin = short_chains.still(density, short_chains.around(density, other.top[None], count))
    there = _constrained(program, short_chains.moved(density, begin).u.flatten(0, 1))
    size = len(next(iter(theirs.values())))
    mine = round(size / (1 + math.exp(min(other.log_share, 50.0))))
    here = torch.linspace(0, size - 1, mine).round().long()
    pick = torch.randint(len(next(iter(there.values()))), (size - mine,))
    return {name: torch.cat([theirs[name][here], there[name][pick]]) for name in theirs}


def _start(program: Program, ours: Mapping[str, Tensor], count: int) -> Tensor:
    """Draws of the fit, evenly chosen, in the unconstrained space (count, d)."""
    draws = len(next(iter(ours.values())))
    pick = torch.linspace(0, draws - 1, count if draws > 1 else 1).round().long()
    some = {name: value[pick].to(torch.get_default_dtype()) for name, value in ours.items()}
    return over_draws(program.unconstrain, some, program.elements)


def _constrained(program: Program, u: Tensor) -> dict[str, Tensor]:
    """Latents (S, *shape) at points (S, d) of the unconstrained space."""
    return over_draws(program.constrain, u, program.elements)


def _flat(program: Program, values: Mapping[str, Tensor]) -> Tensor:
    """All scalars of the continuous latents (S, cells)."""
    return torch.cat([values[k].reshape(len(values[k]), -1) for k in program.layout], 1)


def _moments(ours: Tensor, theirs: Tensor, begun: Tensor) -> Moments:
    """The fit's moments compared with those of the chains.

    Where the tails of a scalar are too heavy for its sd, medians and widths stand for both.

    Args:
        ours: scalars of the fit's draws (S, cells).
        theirs: of the chains (iterations x chains, cells).
        begun: of the chains' starts (chains, cells).
    """
    each = theirs.unflatten(0, (-1, len(begun)))
    sd = theirs.std(0).clamp_min(1e-300)
    away = each - theirs.mean(0)
    square = away.square().mean(0)
    heavy = 0.5 * square.std(0) / sd**2 / math.sqrt(len(begun)) > _HEAVY
    shift, ratio = (ours.mean(0) - theirs.mean(0)) / sd, ours.std(0, correction=0) / sd
    if heavy.any():
        shift[heavy], ratio[heavy] = _by_quantiles(ours[:, heavy], theirs[:, heavy])
    from_start = begun - begun.mean(0)
    memory = torch.maximum(_slope(from_start, away.mean(0)), _slope(from_start.square(), square))
    return Moments(shift, ratio, memory)


def _by_quantiles(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and ratio of columns by medians and widths from 5 to 95 %, for those of a normal."""
    (low, middle, high), (below, mid, above) = (
        torch.as_tensor(np.quantile(values.numpy(), (0.05, 0.5, 0.95), axis=0))
        for values in (ours, theirs)
    )
    width = (above - below).clamp_min(1e-300)
    return (middle - mid) / (width / _SDS_OF_WIDTH), (high - low) / width


def _slope(before: Tensor, after: Tensor) -> Tensor:
    """Slopes of regressions of columns on columns; 0 where they are within two errors of it."""
    before, after = before - before.mean(0), after - after.mean(0)
    spread = before.square().mean(0).clamp_min(1e-300)
    slope = (before * after).mean(0) / spread
    error = (after.square().mean(0) / spread / len(before)).sqrt()
    return torch.where(slope.abs() > 2 * error, slope, 0.0)


# -- what is said -------------------------------------------------------------------------------


def _of_parameters(program: Program, moments: Moments, fit: Fit) -> list[Finding]:
    """What the moments say of the parameters; where chains do not tell, importance weights."""
    if moments.wrong:
        return [_wrong(program, moments, "short chains of HMC from its draws")]
    if moments.known:
        return _of_weights(program, _weighted(program, fit, _FEW_BESIDE, KHAT_MAX))
    by_weights = _weighted(program, fit)
    if by_weights is None:
        what = "short chains of HMC from its draws mix too slowly to tell whether it is right"
        return [Finding("note", what, "compare with nuts", opens=("parameters",))]
    return _of_weights(program, by_weights)


def _wrong(program: Program, moments: Moments, by: str) -> Finding:
    """A warning of moments that are off, by what was compared with."""
    what = f"{_worst(program, moments)}, by {by}"
    alone = not moments.shifted
    return Finding("warn", what, "use nuts", spoils=("parameters",), of_intervals=alone)


def _worst(program: Program, moments: Moments) -> str:
    """The worst of the moments, in words."""
    names = [cell for name in program.layout for cell in cell_names(program, name)]
    problems, ratio, shift = [], moments.ratio, moments.shift.abs()
    if ratio.min() < _NARROW:
        worst = f"{names[ratio.argmin()]}: {ratio.min():.2f} of the sd"
        problems.append(f"its intervals are too narrow ({worst})")
    if ratio.max() > _WIDE:
        worst = f"{names[ratio.argmax()]}: {ratio.max():.2f} times the sd"
        problems.append(f"its intervals are too wide ({worst})")
    if shift.max() > _SHIFT:
        least = "" if moments.known else "at least "
        name = names[shift.argmax()]
        problems.append(f"its mean of {name} is off by {least}{shift.max():.2f} sd")
    return " and ".join(problems)


def _of_predictions(
    apart: agreement.Apart | None, known: bool, bound: float, fit: Fit
) -> list[Finding]:
    """What the total variation of the predictions says.

    Nobody expects of a point that it predicts as the posterior does: there a no is no warning.

    Args:
        apart: it, with its noise; None where it cannot be had.
        known: whether the chains know the posterior.
        bound: what it may be, most likely, for a yes.
        fit: whose.
    """
    if apart is not None and apart.surely >= _PREDICTS:
        off = f"{'' if known else 'at least '}{apart.surely:.2g}"
        what = f"what it predicts is off by {off} (total variation, mean over rows)"
        level = "note" if fit.kind == "point" else "warn"
        return [Finding(level, what, "use nuts", spoils=("predictions",))]
    if apart is not None and known and apart.likely < bound:
        return []
    what = "what it predicts could not be compared with short chains of HMC"
    if apart is not None:
        noisy = ": the noise is as large as the difference"
        what += noisy if known else ", which do not know the posterior"
    return [Finding("note", what, "compare with nuts", opens=("predictions",))]


def _of_evidence(fit: Fit, metrics: Mapping[str, float]) -> list[Finding]:
    """Laplace's evidence compared with that by importance weights, where they are even enough."""
    if "log_evidence" not in metrics or fit.log_ratios is None or fit.log_ratios.ndim > 1:
        return []
    stated, estimate = metrics["log_evidence"], log_evidence(fit.log_ratios)
    if estimate is None or abs(stated - estimate) < _NATS:
        return []
    what = f"its log evidence is {stated:.2f}, by importance weights {estimate:.2f}"
    return [Finding("note", what, "take the latter", spoils=("evidence",))]


_UNMEASURED = Finding(
    "note",
    "nothing measured whether it is right: short chains of the model would be slow",
    "compare with nuts",
    opens=("parameters", "predictions"),
)


# -- by importance weights ----------------------------------------------------------------------


def _of_weights(program: Program, moments: Moments | None) -> list[Finding]:
    """What moments by importance weights, if they tell anything, say of the parameters."""
    if moments is None or not moments.wrong:
        return []
    return [replace(_wrong(program, moments, "its importance weights"), opens=("predictions",))]


def _weighted(
    program: Program, fit: Fit, fewest: float = _FEWEST, khat_max: float = _KHAT
) -> Moments | None:
    """The fit's moments compared with those by weights p / q; None where these are too uneven.

    Fewer effective draws than serve to judge by alone must differ by three of their errors more.
    """
    if fit.log_p is None or fit.log_q is None or not program.layout:
        return None
    ratios = (fit.log_p - fit.log_q).flatten()
    smoothed, khat = psis(ratios.numpy())
    weights = torch.as_tensor(smoothed).softmax(0).to(ratios)
    effective = float(1 / weights.square().sum())
    if not khat < khat_max or effective < fewest:
        return None
    error = 3 / math.sqrt(effective) if effective < _FEWEST or khat >= _KHAT else 0.0
    ours = _flat(program, {name: fit.draws[name].flatten(0, 1) for name in program.layout})
    mean = weights @ ours
    sd = (weights @ (ours - mean).square()).sqrt().clamp_min(1e-300)
    shift, ratio = (ours.mean(0) - mean) / sd, ours.std(0) / sd
    shift = shift.sign() * (shift.abs() - error).clamp_min(0.0)
    ratio = torch.where(ratio < 1, ratio * (1 + error), ratio / (1 + error))
    return Moments(shift, ratio, torch.zeros_like(sd))
