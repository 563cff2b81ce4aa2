"""What an encoder makes of rows: the evidence of each by importance sampling, and its code.

See `by_row`: the guide gives draws of a row's latents, weighed by p(x, z) / q(z).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .by_row import weighted
from .program import Batch, Program, over_draws
from .scores import Scored, auroc

# Draws for each row, rows of the test set and beside it, and rows for training that are encoded.
_DRAWS, _ROWS, _CODED, _FOR_CODE = 1000, 1000, 5000, 20
# Rows at once; how many draws at once, memory decides.
_BATCH = 100


class Evidence(NamedTuple):
    """What importance sampling tells of rows, (rows,) each, nats.

    Attributes:
        log_p: estimate of log p(x): log of the mean weight.
        error: its standard error, by the delta method; its bias is about -error^2 / 2.
        elbo: the mean log weight.
        means: latent to its mean over the guide's draws (rows, *shape).
    """

    log_p: np.ndarray
    error: np.ndarray
    elbo: np.ndarray
    means: dict[str, np.ndarray]

    def group(self, name: str) -> dict[str, Any]:
        """All that is known of the rows, variable to (dims, values)."""
        each = {"log_p": self.log_p, "error": self.error, "elbo": self.elbo, **self.means}
        return _group(name, each)

    @property
    def metrics(self) -> dict[str, float]:
        """The mean over rows of -log p(x), its Monte Carlo error and bias, and of the ELBO."""
        n = len(self.log_p)
        return {
            "nll": float(-self.log_p.mean()),
            "nll_mcse": float(np.sqrt((self.error**2).sum()) / n),
            "nll_bias": float((self.error**2).mean() / 2),
            "elbo_test": float(self.elbo.mean()),
        }


def evidence(
    program: Program,
    guide: Callable,
    rows: Mapping[str, Tensor],
    draws: int,
    *,
    told: Callable[[int], Any] = lambda _: None,
) -> Evidence:
    """log p(x) of rows by importance sampling from a guide with an encoder.

    Args:
        program: the model, its own parameters fitted.
        guide: of the row keys.
        rows: the row keys of the rows; others are the problem's.
        draws: of each row; from torch's current random state.
        told: called with the number of rows that are done.
    """
    n, found = len(next(iter(rows.values()))), []
    for start in range(0, n, _BATCH):
        part = {key: value[start : start + _BATCH] for key, value in rows.items()}
        batch = Batch({**program.problem.tensors, **part})
        found.append(_summed_up(program, guide, batch, draws))
        told(min(start + _BATCH, n))
    whole = {k: torch.cat([part[k] for part in found]).double().numpy() for k in found[0]}
    return Evidence(*(whole.pop(name) for name in Evidence._fields[:3]), means=whole)


def _summed_up(program: Program, guide: Callable, batch: Batch, draws: int) -> dict[str, Tensor]:
    """The fields of `Evidence` for a batch, and the means by latent."""
    elements = _BATCH * max(1, program.elements // (program.problem.n or 1))

    def one(_: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weights, values = weighted(program, guide, batch)
        return {**values, "": weights}

    found = over_draws(one, {"draw": torch.arange(draws)}, elements)
    weights = found.pop("")  # (draws, rows)
    means = {name: value.mean(0) for name, value in found.items()}
    log_p = weights.logsumexp(0) - math.log(draws)
    relative = (2 * (weights - log_p)).logsumexp(0).exp() / draws - 1  # variance of w / p
    error = (relative.clamp(min=0) / draws).sqrt()
    return {"log_p": log_p, "error": error, "elbo": weights.mean(0), **means}


def _group(name: str, values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Arrays (rows, ...) with names of their dimensions."""
    row = f"row_{name}"
    return {k: ((row, *(f"{k}_{i}" for i in range(1, v.ndim))), v) for k, v in values.items()}


def scored(program: Program, guide: Callable) -> Scored:
    """log p(x) and the codes of rows held out, and of those beside them; codes of the first rows.

    Metrics: `elbo_train` and `elbo_test`, means over rows (nats); `nll`, the mean of -log p(x)
    over the rows held out, with its Monte Carlo error and bias; for each kind of rows beside them
    `nll[name]`, and the chance that one of these has a lower log p(x) (ELBO) than one held out,
    `auroc_log_p[name]` (`auroc_elbo[name]`). Groups: `held_out_rows` and `beside_rows_<name>` with
    the fields of `Evidence`, `coded_rows` with the codes.
    """
    problem = program.problem
    keys = problem.rows[1]
    first = {key: problem.tensors[key][:_CODED] for key in keys}
    trained = evidence(program, guide, first, _FOR_CODE)
    metrics = {"elbo_train": float(trained.elbo.mean())}
    groups = {"coded_rows": _group("coded_rows", trained.means)}
    if problem.test is None:
        return Scored(metrics, groups)
    found = _of(program, guide, problem.test)
    groups["held_out_rows"] = found.group("held_out_rows")
    metrics |= found.metrics
    for name, rows in problem.beside.items():
        other = _of(program, guide, rows)
        groups[f"beside_rows_{name}"] = other.group(f"beside_rows_{name}")
        metrics[f"nll[{name}]"] = other.metrics["nll"]
        for score in ("log_p", "elbo"):
            pair = -getattr(found, score), -getattr(other, score)
            metrics[f"auroc_{score}[{name}]"] = auroc(*pair)
    return Scored(metrics, groups)


def _of(program: Program, guide: Callable, rows: Mapping[str, Tensor]) -> Evidence:
    some = {key: rows[key][:_ROWS] for key in program.problem.rows[1]}
    return evidence(program, guide, some, _DRAWS)
