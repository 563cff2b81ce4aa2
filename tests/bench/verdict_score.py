"""How far a run's result is from the truth, and whether that is right, wrong or too near to tell.

Wrong, beyond Monte Carlo error: a mean off by 0.25 posterior sds or an sd by 25 % (of heavy tails
the median, and the width from 5 to 95 %); total variation 0.02 of the rows' predictive
distributions; 0.5 nats of log evidence; 4 standard errors of elpd_loo. Moments and predictions are
right only if they are so as they stand: what Monte Carlo error would excuse is too near to tell.

The error of elpd_loo is the run's own `elpd_loo_mcse` where it states one; else it is computed
here from the run's pointwise log-likelihood. Either way it counts for at least 0.05 nats, and
the truth's error is added to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from verdict_case import Case, draws_of
from verdict_truth import Truth, agrees, predictive_sums, total_variation

PURPOSES = ("parameters", "predictions", "evidence", "loo")

# Below the first a result is right, above the last it is wrong; between them it is at the border.
BORDERS = {
    "mean": (0.20, 0.30),
    "sd_low": (0.70, 0.80),
    "sd_high": (1.20, 1.30),
    "predictions": (0.015, 0.025),
    "evidence": (0.4, 0.6),
    "loo": (3.5, 4.5),
}

# Monte Carlo error excuses no more: of a mean in sds, of an sd relative.
_MOST_EXCUSED = 0.25

# What is right but has more noise than this, twice its standard error, may be so by luck.
_MOST_NOISE = {"mean": 0.20, "predictions": 0.02}
_BLOCKS, _SPLITS = 10, 8
_LOO_FLOOR = 0.05
_NORMAL_WIDTH = 3.2897  # of 5 to 95 %, in sds


def judged(case: Case, truth: Truth, run: Any) -> dict[str, dict[str, Any]]:
    """Purpose to `class` (right, border or wrong) and the errors; without those not known.

    Args:
        case: what was fitted.
        truth: its truth.
        run: a `zoo.Run`.
    """
    found = {}
    if truth.names:
        found["parameters"] = of_parameters(case, truth, run)
    if truth.table is not None and not case.together:
        found["predictions"] = of_predictions(case, truth, run)
    if truth.log_evidence is not None and "log_evidence" in run.metrics:
        found["evidence"] = of_evidence(truth, run.metrics["log_evidence"])
    if truth.elpd_loo is not None and "elpd_loo" in run.metrics:
        found["loo"] = of_loo(truth, run)
    return {purpose: one for purpose, one in found.items() if agrees(truth, purpose)}


def of_parameters(case: Case, truth: Truth, run: Any) -> dict[str, Any]:
    """The worst errors over the scalars, and the class that the worst of them has."""
    draws = _columns(draws_of(case, run))
    if not all(np.isfinite(draws[name]).all() for name in truth.names):
        return {"class": "wrong", "not_finite": True}
    independent = "diverging" not in run.idata["sample_stats"] if _has_stats(run) else True
    scores = {}
    for i, name in enumerate(truth.names):
        heavy = name.partition("[")[0] in case.heavy
        of = {key: values[i] for key, values in truth.moments.items()}
        scores[name] = (_of_widths if heavy else _of_moments)(draws[name], of, independent)
    excused = class_of_moments(*(error for _, error in _worst(scores, "beyond").values()))
    noisy = max(score.noise for score in scores.values()) > _MOST_NOISE["mean"]
    worst = _worst(scores, "plain")
    doubtful = noisy or class_of_moments(*(error for _, error in worst.values())) != "right"
    found = "border" if doubtful and excused == "right" else excused
    return {"class": found, **{k: (name, round(e, 3)) for k, (name, e) in worst.items()}}


class Score(NamedTuple):
    """Errors of one scalar: of the mean in sds, and the ratio of sds.

    Attributes:
        plain: as they stand.
        beyond: less two standard errors.
        noise: two standard errors of the mean.
    """

    plain: tuple[float, float]
    beyond: tuple[float, float]
    noise: float = 0.0


def _worst(scores: Mapping[str, Score], of: str) -> dict[str, tuple[str, float]]:
    """The largest error of a mean, the smallest and the largest ratio of sds, and of what."""
    errors = {name: getattr(score, of) for name, score in scores.items()}
    far = max(errors, key=lambda name: errors[name][0])
    narrow = min(errors, key=lambda name: errors[name][1])
    wide = max(errors, key=lambda name: errors[name][1])
    return {
        "mean": (far, errors[far][0]),
        "sd_low": (narrow, errors[narrow][1]),
        "sd_high": (wide, errors[wide][1]),
    }


def class_of_moments(mean: float, low: float, high: float) -> str:
    """The class of errors beyond noise: of means in sds, and of ratios of sds."""
    inside, outside = BORDERS["mean"], BORDERS["sd_low"]
    if not (mean <= inside[1] and low >= outside[0] and high <= BORDERS["sd_high"][1]):
        return "wrong"
    near = mean > inside[0] or low < outside[1] or high > BORDERS["sd_high"][0]
    return "border" if near else "right"


def class_of(purpose: str, error: float) -> str:
    """The class of an error beyond noise, of all purposes but parameters."""
    low, high = BORDERS[purpose]
    return "right" if error < low else "border" if error <= high else "wrong"


def _of_moments(draws: np.ndarray, of: Mapping[str, float], independent: bool) -> Score:
    """Error of the mean in sds, and ratio of sds."""
    size = _effective(draws, independent, "mean")
    sd = draws.std()
    mean = abs(draws.mean() - of["mean"]) / of["sd"]
    mean_se = np.hypot(sd / of["sd"] / np.sqrt(size), of["mean_se"])
    fourth = 3.0 if sd == 0 else np.mean(((draws - draws.mean()) / sd) ** 4)
    sd_se = np.hypot(np.sqrt(max(fourth - 1, 0.0) / (4 * size)), of["sd_se"])
    ratio = float(sd / of["sd"])
    return _scored(float(mean), mean_se, ratio, sd_se)


def _scored(error: float, error_se: float, ratio: float, ratio_se: float) -> Score:
    beyond = _beyond(error, error_se), _ratio_beyond(ratio, ratio_se)
    return Score((error, ratio), beyond, 2 * float(error_se))


def _of_widths(draws: np.ndarray, of: Mapping[str, float], independent: bool) -> Score:
    """The like of `_of_moments` of the median, and of the width from 5 to 95 %."""
    low, middle, high = np.quantile(draws, (0.05, 0.5, 0.95))
    width = of["q95"] - of["q05"]
    error = float(abs(middle - of["q50"]) / width * _NORMAL_WIDTH)
    if draws.size == 1:
        return Score((error, 0.0), (_beyond(error, of["mean_se"]), 0.0))
    ends = [_quantile_error(draws, q, independent) for q in (0.05, 0.95)]
    middle_se = _quantile_error(draws, 0.5, independent) / width * _NORMAL_WIDTH
    ratio_se = np.hypot(np.hypot(*ends) / width, of["sd_se"])
    ratio = float((high - low) / width)
    return _scored(error, np.hypot(middle_se, of["mean_se"]), ratio, ratio_se)


def _quantile_error(draws: np.ndarray, q: float, independent: bool) -> float:
    """Half the distance between the quantiles one standard error below and above."""
    below = (draws <= np.quantile(draws, q)).astype(float)
    size = draws.size if independent else _effective(below, False, "mean")
    se = np.sqrt(q * (1 - q) / size)
    low, high = np.quantile(draws, np.clip((q - se, q + se), 0, 1))
    return (high - low) / 2


def _effective(draws: np.ndarray, independent: bool, method: str) -> float:
    """Effective sample size of draws (chain, draw)."""
    import arviz as az

    if independent or draws.size < 8 or draws.std() == 0:
        return draws.size
    size = float(az.ess(draws, method=method))
    return size if np.isfinite(size) else 1.0


def _beyond(error: float, se: float) -> float:
    return float(np.maximum(0.0, error - min(2 * float(se), _MOST_EXCUSED)))


def _ratio_beyond(ratio: float, se: float) -> float:
    """A ratio of sds, two standard errors closer to one."""
    excused = min(2 * float(se), _MOST_EXCUSED)
    if ratio < 1:
        return min(1.0, float(ratio) * (1 + excused))
    return float(np.maximum(1.0, ratio * (1 - excused)))


def _columns(draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scalar name to draws (chain, draw), named as those of the truth."""
    found = {}
    for name, values in draws.items():
        if values.ndim == 2:
            found[name] = values
            continue
        flat = values.reshape(*values.shape[:2], -1)
        found |= {f"{name}[{i}]": flat[:, :, i] for i in range(flat.shape[2])}
    return found


