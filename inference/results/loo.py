"""Leave-one-out: elpd_loo = sum_i log p(y_i | y_-i), how well the other rows predict each row.

In closed form where the model states its evidence, without a Monte Carlo error. Else from draws,
by importance weights (`psis.py`).
"""

from collections.abc import Callable, Mapping
from itertools import chain, product
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..core.problem import Finding, Fit, Problem
from .groups import LIKELIHOOD_ELEMENTS
from .inference_data import InferenceData, add_group, as_elpd_data
from .predictive import every, row_tensors
from .psis import KHAT_MAX, NEGLIGIBLE, khat_bound, weighted

# Rows below which their spread tells no standard error: the sd of ten normal numbers is known to
# within a quarter.
FEWEST_ROWS = 10
# Different rows up to which the evidence without each of them is computed.
_MOST_LEFT_OUT = 30
# Monte Carlo errors by which two ways of weighting the same draws may differ, and draws from a
# closed form.
_APART, _AWAY = 2.0, 5.0
# Share of rows that the draws cannot do without, beyond which it is a warning.
_MANY_BAD = 0.2
# Rows that a finding names.
_NAMED = 3


def judged(
    problem: Problem, fit: Fit, idata: InferenceData, khat: float | None
) -> tuple[dict[str, float], list[Finding]]:
    """Leave-one-out where it has an answer, and what is to be known of it.

    Each row's is kept in `idata`, group `loo`: `elpd` (nats) and, of weights, `khat`.

    Args:
        problem: what was inferred.
        fit: what the method returned.
        idata: its groups.
        khat: of the weights log p - log q of the fit; None where it has none.

    Returns:
        Nothing of priors, points and networks. Metrics: `elpd_loo`; `elpd_loo_se`, its standard
        error over rows, of ten rows or more; `elpd_loo_mcse`, its Monte Carlo error, where k-hat
        allows; `p_loo`, the effective number of parameters; of weights `loo_khat_max`, the largest
        k-hat of a row that counts, and `loo_khat_high`, the share of rows where it is too high.
        And findings.
    """
    if fit.kind in ("prior", "point") or "predictions" in idata.groups():
        return {}, []
    reason = _why_none(fit, idata, khat)
    if reason is not None:
        return {}, [Finding("note", *reason, opens=("loo",))]
    rows = pointwise(idata)  # (n, draws)
    bound = khat_bound(rows.shape[1])
    by_draws = weighted(rows, _log_ratios(fit, idata), bound, khat)
    chains = idata["log_likelihood"].sizes["chain"] if fit.kind == "chains" else None
    error, bad = by_draws.mcse(chains), np.flatnonzero(by_draws.khat > bound)
    findings = [] if len(rows) >= FEWEST_ROWS else [_few_rows(len(rows))]
    known = None if fit.exact is None else closed_form(problem, fit.exact, idata)
    if known is not None:
        if len(bad) or abs((known - by_draws.elpd).sum()) <= _AWAY * error + NEGLIGIBLE:
            metrics = _with_group(idata, by_draws.of_all, known)
            return metrics | {"elpd_loo_mcse": 0.0}, findings
        findings.append(_CONTRADICTION)
    if not len(bad) and by_draws.apart > _APART * error:
        what = f"no elpd_loo: two ways of weighting the draws are {by_draws.apart:.2g} nats apart"
        return {}, [Finding("note", what, "use nuts", opens=("loo",))]
    metrics = _with_group(idata, by_draws.of_all, by_draws.elpd, by_draws.khat)
    if len(bad):
        return metrics, [_on_khat(idata, bad, by_draws.khat), *findings]
    return metrics | {"elpd_loo_mcse": error}, findings


_CONTRADICTION = Finding(
    "note",
    "the model's log evidence without a row contradicts its own draws",
    "elpd_loo is from the draws; check `exact` of the model",
    opens=("evidence", "loo"),
)


def _why_none(fit: Fit, idata: InferenceData, khat: float | None) -> tuple[str, str] | None:
    """Why leave-one-out has no answer, and what to do about it; None where it has one."""
    held_out = "score rows that are held out (--set split=0.2)"
    if "observed_data" not in idata.groups():
        return "no row is observed, so none can be left out", ""
    if "log_likelihood" not in idata.groups():
        return "no leave-one-out where every row has latents of its own", held_out
    if fit.kind == "independent" and fit.log_q is None and fit.trace is not None:
        return "no leave-one-out by a guide whose draws have no density", "use nuts"
    if khat is not None and not khat < KHAT_MAX:
        return f"no elpd_loo from an approximation of k-hat {khat:.2f}", "use nuts"
    if sum(seen.sum() for seen in _seen_by_site(idata)) < 2:
        return "a single row has no others to be predicted from", ""
    return None


