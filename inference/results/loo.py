"""Leave-one-out: elpd_loo = sum_i log p(y_i | y_-i), how well the other rows predict each row.

In closed form where the model states its evidence, without a Monte Carlo error. Else from draws,
by importance weights that are Pareto-smoothed (PSIS-LOO): a draw s of the posterior has the weight
1 / p(y_i | s) for row i, one of an approximation q the weight p(y, s) / q(s) / p(y_i | s).

References: Vehtari, Gelman and Gabry (2017), Statistics and Computing 27, arXiv:1507.04544;
Vehtari et al. (2024), arXiv:1507.02646; Magnusson et al. (2019), arXiv:1904.10679, for draws of
an approximation.
"""

from __future__ import annotations

from itertools import chain, product
from typing import Any, NamedTuple

import arviz as az
import numpy as np
import torch
import xarray as xr

from ..core.problem import Finding, Fit, Problem
from .inference_data import LIKELIHOOD_ELEMENTS, every, kept
from .psis import KHAT_MAX, khat_bound, psis
from .scores import Scored

# Rows below which their spread tells no standard error: the sd of ten normal numbers is known to
# within a quarter.
FEWEST_ROWS = 10
# Different rows up to which the evidence without each of them is computed.
_MOST_LEFT_OUT = 30
# Nats that rows of high k-hat may hold of p_loo, all together, and count for nothing.
_NEGLIGIBLE = 0.05
# Monte Carlo errors by which two ways of weighting the same draws may differ, and draws from a
# closed form.
_APART, _AWAY = 2.0, 5.0
# Share of rows that the draws cannot do without, beyond which it is a warning.
_MANY_BAD = 0.2
# Rows that a finding names.
_NAMED = 3


class Weighted(NamedTuple):
    """Leave-one-out by weighted draws.

    Attributes:
        elpd: log p(y_i | y_-i), nats, (n,).
        khat: of the weights of each row; zero of rows that do not count, (n,).
        influence: how far each draw moves the elpd of each row, (n, draws); sums to 0 over draws.
        of_all: log p(y_i | y), nats, (n,).
        idle: nats that the weights of the rows that do not count move.
        apart: by how much a second way of weighting changed the sum of elpd, nats.
    """

    elpd: np.ndarray
    khat: np.ndarray
    influence: np.ndarray
    of_all: np.ndarray
    idle: float = 0.0
    apart: float = 0.0

    def mcse(self, chains: int | None) -> float:
        """Monte Carlo error of the sum of elpd, nats.

        The draws show too little of a heavy tail for the spread of their weights to be its error:
        it is multiplied by 1 + (k / (1 - k))^2, with which errors are within four of it on
        regressions whose truth is known.
        """
        k = self.khat.clip(0, 0.99)
        return float(np.hypot(mcse((1 + (k / (1 - k)) ** 2) @ self.influence, chains), self.idle))


