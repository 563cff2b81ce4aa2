"""How well rows that were held out are predicted, and how sure the predictions are.

The posterior predictive is a mixture over draws: p(y | x) = mean over draws of p(y | x, draw). Its
entropy is the mean of the draws' entropies (aleatoric: what no more data would change) plus the
mutual information of label and parameters (epistemic: what the draws disagree on); of a continuous
y the variance is the mean of the draws' variances plus the variance of their means (law of total
variance). Depeweg et al. (2018), arXiv:1710.07283.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from ..core.problem import Fit, Problem
from ..core.seeds import PREDICTIVE, seeded
from ..networks.layers import InUse, in_use, without_idle
from ..program.handlers import run
from ..program.program import Program
from ..program.row_latents import is_of_rows
from ..program.sampling import over_draws
from ..program.supports import support_of

if TYPE_CHECKING:
    import pandas as pd

# Numbers of a table (draws, rows, classes) that is held at once; more draws than fit are thinned.
_MOST = 60_000_000
# Rows by whose predictions a result is judged and compared.
_JUDGED = 200
_JUDGED_ELEMENTS = 4_000_000
# Draws whose predictions along a line are kept.
_OF_A_LINE = 400
# The share that a predictive interval is to hold.
_CENTRAL = 0.9


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


def classes(program: Program, draws: Mapping[str, Tensor]) -> Classes:
    """The predicted classes of the program's rows at draws (S, *shape)."""
    (site,) = program.of("observed")
    labels = site.fn.enumerate_support(expand=False).flatten()
    elements = site.value.numel() * len(labels)
    some = _thinned(draws, elements)
    kept = {} if program.problem.identified else in_use(program, some)

    def one(values: Mapping[str, Tensor]) -> Tensor:
        return class_probabilities(program, values, kept)

    each = over_draws(one, some, program.elements + _activations(program)).numpy()
    return Classes(each.mean(0), entropy(each).mean(0), each)


