"""What observations leave of the latents' supports.

Under `y ~ Uniform(0, top)` no `top` below the largest `y` has a density. A sampler that meets such
an edge steps back from it, and a guide that reaches over it has an ELBO of minus infinity; so the
latent is given the support that the data leave it, wherever the edge is a bound on one latent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import biject_to, transforms

from .supports import bounds_of, elementwise

Values = Mapping[str, Tensor]
# Latent to the least and greatest values that the observations leave it, in its shape.
Bounds = Mapping[str, tuple[Tensor, Tensor]]
# Steps of Newton's method (a linear bound needs one), the step at which it ends and the difference
# up to which two bounds are the same, both relative and in units of the last place.
_STEPS, _SETTLED, _SAME = 50, 16.0, 1e4
# How far beyond a bound, relative to it, is looked for what the rows allow.
_BEYOND = (1e-3, 0.1, 0.5, 1.0, 2.0, 5.0, 30.0, 1000.0)
# Most elements of a matrix of slopes, and the least distance from a bound.
_MOST, _TINY = 10_000_000, 1e-300


class Between(constraints.Constraint):
    """Numbers from `lower_bound` to `upper_bound`, tensors whose elements may be infinite.

    Torch's own interval has two finite ends, the same kind of end for all elements.
    """

    def __init__(self, lower_bound: Tensor, upper_bound: Tensor):
        self.lower_bound, self.upper_bound = torch.broadcast_tensors(lower_bound, upper_bound)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return (value >= self.lower_bound) & (value <= self.upper_bound)


class _OntoBetween(transforms.Transform):
    """From the line to an interval: by a logistic function, an exponential one, or as it is.

    With both ends x -> low + (high - low) sigmoid(x), with one low + exp(x) or high - exp(-x),
    with none x itself; always increasing.

    Args:
        codomain: the interval; each element has its own map.
    """

    domain = constraints.real
    bijective = True
    sign = +1

    def __init__(self, codomain: Between):
        super().__init__()
        self.codomain = codomain
        low, high = codomain.lower_bound, codomain.upper_bound
        self.has = low > -torch.inf, high < torch.inf
        self.low = torch.where(self.has[0], low, 0.0)
        self.high = torch.where(self.has[1], high, 0.0)

    def _choose(self, both: Tensor, above: Tensor, below: Tensor, free: Tensor) -> Tensor:
        """Of four values each element's, by which ends it has."""
        low, high = self.has
        one_end = torch.where(low, above, below)
        return torch.where(low & high, both, torch.where(low | high, one_end, free))

    def _call(self, x: Tensor) -> Tensor:
        both = self.low + (self.high - self.low) * torch.sigmoid(x)
        return self._choose(both, self.low + x.exp(), self.high - (-x).exp(), x)

    def _inverse(self, y: Tensor) -> Tensor:
        above, below = (y - self.low).clamp(min=_TINY), (self.high - y).clamp(min=_TINY)
        return self._choose(above.log() - below.log(), above.log(), -below.log(), y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        sigmoid = torch.nn.functional.logsigmoid
        width = torch.where(self.has[0] & self.has[1], self.high - self.low, 1.0)
        both = width.log() + sigmoid(x) + sigmoid(-x)
        return self._choose(both, x, -x, torch.zeros_like(x))


biject_to.register(Between, _OntoBetween)


def narrowed(support: Any, low: Tensor, high: Tensor) -> Any:
    """A support of single elements, an interval or the line, cut to an interval.

    Args:
        support: torch's constraint.
        low: the least value of each element, in the latent's shape; minus infinity leaves it.
        high: the greatest.
    """
    own_low, own_high = bounds_of(elementwise(support))
    between = Between(
        torch.maximum(torch.as_tensor(own_low).to(low), low),
        torch.minimum(torch.as_tensor(own_high).to(high), high),
    )
    return constraints.independent(between, support.event_dim) if support.event_dim else between


def limits(slack: Callable[[Values], Tensor], starts: Sequence[Values]) -> Bounds:
    """The bounds that observations put on single elements of the latents.

    Args:
        slack: by how much each observation is inside of its support, (rows,); negative outside.
        starts: several values of the latents. A row counts whose slack depends on one and the same
            element at all of them, and a bound that is the same from each, with nothing beyond.

    Returns:
        Latent to its lower and upper bounds, in its shape, infinite where there is none; those
        alone that have one.
    """
    names, like = list(starts[0]), starts[0].values()
    sizes = [value.numel() for value in like]

    def cut(x: Tensor) -> dict[str, Tensor]:
        parts = zip(names, x.split(sizes), like)
        return {name: part.view(value.shape) for name, part, value in parts}

    def rows(x: Tensor) -> Tensor:
        return slack(cut(x))

    points = [torch.cat([v.detach().flatten() for v in start.values()]) for start in starts]
    if points[0].numel() * rows(points[0]).numel() > _MOST:
        return {}
    depends = torch.stack([_slopes(rows, x) != 0 for x in points]).any(0)  # (rows, d)
    owned = depends & (depends.sum(1, keepdim=True) == 1)
    low, high = (_agreed(rows, points, owned, sign) for sign in (1.0, -1.0))
    ends = {name: (a, b) for (name, a), b in zip(cut(low).items(), cut(high).values())}
    return {n: pair for n, pair in ends.items() if any(end.isfinite().any() for end in pair)}


def _unit(values: Tensor) -> Tensor:
    """One in the last place, of 1 at least."""
    return torch.finfo(values.dtype).eps * (1 + values.abs())


def _slopes(rows: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The slopes of all rows in all elements, (rows, d)."""
    return torch.autograd.functional.jacobian(rows, x, vectorize=True)


def _agreed(
    rows: Callable[[Tensor], Tensor], points: Sequence[Tensor], owned: Tensor, sign: float
) -> Tensor:
    """The greatest value of each element that its rows demand (`sign` 1), or the least (-1).

    Args:
        rows: the slack of each row, (rows,), at a flat point (d,).
        points: the flat starts, at all of which a bound must be the same.
        owned: which rows depend on which element alone, (rows, d) of bool.
        sign: 1 for lower bounds, -1 for upper ones.

    Returns:
        (d,), infinite where no bound is sure.
    """
    first, *others = [_bound(rows, x, owned, sign) for x in points]
    agreed = first.isfinite()
    for other in others:
        agreed &= (other - first).abs() <= _SAME * _unit(first)
    for x in points[:2]:
        for distance in _BEYOND:
            beyond = torch.where(agreed, first - sign * distance * (1 + first.abs()), x)
            with torch.no_grad():
                inside = rows(beyond)[:, None] >= 0
            agreed &= (owned & ~inside).any(0)
    return torch.where(agreed, first, -sign * torch.inf)


def _bound(rows: Callable[[Tensor], Tensor], x: Tensor, owned: Tensor, sign: float) -> Tensor:
    """The same from one point by Newton's method, for all elements at once: (d,).

    No number where it does not settle, infinite where no row demands anything.
    """
    end, none = x, torch.tensor(-sign * torch.inf)
    for _ in range(_STEPS):
        slopes = _slopes(rows, end)
        roots = end - rows(end).detach()[:, None] / slopes
        roots = torch.where(owned & (sign * slopes > 0), roots, none)
        new = roots.amax(0) if sign > 0 else roots.amin(0)
        settled = new.isinf() | ((new - end).abs() <= _SETTLED * _unit(end))
        end = torch.where(new.isinf(), end, new)
        if settled.all() or not end.isfinite().all():
            break
    return torch.where(new.isinf(), none, torch.where(settled, end, torch.nan))
