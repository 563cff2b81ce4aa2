"""How well rows that were held out are predicted, and how sure the predictions are.

Of each score a higher log score, and a lower Brier score and calibration error, is better; what is
said of entropy, aleatoric and epistemic uncertainty is defined in `predictive.py`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import scipy
import torch
from torch import Tensor

from ..core.problem import Fit
from ..core.seeds import PREDICTIVE, seeded
from ..program.program import Program
from ..program.row_latents import is_of_rows
from ..program.sampling import over_draws
from ..program.supports import support_of
from . import predictive
from .inference_data import InferenceData, add_group

# Draws whose predictions along a line are kept, and that are scored one by one.
_OF_A_LINE, _SCORED_DRAWS = 400, 100
# The share that a predictive interval is to hold.
_CENTRAL = 0.9
# Bins of top probabilities.
_BINS = 15


class Scored(NamedTuple):
    """Scores, and what stands behind them: group to variable to (dims, values)."""

    metrics: dict[str, float]
    groups: dict[str, dict[str, Any]]

    def added_to(self, idata: InferenceData) -> dict[str, float]:
        """The scores; what stands behind them becomes groups of `idata`."""
        for name, group in self.groups.items():
            add_group(idata, name, group)
        return self.metrics


def scored(program: Program, fit: Fit) -> Scored:
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
    if program.problem.test is None or fit.kind == "prior":
        return Scored({}, {})
    program = predictive.of_rows(program, program.problem.test)
    draws = {name: value.flatten(0, 1) for name, value in fit.draws.items()}
    draws = predictive.of_other_rows(program, draws)
    with seeded(0, PREDICTIVE):
        if predictive.is_classes(program):
            return _of_classes(program, draws)
        if is_of_rows(program):  # known by their own latents alone: see `rows/importance.py`
            return Scored({}, {})
        return _of_numbers(program, draws)


# -- classes -----------------------------------------------------------------------------------


def _of_classes(program: Program, draws: Mapping[str, Tensor]) -> Scored:
    """Scores of rows that are classes, by the mean of the draws' probabilities."""
    problem = program.problem
    test, truth = predictive.classes(program, draws), _labels(program)
    metrics = class_scores(test.probability, truth)
    held_out = {
        "probability": (("row_test", "class"), test.probability),
        "label": ("row_test", truth),
    }
    each = log_scores(test.probability, truth)
    groups = {"held_out": held_out, "elpd_test": {"elpd": ("row_test", each)}}
    if not problem.identified:
        metrics |= _of_draws(program, test, truth, draws)
        held_out["mutual_information"] = ("row_test", test.mutual_information)
        for name, rows in problem.beside.items():
            there = predictive.of_rows(program, rows)
            known = _labels(there) if program.of("observed")[0].name in rows else None
            other = Beside(predictive.classes(there, draws), known)
            metrics |= other.metrics(name, test)
            groups[f"beside_{name}"] = other.group
    if problem.plane is not None:
        groups["plane"] = _in_plane(program, draws, problem.plane)
    return Scored(metrics, groups)


class Beside(NamedTuple):
    """Predictions of the classes of further rows, and their labels (rows,) if they have any."""

    classes: predictive.Classes
    truth: np.ndarray | None

    @property
    def group(self) -> dict[str, Any]:
        """Entropy and mutual information of each row, nats, and whether it was right."""
        rows = {name: getattr(self.classes, name) for name in _UNSURE}
        if self.truth is not None:
            rows["right"] = (self.classes.probability.argmax(1) == self.truth).astype(int)
        return {name: ("row", values) for name, values in rows.items()}

    def metrics(self, name: str, test: predictive.Classes) -> dict[str, float]:
        """Their scores; without labels how well they are told from test rows by what is unsure."""
        if self.truth is not None:
            scores = class_scores(self.classes.probability, self.truth)
            metrics = {f"{key}[{name}]": scores[key] for key in ("accuracy", "log_score")}
        else:
            pairs = {k: (getattr(test, k), getattr(self.classes, k)) for k in _UNSURE}
            metrics = {
                f"auroc_{kind}[{name}]": auroc(*pair)
                for kind, pair in pairs.items()
                if np.ptp(np.concatenate(pair)) > 0
            }
        return metrics | {f"entropy[{name}]": float(self.classes.entropy.mean())}


# By what the predictions of a row may be unsure.
_UNSURE = ("entropy", "mutual_information")


def _labels(program: Program) -> np.ndarray:
    """The class of each row, as its place among the labels (rows,)."""
    (site,) = program.of("observed")
    return np.searchsorted(predictive.labels(program).numpy(), site.value.numpy())