def _thinned(draws: Mapping[str, Tensor], elements: int, most: int = _MOST) -> dict[str, Tensor]:
    """Every so many draws, so that together they have at most so many of these elements."""
    count = len(next(iter(draws.values())))
    every = max(1, -(-count * elements // most))
    return {name: value[::every] for name, value in draws.items()}


def _activations(program: Program) -> int:
    """A guess of what a network holds in between: as many numbers for each row as its inputs."""
    rows = program.problem.rows
    if program.problem.identified or rows is None:
        return 0
    return sum(program.problem.tensors[key].numel() for key in rows[1])


def class_probabilities(
    program: Program, values: Mapping[str, Tensor], kept: InUse | None = None
) -> Tensor:
    """The probability of each class of each row at one draw, (rows, classes).

    Args:
        program: the model and the rows.
        values: the draw.
        kept: of a network of which little is left, the units in use; the rest is left out.
    """
    (site,) = program.of("observed")
    labels = site.fn.enumerate_support(expand=False).flatten()
    if program.sums_rows:
        return program.log_chances(values, labels).movedim(0, -1).exp()
    with without_idle(values, kept) if kept else nullcontext():
        fn = _predicted(program, values)
    columns = [fn.log_prob(label.expand(site.value.shape)) for label in labels]
    return torch.stack(columns, -1).exp()


def moments(program: Program, values: Mapping[str, Tensor]) -> Tensor:
    """Mean and standard deviation of each row's continuous observation at one draw, (rows, 2)."""
    fn = _predicted(program, values)
    return torch.stack([fn.mean, fn.stddev], -1)


def _predicted(program: Program, values: Mapping[str, Tensor]) -> Any:
    """The distribution of the rows at one draw."""
    (site,) = program.of("observed")
    trace = run(program.model, program.problem.tensors, poutine.condition(data=dict(values)))
    return trace.nodes[site.name]["fn"]


def is_classes(program: Program) -> bool:
    """Whether what is observed is one site of classes."""
    observed = program.of("observed")
    if len(observed) != 1 or observed[0].event_dim:
        return False
    return isinstance(observed[0].base, dist.Bernoulli | dist.Categorical)


def of_rows(problem: Problem, rows: Mapping[str, Tensor]) -> Program:
    """The program on other rows; a label that they lack stands in as zero."""
    n = len(next(iter(rows.values())))
    missing = {
        key: torch.zeros((n, *problem.tensors[key].shape[1:]), dtype=problem.tensors[key].dtype)
        for key in (problem.rows[1] if problem.rows else ())
        if key not in rows
    }
    return Program(replace(problem, tensors={**problem.tensors, **missing, **rows}))


def of_other_rows(program: Program, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Draws (S, *shape) without the latents of rows, which other rows have not: drawn anew there.

    If nothing is left, the numbers of the draws are, as `_draw` (S,).
    """
    plate = program.problem.rows[0] if program.problem.rows else None
    own = {s.name for s in program.sites.values() if plate in [p.name for p in s.plates]}
    count = len(next(iter(draws.values())))
    kept = {name: value for name, value in draws.items() if name not in own}
    return kept or {"_draw": torch.arange(count)}


# -- a result's scores -------------------------------------------------------------------------


class Scored(NamedTuple):
    """Scores, and what stands behind them: group to variable to (dims, values)."""

    metrics: dict[str, float]
    groups: dict[str, dict[str, Any]]


def scored(problem: Problem, fit: Fit) -> Scored:
    """Scores on the rows held out and on those beside them.

    elpd_test; for classes accuracy, log_score (mean log predictive probability of a row), brier
    (summed over the classes), ece (top label in 15 equal bins, Guo et al. 2017), and the group
    `held_out`: `probability` (row_test, class), `label` (row_test). Of a network also what is
    lost by a single draw, and by the mean weights, in place of all draws; entropy and mutual
    information; on rows of another kind how well they tell them apart (AUROC). Of a network that
    predicts numbers coverage_90, rmse, aleatoric and epistemic (variances), in the data's units,
    their rows in the group `held_out_numbers`, and along a line in the group `line`. Of all the
    group `elpd_test`: `elpd` (row_test), the log predictive density of each row, nats.
    """
    if problem.test is None or fit.kind == "prior":
        return Scored({}, {})
    program = of_rows(problem, problem.test)
    draws = of_other_rows(program, {k: v.flatten(0, 1) for k, v in fit.draws.items()})
    with seeded(0, PREDICTIVE):
        return _scored(program, draws)


def _scored(program: Program, draws: Mapping[str, Tensor]) -> Scored:
    problem = program.problem
    if not is_classes(program):
        if is_of_rows(program):  # known by their own latents alone: see `by_row`
            return Scored({}, {})
        each = log_predictive(program, draws, sum(s.value.numel() for s in program.of("observed")))
        found = _of_numbers(program, draws)
        if problem.plane is not None and found.groups:
            found.groups["line"] = _along(problem, draws)
        found.groups["elpd_test"] = _by_row(each)
        return Scored({"elpd_test": float(each.sum())} | found.metrics, found.groups)
    found = classes(program, draws)
    labels = _labels(program)
    truth = np.searchsorted(labels, program.of("observed")[0].value.numpy())
    metrics = _of_classes(found.probability, truth)
    kept = {"probability": (("row_test", "class"), found.probability)}
    kept["label"] = ("row_test", truth)
    groups = {"held_out": kept, "elpd_test": _by_row(log_scores(found.probability, truth))}
    if not problem.identified:
        metrics |= _of_draws(program, found, draws, truth)
        kept["mutual_information"] = ("row_test", found.mutual_information)
        beside = {k: _beside(problem, rows, draws) for k, rows in problem.beside.items()}
        metrics |= _compared(found, beside)
        groups |= {f"beside_{name}": _kept(one) for name, one in beside.items()}
    if problem.plane is not None:
        groups["plane"] = _drawn(problem, draws)
    return Scored(metrics, groups)


def _by_row(each: np.ndarray) -> dict[str, Any]:
    """The group of each row's log predictive density, nats (rows,)."""
    return {"elpd": ("row_test", each)}


def _of_numbers(program: Program, draws: Mapping[str, Tensor]) -> Scored:
    """How a network predicts numbers: in how wide intervals, and why they are no narrower.

    Whether a row is in the central interval is told by the mixture's distribution function at it,
    the mean of the draws' own.
    """
    if program.problem.identified or not _has_moments(program):
        return Scored({}, {})
    (site,) = program.of("observed")

    def one(values: Mapping[str, Tensor]) -> Tensor:
        fn = _predicted(program, values)
        return torch.stack([fn.mean, fn.variance, fn.cdf(site.value)])

    some = _thinned(draws, 3 * site.value.numel())
    loc, variance, below = over_draws(one, some, program.elements + _activations(program)).unbind(
        1
    )
    unit = np.exp(2 * program.problem.log_units.get(site.name, 0.0))
    rows = {
        "aleatoric": unit * variance.mean(0).numpy(),
        "epistemic": unit * loc.var(0, correction=0).numpy(),
        "cdf": below.mean(0).numpy(),
        "error": np.sqrt(unit) * (site.value.numpy() - loc.mean(0).numpy()),
    }
    inside = np.abs(rows["cdf"] - 0.5) <= _CENTRAL / 2
    metrics = {f"coverage_{100 * _CENTRAL:.0f}": float(inside.mean())}
    metrics["rmse"] = float(np.sqrt((rows["error"] ** 2).mean()))
    metrics["aleatoric"] = float(rows["aleatoric"].mean())
    if len(loc) > 1:
        metrics["epistemic"] = float(rows["epistemic"].mean())
    return Scored(metrics, {"held_out_numbers": {k: ("row_test", v) for k, v in rows.items()}})


def _has_moments(program: Program) -> bool:
    """Whether the rows are numbers with a mean, a variance and a distribution function."""
    observed = program.of("observed")
    if len(observed) != 1 or observed[0].event_dim:
        return False
    fn = observed[0].fn
    support = support_of(fn)
    if support is None or support.is_discrete:
        return False
    try:
        found = fn.mean, fn.variance, fn.cdf(observed[0].value)
    except (NotImplementedError, AttributeError):
        return False
    return all(bool(part.isfinite().all()) for part in found)


def _labels(program: Program) -> np.ndarray:
    return program.of("observed")[0].fn.enumerate_support(expand=False).flatten().numpy()


def _of_classes(probability: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Scores of probabilities (rows, classes) against labels (rows,)."""
    logs = log_scores(probability, truth)
    scores = {"elpd_test": float(logs.sum()), "log_score": float(logs.mean())}
    one_hot = np.eye(probability.shape[1])[truth]
    _, confidence, right = calibration_bins(probability, truth)
    return scores | {
        "accuracy": float((probability.argmax(1) == truth).mean()),
        "brier": float(((probability - one_hot) ** 2).sum(1).mean()),
        "ece": float(np.abs(right - confidence).sum() / len(truth)),
    }


def log_scores(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """log of the probability (rows, classes) of each row's label, (rows,)."""
    chosen = probability[np.arange(len(truth)), truth].astype(float)
    return np.log(np.maximum(chosen, 1e-45))  # what single precision can tell from zero


def _of_draws(
    program: Program, found: Classes, draws: Mapping[str, Tensor], truth: np.ndarray
) -> dict[str, float]:
    """One draw, and the mean of the weights, in place of all draws; how sure all are."""
    sure = {"entropy": float(found.entropy.mean())}
    if len(found.draws) == 1:
        return sure
    single = [_of_classes(one, truth) for one in found.draws[:: max(1, len(found.draws) // 100)]]
    sure["mutual_information"] = float(found.mutual_information.mean())
    for name in ("accuracy", "log_score"):
        sure[f"{name}_single"] = float(np.mean([one[name] for one in single]))
    mean = {name: value.mean(0) for name, value in draws.items() if value.is_floating_point()}
    if not mean:  # all that is drawn is of the rows: there are no weights
        return sure
    with torch.no_grad():
        of_mean = _of_classes(class_probabilities(program, mean).numpy(), truth)
    return sure | {f"{name}_mean_weights": of_mean[name] for name in ("accuracy", "log_score")}


class Beside(NamedTuple):
    """Predictions on rows beside the test set, and their labels if they have any."""

    found: Classes
    truth: np.ndarray | None


def _beside(problem: Problem, rows: Mapping[str, Tensor], draws: Mapping[str, Tensor]) -> Beside:
    program = of_rows(problem, rows)
    (site,) = program.of("observed")
    known = site.name in rows
    truth = np.searchsorted(_labels(program), site.value.numpy()) if known else None
    return Beside(classes(program, draws), truth)


def _kept(one: Beside) -> dict[str, Any]:
    """A group: entropy and mutual information of each row, and whether it was right."""
    rows = {"entropy": one.found.entropy, "mutual_information": one.found.mutual_information}
    if one.truth is not None:
        rows["right"] = (one.found.probability.argmax(1) == one.truth).astype(int)
    return {name: ("row", values) for name, values in rows.items()}


def _drawn(problem: Problem, draws: Mapping[str, Tensor]) -> dict[str, Any]:
    """A group of what is predicted in the plane of two features, at points `x`."""
    found = classes(of_rows(problem, problem.plane), draws)
    return {
        "x": (("point", "axis"), problem.plane["x"].numpy()),
        "probability": (("point", "class"), found.probability),
        "mutual_information": ("point", found.mutual_information),
        "entropy": ("point", found.entropy),
    }


def _along(problem: Problem, draws: Mapping[str, Tensor]) -> dict[str, Any]:
    """A group of the numbers that some draws predict at points `x` along a line: mean and sd."""
    program = of_rows(problem, problem.plane)
    some = _thinned(draws, 1, _OF_A_LINE)
    found = over_draws(lambda values: moments(program, values), some, program.elements).numpy()
    dims = ("number", "point")
    return {
        "x": (("point", "axis"), problem.plane["x"].numpy()),
        "mean": (dims, found[..., 0]),
        "sd": (dims, found[..., 1]),
    }


def _compared(test: Classes, beside: Mapping[str, Beside]) -> dict[str, float]:
    """By how unsure they are, how well rows of another kind are told from test rows (AUROC)."""
    metrics = {}
    for name, one in beside.items():
        if one.truth is None:
            for kind in ("entropy", "mutual_information"):
                pair = getattr(test, kind), getattr(one.found, kind)
                if np.ptp(np.concatenate(pair)) > 0:
                    metrics[f"auroc_{kind}[{name}]"] = auroc(*pair)
        else:
            scores = _of_classes(one.found.probability, one.truth)
            metrics[f"accuracy[{name}]"] = scores["accuracy"]
            metrics[f"log_score[{name}]"] = scores["log_score"]
        metrics[f"entropy[{name}]"] = float(one.found.entropy.mean())
    return metrics


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """The chance that a row outside scores above one inside, ties by half (Mann-Whitney)."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([inside, outside]))[len(inside) :]
    above = ranks.sum() - len(outside) * (len(outside) + 1) / 2
    return float(above / len(inside) / len(outside))


def log_predictive(program: Program, draws: Mapping[str, Tensor], rows: int) -> np.ndarray:
    """log of the mean over draws of p(row), (rows,)."""
    likelihood = over_draws(program.log_likelihood, draws, rows)
    (found,) = likelihood.values()
    return (found.logsumexp(0) - np.log(len(found))).numpy()


def calibration_bins(
    probabilities: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows by the probability of their top label, in 15 equal bins (Guo et al. 2017, eq. 3).

    Args:
        probabilities: of each class, (rows, classes).
        truth: index of the true class, (rows,).

    Returns:
        By bin, (15,) each: number of rows, sum of their top probabilities, number of right ones.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == truth
    bins = np.minimum((confidence * 15).astype(int), 14)
    columns = (None, confidence, right)
    return tuple(np.bincount(bins, weights=column, minlength=15) for column in columns)


def of_several_classes(program: Program) -> bool:
    """Whether each row is one of several classes, of which an average tells nothing."""
    observed = program.of("observed")
    return len(observed) == 1 and isinstance(observed[0].base, dist.Categorical)


def class_table(program: Program, draws: Mapping[str, Tensor]) -> pd.DataFrame:
    """Predictions of the program's rows: the likeliest class, all chances, how sure they are.

    Args:
        program: of the new rows.
        draws: latents (S, *shape).

    Returns:
        A row `y[0]`, `y[1]` ... each: label; probability, its own; entropy and mutual information,
        nats; p[0], p[1] ... of each class.
    """
    import pandas as pd

    (site,) = program.of("observed")
    found, labels = classes(program, draws), _labels(program)
    columns = {
        "label": labels[found.probability.argmax(1)],
        "probability": found.probability.max(1),
        "entropy": found.entropy,
        "mutual_information": found.mutual_information,
    }
    each = {f"p[{label}]": found.probability[:, i] for i, label in enumerate(labels)}
    index = [f"{site.name}[{i}]" for i in range(len(found.probability))]
    return pd.DataFrame({**columns, **each}, index=index)


# -- what a network is judged by ---------------------------------------------------------------


def predictions(problem: Problem, fit: Fit) -> dict[str, Any]:
    """What each draw predicts of some rows: variable to (dims, values).

    Of classes `probability` (chain, draw, row, class), else `mean` and `sd` (chain, draw, row); of
    at most 200 test rows (rows of the data without a test set), whose own latents, if they have
    any, are drawn anew: rows are predicted as if they were new. A network's weights are not
    identified, but these are: they are what its draws are judged and compared by.
    """
    rows = problem.test or {key: problem.tensors[key] for key in problem.rows[1]}
    some = {key: value[:: max(1, -(-len(value) // _JUDGED))] for key, value in rows.items()}
    program = of_rows(problem, some)
    (site,) = program.of("observed")
    chains, count = next(iter(fit.draws.values())).shape[:2]
    by_class = is_classes(program)
    each = site.value.numel() * (len(_labels(program)) if by_class else 2)
    every = max(1, -(-chains * count * each // _JUDGED_ELEMENTS))
    draws = {k: v[:, ::every].flatten(0, 1) for k, v in fit.draws.items()}
    draws = of_other_rows(program, draws)
    function = class_probabilities if by_class else moments
    with seeded(0, PREDICTIVE):
        found = over_draws(lambda values: function(program, values), draws, program.elements)
    table = found.numpy().reshape(chains, -1, *found.shape[1:])
    if by_class:
        # The last class is what is left: it adds nothing to compare.
        dims = ("chain", "draw", "row_test", "class_but_last")
        return {"probability": (dims, table[..., :-1])}
    dims = ("chain", "draw", "row_test")
    return {"mean": (dims, table[..., 0]), "sd": (dims, table[..., 1])}
