"""How noisy the gradients are by which a network's mean field is trained: four estimators.

All estimate the gradient of the expected log likelihood of one batch, at the same parameters:

- `reinforce`: log p(batch | w) grad log q(w), for w ~ q (Williams 1992; lecture A's "random search
  in disguise");
- `baseline`: the same with log p(batch | w) less its mean, which the expectation does not notice;
- `reparameterised`: grad log p(batch | m + s e), for e ~ Normal(0, 1);
- `local`: the same with the noise drawn at the layers' outputs, for each row (Kingma, Salimans and
  Welling 2015, arXiv:1506.02557).

The KL divergence from the prior has no noise, or the same in all, and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from . import svi, weights
from ._problem import Context, Guide, Problem
from .ascent import batches
from .chains import DRAWS, seeded
from .program import Program, Weighted

ESTIMATORS = ("reinforce", "baseline", "reparameterised", "local")
# Draws of log p(batch | w) whose mean is the baseline.
_OF_BASELINE = 200

Objective = Callable[[Callable, Callable, Mapping[str, Any]], Tensor]


def variances(
    problem: Problem,
    *,
    seed: int,
    context: Context,
    pace: svi.Pace,
    draws: int = 1000,
) -> pd.DataFrame:
    """The variance of each estimator's gradient, by layer, after some training.

    Args:
        problem: a network and its data.
        seed: seed of training, batch and draws.
        context: whether to show progress.
        pace: how the mean field is trained (by `local`) before, and the size of the batch.
        draws: gradients of each estimator.

    Returns:
        A row for each layer and estimator: variance, summed over the layer's locations, with its
        standard error; the ratio to `local`; the squared norm of the mean gradient.

    Raises:
        Refused: the model has no layers.
    """
    program = Program(problem)
    field = weights.MeanField(program, program.start_of)
    with svi.store():
        svi.trained(program, field.guide(), pace, seed, context)
        rows = []
        for name in ESTIMATORS:
            found = _gradients(program, field, name, pace, draws, seed)
            rows += [_row(site, name, of_site) for site, of_site in found.items()]
    table = pd.DataFrame(rows).set_index(["layer", "estimator"])
    local = table["variance"].xs("local", level="estimator")
    table["times_local"] = table["variance"] / local.reindex(table.index, level="layer")
    return table


def _row(site: str, name: str, gradients: np.ndarray) -> dict[str, Any]:
    """Statistics of gradients (draws, d)."""
    mean = gradients.mean(0)
    squares = ((gradients - mean) ** 2).sum(1) * len(gradients) / (len(gradients) - 1)
    return {
        "layer": site,
        "estimator": name,
        "variance": float(squares.mean()),
        "variance_se": float(squares.std(ddof=1) / np.sqrt(len(squares))),
        "mean_squared_norm": float((mean**2).sum()),
    }


def _gradients(
    program: Program, field: weights.MeanField, name: str, pace: svi.Pace, draws: int, seed: int
) -> dict[str, np.ndarray]:
    """Gradients of the locations of each layer's weights, (draws, d), on the same batch."""
    with seeded(seed, DRAWS):
        batch = next(batches(program.problem, pace.batch_size))
        objective = _objective(program, field, name, batch)
        guide = Guide(field, objective=objective)
        gradient, flat = svi.prepared(program, guide, pace, [batch, batch])
        slices = _slices(field, flat)
        found = torch.stack([gradient(*batch)[1] for _ in range(draws)])
    return {site: found[:, part].double().numpy() for site, part in slices.items()}


def _slices(field: weights.MeanField, flat: Tensor) -> dict[str, slice]:
    """Where the locations of each layer's weights lie in the vector of all parameters."""
    found = {}
    for name in field.layers:
        loc = pyro.get_param_store()[f"{name}.loc"].unconstrained()
        start = loc.storage_offset() - flat.storage_offset()
        found[name] = slice(start, start + loc.numel())
    return found


def _objective(
    program: Program, field: weights.MeanField, name: str, batch: list[Tensor]
) -> Objective:
    """A surrogate of the batch's expected log likelihood, whose gradient is the estimator."""
    if name == "local":
        return lambda model, _, tensors: field.fit(model, tensors)[0]
    if name == "reparameterised":
        return lambda model, _, tensors: _fit(model, tensors, _drawn(field))
    level = torch.zeros(())
    if name == "baseline":
        part = svi.batch_of(program.problem, batch)
        model = Weighted(part)(program.model)
        with torch.no_grad():
            fits = [_fit(model, part.tensors, _drawn(field)) for _ in range(_OF_BASELINE)]
        level = torch.stack(fits).mean()

    def reinforce(model: Callable, _: Callable, tensors: Mapping[str, Any]) -> Tensor:
        values = {k: v.detach() for k, v in _drawn(field).items()}
        scores = [
            dist.Normal(field.loc(k), field.scale(k)).log_prob(v).sum() for k, v in values.items()
        ]
        return (_fit(model, tensors, values) - level).detach() * sum(scores)

    return reinforce


def _drawn(field: weights.MeanField) -> dict[str, Tensor]:
    """Weights from the mean field, by reparameterisation."""
    return {k: m + field.scale(k) * torch.randn_like(m) for k, m in field.locs().items()}


def _fit(model: Callable, tensors: Mapping[str, Any], values: Mapping[str, Tensor]) -> Tensor:
    """log p(batch | w), weighed as all rows."""
    return weights.log_score(model, tensors, values, prior=False)
