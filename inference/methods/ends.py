"""What the end of a maximisation is: a maximum, a border, or none, and then why.

- interior: the gradient vanishes, the Hessian is negative definite, Newton steps shrink to zero;
- border: a coordinate runs to infinity in the unconstrained space while the density tends to a
  finite limit there, and the support is closed off by a bound (a coin with only heads);
- edge: the density drops there, because of the data (the top of a uniform distribution);
- none: the density grows without bound, its maximiser is at infinity (separable classes) or is not
  the only one (the median of an even number).

Never a number in place of a refusal, and no reason that an evaluation has not confirmed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from models.contract import Refused

from ..core.problem import Finding
from ..program.handlers import Assign, run
from ..program.kinks import Kinks, value_and_grad
from ..program.program import Program
from ..program.sites import support_within
from ..program.supports import bounds_of, elementwise
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


def judged(program: Program, end: Mode, *, prior: bool) -> tuple[dict[str, Tensor], list[Finding]]:
    """The latents at the end of a maximisation in the constrained space, and what to say of it.

    Args:
        program: the model and its data.
        end: where the maximisation ended.
        prior: whether it was with the priors of the continuous latents.

    Returns:
        Site to value (*shape), and warnings: of a border, an edge, no curvature, no convergence.

    Raises:
        Refused: it is no maximum, or not the only one.
    """
    of_density = _End(program, prior, end)
    if prior:
        of_density.refuse_collapse()
    if not end.converged and end.on is None:
        of_density.refuse_edge()
        of_density.refuse_kink()
    if end.escaped.any():
        return of_density.border()
    return program.constrain(end.u), of_density.interior()


@dataclass(frozen=True)
class _End:
    """An end of the maximisation of a density in the constrained space.

    Attributes:
        program: the model and its data.
        prior: whether the density is with the priors of the continuous latents.
        end: where the maximisation ended.
    """

    program: Program
    prior: bool
    end: Mode

    @property
    def name(self) -> str:
        """What the density is called."""
        return "the posterior density" if self.prior else "the likelihood"

    def density(self, u: Tensor) -> Tensor:
        """The density that was maximised, at `u` (d,), nats."""
        return self.program.log_density(u, jacobian=False, prior=self.prior)

    def at(self, u: Tensor) -> float:
        """Its value; minus infinity where it is not finite."""
        with torch.no_grad():
            return _or_nothing(self.density(u).item())

    def slope_at(self, u: Tensor) -> Tensor:
        """Its gradient (d,)."""
        return value_and_grad(self.density, u)[1]

    @cached_property
    def slope(self) -> Tensor:
        """Its gradient at the end (d,)."""
        return self.slope_at(self.end.u)

    # -- an end in the interior ------------------------------------------------------------------

    def interior(self) -> list[Finding]:
        """What to say of an end that ran nowhere.

        Raises:
            Refused: it is no maximum, or not the only one.
        """
        flat = _flattest(-self.end.hessian, limits(self.program).isfinite())
        where = "" if flat is None else self._sites(flat.abs() > 0.1 * flat.abs().max())
        if flat is not None:
            self._refuse_flat(flat, where)
        if not self.end.converged or (self.end.on and self._beaten()):
            text = "the optimiser has not converged (the last Newton step was not below tolerance)"
            return [Finding("fail", text, "rescale data")]
        if flat is not None:
            text = f"the maximum has no curvature in {where}, so there is no standard error"
            return [Finding("warn", text, "compare with nuts")]
        if self.end.on == "edge":
            where = self._values(self.end.u, ", ".join(self.program.layout))
            text = f"the maximum lies at an edge, beyond which the density drops ({where})"
            return [Finding("warn", text, _SURE)]
        return []

    def _beaten(self) -> bool:
        """Whether the density is higher at one of some random points around."""
        noise, u = torch.Generator().manual_seed(0), self.end.u
        higher = self.end.value + 1e-8 * (1 + abs(self.end.value))
        for far in (1e-3, 1e-5):
            for _ in range(30):
                if self.at(u + far * torch.randn(len(u), generator=noise, dtype=u.dtype)) > higher:
                    return True
        return False

    def _refuse_flat(self, flat: Tensor, where: str) -> None:
        """Refuse an end that is as high on a side of `flat` (d,), or lower: climbed from there."""
        u, value = self.end.u, self.end.value
        aside = flat * ((1 + u.abs()) / flat.abs().clamp_min(1e-12)).min() * 0.1
        bounds = limits(self.program)
        for start in (u + aside, u - aside):
            if not math.isfinite(self.at(start)):
                continue
            other = nearest(self.density, start, bounds)
            if other.value > value + 1e-6 * (1 + abs(value)):
                raise Refused(
                    f"{self.name} has no maximum that the optimiser can reach, it rises along "
                    f"{where} from {value:.6g} to {other.value:.6g} nats; use a proper prior"
                )
            moved = (other.u - u).abs().max() > 0.1 * aside.abs().max()
            if moved and other.value > value - 1e-8 * (1 + abs(value)):
                here, there = self._values(u, where), self._values(other.u, where)
                raise Refused(
                    f"{self.name} has no unique maximum, its information is singular in {where}: "
                    f"it is as high at {here} as at {there}; drop what is redundant, or use a "
                    "proper prior"
                )

    def refuse_edge(self) -> None:
        """Refuse an end beyond which the density drops to nothing while it still rises."""
        if not self.slope.any() or not self.slope.isfinite().all():
            return
        direction = self.slope / self.slope.abs().max()
        lengths = [2.0**-k for k in range(40, 3, -1)]
        values = [self.at(self.end.u + length * direction) for length in lengths]
        if values[-1] == -math.inf and max(values) >= self.end.value:
            inside = max(n for n, value in zip(lengths, values) if value > -math.inf)
            where = self._sites(direction.abs() > 1e-3)
            near = self._values(self.end.u + inside * direction, where)
            raise Refused(
                f"{self.name} rises up to an edge near {near} that the data or another latent "
                "set, and is zero beyond, so that it has no slope of zero at its maximum; use nuts"
            )

    def refuse_kink(self) -> None:
        """Refuse an end at a peak whose slope jumps, made by an operation that is not known."""
        along = self.slope / self.slope.abs().max().clamp_min(1e-300)
        for direction in (along, *torch.eye(len(along)).to(along)):
            at = self._peak(direction)
            if at is not None:
                near = self._values(at, self._sites(direction.abs() > 1e-3))
                raise Refused(
                    f"{self.name} has a kink at its maximum, near {near}, where its slope jumps; "
                    "write it with abs, relu, clamp, maximum or a Laplace distribution, which map "
                    "can solve, or use nuts"
                )

    def _peak(self, direction: Tensor) -> Tensor | None:
        """Where near the end the slope along a direction jumps from rising to falling."""

        def slope(t: float) -> float:
            return float(self.slope_at(self.end.u + t * direction) @ direction)

        low, high = -1e-3, 1e-3
        ends = slope(low), slope(high)
        if not ends[0] > 0 > ends[1]:
            return None
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if slope(middle) > 0 else (low, middle)
        jump = slope(low) - slope(high)
        return self.end.u + low * direction if jump > 0.1 * (ends[0] - ends[1]) else None

    # -- an end that escapes ---------------------------------------------------------------------

    def border(self) -> tuple[dict[str, Tensor], list[Finding]]:
        """An escape judged: a finite density at a bound of the support, or no maximiser at all.

        Raises:
            Refused: there is no maximiser.
        """
        where, outwards = self._sites(self.end.escaped), self._outwards()
        if (self.slope * outwards).sum() > 1e-4 or not self.slope.isfinite().all():
            if self._grows(outwards):
                raise Refused(self._unbounded(where))
            raise Refused(
                f"{self.name} has no maximum that the optimiser can reach, it ended with {where} "
                "at the border of the support; use a proper prior, or nuts"
            )
        far = self.end.u + 15 * outwards
        values, supports = self.program.constrain(far), self.program.supports(far)
        snapped = {name: _snap(values[name], supports[name]) for name in where.split(", ")}
        if any(on_bound is None for on_bound in snapped.values()):
            raise Refused(
                f"{self.name} has no finite maximiser ({where} runs to infinity, improper "
                "posterior); use a proper prior"
            )
        spots = ", ".join(f"{name} = {_text(value)}" for name, value in snapped.items())
        text = f"the maximum lies at the border of the support ({spots})"
        return values | snapped, [Finding("warn", text, _SURE)]

    def _outwards(self) -> Tensor:
        """The direction of an escape (d,), the largest entry one."""
        escaped, nowhere = self.end.escaped, torch.zeros_like(self.end.u)
        direction = torch.where(escaped, self.end.step, nowhere)
        if not direction.isfinite().all() or not direction.any():
            direction = torch.where(escaped, self.end.u.sign(), nowhere)
        direction = direction / direction.abs().max()
        # Where the density is not concave, Newton's step points downhill.
        return torch.where(self.slope * direction < -1e-4, -direction, direction)

    def _grows(self, outwards: Tensor) -> bool:
        """Whether the density rises on and on outwards, the other coordinates at their best."""
        values = [self._profile(self.end.u + far * outwards) for far in (0.0, 5.0, 10.0)]
        first, second = values[1] - values[0], values[2] - values[1]
        return first > 1e-3 and second > 0.5 * first

    def _profile(self, u: Tensor) -> float:
        """The density with the coordinates that did not escape at their best."""
        free = ~self.end.escaped
        if not free.any():
            return self.at(u)
        bounds = limits(self.program)[free]
        return nearest(lambda v: self.density(u.masked_scatter(free, v)), u[free], bounds).value

    def refuse_collapse(self) -> None:
        """Refuse a density that grows for ever as a scale shrinks, its latents at their centre.

        The peak of a funnel is narrow, and an ascent may well end elsewhere.
        """
        for site in self.program.of("latent"):
            support = elementwise(site.support)
            if support is constraints.real or support.event_dim:
                continue
            for sign in (-1.0, 1.0):
                values = [self._collapsed(site.name, sign * far) for far in _FAR_OUT]
                if min(values[1] - values[0], values[2] - values[1]) > 1:
                    raise Refused(self._unbounded(site.name))

    def _collapsed(self, name: str, far: float) -> float:
        """The density with one site far out and what is unlikely there at its centre."""
        moved = self.end.u.clone()
        moved[self.program.layout[name][0]] = far
        handler = _Centred(self.program.parts(moved), self.program.bounds)
        with torch.no_grad():
            trace = run(self.program.model, self.program.problem.tensors, handler)
            values = {k: trace.nodes[k]["value"] for k in self.program.layout}
            return _or_nothing(self.program.log_joint(values).item())

    # -- words -----------------------------------------------------------------------------------

    def _sites(self, which: Tensor) -> str:
        """The sites that own the marked coordinates of `u`, in words."""
        names = [n for n, (part, _) in self.program.layout.items() if which[part].any()]
        return ", ".join(names)

    def _values(self, u: Tensor, where: str) -> str:
        """The values of some sites at `u`, in words."""
        values = self.program.constrain(u)
        return ", ".join(f"{name} = {_text(values[name])}" for name in where.split(", "))

    def _unbounded(self, where: str) -> str:
        return (
            f"{self.name} is unbounded as {where} nears the border of its support, so it has no "
            "maximum; use a prior that is bounded there, or a method that integrates"
        )


def _or_nothing(value: float) -> float:
    """A log density; minus infinity where it is not finite."""
    return value if math.isfinite(value) else -math.inf


class _Centred(Assign):
    """Gives latents their part of `u`, and those that are unlikely there the peak of their own."""

    def _pyro_sample(self, msg: dict) -> None:
        super()._pyro_sample(msg)
        if msg["name"] not in self.parts:
            return
        fn, value = msg["fn"], msg["value"]
        real = elementwise(support_within(msg, self.bounds)) is constraints.real
        centre = _centre(fn) if real else None
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


def _snap(value: Tensor, support: Any) -> Tensor | None:
    """The value with what is within rounding of a bound put on it; None if nothing is."""
    support = elementwise(support)
    bounds = (0.0,) if support is constraints.simplex else bounds_of(support) or ()
    snapped, near = value, torch.zeros_like(value, dtype=torch.bool)
    for bound in bounds:
        limit = torch.as_tensor(bound, dtype=value.dtype)
        close = (snapped - limit).abs() < 1e-9 * (1 + limit.abs())
        snapped, near = torch.where(close, limit, snapped), near | close
    return snapped if near.any() else None


def _text(value: Tensor) -> str:
    return f"{value.item():g}" if value.numel() == 1 else str(value.tolist())
