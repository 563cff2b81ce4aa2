"""What the end of a maximisation is: a maximum, a border, or none, and then why.

- interior: the gradient vanishes, the Hessian is negative definite, Newton steps shrink to zero;
- border: a coordinate runs to infinity in the unconstrained space while the density tends to a
  finite limit there, and the support is closed off by a bound (a coin with only heads);
- edge: the density drops there, because of the data (the top of a uniform distribution);
- none: the density grows without bound, its maximiser is at infinity (separable classes) or is not
  the only one (the median of an even number).

Never a number in place of a refusal, and no reason that an evaluation has not confirmed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import constraints
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to

from models.contract import Refused

from ..core.problem import Finding
from ..program.derivatives import value_and_grad
from ..program.handlers import run
from ..program.kinks import Kinks
from ..program.program import Program
from ..program.supports import elementwise
from .mode import Mode, limits, nearest

# Smallest eigenvalue of the scaled information below which it counts as singular.
_SINGULAR = 1e-10
# Information in the logarithm (or log odds) of a latent below which the density is level in it.
_LEVEL = 1e-8
# What to do about a maximum that is no peak.
_SURE = "it is over-confident and has no standard error; compare with nuts or exact"
# How far out a scale is moved in the unconstrained space, to see whether the density grows there.
_FAR_OUT = (20.0, 40.0, 60.0)
# A latent so many nats below the peak of its distribution is moved there on the way.
_UNLIKELY = 10.0


def refuse_steps(function: Callable[[Tensor], Tensor], u: Tensor) -> None:
    """Refuse a density that jumps where a latent passes a value, and has a peak on every step.

    Raises:
        Refused: with the line of the user's model.
    """
    kinks = Kinks.of(function, u)
    lines = kinks.steps(u) if kinks else []
    if lines:
        raise Refused(
            f"the density jumps where a comparison changes ({', '.join(lines)}), so that it has a "
            "peak on every step; make what is compared a discrete latent, or the change smooth "
            "(torch.sigmoid)"
        )


def judged(
    program: Program, found: Mode, *, prior: bool
) -> tuple[dict[str, Tensor], list[Finding]]:
    """The latents at the end of a maximisation in the constrained space, and what to say of it.

    Args:
        program: the model and its data.
        found: where the maximisation ended.
        prior: whether it was with the priors of the continuous latents.

    Raises:
        Refused: it is no maximum, or not the only one.
    """
    density = _Density(program, prior)
    if prior:
        density.refuse_collapse(found)
    if not found.converged and found.on is None:
        density.refuse_edge(found)
        density.refuse_kink(found)
    if found.escaped.any():
        return density.border(found)
    return program.constrain(found.u), density.interior(found)


@dataclass(frozen=True)
class _Density:
    """A density in the constrained space, and what can be said of an end of its maximisation."""

    program: Program
    prior: bool

    @property
    def name(self) -> str:
        """What it is called."""
        return "the posterior density" if self.prior else "the likelihood"

    def __call__(self, u: Tensor) -> Tensor:
        return self.program.log_density(u, jacobian=False, prior=self.prior)

    def at(self, u: Tensor) -> float:
        """Its value; minus infinity where it is not finite."""
        with torch.no_grad():
            value = self(u).item()
        return value if math.isfinite(value) else -math.inf

    # -- an end in the interior ------------------------------------------------------------------

    def interior(self, found: Mode) -> list[Finding]:
        """What to say of an end that ran nowhere.

        Raises:
            Refused: it is no maximum, or not the only one.
        """
        flat = _flattest(-found.hessian, limits(self.program).isfinite())
        if flat is not None:
            self._refuse_flat(found, flat)
        if not found.converged or (found.on and self._beaten(found)):
            what = "the optimiser has not converged (the last Newton step was not below tolerance)"
            return [Finding("fail", what, "rescale data")]
        if flat is not None:
            where = self._sites(flat.abs() > 0.1 * flat.abs().max())
            what = f"the maximum has no curvature in {where}, so there is no standard error"
            return [Finding("warn", what, "compare with nuts")]
        if found.on == "edge":
            where = _spot(self.program, found.u, ", ".join(self.program.layout))
            what = f"the maximum lies at an edge, beyond which the density drops ({where})"
            return [Finding("warn", what, _SURE)]
        return []

    def _beaten(self, found: Mode) -> bool:
        """Whether the density is higher at one of some random points around."""
        noise = torch.Generator().manual_seed(0)
        for far in (1e-3, 1e-5):
            for _ in range(30):
                aside = torch.randn(len(found.u), generator=noise, dtype=found.u.dtype)
                if self.at(found.u + far * aside) > found.value + 1e-8 * (1 + abs(found.value)):
                    return True
        return False

    def _refuse_flat(self, found: Mode, flat: Tensor) -> None:
        """Refuse an end that is as high on a side of `flat` (d,), or lower: climbed from there."""
        where = self._sites(flat.abs() > 0.1 * flat.abs().max())
        aside = flat * ((1 + found.u.abs()) / flat.abs().clamp_min(1e-12)).min() * 0.1
        bounds = limits(self.program)
        for start in (found.u + aside, found.u - aside):
            if not math.isfinite(self.at(start)):
                continue
            other = nearest(self, start, bounds)
            if other.value > found.value + 1e-6 * (1 + abs(found.value)):
                rise = f"from {found.value:.6g} to {other.value:.6g} nats"
                raise Refused(
                    f"{self.name} has no maximum that the optimiser can reach, it rises along "
                    f"{where} {rise}; use a proper prior"
                )
            moved = (other.u - found.u).abs().max() > 0.1 * aside.abs().max()
            if moved and other.value > found.value - 1e-8 * (1 + abs(found.value)):
                here, there = (_spot(self.program, u, where) for u in (found.u, other.u))
                raise Refused(
                    f"{self.name} has no unique maximum, its information is singular in {where}: "
                    f"it is as high at {here} as at {there}; drop what is redundant, or use a "
                    "proper prior"
                )

    def refuse_edge(self, found: Mode) -> None:
        """Refuse an end beyond which the density drops to nothing while it still rises."""
        _, slope = value_and_grad(self, found.u)
        if not slope.any() or not slope.isfinite().all():
            return
        direction = slope / slope.abs().max()
        lengths = [2.0**-k for k in range(40, 3, -1)]
        values = [self.at(found.u + length * direction) for length in lengths]
        if values[-1] == -math.inf and max(values) >= found.value:
            inside = max(n for n, value in zip(lengths, values) if value > -math.inf)
            at = found.u + inside * direction
            where = self._sites(direction.abs() > 1e-3)
            raise Refused(
                f"{self.name} rises up to an edge near {_spot(self.program, at, where)} that the "
                "data or another latent set, and is zero beyond, so that it has no slope of zero "
                "at its maximum; use nuts"
            )

    def refuse_kink(self, found: Mode) -> None:
        """Refuse an end at a peak whose slope jumps, made by an operation that is not known."""
        _, slope = value_and_grad(self, found.u)
        directions = [
            slope / slope.abs().max().clamp_min(1e-300),
            *torch.eye(len(slope)).to(slope),
        ]
        for direction in directions:
            at = self._peak(found.u, direction)
            if at is not None:
                where = self._sites(direction.abs() > 1e-3)
                raise Refused(
                    f"{self.name} has a kink at its maximum, near {_spot(self.program, at, where)}"
                    ", where its slope jumps; write it with abs, relu, clamp, maximum or a "
                    "Laplace distribution, which map can solve, or use nuts"
                )

    def _peak(self, u: Tensor, direction: Tensor) -> Tensor | None:
        """Where near `u` the slope along a direction jumps from rising to falling, bisected."""

        def slope(t: float) -> float:
            return float(value_and_grad(self, u + t * direction)[1] @ direction)

        low, high = -1e-3, 1e-3
        ends = slope(low), slope(high)
        if not ends[0] > 0 > ends[1]:
            return None
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if slope(middle) > 0 else (low, middle)
        jump = slope(low) - slope(high)
        return u + low * direction if jump > 0.1 * (ends[0] - ends[1]) else None

    # -- an end that escapes ---------------------------------------------------------------------

    def border(self, found: Mode) -> tuple[dict[str, Tensor], list[Finding]]:
        """An escape judged: a finite density at a bound of the support, or no maximiser at all."""
        where = self._sites(found.escaped)
        outwards = self._outwards(found)
        _, slope = value_and_grad(self, found.u)
        if (slope * outwards).sum() > 1e-4 or not slope.isfinite().all():
            if self._grows(found, outwards):
                raise Refused(_unbounded(self.name, where))
            raise Refused(
                f"{self.name} has no maximum that the optimiser can reach, it ended with {where} "
                "at the border of the support; use a proper prior, or nuts"
            )
        values = self.program.constrain(found.u + 15 * outwards)
        supports = self.program.supports(found.u + 15 * outwards)
        snapped = {k: _snap(values[k], supports[k]) for k in where.split(", ")}
        if any(on_bound is None for on_bound in snapped.values()):
            raise Refused(
                f"{self.name} has no finite maximiser ({where} runs to infinity, improper "
                "posterior); use a proper prior"
            )
        spots = ", ".join(f"{k} = {_text(v)}" for k, v in snapped.items())
        finding = Finding(
            "warn",
            f"the maximum lies at the border of the support ({spots})",
            _SURE,
        )
        return values | snapped, [finding]

    def _outwards(self, found: Mode) -> Tensor:
        """The direction of an escape (d,), the largest entry one."""
        direction = torch.where(found.escaped, found.step, torch.zeros_like(found.u))
        if not direction.isfinite().all() or not direction.any():
            direction = torch.where(found.escaped, found.u.sign(), torch.zeros_like(found.u))
        direction = direction / direction.abs().max()
        _, slope = value_and_grad(self, found.u)
        # Where the density is not concave, Newton's step points downhill.
        return torch.where(slope * direction < -1e-4, -direction, direction)

    def _grows(self, found: Mode, outwards: Tensor) -> bool:
        """Whether the density rises on and on outwards, the other coordinates at their best."""
        free = ~found.escaped
        bounds = limits(self.program)[free]
        values = []
        for far in (0.0, 5.0, 10.0):
            values.append(self._profile(found.u + far * outwards, free, bounds))
        first, second = values[1] - values[0], values[2] - values[1]
        return first > 1e-3 and second > 0.5 * first

    def _profile(self, u: Tensor, free: Tensor, bounds: Tensor) -> float:
        """The density with some coordinates at their best, the others held."""
        if not free.any():
            return self.at(u)
        return nearest(lambda v: self(u.masked_scatter(free, v)), u[free], bounds).value

    def refuse_collapse(self, found: Mode) -> None:
        """Refuse a density that grows for ever as a scale shrinks, its latents at their centre.

        The peak of a funnel is narrow, and an ascent may well end elsewhere.
        """
        for site in self.program.of("latent"):
            support = elementwise(site.support)
            if support is constraints.real or support.event_dim:
                continue
            part, _ = self.program.layout[site.name]
            for sign in (-1.0, 1.0):
                values = [self._collapsed(found.u, part, sign * far) for far in _FAR_OUT]
                if min(values[1] - values[0], values[2] - values[1]) > 1:
                    raise Refused(_unbounded(self.name, site.name))

    def _collapsed(self, u: Tensor, part: slice, far: float) -> float:
        """The density with one site far out and what is unlikely there at its centre."""
        moved = u.clone()
        moved[part] = far
        handler = _Centred(self.program, moved)
        with torch.no_grad():
            trace = run(self.program.model, self.program.problem.tensors, handler)
            values = {name: trace.nodes[name]["value"] for name in self.program.layout}
            value = self.program.log_joint(values).item()
        return value if math.isfinite(value) else -math.inf

    # -- words -----------------------------------------------------------------------------------

    def _sites(self, which: Tensor) -> str:
        """The sites that own the marked coordinates of `u`, in words."""
        names = [n for n, (part, _) in self.program.layout.items() if which[part].any()]
        return ", ".join(names)


class _Centred(Messenger):
    """Gives latents their part of `u`, and those that are unlikely there the peak of their own."""

    def __init__(self, program: Program, u: Tensor):
        super().__init__()
        self.program, self.parts = program, program.parts(u)

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] not in self.parts:
            return
        fn = msg["fn"]
        support = self.program.support(msg)
        value = biject_to(support)(self.parts[msg["name"]])
        msg["value"], msg["done"] = value, True
        centre = _centre(fn) if elementwise(support) is constraints.real else None
        if centre is not None:
            unlikely = fn.log_prob(centre) - fn.log_prob(value) > _UNLIKELY
            msg["value"] = torch.where(unlikely[(..., *[None] * fn.event_dim)], centre, value)


def _centre(fn: Any) -> Tensor | None:
    """The peak of a distribution, else its mean; None where it knows neither."""
    for name in ("mode", "mean"):
        try:
            return getattr(fn, name)
        except (NotImplementedError, AttributeError):
            continue
    return None


def _flattest(information: Tensor, bounded: Tensor) -> Tensor | None:
    """The direction (d,) in which an information matrix is singular; None where it is not.

    A bounded latent (of a mask (d,)) whose value may double without a change counts as well.
    """
    if not information.isfinite().all():
        return None
    diagonal = information.diagonal().abs()
    level = (diagonal == 0) | (bounded & (diagonal < _LEVEL))
    if level.any():
        return level.to(information)
    scale = diagonal.sqrt()
    eigenvalues, vectors = torch.linalg.eigh(information / scale[:, None] / scale)
    return vectors[:, 0] / scale if eigenvalues[0] < _SINGULAR else None


def _unbounded(name: str, where: str) -> str:
    return (
        f"{name} is unbounded as {where} nears the border of its support, so it has no maximum; "
        "use a prior that is bounded there, or a method that integrates"
    )


def _spot(program: Program, u: Tensor, where: str) -> str:
    """The values of some sites at `u`, in words."""
    values = program.constrain(u)
    return ", ".join(f"{name} = {_text(values[name])}" for name in where.split(", "))


def _snap(value: Tensor, support: Any) -> Tensor | None:
    """The value with what is within rounding of a bound put on it; None if nothing is."""
    support = elementwise(support)
    simplex = support is constraints.simplex
    bounds = [getattr(support, bound, None) for bound in ("lower_bound", "upper_bound")]
    snapped, near = value, torch.zeros_like(value, dtype=torch.bool)
    for limit in [0.0] if simplex else [bound for bound in bounds if bound is not None]:
        limit = torch.as_tensor(limit, dtype=value.dtype)
        close = (snapped - limit).abs() < 1e-9 * (1 + limit.abs())
        snapped, near = torch.where(close, limit, snapped), near | close
    return snapped if near.any() else None


def _text(value: Tensor) -> str:
    return f"{value.item():g}" if value.numel() == 1 else str(value.tolist())
