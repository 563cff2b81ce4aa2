"""The truth of a case: moments, predictive distribution, evidence and leave-one-out, with errors.

By quadrature on a grid of up to three parameters, in closed form, or of two long NUTS runs by
different seeds, which must agree within a quarter of what counts as wrong.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp
from verdict_case import Case, Classes, Draws, draws_of, is_discrete, log_density
from verdict_grid import Nodes, quadrature, resampled
from verdict_known import Known

CELLS = 40
# Lengths of the middle half of a row, beyond which its tails are heavy.
_HEAVY = 30.0
_TABLE_DRAWS, _EDGE_DRAWS, _AT_ONCE = 20_000, 500, 500

# A quarter of what counts as wrong: two long runs that differ by more are no truth.
_AGREE = {"mean": 0.25 / 4, "sd": 0.25 / 4, "predictions": 0.02 / 4, "evidence": 0.5 / 4}
_LONG = {"draws": 3000, "warmup": 1000, "chains": 4, "target_accept": 0.95}
_KHAT_LOO = 0.5


@dataclass(frozen=True)
class Truth:
    """What is known of a posterior.

    Attributes:
        how: `grid`, `closed form` or `long runs`.
        names: the scalars.
        moments: `mean`, `sd`, `q05`, `q50`, `q95`, a value for each scalar; `mean_se` in sds,
            `sd_se` relative.
        log_evidence, elpd_loo: None where not known; with their errors.
        edges: (n, cells - 1), where the cells of a row's predictive distribution end; None of
            classes.
        table: probabilities of the cells, (n, cells); None without rows.
        table_noise: total variation that the table's own error makes.
        differences: of two long runs, what must agree to what they differ by.
    """

    how: str
    names: list[str]
    moments: Mapping[str, list[float]]
    log_evidence: float | None = None
    evidence_se: float = 0.0
    elpd_loo: float | None = None
    loo_se: float = 0.0
    edges: list | None = None
    table: list | None = None
    table_noise: float = 0.0
    differences: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def truth_of(case: Case, folder: Path, run: Callable) -> Truth:
    """The truth of a case, from its file where it was computed before.

    Args:
        case: whose.
        folder: where truths are kept.
        run: `zoo.run`, for long runs.
    """
    file = folder / f"{case.name}.json"
    if not file.exists():
        began = time.perf_counter()
        found = computed(case, run)
        content = asdict(found) | {"seconds": round(time.perf_counter() - began, 1)}
        folder.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(".part")
        beside.write_text(json.dumps(content))
        beside.rename(file)
    return Truth(**json.loads(file.read_text()))


def computed(case: Case, run: Callable) -> Truth:
    """The truth of a case, computed now."""
    if case.exact is not None:
        return _of_known(case, case.exact())
    return _of_long(case, run) if case.is_long else _of_nodes(case, quadrature(case))


def _of_nodes(case: Case, nodes: Nodes) -> Truth:
    weights = np.exp(nodes.log_weights)
    flat = scalars(case, nodes.draws)
    moments = moments_of(list(flat.values()), weights / weights.sum())
    evidence = nodes.log_evidence if case.proper else None
    loo = _loo_of_nodes(case, nodes) if case.rows is not None and case.loo else None
    draws = resampled(nodes, _TABLE_DRAWS)
    return Truth(
        "grid", list(flat), moments, evidence, nodes.error, loo, **_predictive(case, draws)
    )


def _loo_of_nodes(case: Case, nodes: Nodes) -> float:
    """Sum of log p(y_i | the others) = -log E[1 / p(y_i | theta)], the mean over the grid."""
    parts = []
    for part, at in _parts(nodes.draws):
        terms = nodes.log_weights[at, None] - log_density(case.rows(part), case.observed)
        parts.append(logsumexp(terms, axis=0))
    return float(-logsumexp(parts, axis=0).sum())


def _of_known(case: Case, known: Known) -> Truth:
    flat = scalars(case, known.draws)
    size = _count(known.draws)
    moments = moments_of(list(flat.values()), _even(known.draws))
    moments["mean_se"] = [size**-0.5] * len(flat)
    moments["sd_se"] = [(2 * size) ** -0.5] * len(flat)
    table = _predictive(case, {name: value[:_TABLE_DRAWS] for name, value in known.draws.items()})
    return Truth(
        "closed form",
        list(flat),
        moments,
        known.log_evidence,
        elpd_loo=known.elpd_loo,
        **table,
    )


def _of_long(case: Case, run: Callable) -> Truth:
    """Two long runs, held against each other."""
    runs = [_long(case, run, seed) for seed in (1001, 1002)]
    flats = [scalars(case, one.draws) for one in runs]
    names = list(flats[0])
    both = [np.concatenate([flat[name] for flat in flats]) for name in names]
    each = [moments_of(list(f.values()), _even(r.draws)) for f, r in zip(flats, runs)]
    moments = moments_of(both, np.tile(_even(runs[0].draws), 2) / 2)
    between = (
        {}
        if not names
        else _between(each, moments, [name.partition("[")[0] in case.heavy for name in names])
    )
    draws = {k: np.concatenate([one.draws[k] for one in runs]) for k in runs[0].draws}
    found = _predictive(case, _thinned(draws, _TABLE_DRAWS))
    if found:
        edges = found["edges"]
        tables = [_table(case, _thinned(one.draws, 5000), edges) for one in runs]
        apart = total_variation(tables[0], tables[1])
        between["predictions"] = apart
        found["table_noise"] = apart / 2
    evidences = [one.log_evidence for one in runs]
    loos = [one.elpd_loo for one in runs]
    evidence, evidence_se = _joined(evidences)
    loo, loo_se = _joined(loos)
    if evidence is not None:
        between["evidence"] = 2 * evidence_se
    moments["mean_se"] = [between.get("mean", 0.0) / 2] * len(names)
    moments["sd_se"] = [between.get("sd", 0.0) / 2] * len(names)
    return Truth(
        "long runs",
        names,
        moments,
        evidence,
        evidence_se,
        loo,
        loo_se,
        differences=between,
        **found,
    )


class _Long(NamedTuple):
    draws: Draws
    log_evidence: float | None
    elpd_loo: float | None


def _long(case: Case, run: Callable, seed: int) -> _Long:
    """A long run of the case's better twin, in the case's own sites."""
    from verdict_bridge import log_evidence

    model, back = case.twin if case.twin is not None else (case.model, lambda draws: draws)
    settings = {**_LONG, **case.long}
    settings |= case.options if model is case.model else {}
    result = run(model, method="nuts", data=case.data, seed=seed, progress=False, **settings)
    own = {k: v.reshape(-1, *v.shape[2:]) for k, v in draws_of(case, result).items()}
    draws = back(own)
    evidence = None
    if case.proper and callable(model):
        evidence = log_evidence(model, case.data, own, seed)
    return _Long(draws, evidence, _loo_of_draws(case, draws))


def _loo_of_draws(case: Case, draws: Draws) -> float | None:
    """By PSIS (Vehtari et al. 2017); None where the weights are not well behaved."""
    import arviz as az

    if case.rows is None or not case.loo:
        return None
    parts = [log_density(case.rows(part), case.observed) for part, _ in _parts(draws)]
    likelihood = np.concatenate(parts)
    log_weights, khat = az.psislw(-likelihood.T)
    if np.max(khat) >= _KHAT_LOO:
        return None
    return float(logsumexp(np.asarray(log_weights).T + likelihood, axis=0).sum())


def _joined(values: list[float | None]) -> tuple[float | None, float]:
    """The mean of two values and its error, half their difference."""
    if any(value is None for value in values):
        return None, 0.0
    return float(np.mean(values)), abs(values[0] - values[1]) / 2


def _between(each: list[dict], of: dict, heavy: list[bool]) -> dict[str, float]:
    """The largest differences of two runs' means, in sds, and of their sds, relative.

    Of heavy tails these are differences of medians and of widths.
    """
    rows = [
        (*_spot(each[0], i, tail), *_spot(each[1], i, tail), _spot(of, i, tail)[1])
        for i, tail in enumerate(heavy)
    ]
    a, sd_a, b, sd_b, sd = np.array(rows).T
    return {
        "mean": float(np.max(np.abs(a - b) / sd)),
        "sd": float(np.max(np.abs(sd_a - sd_b) / sd)),
    }


def _spot(moments: Mapping[str, list[float]], i: int, heavy: bool) -> tuple[float, float]:
    """Mean and sd of a scalar; of a heavy one median, and width in the sds of a normal one."""
    if heavy:
        return moments["q50"][i], (moments["q95"][i] - moments["q05"][i]) / 3.29
    return moments["mean"][i], moments["sd"][i]


def agrees(truth: Truth, purpose: str) -> bool:
    """Whether two long runs agree on a purpose; other truths always do."""
    of = {"parameters": ("mean", "sd")}.get(purpose, (purpose,))
    return all(truth.differences.get(name, 0.0) <= _AGREE.get(name, np.inf) for name in of)


def scalars(case: Case, draws: Draws) -> dict[str, np.ndarray]:
    """The judged quantities, name to draws (S,)."""
    found = {}
    for name, values in draws.items():
        judged = case.judged is None or name in case.judged
        if not judged or (case.judged is None and values.dtype.kind != "f"):
            continue
        columns = values.reshape(len(values), -1).T
        plain = len(columns) == 1 and values.ndim == 1
        found |= {name if plain else f"{name}[{i}]": column for i, column in enumerate(columns)}
    return found


def moments_of(columns: list[np.ndarray], weights: np.ndarray) -> dict[str, list[float]]:
    """Mean, sd and quantiles of weighted draws, a list over scalars each."""
    found: dict[str, list[float]] = {k: [] for k in ("mean", "sd", "q05", "q50", "q95")}
    for values in columns:
        mean = float(weights @ values)
        found["mean"].append(mean)
        found["sd"].append(float(np.sqrt(weights @ (values - mean) ** 2)))
        order = np.argsort(values)
        # The middle of each draw's step, so that even weights give the usual quantiles.
        at = np.cumsum(weights[order]) - weights[order] / 2
        for q in (5, 50, 95):
            found[f"q{q:02d}"].append(float(np.interp(q / 100, at, values[order])))
    return found | {"mean_se": [0.0] * len(columns), "sd_se": [0.0] * len(columns)}


def _even(draws: Draws) -> np.ndarray:
    return np.full(_count(draws), 1 / _count(draws))


def _count(draws: Draws) -> int:
    return len(next(iter(draws.values())))


def _thinned(draws: Draws, most: int) -> Draws:
    every = max(1, _count(draws) // most)
    return {name: value[::every] for name, value in draws.items()}


def _parts(draws: Draws) -> Any:
    """The draws, some at a time, and where they are."""
    size = _count(draws)
    for at in range(0, size, _AT_ONCE):
        part = slice(at, at + _AT_ONCE)
        yield {name: value[part] for name, value in draws.items()}, part


def _predictive(case: Case, draws: Draws) -> dict[str, Any]:
    """Cells of the rows' predictive distributions and their probabilities."""
    if case.rows is None:
        return {}
    some = case.rows(_thinned(draws, _EDGE_DRAWS))
    edges = None if isinstance(some, Classes) else _edges(some, len(case.observed)).tolist()
    return {"edges": edges, "table": _table(case, draws, edges).tolist()}