def _has_stats(run: Any) -> bool:
    return "sample_stats" in run.idata.groups()


def of_predictions(case: Case, truth: Truth, run: Any) -> dict[str, Any]:
    """Total variation of the rows' predictive distributions, less twice its noise."""
    sums = _block_sums(case, truth, draws_of(case, run))
    whole = total_variation(sums.mean(0), np.array(truth.table))
    if not np.isfinite(whole):
        return {"class": "wrong", "not_finite": True}
    noise = _split_noise(sums) + truth.table_noise
    excused, plain = (class_of("predictions", max(0.0, whole - n * noise)) for n in (2, 0))
    doubtful = 2 * noise > _MOST_NOISE["predictions"] or plain != "right"
    return {
        "class": "border" if doubtful and excused == "right" else excused,
        "total_variation": round(whole, 4),
        "noise": round(noise, 4),
    }


def _block_sums(case: Case, truth: Truth, draws: Mapping[str, np.ndarray]) -> np.ndarray:
    """Cells' probabilities of blocks of draws, each of all chains, (blocks, n, cells)."""
    size = next(iter(draws.values())).shape[1]
    tables = []
    for at in np.array_split(np.arange(size), min(_BLOCKS, size)):
        some = {k: v[:, at].reshape(-1, *v.shape[2:]) for k, v in draws.items()}
        count = len(next(iter(some.values())))
        tables.append(predictive_sums(case, some, truth.edges) / count)
    return np.array(tables)