def _log_ratios(fit: Fit, idata: InferenceData) -> np.ndarray | None:
    """log p - log q of the draws whose likelihood is kept, (draws,); None of the posterior's."""
    if fit.log_p is None or fit.log_q is None:
        return None
    elements = sum(value.size for value in idata["observed_data"].data_vars.values())
    step = every(fit.log_p.numel(), elements, LIKELIHOOD_ELEMENTS)
    return (fit.log_p - fit.log_q)[:, ::step].flatten().numpy()


# -- in closed form ----------------------------------------------------------------------------


def closed_form(problem: Problem, truth: Any, idata: InferenceData) -> np.ndarray | None:
    """log p(y_i | y_-i) = log p(y) - log p(y_-i) of each row, (n,); None where that is not known.

    Rows that are equal are left out once. None too where too many are different.

    Args:
        problem: whose `exact` gives the truth of other data.
        truth: the `Exact` of all rows.
        idata: its log likelihood says what the rows are.
    """
    if truth.leave_one_out is not None:
        return np.asarray(truth.leave_one_out())
    if truth.log_evidence is None or problem.exact is None or not _all_rows_count(problem, idata):
        return None
    rows = row_tensors(problem)
    table = np.concatenate([v.reshape(len(v), -1).numpy() for v in rows.values()], axis=1)
    _, first, same = np.unique(table, axis=0, return_index=True, return_inverse=True)
    if len(first) > _MOST_LEFT_OUT:
        return None
    without = [_without(problem.exact, rows, int(i)) for i in first]
    if None in without:
        return None
    return (truth.log_evidence - np.array(without))[same.ravel()]


def _all_rows_count(problem: Problem, idata: InferenceData) -> bool:
    """Whether what is observed are the rows of the data, each in the row plate, all there."""
    if problem.rows is None:
        return False
    dims = {site.dims[2:] for site in _sites(idata)}
    return dims == {(problem.rows.plate,)} and all(seen.all() for seen in _seen_by_site(idata))


def _without(exact: Callable, rows: Mapping[str, Tensor], i: int) -> float | None:
    """The log evidence of all rows but one; None where the model does not know it."""
    try:
        truth = exact({k: torch.cat([v[:i], v[i + 1 :]]) for k, v in rows.items()})
    except (ValueError, ArithmeticError, np.linalg.LinAlgError):  # too few rows for it
        return None
    return None if truth is None else truth.log_evidence


# -- metrics and findings ----------------------------------------------------------------------


def _with_group(
    idata: InferenceData, of_all: np.ndarray, elpd: np.ndarray, khat: np.ndarray | None = None
) -> dict[str, float]:
    """Metrics of leave-one-out; each row's are added to `idata` as its group `loo`.

    Args:
        idata: of the result.
        of_all: log p(y_i | y), nats (n,).
        elpd: log p(y_i | y_-i), nats (n,).
        khat: of the weights of each row, (n,); None in closed form.
    """
    each = {"elpd": elpd} | ({} if khat is None else {"khat": khat})
    coords = {"row": labels(idata)}
    add_group(idata, "loo", {k: xr.DataArray(v, coords, ("row",)) for k, v in each.items()})
    metrics = {"elpd_loo": float(elpd.sum()), "p_loo": float((of_all - elpd).sum())}
    if len(elpd) >= FEWEST_ROWS:
        metrics["elpd_loo_se"] = float(np.sqrt(len(elpd) * elpd.var()))
    if khat is not None:
        metrics["loo_khat_max"] = float(khat.max())
        metrics["loo_khat_high"] = float((khat > khat_bound(_draws(idata))).mean())
    return metrics


def _draws(idata: InferenceData) -> int:
    """Number of draws of all chains whose likelihood is kept."""
    sizes = idata["log_likelihood"].sizes
    return sizes["chain"] * sizes["draw"]


def _few_rows(n: int) -> Finding:
    """A note that there are too few rows for a standard error."""
    what = f"elpd_loo of {n} rows has no standard error, which takes {FEWEST_ROWS} or more"
    return Finding("note", what)


