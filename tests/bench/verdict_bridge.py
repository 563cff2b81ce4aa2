"""Log evidence from long chains by bridge sampling (Meng and Wong 1996), on Pyro's own density.

Nothing of the zoo is used: the density in the unconstrained space is Pyro's `initialize_model`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import logsumexp

_DRAWS, _ROUNDS = 1000, 200


def log_evidence(
    model: Callable, data: Mapping[str, Any], draws: Mapping[str, np.ndarray], seed: int
) -> float:
    """Log evidence of a model without improper priors.

    Args:
        model: Pyro function.
        data: what it is called with.
        draws: of its posterior, site to (S, *shape); others than its latents are left alone.
        seed: of the normal that the bridge leads to.
    """
    potential, transforms = _density(model, data)
    u = np.concatenate([_flat(draws, name, transforms) for name in transforms], axis=1)
    shapes = {name: transforms[name](_tensor(draws[name][:1])).shape[1:] for name in transforms}
    rng = np.random.default_rng(seed)
    fitted, held = u[::2], u[1::2]
    held = held[:: max(1, len(held) // _DRAWS)][:_DRAWS]
    normal = stats.multivariate_normal(fitted.mean(0), np.cov(fitted.T))
    drawn = normal.rvs(len(held), random_state=rng).reshape(len(held), -1)
    ratios = [
        np.array([-potential(_named(row, shapes)) for row in points]) - normal.logpdf(points)
        for points in (held, drawn)
    ]
    return _bridge(*ratios)


def _bridge(of_posterior: np.ndarray, of_normal: np.ndarray) -> float:
    """The fixed point of the optimal bridge between as many draws of either."""
    found = logsumexp(of_normal) - np.log(len(of_normal))
    for _ in range(_ROUNDS):
        above = logsumexp(of_normal - np.logaddexp(of_normal, found))
        below = logsumexp(-np.logaddexp(of_posterior, found))
        found = above - below
    return float(found)


def _density(model: Callable, data: Mapping[str, Any]) -> tuple[Callable, Mapping[str, Callable]]:
    """Minus log density at named values of the unconstrained space, and the way there."""
    import torch
    from pyro.infer.mcmc.util import initialize_model
    from pyro.poutine.subsample_messenger import _Subsample
    from torch.distributions import biject_to

    torch.set_default_dtype(torch.float64)
    tensors = {name: _tensor(value) for name, value in data.items()}
    _, potential, transforms, trace = initialize_model(model, model_kwargs=tensors)
    ways = {
        name: transforms.get(name, biject_to(node["fn"].support).inv)
        for name, node in trace.iter_stochastic_nodes()
        if not isinstance(node["fn"], _Subsample) and not node["fn"].has_enumerate_support
    }
    return lambda named: float(potential(named)), ways


def _tensor(value: Any) -> Any:
    import torch

    found = torch.as_tensor(np.asarray(value)) if not isinstance(value, int | float) else value
    return (
        found.double() if isinstance(found, torch.Tensor) and found.is_floating_point() else found
    )


def _flat(draws: Mapping[str, np.ndarray], name: str, ways: Mapping[str, Callable]) -> np.ndarray:
    return np.asarray(ways[name](_tensor(draws[name]))).reshape(len(draws[name]), -1)


def _named(row: np.ndarray, shapes: Mapping[str, Any]) -> dict[str, Any]:
    found, at = {}, 0
    for name, shape in shapes.items():
        found[name] = _tensor(row[at : at + shape.numel()].reshape(tuple(shape)))
        at += shape.numel()
    return found