def _split_noise(tables: np.ndarray) -> float:
    """Total variation that is noise: half of that between halves of the blocks, mean over splits.

    Halves differ, by noise alone, twice as much as their mean differs from the truth. Blocks are
    of all chains: that chains differ is no excuse.
    """
    if len(tables) < 2:
        return 0.0
    rng, half, found = np.random.default_rng(0), len(tables) // 2, []
    for _ in range(_SPLITS):
        order = rng.permutation(len(tables))
        parts = tables[order[:half]].mean(0), tables[order[half : 2 * half]].mean(0)
        found.append(total_variation(*parts) / 2)
    return float(np.mean(found))


def of_evidence(truth: Truth, value: float) -> dict[str, Any]:
    """Error of log evidence in nats, less two errors of the truth."""
    error = abs(value - truth.log_evidence)
    beyond = max(0.0, error - 2 * truth.evidence_se)
    return {"class": class_of("evidence", beyond), "error": round(value - truth.log_evidence, 3)}


def of_loo(truth: Truth, run: Any) -> dict[str, Any]:
    """Error of elpd_loo in its standard errors."""
    value = run.metrics["elpd_loo"]
    own = run.metrics.get("elpd_loo_mcse")
    own = loo_error(run) if own is None or not np.isfinite(own) else own
    se = max(_LOO_FLOOR, float(np.hypot(own, truth.loo_se)))
    error = value - truth.elpd_loo
    return {
        "class": class_of("loo", abs(error) / se),
        "error": round(error, 3),
        "se": round(se, 3),
    }


def loo_error(run: Any) -> float:
    """Monte Carlo standard error of elpd_loo, from the influence of each draw on it.

    With weights w = p / q of the draws (one, of chains) elpd of row i is log mean w minus
    log mean (w / p(y_i | theta)).
    """
    groups = run.idata.groups()
    if "log_likelihood" not in groups:
        return 0.0
    parts = [v.values for v in run.idata["log_likelihood"].data_vars.values()]
    shape = parts[0].shape[:2]
    likelihood = np.concatenate([p.reshape(shape[0] * shape[1], -1) for p in parts], axis=1)
    weights = np.zeros(len(likelihood))
    stats = run.idata["sample_stats"] if _has_stats(run) else {}
    if "log_q" in stats and stats["log_q"].shape == shape:
        weights = (stats["log_p"].values - stats["log_q"].values).ravel()
    terms = weights[:, None] - likelihood
    ratios = np.exp(terms - terms.max(0))
    even = np.exp(weights - weights.max())
    influence = (even / even.mean())[:, None] - ratios / ratios.mean(0)
    influence = influence.sum(1).reshape(shape)
    size = _effective(influence, "diverging" not in stats, "mean")
    return float(influence.std() / np.sqrt(size))
