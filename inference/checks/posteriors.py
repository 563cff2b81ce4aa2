"""Posteriors of which a summary misleads: angles, and classes that the features separate.

Angles are latents of which draws that differ by a turn are the same. A von Mises prior has a
density on the whole line that repeats every 2 pi (Mardia and Jupp 2000, Directional Statistics,
section 3.5). Draws wander from one turn to another, so that means, standard deviations and R-hat
are of turns and not of directions.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from ..core.problem import Finding, Fit
from ..core.seeds import FIT, seeded
from ..program.program import Program
from ..program.sampling import over_draws
from ..program.sites import Site
from ..results.predictive import is_classes, row_tensors

# Share of the draws that must classify every row rightly.
_SEPARATING = 0.1
# Relative difference of log densities that are the same, and turns by which points are moved.
_SAME, _TURNS = 1e-9, 3
# Share of draws in the quarter of the circle opposite the mean above which the mean says little.
_OPPOSITE = 0.05


def turned(program: Program, fit: Fit, seed: int) -> Fit:
    """The fit with its angles within pi of their circular means, and what there is to say of them.

    Args:
        program: the model.
        fit: what a method found.
        seed: of the points at which the density is seen to repeat.
    """
    angles = [site for site in _angles(program) if site.name in fit.draws]
    if not angles or fit.kind not in ("chains", "independent"):
        return fit
    draws, findings = dict(fit.draws), list(fit.findings)
    for site in angles:
        value = draws[site.name]
        if _repeats(program, site.name, seed):
            mean = circular_mean(value.flatten(0, 1))
            draws[site.name] = within_pi(value, mean)
            findings.append(_shown(site.name, draws[site.name] - mean))
            if fit.kind == "independent" and not torch.equal(draws[site.name], value):
                # The density repeats along the line without end: a wide guide gains by it.
                what = f"draws of {site.name} reach around the circle, where the ELBO is no bound "
                findings.append(Finding("warn", f"{what}on the evidence", "use nuts"))
        elif (value.abs() > math.pi).any():
            findings.append(_does_not_repeat(program, site.name))
    return replace(fit, draws=_with_deterministics(program, draws), findings=findings)


def fold(program: Program, sample: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
    """What moves points by whole turns to within pi of a sample's directions.

    Args:
        program: the model.
        sample: points in the unconstrained space (S, d).
        seed: as of `turned`.

    Returns:
        A function of points (m, d); it leaves them where no latent is an angle.
    """
    angles = torch.zeros(program.size, dtype=torch.bool)
    for site in _angles(program):
        if _repeats(program, site.name, seed):
            angles[program.layout[site.name][0]] = True
    mean = circular_mean(sample)

    return lambda u: torch.where(angles, within_pi(u, mean), u) if angles.any() else u


def circular_mean(angles: Tensor) -> Tensor:
    """The direction of the mean of the unit vectors, over the first dimension."""
    return torch.atan2(angles.sin().mean(0), angles.cos().mean(0))


def within_pi(angles: Tensor, mean: Tensor) -> Tensor:
    """The same directions, within pi of the mean."""
    away = torch.remainder(angles - mean + math.pi, 2 * math.pi) - math.pi
    return torch.where((angles - mean).abs() <= math.pi, angles, mean + away)


def _angles(program: Program) -> list[Site]:
    """The latents whose prior is von Mises."""
    return [site for site in program.of("latent") if isinstance(site.base, dist.VonMises)]


def _repeats(program: Program, name: str, seed: int) -> bool:
    """Whether the log density is the same where each element of a latent makes some turns."""
    with seeded(seed, FIT):
        u = program.start()
        part, _ = program.layout[name]
        turns = torch.randint(1, _TURNS + 1, (part.stop - part.start,))
        moved = u.clone()
        moved[part] += 2 * math.pi * turns
        here, there = (program.log_density(at).detach() for at in (u, moved))
    return bool((there - here).abs() <= _SAME * (1 + here.abs()))


def _shown(name: str, away: Tensor) -> Finding:
    """A note on how an angle is shown; a warning where its mean is no centre."""
    flat = away.flatten(0, 1)
    opposite = (flat.abs() > 0.75 * math.pi).to(flat).mean(0).max()
    what = f"{name} is an angle: shown within pi of its circular mean"
    if opposite <= _OPPOSITE:
        return Finding("note", what)
    what = f"{name} is an angle with {opposite:.0%} of its draws opposite its circular mean"
    fix = "do not read its mean and sd, which depend on where the circle is cut; plot its draws"
    return Finding("warn", what, fix)


def _does_not_repeat(program: Program, name: str) -> Finding:
    """Angles of which the prior repeats itself and the likelihood does not: a mistake."""
    line = program.line(name)
    where = f", {line}" if line else ""
    what = f"draws of {name} lie beyond pi, where its prior VonMises repeats itself{where}"
    fix = "use it by its sine and cosine, or give it a Uniform(-pi, pi) prior"
    return Finding("fail", f"{what}, but the model does not", fix)


def _with_deterministics(program: Program, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The draws with what the model computes from them."""
    if not program.of("deterministic"):
        return dict(draws)
    shape = next(iter(draws.values())).shape[:2]
    latents = [site.name for site in program.of("latent", "discrete")]
    flat = {name: draws[name].flatten(0, 1) for name in latents}
    made = over_draws(program.deterministics, flat, program.elements)
    return {**draws, **{name: value.unflatten(0, shape) for name, value in made.items()}}


# -- classes that can be separated ------------------------------------------------------------


def separated(program: Program, idata: Mapping[str, Any]) -> list[Finding]:
    """A note where many draws classify every row rightly.

    Scaling what separates the classes then raises the likelihood for ever (Albert and Anderson
    1984, Biometrika 71): how large the coefficients are is the prior's choice. A label is the
    likeliest of its row where its probability is above one half.

    Args:
        program: what was inferred; networks, whose weights nobody reads, are left out.
        idata: its result, with the log likelihood of each row at each draw.
    """
    problem = program.problem
    if not problem.identified or problem.rows is None or "log_likelihood" not in idata:
        return []
    features = [k for k, value in row_tensors(problem).items() if value.is_floating_point()]
    if not is_classes(program) or set(features) <= {program.of("observed")[0].name}:
        return []
    (rows,) = idata["log_likelihood"].data_vars.values()
    all_right = (rows.values > -math.log(2)).all(axis=tuple(range(2, rows.ndim)))
    if np.mean(all_right) < _SEPARATING:
        return []
    what = "the features separate the classes: the prior alone keeps the coefficients finite"
    return [Finding("note", what, "see how they move with it (compare --vary prior_scale=...)")]
