"""The predictive distribution of rows: new observations, classes and how sure they are, moments.

The posterior predictive is a mixture over draws: p(y | x) = mean over draws of p(y | x, draw). Its
entropy is the mean of the draws' entropies (aleatoric: what no more data would change) plus the
mutual information of label and parameters (epistemic: what the draws disagree on); of a continuous
y the variance is the mean of the draws' variances plus the variance of their means (law of total
variance). Depeweg et al. (2018), arXiv:1710.07283.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from ..core.problem import Fit, Problem
from ..core.seeds import PREDICTIVE, seeded
from ..networks.layers import InUse, in_use, without_idle
from ..program.handlers import run
from ..program.program import Program
from ..program.sampling import over_draws
from .inference_data import cells, hdi

# Replicated data sets that stand behind a point estimate's predictive distribution.
_PLUG_IN_DRAWS = 1000
# Elements of a group of predictive draws; more rows than that get fewer draws.
GROUP_ELEMENTS = 4_000_000
# Elements of a table (draws, rows, classes) that is held at once; more draws are thinned.
_TABLE_ELEMENTS = 60_000_000
# Rows by whose predictions a result is judged and compared.
_JUDGED = 200


# -- draws and rows ----------------------------------------------------------------------------


def every(draws: int, elements: int, most: int) -> int:
    """Of how many draws one is kept, that `elements` of each add up to at most `most`."""
    return max(1, -(-draws * elements // most))


def thinned(
    draws: Mapping[str, Tensor], elements: int, most: int = _TABLE_ELEMENTS, chains: int = 1
) -> dict[str, Tensor]:
    """Every so many draws of each chain, that `elements` of each add up to at most `most`.

    Args:
        draws: site to draws, chain after chain, (S, *shape).
        elements: numbers that are computed of each draw.
        most: of them, all together.
        chains: number of chains of equal length.
    """
    step = every(len(next(iter(draws.values()))), elements, most)
    by_chain = {name: value.unflatten(0, (chains, -1)) for name, value in draws.items()}
    return {name: value[:, ::step].flatten(0, 1) for name, value in by_chain.items()}


def row_tensors(problem: Problem) -> dict[str, Tensor]:
    """The row keys of a problem's data; empty where the model has no rows."""
    keys = problem.rows.keys if problem.rows else ()
    return {key: torch.as_tensor(problem.tensors[key]) for key in keys}


def of_rows(program: Program, rows: Mapping[str, Any]) -> Program:
    """The program on other rows; a label that they lack stands in as zero."""
    n, known = len(next(iter(rows.values()))), row_tensors(program.problem)
    missing = {k: v.new_zeros((n, *v.shape[1:])) for k, v in known.items() if k not in rows}
    return program.changed(tensors={**program.tensors, **missing, **rows})