def class_scores(probability: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Scores of probabilities (rows, classes) against labels (rows,).

    `elpd_test` and `log_score` in nats, `accuracy`, `brier` (Brier 1950), `ece`.
    """
    logs = log_scores(probability, truth)
    one_hot = np.eye(probability.shape[1])[truth]
    return {
        "elpd_test": float(logs.sum()),
        "log_score": float(logs.mean()),
        "accuracy": float((probability.argmax(1) == truth).mean()),
        "brier": float(((probability - one_hot) ** 2).sum(1).mean()),
        "ece": calibration_bins(probability, truth).error,
    }


def log_scores(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """log of the probability (rows, classes) of each row's label, nats (rows,)."""
    chosen = probability[np.arange(len(truth)), truth].astype(float)
    return np.log(np.maximum(chosen, 1e-45))  # what single precision can tell from zero


class Bins(NamedTuple):
    """Rows by the probability of their top label, (bins,) each.

    Attributes:
        rows: number of rows.
        claimed: sum of their top probabilities.
        right: number of right ones.
    """

    rows: np.ndarray
    claimed: np.ndarray
    right: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, eq. 3), 0 to 1."""
        return float(np.abs(self.right - self.claimed).sum() / self.rows.sum())

    @property
    def filled(self) -> Self:
        """The bins that hold rows."""
        return type(self)(*(column[self.rows > 0] for column in self))


def calibration_bins(probabilities: np.ndarray, truth: np.ndarray) -> Bins:
    """Rows by the probability of their top label, in 15 equal bins from 0 to 1.

    Args:
        probabilities: of each class, (rows, classes).
        truth: index of the true class, (rows,).
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == truth
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    columns = (None, confidence, right)
    return Bins(*(np.bincount(bins, weights=c, minlength=_BINS) for c in columns))


def _of_draws(
    program: Program, predicted: predictive.Classes, truth: np.ndarray, draws: Mapping[str, Tensor]
) -> dict[str, float]:
    """One draw, and the mean of the weights, in place of all draws; how sure all are."""
    metrics = {"entropy": float(predicted.entropy.mean())}
    if len(predicted.draws) == 1:
        return metrics
    step = max(1, len(predicted.draws) // _SCORED_DRAWS)
    single = [class_scores(draw, truth) for draw in predicted.draws[::step]]
    metrics["mutual_information"] = float(predicted.mutual_information.mean())
    for name in ("accuracy", "log_score"):
        metrics[f"{name}_single"] = float(np.mean([scores[name] for scores in single]))
    mean = {name: value.mean(0) for name, value in draws.items() if value.is_floating_point()}
    if not mean:  # all that is drawn is of the rows: there are no weights
        return metrics
    with torch.no_grad():
        of_mean = predictive.class_probabilities(program, mean).numpy()
    scores = class_scores(of_mean, truth)
    return metrics | {f"{name}_mean_weights": scores[name] for name in ("accuracy", "log_score")}


def _in_plane(
    program: Program, draws: Mapping[str, Tensor], plane: Mapping[str, Any]
) -> dict[str, Any]:
    """A group of what is predicted in the plane of two features, at points `x`."""
    predicted = predictive.classes(predictive.of_rows(program, plane), draws)
    return {
        "x": (("point", "axis"), plane["x"].numpy()),
        "probability": (("point", "class"), predicted.probability),
        **{name: ("point", getattr(predicted, name)) for name in _UNSURE},
    }


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """The chance that a row outside scores above one inside, ties by half (Mann-Whitney)."""
    above = scipy.stats.mannwhitneyu(outside, inside).statistic
    return float(above / len(inside) / len(outside))


# -- numbers -----------------------------------------------------------------------------------


def _of_numbers(program: Program, draws: Mapping[str, Tensor]) -> Scored:
    """Log predictive density of rows that are no classes; of a network what `_intervals` has."""
    observations = sum(site.value.numel() for site in program.of("observed"))
    each = predictive.log_predictive(program, draws, observations)
    metrics, groups = _intervals(program, draws)
    if program.problem.plane is not None and groups:
        groups["line"] = _along_line(program, draws, program.problem.plane)
    groups["elpd_test"] = {"elpd": ("row_test", each)}
    return Scored({"elpd_test": float(each.sum())} | metrics, groups)


def _intervals(program: Program, draws: Mapping[str, Tensor]) -> Scored:
    """How a network predicts numbers: in how wide intervals, and why they are no narrower.

    Whether a row is in the central interval is told by the mixture's distribution function at it,
    the mean of the draws' own. In the user's units; variances in their squares.
    """
    if program.problem.identified or not _has_moments(program):
        return Scored({}, {})
    (site,) = program.of("observed")

    def at_draw(values: Mapping[str, Tensor]) -> Tensor:
        fn = predictive.distribution(program, values)
        return torch.stack([fn.mean, fn.variance, fn.cdf(site.value)])

    some = predictive.thinned(draws, 3 * site.value.numel())
    elements = program.elements + predictive.activations(program)
    loc, variance, below = over_draws(at_draw, some, elements).unbind(1)
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
    for kind in ("aleatoric", "epistemic") if len(loc) > 1 else ("aleatoric",):
        metrics[kind] = float(rows[kind].mean())
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
        parts = fn.mean, fn.variance, fn.cdf(observed[0].value)
    except (NotImplementedError, AttributeError):
        return False
    return all(bool(part.isfinite().all()) for part in parts)


def _along_line(
    program: Program, draws: Mapping[str, Tensor], plane: Mapping[str, Any]
) -> dict[str, Any]:
    """A group of the numbers that some draws predict at points `x` along a line: mean and sd."""
    program = predictive.of_rows(program, plane)
    some = predictive.thinned(draws, 1, _OF_A_LINE)
    each = over_draws(lambda values: predictive.moments(program, values), some, program.elements)
    dims = ("number", "point")
    return {
        "x": (("point", "axis"), plane["x"].numpy()),
        "mean": (dims, each[..., 0].numpy()),
        "sd": (dims, each[..., 1].numpy()),
    }
