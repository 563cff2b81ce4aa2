"""How noisy the gradients are by which guides are trained, and whether they are the right ones.

Of a network's mean field (`variances`), four estimators of the gradient of the expected log
likelihood of one batch, at the same parameters:

- `reinforce`: log p(batch | w) grad log q(w), for w ~ q (Williams 1992; lecture A's "random search
  in disguise");
- `baseline`: the same with log p(batch | w) less its mean, which the expectation does not notice;
- `reparameterised`: grad log p(batch | m + s e), for e ~ Normal(0, 1);
- `local`: the same with the noise drawn at the layers' outputs, for each row (Kingma, Salimans and
  Welling 2015, arXiv:1506.02557).

The KL divergence from the prior has no noise, or the same in all, and is left out.

Of a model's own guides whose objectives estimate the same bound (`biases`): each against the one
that has no noise.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ..core.problem import Context, Guide
from ..core.seeds import DRAWS, FIT, seeded
from ..methods.ascent import AscentSettings
from ..methods.guides import resolve
from ..methods.training import BEGIN, batch_of, batches, gradient_of, store, train
from ..networks import weights
from ..program.handlers import Weighted
from ..program.program import Program

ESTIMATORS = ("reinforce", "baseline", "reparameterised", "local")
# Draws of log p(batch | w) whose mean is the baseline.
_OF_BASELINE = 200


def variances(
    program: Program, *, seed: int, context: Context, settings: AscentSettings, draws: int = 1000
) -> pd.DataFrame:
    """The variance of each estimator's gradient, by layer, after some training.

    Args:
        program: a network and its data.
        seed: seed of training, batch and draws.
        context: whether to show progress.
        settings: how the mean field is trained (by `local`) before, and the size of the batch.
        draws: gradients of each estimator.

    Returns:
        A row for each layer and estimator: variance, summed over the layer's locations, with its
        standard error; the ratio to `local`; the squared norm of the mean gradient.

    Raises:
        Refused: the model has no layers.
    """
    with seeded(seed, FIT, BEGIN):
        field = weights.MeanField(program, program.start_of)
    by_estimator = {}
    with store():
        train(program, field.guide(), settings, seed, context)
        for name in ESTIMATORS:
            guide_of = partial(_estimating, program, field, name)
            drawn = _drawn_gradients(program, guide_of, settings, draws, seed)
            by_estimator[name] = {layer: drawn[f"{layer}.loc"] for layer in field.layers}
    table = _table(by_estimator)
    local = table["variance"].xs("local", level="estimator")
    table["times_local"] = table["variance"] / local.reindex(table.index, level="layer")
    return table


def _table(by_estimator: Mapping[str, Mapping[str, np.ndarray]]) -> pd.DataFrame:
    """Estimator to layer to gradients (draws, d) in its parameters: a row for each."""
    rows = [
        _row(layer, name, gradients)
        for name, layers in by_estimator.items()
        for layer, gradients in layers.items()
    ]
    return pd.DataFrame(rows).set_index(["layer", "estimator"])


def _row(layer: str, name: str, gradients: np.ndarray) -> dict[str, Any]:
    """Statistics of an estimator's gradients (draws, d) in the parameters of a layer."""
    mean = gradients.mean(0)
    squares = ((gradients - mean) ** 2).sum(1) * len(gradients) / (len(gradients) - 1)
    return {
        "layer": layer,
        "estimator": name,
        "variance": float(squares.mean()),
        "variance_se": float(squares.std(ddof=1) / np.sqrt(len(squares))),
        "mean_squared_norm": float((mean**2).sum()),
    }


