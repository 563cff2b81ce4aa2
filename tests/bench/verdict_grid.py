"""Posteriors of up to three parameters by quadrature on a grid, in NumPy alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, logsumexp
from verdict_case import Case, Draws, log_joint

# Points along each axis, by the number of axes.
_POINTS = {1: 20_001, 2: 301, 3: 121}
_COARSE = {1: 20_001, 2: 301, 3: 61}

# The box is drawn in, time after time, around the points that are not so many nats below the best.
# The first grids miss a narrow peak, and what lies near it seems far below.
_BELOW = (1e4, 1e3, 200.0, 60.0, 45.0)
# In the end, by the number of axes: what is farther below does not count.
_KEPT = {1: 40.0, 2: 40.0, 3: 25.0}

# A grid whose log evidence differs by more from that of every other point is too coarse.
_COARSEST = 0.02

_AT_ONCE = 50_000


class Axis(NamedTuple):
    """One coordinate: x as a smooth function of u in a box, that spreads tails and borders."""

    low: float
    high: float

    def box(self) -> tuple[float, float]:
        """Where u may lie at first."""
        return (-20.0, 20.0) if np.isinf(self.low) else (-40.0, 40.0)

    def value(self, u: np.ndarray) -> np.ndarray:
        """x at u: sinh for the reals, exp or the logistic function above a border."""
        if np.isinf(self.low):
            return np.sinh(u)
        if np.isinf(self.high):
            return self.low + np.exp(u)
        return self.low + (self.high - self.low) * expit(u)

    def log_slope(self, u: np.ndarray) -> np.ndarray:
        """log dx/du."""
        if np.isinf(self.low):
            return np.logaddexp(u, -u) - np.log(2)
        if np.isinf(self.high):
            return u
        return np.log(self.high - self.low) - np.logaddexp(0, u) - np.logaddexp(0, -u)


class Nodes(NamedTuple):
    """Points of a grid and their weights, which sum to one.

    Attributes:
        draws: site to values (S, *shape).
        log_weights: (S,).
        log_evidence: log of the sum of the joint.
        error: difference in log evidence from the grid of every other point.
    """

    draws: dict[str, np.ndarray]
    log_weights: np.ndarray
    log_evidence: float
    error: float


Axes = Mapping[str, "Axis | list[Axis]"]  # site to its coordinate, or those of a vector


def axes(case: Case) -> Axes:
    """The coordinates of each site, from its priors' supports where the case states none."""

    def axis(name: str, prior: Any) -> Axis:
        return Axis(*map(float, case.supports.get(name, prior.support())))

    return {
        name: [axis(name, one) for one in prior] if isinstance(prior, list) else axis(name, prior)
        for name, prior in case.priors.items()
    }


def quadrature(case: Case) -> Nodes:
    """The posterior of a case on a grid of its one to three parameters."""
    return on_grid(lambda draws: log_joint(case, draws), axes(case))


def on_grid(joint: Callable[[Draws], np.ndarray], of: Axes) -> Nodes:
    """A density on a grid, whose box is found by itself.

    Args:
        joint: log density (S,) at points (S,) or (S, k) of each site.
        of: site to its coordinate, or those of a vector.

    Raises:
        ArithmeticError: the grid is too coarse.
    """
    flat = _flat(of)
    boxes = [axis.box() for axis in flat]
    kept_above = _KEPT[len(flat)]
    for below in (*_BELOW, kept_above):
        lines = [np.linspace(*box, _COARSE[len(flat)]) for box in boxes]
        boxes = _around(_values(joint, of, lines), lines, below)
    lines = [np.linspace(*box, _POINTS[len(flat)]) for box in boxes]
    values = _values(joint, of, lines)
    volume = sum(np.log(line[1] - line[0]) for line in lines)
    whole = logsumexp(values) + volume
    every_other = values[tuple(slice(None, None, 2) for _ in lines)]
    error = abs(logsumexp(every_other) + volume + len(flat) * np.log(2) - whole)
    if error > _COARSEST:
        raise ArithmeticError(f"the grid is too coarse: log evidence differs by {error:.2g}")
    kept = values.ravel() > values.max() - kept_above
    mesh = np.meshgrid(*lines, indexing="ij")
    draws = _sites(of, [m.ravel()[kept] for m in mesh])
    return Nodes(draws, values.ravel()[kept] + volume - whole, float(whole), float(error))


def _around(values: np.ndarray, lines: list[np.ndarray], below: float) -> list:
    """The box around the points that are not far below the best, and one step more."""
    near = values > values.max() - below
    boxes = []
    for i, line in enumerate(lines):
        others = tuple(j for j in range(len(lines)) if j != i)
        at = np.flatnonzero(near.any(axis=others))
        boxes.append((line[max(at[0] - 1, 0)], line[min(at[-1] + 1, len(line) - 1)]))
    return boxes


def _values(joint: Callable, of: Axes, lines: list[np.ndarray]) -> np.ndarray:
    """Log density with respect to u at all points of a grid; minus infinity where it has none."""
    shape = tuple(map(len, lines))
    mesh = [m.ravel() for m in np.meshgrid(*lines, indexing="ij")]
    flat = _flat(of)
    slopes = sum(axis.log_slope(u) for axis, u in zip(flat, mesh))
    found = np.empty(len(mesh[0]))
    for at in range(0, len(found), _AT_ONCE):
        part = slice(at, at + _AT_ONCE)
        with np.errstate(all="ignore"):
            found[part] = joint(_sites(of, [u[part] for u in mesh])) + slopes[part]
    return np.where(np.isfinite(found), found, -np.inf).reshape(shape)


def _sites(of: Axes, us: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Coordinates as sites: (S,) of scalars, (S, k) of vectors."""
    left, found = iter(us), {}
    for name, one in of.items():
        if isinstance(one, list):
            found[name] = np.stack([axis.value(next(left)) for axis in one], -1)
        else:
            found[name] = one.value(next(left))
    return found


def _flat(of: Axes) -> list[Axis]:
    """All coordinates, in order."""
    each = (one if isinstance(one, list) else [one] for one in of.values())
    return list(itertools.chain.from_iterable(each))


def resampled(nodes: Nodes, size: int) -> dict[str, np.ndarray]:
    """Equally weighted draws of the nodes, systematically, (size, *shape)."""
    if len(nodes.log_weights) <= size:
        size = max(size, 4 * len(nodes.log_weights))
    edges = np.cumsum(np.exp(nodes.log_weights))
    at = np.searchsorted(edges / edges[-1], (np.arange(size) + 0.5) / size)
    return {name: value[at] for name, value in nodes.draws.items()}