def judged(
    problem: Problem, fit: Fit, idata: az.InferenceData, khat: float | None
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
    found = weighted(rows, _log_ratios(fit, idata), bound, khat)
    error, bad = found.mcse(_chains(fit, idata)), np.flatnonzero(found.khat > bound)
    findings = _on_rows(len(rows))
    known = None if fit.exact is None else closed_form(problem, fit.exact, idata)
    if known is not None:
        if len(bad) or abs((known - found.elpd).sum()) <= _AWAY * error + _NEGLIGIBLE:
            return _kept(idata, found.of_all, known) | {"elpd_loo_mcse": 0.0}, findings
        findings += [Finding("note", *_CONTRADICTION, opens=("evidence", "loo"))]
    if not len(bad) and found.apart > _APART * error:
        what = f"no elpd_loo: two ways of weighting the draws are {found.apart:.2g} nats apart"
        return {}, [Finding("note", what, "use nuts", opens=("loo",))]
    metrics = _kept(idata, found.of_all, found.elpd, found.khat)
    if len(bad):
        return metrics, [_on_khat(idata, bad, found.khat), *findings]
    return metrics | {"elpd_loo_mcse": error}, findings


_CONTRADICTION = (
    "the model's log evidence without a row contradicts its own draws",
    "elpd_loo is from the draws; check `exact` of the model",
)


def _why_none(
    fit: Fit, idata: az.InferenceData, khat: float | None
) -> tuple[str, str] | tuple[str] | None:
    """Why leave-one-out has no answer, and what to do about it; None where it has one."""
    held_out = "score rows that are held out (--set split=0.2)"
    if "observed_data" not in idata.groups():
        return ("no row is observed, so none can be left out",)
    if "log_likelihood" not in idata.groups():
        return "no leave-one-out where every row has latents of its own", held_out
    if fit.kind == "independent" and fit.log_q is None and fit.trace is not None:
        return "no leave-one-out by a guide whose draws have no density", "use nuts"
    if khat is not None and not khat < KHAT_MAX:
        return f"no elpd_loo from an approximation of k-hat {khat:.2f}", "use nuts"
    if sum(_is_seen(idata, name).sum() for name in idata["log_likelihood"].data_vars) < 2:
        return ("a single row has no others to be predicted from",)
    return None


def _log_ratios(fit: Fit, idata: az.InferenceData) -> np.ndarray | None:
    """log p - log q of the draws whose likelihood is kept, (draws,); None of the posterior's."""
    if fit.log_q is None:
        return None
    elements = sum(value.size for value in idata["observed_data"].data_vars.values())
    step = every(fit.log_p.numel(), elements, LIKELIHOOD_ELEMENTS)
    return (fit.log_p - fit.log_q)[:, ::step].flatten().numpy()


def _chains(fit: Fit, idata: az.InferenceData) -> int | None:
    """Number of chains; None of independent draws."""
    return idata["log_likelihood"].sizes["chain"] if fit.kind == "chains" else None


# -- by weighted draws -------------------------------------------------------------------------


def weighted(
    rows: np.ndarray, log_ratios: np.ndarray | None, bound: float, khat: float | None = None
) -> Weighted:
    """Leave-one-out by draws of the posterior or of an approximation.

    p / q / p(y_i) is smoothed as one. Where its k-hat is too high, which may be by chance, p / q
    and 1 / p(y_i) are smoothed one after the other, and the larger k-hat of these two counts: the
    tail of a product of independent weights is the heavier one of theirs. (Errors are within four
    of what is told either way, on regressions whose truth is known and guides too narrow, too
    wide or without correlations; of too narrow ones four in ten more have an answer.)

    Args:
        rows: log likelihood, (n, draws).
        log_ratios: log p - log q, (draws,); None of draws of the posterior.
        bound: what k-hat may be.
        khat: of p / q, from as many draws as there are; None: from these.
    """
    if log_ratios is None:
        found = _estimate(rows, *psis(-rows), _log_mean(rows))
        return _counted(found, bound)
    base, of_these = psis(log_ratios)
    found = _estimate(rows, *psis(log_ratios - rows), _log_mean(rows, base))
    found = _counted(found, bound)
    bad = np.flatnonzero(found.khat > bound)
    khat = float(of_these) if khat is None else khat
    return _in_turn(found, rows, bad, base, khat) if len(bad) else found


def _estimate(
    rows: np.ndarray, log_weights: np.ndarray, khat: np.ndarray, of_all: np.ndarray
) -> Weighted:
    """The weighted mean likelihood of each row, and each draw's part in its error.

    To first order log(sum w p / sum w) moves with the draws as sum w (p / mean - 1) does
    (Vehtari et al. 2024, section 3.3).
    """
    log_weights = log_weights - _log_sum_exp(log_weights)[:, None]
    elpd = _log_sum_exp(log_weights + rows)
    influence = np.exp(log_weights + rows - elpd[:, None]) - np.exp(log_weights)
    return Weighted(elpd, khat, influence, of_all)


def _in_turn(
    found: Weighted, rows: np.ndarray, bad: np.ndarray, base: np.ndarray, base_khat: float
) -> Weighted:
    """The same with some rows weighted by p / q and 1 / p(y_i) in turn, where that lowers k-hat.

    Args:
        found: leave-one-out of all rows.
        rows: log likelihood, (n, draws).
        bad: places of the rows to be weighted anew.
        base: log p - log q, smoothed, (draws,).
        base_khat: its k-hat.
    """
    then, khat = psis(-rows[bad], np.exp(base - base.max()))
    other = _estimate(rows[bad], base + then, np.maximum(base_khat, khat), found.of_all[bad])
    lower = other.khat < found.khat[bad]
    changed, elpd, khat = bad[lower], found.elpd.copy(), found.khat.copy()
    elpd[changed], khat[changed] = other.elpd[lower], other.khat[lower]
    found.influence[changed] = other.influence[lower]
    apart = abs(float((elpd - found.elpd).sum()))
    return found._replace(elpd=elpd, khat=khat, apart=apart)


def _counted(found: Weighted, bound: float) -> Weighted:
    """The same with k-hat zero where it is too high and the weights move next to nothing.

    A row that all draws predict alike (a class that is certain) has the wildest of tails, that of
    rounding errors too, and needs no weights.
    """
    moved = np.abs(found.of_all - found.elpd)
    high = np.flatnonzero(~(found.khat <= bound))
    high = high[np.argsort(moved[high])]
    idle = high[np.cumsum(moved[high]) <= _NEGLIGIBLE]
    khat = found.khat.copy()
    khat[idle] = 0.0
    return found._replace(khat=khat, idle=float(moved[idle].sum()))


def mcse(influence: np.ndarray, chains: int | None) -> float:
    """Monte Carlo error of an average to which each draw adds its influence (draws,).

    Rows share their draws, so the errors of rows are added draw by draw, not in squares; draws of
    chains are as many as are effective of their influence (Vehtari et al. 2017, section 2.2).

    Args:
        influence: of each draw, chain after chain; they add up to zero.
        chains: number of chains; None of independent draws.
    """
    independent = float(np.sqrt(np.square(influence).sum()))
    if chains is None or not np.ptp(influence) > 0:
        return independent
    effective = float(az.ess(influence.reshape(chains, -1), method="mean"))
    return independent * float(np.sqrt(influence.size / effective))


# -- in closed form ----------------------------------------------------------------------------


def closed_form(problem: Problem, truth: Any, idata: az.InferenceData) -> np.ndarray | None:
    """log p(y_i | y_-i) = log p(y) - log p(y_-i) of each row, (n,); None where that is not known.

    Rows that are equal are left out once. None too where too many are different.

    Args:
        problem: whose `exact` gives the truth of other data.
        truth: the `Exact` of all rows.
        idata: its log likelihood says what the rows are.
    """
    if truth.leave_one_out is not None:
        return np.asarray(truth.leave_one_out())
    if truth.log_evidence is None or not _all_rows_count(problem, idata):
        return None
    _, keys = problem.rows
    tensors = {key: problem.tensors[key] for key in keys}
    table = np.concatenate([np.asarray(v).reshape(len(v), -1) for v in tensors.values()], axis=1)
    _, first, same = np.unique(table, axis=0, return_index=True, return_inverse=True)
    if len(first) > _MOST_LEFT_OUT:
        return None
    without = [_without(problem, int(i)) for i in first]
    if None in without:
        return None
    return (truth.log_evidence - np.array(without))[same.ravel()]


def _all_rows_count(problem: Problem, idata: az.InferenceData) -> bool:
    """Whether what is observed are the rows of the data, each in the row plate, all there."""
    if problem.rows is None:
        return False
    names = idata["log_likelihood"].data_vars
    dims = {value.dims[2:] for value in names.values()}
    return dims == {(problem.rows[0],)} and all(_is_seen(idata, n).all() for n in names)


def _without(problem: Problem, i: int) -> float | None:
    """The log evidence of all rows but one; None where the model does not know it."""
    _, keys = problem.rows
    others = torch.arange(problem.n) != i
    try:
        truth = problem.exact({key: problem.tensors[key][others] for key in keys})
    except (ValueError, ArithmeticError, np.linalg.LinAlgError):  # too few rows for it
        return None
    return None if truth is None else truth.log_evidence


# -- what is told ------------------------------------------------------------------------------


def _kept(
    idata: az.InferenceData, of_all: np.ndarray, elpd: np.ndarray, khat: np.ndarray | None = None
) -> dict[str, float]:
    """Metrics of leave-one-out; each row's is kept. In closed form there is no k-hat.

    Args:
        idata: where it is kept.
        of_all: log p(y_i | y), (n,).
        elpd: log p(y_i | y_-i), (n,).
        khat: of the weights of each row, (n,).
    """
    each = {"elpd": elpd} | ({} if khat is None else {"khat": khat})
    coords = {"row": labels(idata)}
    group = {name: xr.DataArray(v, coords, ("row",)) for name, v in each.items()}
    sizes = idata["log_likelihood"].sizes
    found = {"elpd_loo": float(elpd.sum()), "p_loo": float((of_all - elpd).sum())}
    if len(elpd) >= FEWEST_ROWS:
        found["elpd_loo_se"] = float(np.sqrt(len(elpd) * elpd.var()))
    if khat is not None:
        found["loo_khat_max"] = float(khat.max())
        bound = khat_bound(sizes["chain"] * sizes["draw"])
        found["loo_khat_high"] = float((khat > bound).mean())
    return kept(Scored(found, {"loo": group}), idata)


def _on_rows(n: int) -> list[Finding]:
    """A word where there are too few rows for a standard error."""
    if n >= FEWEST_ROWS:
        return []
    what = f"elpd_loo of {n} rows has no standard error, which takes {FEWEST_ROWS} or more"
    return [Finding("note", what)]


def _on_khat(idata: az.InferenceData, bad: np.ndarray, khat: np.ndarray) -> Finding:
    """Of the rows that are left out in turn, some that the draws cannot do without."""
    bad = bad[np.argsort(-khat[bad])]
    names = ", ".join(str(label) for label in np.asarray(labels(idata))[bad[:_NAMED]])
    more = ", ..." if len(bad) > _NAMED else ""
    what = (
        f"PSIS-LOO fails for {len(bad)} of {len(khat)} rows (k-hat up to {khat[bad[0]]:.2f}; "
        f"rows {names}{more})"
    )
    mend = "do not use elpd_loo; score rows that are held out (--set split=0.2)"
    level = "warn" if len(bad) > _MANY_BAD * len(khat) else "note"
    return Finding(level, what, mend, spoils=("loo",))


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


def elpd_data(idata: az.InferenceData, metrics: dict[str, float]) -> Any:
    """Leave-one-out as ArviZ has it, for `az.compare`: `elpd_loo`, `se`, `loo_i`, `pareto_k`, ...

    Args:
        idata: of a run, with its group `loo`.
        metrics: of the run.
    """
    from arviz.stats.stats_utils import ELPDData

    group, sizes = idata["loo"], idata["log_likelihood"].sizes
    draws = sizes["chain"] * sizes["draw"]
    found = {
        "elpd_loo": metrics["elpd_loo"],
        "se": metrics.get("elpd_loo_se", np.nan),
        "p_loo": metrics["p_loo"],
        "n_samples": draws,
        "n_data_points": group.sizes["row"],
        "warning": "elpd_loo_mcse" not in metrics,
        "loo_i": group["elpd"].rename("loo_i"),
    }
    if "khat" in group:
        found["pareto_k"] = group["khat"].rename("pareto_k")
    found |= {"scale": "log", "good_k": khat_bound(draws)}
    found |= {"mcse": metrics.get("elpd_loo_mcse", np.nan)}
    return ELPDData(data=list(found.values()), index=list(found))


# -- the rows ----------------------------------------------------------------------------------


def pointwise(idata: az.InferenceData) -> np.ndarray:
    """Log likelihood by observation, (rows, draws); sites of the same plates summed by row.

    Rows that a mask takes out of the density are no observations.
    """
    sites = idata["log_likelihood"].data_vars
    parts = [v.values.reshape(v.shape[0] * v.shape[1], -1).T for v in sites.values()]
    rows = sum(parts) if _same_plates(idata) else np.concatenate(parts)
    return np.ascontiguousarray(rows[_seen(idata)])


def labels(idata: az.InferenceData) -> list[Any]:
    """What the rows of `pointwise` are called: by their plate's labels, (row, column) of two."""
    sites = list(idata["log_likelihood"].data_vars.values())
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


def _same_plates(idata: az.InferenceData) -> bool:
    return len({v.dims[2:] for v in idata["log_likelihood"].data_vars.values()}) == 1


def _seen(idata: az.InferenceData) -> np.ndarray:
    """Which rows are observed, of all sites one after the other unless they share their plates."""
    each = [_is_seen(idata, name) for name in idata["log_likelihood"].data_vars]
    return np.any(each, axis=0) if _same_plates(idata) else np.concatenate(each)


def _is_seen(idata: az.InferenceData, name: str) -> np.ndarray:
    """Whether an observation is there: not all of it NaN."""
    plates = idata["log_likelihood"][name].ndim - 2
    if "observed_data" not in idata.groups():
        return np.ones(idata["log_likelihood"][name].shape[2:], bool).ravel()
    value = idata["observed_data"][name]
    return value.notnull().any(value.dims[plates:]).values.ravel()


def _log_mean(rows: np.ndarray, log_weights: np.ndarray | None = None) -> np.ndarray:
    """log p(y_i | y), the log of the weighted mean likelihood, (n,); equal weights when None."""
    log_weights = np.zeros(rows.shape[1]) if log_weights is None else log_weights
    return _log_sum_exp(rows + log_weights) - _log_sum_exp(log_weights[None])


def _log_sum_exp(values: np.ndarray) -> np.ndarray:
    """By torch, which is ten times as fast as SciPy here."""
    return torch.as_tensor(values).logsumexp(1).numpy()