def biases(
    program: Program,
    names: Sequence[str],
    *,
    seed: int,
    context: Context,
    settings: AscentSettings,
    draws: int = 1000,
) -> pd.DataFrame:
    """Variance and bias of the gradients of own guides' objectives, after some training.

    Args:
        program: the model and its data.
        names: own guides of the same parameters; the first one's objective has no noise, and is
            what they are trained by before.
        seed: seed of training, batch and draws.
        context: whether to show progress.
        settings: how the first is trained, and the size of the batch.
        draws: gradients of each.

    Returns:
        A row for each group of parameters (what their names begin with) and guide: variance,
        summed over the group, with its standard error; the norm of the exact gradient; the norm
        of the mean's distance from it; and what that would be without bias, by noise alone.
    """
    by_guide = {}
    with store():
        train(program, resolve(names[0], program), settings, seed, context)
        for name in names:
            guide = resolve(name, program)
            drawn = _drawn_gradients(program, lambda _, guide=guide: guide, settings, draws, seed)
            by_guide[name] = _grouped(drawn)
    exact = {group: gradients.mean(0) for group, gradients in by_guide[names[0]].items()}
    table = _table(by_guide)
    for group, name in table.index:
        away = by_guide[name][group].mean(0) - exact[group]
        norms = [float(np.linalg.norm(part)) for part in (exact[group], away)]
        table.loc[(group, name), ["norm", "bias"]] = norms
    table["bias_of_noise"] = np.sqrt(table["variance"] / draws)
    return table


def readings(table: pd.DataFrame) -> list[str]:
    """Which estimators are biased, in words: beyond three times what their noise explains."""
    if "bias" not in table:
        return []
    off = table[table["bias"] > 3 * table["bias_of_noise"]].reset_index()
    biased = [f"{name} ({', '.join(part['layer'])})" for name, part in off.groupby("estimator")]
    return [f"biased: {', '.join(biased) or 'none of them, as far as the noise lets see'}"]


def _grouped(gradients: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Gradients (draws, d) of the parameters whose names begin the same, up to the first dot."""
    groups: dict[str, list[np.ndarray]] = {}
    for name in sorted(gradients):
        groups.setdefault(name.partition(".")[0], []).append(gradients[name])
    return {group: np.concatenate(parts, 1) for group, parts in groups.items()}


def _drawn_gradients(
    program: Program,
    guide_of: Callable[[list[Tensor]], Guide],
    settings: AscentSettings,
    draws: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Parameter to gradients of a guide's objective on one batch, the same for all, (draws, d).

    Args:
        program: the model and its data.
        guide_of: gives the guide for that batch.
        settings: the size of the batch.
        draws: number of gradients.
        seed: of the batch and the draws.
    """
    with seeded(seed, DRAWS):
        batch = next(batches(program.problem, settings.batch_size))
        gradient, flat = gradient_of(program, guide_of(batch), settings, [batch, batch])
        values = torch.stack([gradient(*batch)[1] for _ in range(draws)]).double().numpy()
    by_parameter = {}
    for name, param in pyro.get_param_store().named_parameters():
        start = param.storage_offset() - flat.storage_offset()
        by_parameter[name] = values[:, start : start + param.numel()]
    return by_parameter


def _estimating(
    program: Program, field: weights.MeanField, name: str, batch: list[Tensor]
) -> Guide:
    """The mean field, and a surrogate of the batch's log likelihood with that gradient."""
    if name == "local":
        return Guide(field, lambda model, _, tensors: field.fit(model, tensors)[0])
    if name == "reparameterised":
        return Guide(field, lambda model, _, tensors: _fit(model, tensors, _drawn(field)))
    level = torch.zeros(())
    if name == "baseline":
        part = batch_of(program.problem, batch)
        model = Weighted(part)(program.model)
        with torch.no_grad():
            fits = [_fit(model, part.tensors, _drawn(field)) for _ in range(_OF_BASELINE)]
        level = torch.stack(fits).mean()

    def reinforce(model: Callable, _: Callable, tensors: Mapping[str, Any]) -> Tensor:
        """(log p(batch | w) - level) log q(w), whose gradient is the score estimator."""
        values = {k: v.detach() for k, v in _drawn(field).items()}
        scores = [
            dist.Normal(field.loc(k), field.scale(k)).log_prob(v).sum() for k, v in values.items()
        ]
        return (_fit(model, tensors, values) - level).detach() * sum(scores)

    return Guide(field, reinforce)


def _drawn(field: weights.MeanField) -> dict[str, Tensor]:
    """Weights from the mean field, by reparameterisation."""
    return {k: m + field.scale(k) * torch.randn_like(m) for k, m in field.locs().items()}


def _fit(model: Callable, tensors: Mapping[str, Any], values: Mapping[str, Tensor]) -> Tensor:
    """log p(batch | w), weighed as all rows."""
    return weights.log_score(model, tensors, values, prior=False)