def of_other_rows(program: Program, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Draws (S, *shape) without the latents of rows, which other rows have not: drawn anew there.

    If nothing is left, the numbers of the draws are, as `_draw` (S,).
    """
    plate = program.problem.rows[0] if program.problem.rows else None
    own = {s.name for s in program.sites.values() if plate in [p.name for p in s.plates]}
    shared = {name: value for name, value in draws.items() if name not in own}
    return shared or {"_draw": torch.arange(len(next(iter(draws.values()))))}


def distribution(program: Program, values: Mapping[str, Tensor]) -> Any:
    """The distribution of the rows' one observed site at one draw, batch shape (rows,)."""
    (site,) = program.of("observed")
    trace = run(program.model, program.problem.tensors, poutine.condition(data=dict(values)))
    return trace.nodes[site.name].get("fn")


def activations(program: Program) -> int:
    """A guess of what a network holds in between: as many numbers for each row as its inputs."""
    if program.problem.identified:
        return 0
    return sum(value.numel() for value in row_tensors(program.problem).values())


# -- new observations --------------------------------------------------------------------------


def replicate(
    program: Program,
    draws: Mapping[str, Tensor],
    chains: int,
    seed: int,
    *,
    new_rows: bool = False,
) -> dict[str, Tensor]:
    """New observations at the draws, site to (chain, draw, *shape); a point gets 1000 of them.

    Args:
        program: the model and the rows.
        draws: latents, chain after chain, (S, *shape).
        chains: number of chains.
        seed: of the observations.
        new_rows: whether the rows are others than the draws were learned from.
    """
    point: dict[str, Tensor] = {}
    if len(next(iter(draws.values()))) == 1:
        # What does not depend on new draws is computed once for all of them.
        point = {name: value[0] for name, value in draws.items()}
        draws = {"draw": torch.arange(_PLUG_IN_DRAWS)}

    def observe(draw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return program.predictive(point or draw, new_rows=new_rows)

    elements = max(1, sum(site.value.numel() for site in program.of("observed")))
    some = thinned(draws, elements, GROUP_ELEMENTS, chains)
    with seeded(seed, PREDICTIVE):
        observed = over_draws(observe, some, elements)
    return {name: value.unflatten(0, (chains, -1)) for name, value in observed.items()}


def table(
    observations: Mapping[str, Tensor], units: Mapping[str, tuple[float, float]]
) -> pd.DataFrame:
    """Mean, sd and HDI of each new observation in the user's units; indexed `y[0]`, `y[1]` ...

    Args:
        observations: site to draws, (chain, draw, *shape), in the model's units.
        units: site to location and scale of the user's unit.
    """
    tables = []
    for name, value in observations.items():
        loc, scale = units.get(name, (0.0, 1.0))
        labels = indexed(name, value.shape[2:])
        draws = value.flatten(0, 1).reshape(-1, len(labels))  # (S, cells)
        draws = loc + scale * draws.numpy().astype(float)
        low, high = hdi(draws)
        columns = {"mean": draws.mean(0), "sd": draws.std(0, ddof=1)}
        tables.append(pd.DataFrame({**columns, "hdi_low": low, "hdi_high": high}, index=labels))
    return pd.concat(tables)


def indexed(name: str, shape: Sequence[int]) -> list[str]:
    """The scalars of a tensor by their place (`z[0, 1]`), the last index fastest."""
    return list(cells(name, map(range, shape)))


def next_row(
    program: Program, row: Mapping[str, Tensor], draws: Mapping[str, Tensor], seed: int
) -> tuple[float, float, float]:
    """Posterior predictive mean of one new row, and its 94 % interval; of a class P(label 1).

    Args:
        program: what was inferred; one observed site, in the row plate.
        row: the row keys of the new row (1, ...); what is observed is not looked at.
        draws: latents, (S, *shape).
        seed: seed of the predictive draws.

    Returns:
        Mean, low and high; a probability has no interval (NaN).
    """
    program = program.changed(tensors={**program.tensors, **row})
    (site,) = program.of("observed")
    if isinstance(site.base, dist.Bernoulli):
        ones = {**program.tensors, site.name: torch.ones_like(site.value)}
        log_p = log_predictive(program.changed(tensors=ones), draws, 1)
        return float(np.exp(log_p[0])), np.nan, np.nan
    values = replicate(program, draws, 1, seed, new_rows=True)[site.name]
    cells = values.flatten(0, 1).flatten(1).numpy().astype(float)  # (S, 1)
    low, high = hdi(cells)
    return float(cells.mean()), float(low[0]), float(high[0])


def log_predictive(program: Program, draws: Mapping[str, Tensor], rows: int) -> np.ndarray:
    """log of the mean over draws of p(row), nats (rows,)."""
    likelihood = over_draws(program.log_likelihood, draws, rows)
    (each,) = likelihood.values()
    return (each.logsumexp(0) - np.log(len(each))).numpy()


def moments(program: Program, values: Mapping[str, Tensor]) -> Tensor:
    """Mean and standard deviation of each row's continuous observation at one draw, (rows, 2)."""
    fn = distribution(program, values)
    return torch.stack([fn.mean, fn.stddev], -1)


# -- classes -----------------------------------------------------------------------------------


class Classes(NamedTuple):
    """Predictions of classes, (rows, ...) each.

    Attributes:
        probability: of each class (rows, classes), the mean over the draws.
        expected_entropy: mean over the draws of the entropy, nats (rows,).
        draws: of each draw too, (draws, rows, classes).
    """

    probability: np.ndarray
    expected_entropy: np.ndarray
    draws: np.ndarray

    @property
    def entropy(self) -> np.ndarray:
        """Entropy of the predictive distribution, nats (rows,)."""
        return entropy(self.probability)

    @property
    def mutual_information(self) -> np.ndarray:
        """What the draws disagree on, nats (rows,); not below zero but for rounding."""
        return np.maximum(self.entropy - self.expected_entropy, 0.0)


def entropy(probability: np.ndarray) -> np.ndarray:
    """Entropy of probabilities (..., classes), nats (...)."""
    logs = np.log(np.maximum(probability, np.finfo(probability.dtype).tiny))
    return -(probability * logs).sum(-1)


def is_classes(program: Program) -> bool:
    """Whether what is observed is one site of classes."""
    observed = program.of("observed")
    if len(observed) != 1 or observed[0].event_dim:
        return False
    return isinstance(observed[0].base, dist.Bernoulli | dist.Categorical)


def of_several_classes(program: Program) -> bool:
    """Whether each row is one of several classes, of which an average tells nothing."""
    observed = program.of("observed")
    return len(observed) == 1 and isinstance(observed[0].base, dist.Categorical)


def labels(program: Program) -> Tensor:
    """The values that the rows' one observation may have, (classes,)."""
    (site,) = program.of("observed")
    return site.fn.enumerate_support(expand=False).flatten()


def class_probabilities(
    program: Program, values: Mapping[str, Tensor], units: InUse | None = None
) -> Tensor:
    """The probability of each class of each row at one draw, (rows, classes).

    Args:
        program: the model and the rows.
        values: the draw.
        units: of a network of which little is left, those in use; the rest is left out.
    """
    if program.sums_rows:
        return program.log_chances(values, labels(program)).movedim(0, -1).exp()
    with without_idle(values, units) if units else nullcontext():
        fn = distribution(program, values)
    shape = program.of("observed")[0].value.shape
    columns = [fn.log_prob(label.expand(shape)) for label in labels(program)]
    return torch.stack(columns, -1).exp()


def classes(program: Program, draws: Mapping[str, Tensor]) -> Classes:
    """The predicted classes of the program's rows at draws (S, *shape)."""
    (site,) = program.of("observed")
    some = thinned(draws, site.value.numel() * len(labels(program)))
    units = {} if program.problem.identified else in_use(program, some)

    at_draw = partial(class_probabilities, program, units=units)
    each = over_draws(at_draw, some, program.elements + activations(program)).numpy()
    return Classes(each.mean(0), entropy(each).mean(0), each)


def class_table(program: Program, draws: Mapping[str, Tensor]) -> pd.DataFrame:
    """Predictions of the program's rows: the likeliest class, all chances, how sure they are.

    Args:
        program: of the new rows.
        draws: latents (S, *shape).

    Returns:
        A row `y[0]`, `y[1]` ... each: label; probability, its own; entropy and mutual information,
        nats; p[0], p[1] ... of each class.
    """
    (site,) = program.of("observed")
    predicted, names = classes(program, draws), labels(program).numpy()
    columns = {
        "label": names[predicted.probability.argmax(1)],
        "probability": predicted.probability.max(1),
        "entropy": predicted.entropy,
        "mutual_information": predicted.mutual_information,
    }
    each = {f"p[{name}]": predicted.probability[:, i] for i, name in enumerate(names)}
    index = indexed(site.name, predicted.probability.shape[:1])
    return pd.DataFrame({**columns, **each}, index=index)


# -- what a network is judged by ---------------------------------------------------------------


def predictions(program: Program, fit: Fit) -> dict[str, Any]:
    """What each draw predicts of some rows: variable to (dims, values).

    Of classes `probability` (chain, draw, row, class), else `mean` and `sd` (chain, draw, row); of
    at most 200 test rows (rows of the data without a test set), whose own latents, if they have
    any, are drawn anew: rows are predicted as if they were new. A network's weights are not
    identified, but these are: they are what its draws are judged and compared by.
    """
    problem = program.problem
    rows: Mapping[str, Any] = problem.test or row_tensors(problem)
    program = of_rows(program, {k: v[:: every(len(v), 1, _JUDGED)] for k, v in rows.items()})
    by_class = is_classes(program)
    elements = program.of("observed")[0].value.numel()
    elements *= len(labels(program)) if by_class else 2
    chains = len(next(iter(fit.draws.values())))
    draws = {name: value.flatten(0, 1) for name, value in fit.draws.items()}
    draws = of_other_rows(program, thinned(draws, elements, GROUP_ELEMENTS, chains))
    function = partial(class_probabilities if by_class else moments, program)
    with seeded(0, PREDICTIVE):
        each = over_draws(function, draws, program.elements).numpy()
    each = each.reshape(chains, -1, *each.shape[1:])
    dims = ("chain", "draw", "row_test")
    if by_class:
        # The last class is what is left: it adds nothing to compare.
        return {"probability": ((*dims, "class_but_last"), each[..., :-1])}
    return {"mean": (dims, each[..., 0]), "sd": (dims, each[..., 1])}