def _edges(rows: Any, n: int) -> np.ndarray:
    """Where cells end, (n, cells - 1): even steps between the 0.1 and 99.9 % points of a row.

    Of heavy tails these steps are coarse, and cells of one probability each are taken.
    """
    low, high = (_quantile(rows, q, n) for q in (0.001, 0.999))
    if not is_discrete(rows):
        middle = _quantile(rows, 0.75, n) - _quantile(rows, 0.25, n)
        if (high - low > _HEAVY * middle).any():
            shares = np.linspace(0.001, 0.999, CELLS - 1)
            return np.stack([_quantile(rows, q, n) for q in shares], axis=1)
        return np.linspace(low, high, CELLS - 1, axis=1)
    span = np.maximum(np.ceil(high) - np.floor(low), CELLS - 2)
    steps = np.linspace(0, 1, CELLS - 1)
    return np.floor(np.floor(low)[:, None] - 1 + span[:, None] * steps) + 0.5


def _quantile(rows: Any, q: float, n: int) -> np.ndarray:
    """Quantile of each row's predictive distribution (n,), by bisection of its cdf."""
    low, high = np.full(n, -30.0), np.full(n, 30.0)  # of the inverse hyperbolic sine
    for _ in range(50):
        middle = (low + high) / 2
        below = rows.cdf(np.sinh(middle)).mean(0) < q
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.sinh(high)


def _table(case: Case, draws: Draws, edges: Any) -> np.ndarray:
    return predictive_sums(case, draws, edges) / _count(draws)


def predictive_sums(case: Case, draws: Draws, edges: Any) -> np.ndarray:
    """Probabilities of the cells of each row, summed over draws, (n, cells)."""
    total = np.zeros(1)
    for part, _ in _parts(draws):
        rows = case.rows(part)
        if isinstance(rows, Classes):
            total = total + np.exp(rows.log_probabilities).sum(0)
            continue
        columns = [rows.cdf(column).sum(0) for column in np.asarray(edges).T]
        size = _count(part)
        whole = np.stack([np.zeros_like(columns[0]), *columns, np.full_like(columns[0], size)], 1)
        total = total + np.diff(whole, axis=1)
    return total


def total_variation(a: np.ndarray, b: np.ndarray) -> float:
    """Half the sum of absolute differences of cells' probabilities, mean over rows."""
    return float(0.5 * np.abs(np.asarray(a) - np.asarray(b)).sum(1).mean())
