"""Where a computation can begin: a point at which density and gradient are finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from scipy import optimize
from torch import Tensor

from models.contract import Fault, Refused

from .derivatives import value_and_grad
from .handlers import run
from .supports import violation
from .traced import TracedModel

# How far out a start is looked for where the usual ones have no density, and by how many searches.
_FURTHER, _SEARCHES = (4.0, 8.0, 16.0), 4
# Gives value and gradient (d,) of a density at an unconstrained vector (d,).
Density = Callable[[Tensor], tuple[Tensor, Tensor]]


def find(model: TracedModel, density: Density, tries: int) -> Tensor:
    """A random unconstrained vector (d,) at which density and gradient are finite.

    First those uniform in (-2, 2); where none of these will do, draws from the prior, points
    further out, and ends of a search for latents that the observations do not exclude.

    Args:
        model: what is to begin.
        density: its log density with the gradient.
        tries: points of the first kind; of the others a quarter as many.

    Raises:
        Refused: an observation is outside of its support at every point that was tried.
        Fault: no point had a finite log density, for another reason.
    """
    if not model.size:
        return torch.zeros(0)
    for u in _points(model, tries):
        value, gradient = density(u)
        if value.isfinite() and gradient.isfinite().all():
            return u
    excluded = model.excluded(model.constrain(u))
    if excluded is not None:
        raise Refused(
            f"{excluded} at every starting point that was tried; correct the data, or the priors "
            "of the latents that bound them"
        )
    raise Fault(
        f"none of {tries} random starting points has a finite log density; "
        "check the supports of the priors against the data"
    )


def _points(model: TracedModel, tries: int) -> Iterator[Tensor]:
    """The points that are tried, in their order, (d,) each."""
    for _ in range(tries):
        yield model.random_start()
    for _ in range(0 if model.improper() else tries // 4):
        yield model.drawn_start()
    for scale in _FURTHER:
        for _ in range(tries // 4):
            yield (torch.rand(model.size) * 2 - 1) * scale
    for _ in range(_SEARCHES if model.edges else 0):
        yield _search(model, model.random_start())


def _search(model: TracedModel, u: Tensor) -> Tensor:
    """Where a descent from `u` (d,) ends that brings observations inside of their supports.

    By L-BFGS-B on the sum of squares by which they are outside (`supports.violation`).
    """

    def outwards(u: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):  # the same labels each time
            torch.manual_seed(0)
            nodes = run(model.plain, model.tensors, model.assign(model.parts(u))).nodes
        observed = [nodes[name] for name in model.edges]
        return sum(violation(node["fn"], node["value"]) for node in observed) + 0 * u.sum()

    def negative(x: Any) -> tuple[float, Any]:
        value, slope = value_and_grad(outwards, torch.as_tensor(x).to(u))
        return value.item(), slope.numpy(force=True).astype(float)

    end = optimize.minimize(negative, u.numpy(force=True), jac=True, method="L-BFGS-B")
    return torch.as_tensor(end.x).to(u)