def _on_khat(idata: InferenceData, bad: np.ndarray, khat: np.ndarray) -> Finding:
    """Of the rows that are left out in turn, some that the draws cannot do without."""
    bad = bad[np.argsort(-khat[bad])]
    names = ", ".join(str(label) for label in np.asarray(labels(idata))[bad[:_NAMED]])
    more = ", ..." if len(bad) > _NAMED else ""
    what = f"PSIS-LOO fails for {len(bad)} of {len(khat)} rows "
    what += f"(k-hat up to {khat[bad[0]]:.2f}; rows {names}{more})"
    fix = "do not use elpd_loo; score rows that are held out (--set split=0.2)"
    level = "warn" if len(bad) > _MANY_BAD * len(khat) else "note"
    return Finding(level, what, fix, spoils=("loo",))


def difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """The difference of two elpd_loo of the same rows, and its standard error over rows.

    Vehtari et al. (2017), eq. 24; below ten rows the error is not known (NaN), and below a
    hundred, or of models that predict alike, it is often too small (Sivula et al. 2020,
    arXiv:2008.10296).

    Args:
        ours: elpd of each row, nats, (n,).
        theirs: the same of another run, in the same order, (n,).

    Raises:
        ValueError: they are not of the same rows.
    """
    if np.shape(ours) != np.shape(theirs):
        raise ValueError(f"elpd of {len(ours)} and of {len(theirs)} rows")
    each = np.asarray(ours) - np.asarray(theirs)
    error = np.sqrt(len(each) * each.var()) if len(each) >= FEWEST_ROWS else np.nan
    return float(each.sum()), float(error)


def elpd_data(idata: InferenceData, metrics: dict[str, float]) -> Any:
    """Leave-one-out as ArviZ has it, for `az.compare`: `elpd_loo`, `se`, `loo_i`, `pareto_k`, ...

    Args:
        idata: of a run, with its group `loo`.
        metrics: of the run.
    """
    group, draws = idata["loo"], _draws(idata)
    values = {
        "elpd_loo": metrics["elpd_loo"],
        "se": metrics.get("elpd_loo_se", np.nan),
        "p_loo": metrics["p_loo"],
        "n_samples": draws,
        "n_data_points": group.sizes["row"],
        "warning": "elpd_loo_mcse" not in metrics,
        "loo_i": group["elpd"].rename("loo_i"),
    }
    if "khat" in group:
        values["pareto_k"] = group["khat"].rename("pareto_k")
    values |= {"scale": "log", "good_k": khat_bound(draws)}
    return as_elpd_data(values | {"mcse": metrics.get("elpd_loo_mcse", np.nan)})


# -- the rows ----------------------------------------------------------------------------------


def pointwise(idata: InferenceData) -> np.ndarray:
    """Log likelihood by observation, (rows, draws); sites of the same plates summed by row.

    Rows that a mask takes out of the density are no observations.
    """
    parts = [v.values.reshape(v.shape[0] * v.shape[1], -1).T for v in _sites(idata)]
    rows = np.sum(parts, axis=0) if _same_plates(idata) else np.concatenate(parts)
    return np.ascontiguousarray(rows[_seen(idata)])


def labels(idata: InferenceData) -> list[Any]:
    """What the rows of `pointwise` are called: by their plate's labels, (row, column) of two."""
    sites = _sites(idata)
    each = [_labels(site) for site in (sites[:1] if _same_plates(idata) else sites)]
    if len(each) > 1:
        each = [[f"{site.name} {label}" for label in some] for site, some in zip(sites, each)]
    return [label for label, seen in zip(chain.from_iterable(each), _seen(idata)) if seen]


def _labels(site: xr.DataArray) -> list[Any]:
    """The labels of a site's observations, the last plate fastest."""
    values = [site[dim].values.tolist() for dim in site.dims[2:]]
    if len(values) == 1:
        return values[0]
    return [", ".join(map(str, cell)) for cell in product(*values)]


def _sites(idata: InferenceData) -> list[xr.DataArray]:
    """The pointwise log likelihood of each observed site, (chain, draw, *plates)."""
    return list(idata["log_likelihood"].data_vars.values())


def _same_plates(idata: InferenceData) -> bool:
    return len({site.dims[2:] for site in _sites(idata)}) == 1


def _seen(idata: InferenceData) -> np.ndarray:
    """Which rows are observed, of all sites one after the other unless they share their plates."""
    each = _seen_by_site(idata)
    return np.any(each, axis=0) if _same_plates(idata) else np.concatenate(each)


def _seen_by_site(idata: InferenceData) -> list[np.ndarray]:
    """Of each site which observations are there: not all of one NaN."""
    values = [(site, idata["observed_data"][site.name]) for site in _sites(idata)]
    return [v.notnull().any(v.dims[site.ndim - 2 :]).values.ravel() for site, v in values]
