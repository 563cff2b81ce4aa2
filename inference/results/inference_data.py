"""Fit -> InferenceData: every method's result with the same groups, labels and meaning."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch
import xarray as xr
from torch import Tensor

from models.contract import Data, Exact, Refused, View

from ..core.problem import Fit, Problem
from ..core.seeds import PREDICTIVE, seeded
from ..methods.prior import sample as prior_sample
from ..program.program import Program
from ..program.row_latents import is_of_rows
from ..program.sampling import over_draws
from ..program.sites import Site, batch_shape
from .netcdf import check_closed
from .psis import KHAT_MAX, psis
from .scores import Scored, log_predictive, predictions, scored

HDI_PROB = 0.94
# Replicated data sets that stand behind a point estimate's predictive distribution.
_PLUG_IN_DRAWS = 1000
# Elements of a group of predictive draws; more rows than that get fewer draws.
_GROUP_ELEMENTS = 4_000_000
# The same for the pointwise log likelihood, from which leave-one-out is computed.
LIKELIHOOD_ELEMENTS = 10_000_000
# Draws below which no error of an average is told.
_FEWEST_DRAWS = 8
# Rows whose predictions a summary shows.
_SUMMARISED = 20
# Draws of a network's weights that are kept, and products up to which its training rows are
# predicted too, and prior draws made; data of more elements are known by their hash alone.
_KEPT_WEIGHTS, _MOST_PRODUCTS, _MOST_DATA = 100, 2e10, 1_000_000
# Rows on which products are counted.
_COUNTED = 100


def to_inference_data(
    problem: Problem, fit: Fit, *, seed: int, prior_draws: int = 1000, **attrs: Any
) -> az.InferenceData:
    """All groups that the fit and the model give.

    posterior, sample_stats (with log_p and log_q where they exist), log_likelihood (discrete
    latents summed out), posterior_predictive, prior and prior_predictive (proper priors only),
    observed_data, constant_data; for the method `prior` the two prior groups alone. Of a network
    100 draws of the latents, and `predictions`, by which it is judged; where it is large, nothing
    of its training rows.

    Args:
        problem: what was inferred.
        fit: what a method returned.
        seed: seed of predictive and prior draws.
        prior_draws: prior draws to lay beside the posterior; 0 for none, fewer of many latents.
        attrs: recorded as attributes of the posterior; JSON-encoded where not plain.
    """
    program = Program(problem)
    products = 0.0 if problem.identified else _products(problem)
    large = products * _draws(fit) > _MOST_PRODUCTS
    groups: dict[str, Mapping[str, np.ndarray]] = {}
    if fit.kind == "prior":
        groups |= _prior_groups(program, {k: v[0] for k, v in fit.draws.items()})
    else:
        groups |= _draw_groups(program, fit)
        if not large:
            groups |= _row_groups(program, fit, seed)
        if prior_draws and not large and not program.improper():
            most = max(_KEPT_WEIGHTS, _GROUP_ELEMENTS // max(program.elements, 1))
            some = min(prior_draws, most if problem.identified else _KEPT_WEIGHTS)
            if some * products <= _MOST_PRODUCTS:
                whole = -(-_GROUP_ELEMENTS // max(program.elements, 1))
                groups |= _prior_groups(program, prior_sample(program, seed, some, whole))
    groups |= _data_groups(program)
    plain = {k: v if isinstance(v, str | int | float) else json.dumps(v) for k, v in attrs.items()}
    idata = _labelled(program, groups, attrs=plain)
    if not problem.identified and fit.kind != "prior" and program.of("observed"):
        _add_group(idata, "predictions", xr.Dataset(predictions(problem, fit)))
    if fit.trace is not None:
        steps = {"value": ("step", fit.trace.numpy())}
        _add_group(idata, "objective", xr.Dataset(steps, attrs={"outlook": fit.outlook}))
    return idata


def draws_alone(program: Program, fit: Fit) -> az.InferenceData:
    """The groups posterior and sample_stats alone, which is all that a verdict looks at."""
    return _labelled(program, _draw_groups(program, fit))


def _labelled(
    program: Program, groups: Mapping[str, Mapping[str, np.ndarray]], **more: Any
) -> az.InferenceData:
    problem = program.problem
    return az.from_dict(
        **{name: group for name, group in groups.items() if group},
        coords={dim: list(values) for dim, values in problem.coords.items()},
        dims={**_labels(program), **_key_labels(problem)},
        **more,
    )


def _add_group(idata: az.InferenceData, name: str, values: xr.Dataset) -> None:
    """Add a group of our own: ArviZ has no name for it, and keeps it all the same."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", f"The group {name} is not defined")
        idata.add_groups({name: values})


def _draws(fit: Fit) -> int:
    return next((value.shape[:2].numel() for value in fit.draws.values()), 0)


def _products(problem: Problem) -> float:
    """About how many products it takes to predict all rows at one draw: counted on the first."""
    from torch.utils.flop_counter import FlopCounterMode

    first = Program(problem.first(_COUNTED))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        first.log_density(torch.zeros(first.size))
    return counter.get_total_flops() / 2 * max(1.0, (problem.n or 1) / _COUNTED)


def _row_groups(program: Program, fit: Fit, seed: int) -> dict[str, Any]:
    """What the draws say of the rows they were learned from."""
    draws = {k: v.flatten(0, 1) for k, v in fit.draws.items()}
    shape = next(iter(fit.draws.values())).shape[:2] if fit.draws else (1, 0)
    groups = {}
    if program.of("observed") and draws:
        elements = sum(site.value.numel() for site in program.of("observed"))
        # Given a row's own latents its density is no prediction: nothing for leave-one-out.
        if not is_of_rows(program):
            some, kept = _thinned(draws, shape, elements, LIKELIHOOD_ELEMENTS)
            likelihood = over_draws(program.log_likelihood, some, elements)
            groups["log_likelihood"] = _arrays(_unflatten(likelihood, kept))
        if len(program.undrawn) < len(program.of("observed")):
            groups["posterior_predictive"] = _arrays(predictive(program, draws, shape, seed))
    return groups


def _draw_groups(program: Program, fit: Fit) -> dict[str, Any]:
    stats = dict(fit.stats)
    for name in ("log_p", "log_q"):
        if getattr(fit, name) is not None:
            stats[name] = getattr(fit, name)
    whole = {site.name for site in program.of("discrete")}
    step = 1 if program.problem.identified else _every_kept(fit)
    kept = {k: v[:, ::step] for k, v in fit.draws.items()}
    posterior = {k: v.long() if k in whole else v for k, v in kept.items()}
    return {"posterior": _arrays(posterior), "sample_stats": _arrays(stats)}


def _every_kept(fit: Fit) -> int:
    """Of how many draws of a network's weights one is kept."""
    draws = next((value.shape[:2].numel() for value in fit.draws.values()), 0)
    return max(1, -(-draws // _KEPT_WEIGHTS))


def predictive(
    program: Program,
    draws: Mapping[str, Tensor],
    shape: tuple[int, int],
    seed: int,
    *,
    new_rows: bool = False,
) -> dict[str, Tensor]:
    """New observations at the draws, (chain, draw, *shape); a point estimate gets many."""
    one = partial(program.predictive, new_rows=new_rows)
    if shape[0] * shape[1] == 1:
        # What does not depend on new draws is computed once for all of them.
        one = partial(_at, one, {name: value[0] for name, value in draws.items()})
        draws, shape = {"draw": torch.arange(_PLUG_IN_DRAWS)}, (1, _PLUG_IN_DRAWS)
    elements = max(1, sum(site.value.numel() for site in program.of("observed")))
    some, kept = _thinned(draws, shape, elements, _GROUP_ELEMENTS)
    with seeded(seed, PREDICTIVE):
        return _unflatten(over_draws(one, some, elements), kept)


def _at(function: Callable, values: Mapping[str, Tensor], _: Any) -> Any:
    """The function at these values, whatever the draw."""
    return function(values)


def _thinned(
    draws: Mapping[str, Tensor], shape: tuple[int, int], elements: int, most: int
) -> tuple[dict[str, Tensor], tuple[int, int]]:
    """Every so many draws, that `elements` of each add up to at most `most`; their shape."""
    step = every(shape[0] * shape[1], elements, most)
    some = {k: v.unflatten(0, shape)[:, ::step].flatten(0, 1) for k, v in draws.items()}
    return some, (shape[0], -(-shape[1] // step))


def every(draws: int, elements: int, most: int) -> int:
    """Of how many draws one is kept, that `elements` of each add up to at most `most`."""
    return max(1, -(-draws * elements // most))


def _prior_groups(program: Program, draws: Mapping[str, Tensor]) -> dict[str, Any]:
    observed = {site.name for site in program.of("observed")}
    named = _arrays({name: value[None] for name, value in draws.items()})
    return {
        "prior": {name: value for name, value in named.items() if name not in observed},
        "prior_predictive": {name: value for name, value in named.items() if name in observed},
    }


def _data_groups(program: Program) -> dict[str, Any]:
    problem = program.problem
    sites = program.of("observed")
    observed = {site.name: site.data for site in sites}
    rest = {
        key: torch.as_tensor(value)
        for key, value in problem.tensors.items()
        if key not in observed and key not in problem.latent_keys
    }
    rest = {k: v for k, v in rest.items() if not any(v is site.value for site in sites)}
    if not problem.identified:
        rest = {k: v for k, v in rest.items() if v.numel() <= _MOST_DATA}
    return {"observed_data": _arrays(observed), "constant_data": _arrays(rest)}


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def _unflatten(tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> dict[str, Tensor]:
    return {name: tensor.unflatten(0, shape) for name, tensor in tensors.items()}


def _labels(program: Program) -> dict[str, list[str]]:
    """Site to dimension names: plates by their own name, event dimensions by the data's."""
    labels = {name: _site_labels(program, site) for name, site in program.sites.items()}
    observed = [site.name for site in program.of("observed")]
    if len(observed) > 1:
        labels["+".join(observed)] = [p.name for p in program.sites[observed[0]].plates]
    return {name: dims for name, dims in labels.items() if dims}


def _site_labels(program: Program, site: Site) -> list[str]:
    plates = {plate.dim: plate.name for plate in site.plates}
    batch = len(batch_shape(site))
    names = [plates.get(i - batch, f"{site.name}_dim_{i}") for i in range(batch)]
    events = list(program.problem.dims.get(site.name, ()))
    unnamed = [f"{site.name}_dim_{batch + i}" for i in range(site.event_dim)]
    return names + (events if len(events) == site.event_dim else unnamed)


def cell_names(program: Program, name: str) -> list[str]:
    """The scalars of a site as a summary names them (`w[bmi]`), the last index fastest."""
    site, coords = program.sites[name], program.problem.coords
    dims = zip(_site_labels(program, site), site.shape)
    labels = [[str(label) for label in coords.get(dim, range(size))] for dim, size in dims]
    return [f"{name}[{', '.join(cell)}]" if cell else name for cell in product(*labels)]


def _key_labels(problem: Problem) -> dict[str, list[str]]:
    """Data key to dimension names, for keys of the rows."""
    if problem.rows is None:
        return {}
    plate, keys = problem.rows
    labels = {}
    for key in keys:
        events = list(problem.dims.get(key, ()))
        extra = problem.tensors[key].ndim - 1
        names = events if len(events) == extra else [f"{key}_dim_{i + 1}" for i in range(extra)]
        labels[key] = [plate, *names]
    return labels


def summary(idata: az.InferenceData) -> pd.DataFrame:
    """One row per scalar: mean, sd, HDI (94 %), Monte Carlo errors, ESS, R-hat; what applies.

    Of a network the scalars are its predictions of the first rows, not its weights. R-hat is for
    chains, ESS and Monte Carlo errors for draws; a point estimate has its value.
    """
    dataset = judged(idata) if "posterior" in idata.groups() else idata["prior"]
    dataset = dataset.isel(row_test=slice(_SUMMARISED)) if "row_test" in dataset.dims else dataset
    options = {"hdi_prob": HDI_PROB, "round_to": "none"}
    if not len(dataset.data_vars):
        return pd.DataFrame(columns=["mean"])
    if dataset.sizes["draw"] < _FEWEST_DRAWS:  # a point, or the few members of an ensemble
        few = {"mean": np.mean} | ({"sd": np.std} if dataset.sizes["draw"] > 1 else {})
        return az.summary(dataset, stat_funcs=few, extend=False, **options)
    single = dataset.sizes["chain"] == 1
    with np.errstate(invalid="ignore"):  # a site that never moves has no R-hat
        table = az.summary(in_halves(dataset) if single else dataset, **options)
    return table.rename(columns=_SUMMARY_NAMES).drop(columns=["r_hat"] if single else [])


def in_halves(dataset: xr.Dataset) -> xr.Dataset:
    """One chain as two: ArviZ's statistics want two, and independent draws have no order."""
    half = dataset.sizes["draw"] // 2
    parts = [dataset.isel(draw=slice(i * half, (i + 1) * half)) for i in (0, 1)]
    halves = [part.assign_coords(draw=range(half), chain=[i]) for i, part in enumerate(parts)]
    return xr.concat(halves, dim="chain")


def truth_of(exact: Any) -> dict[str, dict[str, float]]:
    """Scalar name to mean, sd and HDI of its exact marginal; empty without an exact truth."""
    rows = {}
    for name, marginal in (exact.marginals if exact is not None else {}).items():
        low, high = exact_hdi(marginal)
        known = {"mean": marginal.mean(), "sd": marginal.std(), "hdi_low": low, "hdi_high": high}
        rows[name] = {column: float(value) for column, value in known.items()}
    return rows


def replaced(table: pd.DataFrame, known: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """A summary with known numbers, which have no Monte Carlo error, in place of averages."""
    table = table.copy()
    for name in table.index.intersection(list(known)):
        table.loc[name, list(known[name])] = list(known[name].values())
        table.loc[name, ["mcse_mean", "mcse_sd"]] = 0.0
    return table


def with_truth(table: pd.DataFrame, known: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """The summary of exact draws with what `truth_of` knows in place of their averages."""
    table = replaced(table, known)
    # Error-free numbers have no Monte Carlo error and need no effective draws.
    all_known = set(table.index) <= set(known)
    return table[["mean", "sd", "hdi_low", "hdi_high"]] if all_known else table


def exact_hdi(truth: Any, prob: float = HDI_PROB) -> tuple[float, float]:
    """The shortest interval that holds `prob` of a distribution given by its quantiles."""
    lower = np.linspace(0, 1 - prob, 2001)
    low, high = truth.ppf(lower), truth.ppf(lower + prob)
    best = int(np.argmin(high - low))
    return float(low[best]), float(high[best])


def indexed(name: str, shape: Sequence[int]) -> list[str]:
    """The scalars of a tensor by their place (`z[0, 1]`), the last index fastest."""
    return [name + (f"[{', '.join(map(str, i))}]" if i else "") for i in np.ndindex(*shape)]


def predictive_table(
    values: Mapping[str, Tensor], units: Mapping[str, tuple[float, float]]
) -> pd.DataFrame:
    """Mean, sd and HDI of each new observation in the user's units; indexed `y[0]`, `y[1]` ..."""
    tables = []
    for name, value in values.items():
        loc, scale = units.get(name, (0.0, 1.0))
        labels = indexed(name, value.shape[2:])
        draws = value.flatten(0, 1).reshape(-1, len(labels))  # (S, cells)
        draws = loc + scale * draws.numpy().astype(float)
        low, high = hdi(draws)
        columns = {
            "mean": draws.mean(0),
            "sd": draws.std(0, ddof=1),
            "hdi_low": low,
            "hdi_high": high,
        }
        tables.append(pd.DataFrame(columns, index=labels))
    return pd.concat(tables)


def hdi(draws: np.ndarray, prob: float = HDI_PROB) -> tuple[np.ndarray, np.ndarray]:
    """The shortest intervals that hold `prob` of the draws (S, cells), (cells,) each."""
    ordered = np.sort(draws, axis=0)
    inside = int(np.floor(prob * len(draws)))
    widths = ordered[inside:] - ordered[: len(draws) - inside]
    first = widths.argmin(0)
    cells = np.arange(draws.shape[1])
    return ordered[first, cells], ordered[first + inside, cells]


_SUMMARY_NAMES = {"hdi_3%": "hdi_low", "hdi_97%": "hdi_high"}


def log_evidence(log_ratios: Tensor) -> float | None:
    """Log of the mean of importance weights p / q, Pareto-smoothed; None where these fail."""
    ratios = log_ratios.numpy()
    if np.ptp(ratios) <= 1e-6:  # weights that are equal up to rounding have no tail
        return float(ratios.mean())
    smoothed, khat = psis(ratios)
    if not khat < KHAT_MAX:
        return None
    return float(np.logaddexp.reduce(smoothed) - np.log(len(ratios)))


def metrics(fit: Fit, idata: az.InferenceData, improper: bool = False) -> dict[str, float]:
    """The metrics that apply to a fit: log_evidence, elbo, khat; leave-one-out is in `loo.py`.

    A guide's log evidence is by importance weights, where their k-hat allows. What stands behind
    them is kept in `idata`, to be drawn: `khat` as an attribute.
    """
    found = dict(fit.metrics)
    if fit.log_ratios is not None:
        ratios = fit.log_ratios.numpy()
        if ratios.ndim == 2:  # of rows that are independent: each has its own
            with np.errstate(all="ignore"):
                tails = psis(ratios.T)[1]
            _add_group(idata, "rows", xr.Dataset({"khat": ("row", tails)}))
            found["khat"] = float(np.median(tails))
            found["khat_high"] = float((tails > KHAT_MAX).mean())
            ratios = ratios.sum(1)
        found["elbo"] = float(ratios.mean())
        found["elbo_se"] = float(ratios.std(ddof=1) / np.sqrt(len(ratios)))
        # Weights that are equal up to rounding have no tail, whatever is fitted to their noise.
        if "khat" not in found:
            found["khat"] = float(psis(ratios)[1]) if np.ptp(ratios) > 1e-6 else 0.0
            estimate = None if improper else log_evidence(fit.log_ratios)
            if estimate is not None and found["khat"] < KHAT_MAX:
                found.setdefault("log_evidence", estimate)
        idata.attrs["khat"] = found["khat"]
    return found


def held_out(problem: Problem, fit: Fit, idata: az.InferenceData) -> dict[str, float]:
    """Scores on the rows held out (`scores.scored`); what is behind them is kept in `idata`."""
    return kept(scored(problem, fit), idata)


def kept(found: Scored, idata: az.InferenceData) -> dict[str, float]:
    """The scores; what is behind them becomes groups of `idata`."""
    for name, group in found.groups.items():
        _add_group(idata, name, xr.Dataset(group))
    return found.metrics


def judged(idata: az.InferenceData) -> xr.Dataset:
    """The quantities that a result is judged by: the posterior's, a network's predictions."""
    return idata["predictions" if "predictions" in idata.groups() else "posterior"]


def next_row(
    problem: Problem, row: Mapping[str, Tensor], draws: Mapping[str, Tensor], seed: int
) -> tuple[float, float, float]:
    """Posterior predictive mean of one new row, and its 94 % interval; of a class P(label 1).

    Args:
        problem: what was inferred; one observed site, in the row plate.
        row: the row keys of the new row (1, ...); what is observed is not looked at.
        draws: latents, (S, *shape).
        seed: seed of the predictive draws.

    Returns:
        Mean, low and high; a probability has no interval (NaN).
    """
    problem = replace(problem, tensors={**problem.tensors, **row})
    (site,) = Program(problem).of("observed")
    if isinstance(site.base, dist.Bernoulli):
        ones = {**problem.tensors, site.name: torch.ones_like(site.value)}
        log_p = log_predictive(Program(replace(problem, tensors=ones)), draws, 1)
        return float(np.exp(log_p[0])), np.nan, np.nan
    shape = (1, len(next(iter(draws.values()))))
    values = predictive(Program(problem), draws, shape, seed, new_rows=True)[site.name]
    cells = values.flatten(0, 1).flatten(1).numpy().astype(float)  # (S, 1)
    low, high = hdi(cells)
    return float(cells.mean()), float(low[0]), float(high[0])


def add_original(
    idata: az.InferenceData, original: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> None:
    """Add the group `posterior_original`: the coefficients in the user's units."""
    posterior = idata["posterior"]
    values = {}
    for name, draws in original(draws_of(idata)).items():
        shape = posterior[name].shape
        values[name] = (posterior[name].dims, np.asarray(draws).reshape(shape))
    _add_group(idata, "posterior_original", xr.Dataset(values, coords=posterior.coords))


def draws_of(idata: az.InferenceData) -> dict[str, np.ndarray]:
    """Posterior draws by site, (draws, *shape); prior ones where the run was of the prior."""
    group = "posterior" if "posterior" in idata.groups() else "prior"
    return {
        str(name): value.values.reshape(-1, *value.shape[2:])
        for name, value in idata[group].data_vars.items()
    }


def groups_of(idata: az.InferenceData) -> dict[str, dict[str, np.ndarray]]:
    """Group to variable to values."""
    return {
        group: {str(name): value.values for name, value in idata[group].data_vars.items()}
        for group in idata.groups()
    }


def view(
    data: Data,
    idata: az.InferenceData,
    params: Mapping[str, Any],
    options: Mapping[str, Any],
    metrics: Mapping[str, float],
    exact: Exact | None = None,
) -> View:
    """A result as the functions of the model's own see it; parameters as for `View`."""
    return View(
        data=data,
        draws=draws_of(idata),
        groups=groups_of(idata),
        params=params,
        guide=idata.attrs.get("guide", ""),
        exact=exact,
        options=options,
        metrics=metrics,
    )


def netcdf(idata: az.InferenceData) -> bytes:
    """What a compressed netCDF file of it holds.

    Made in memory: on a full disk the HDF5 library leaves files that it crashes on.
    """
    buffer = io.BytesIO()
    parts = {"/": xr.Dataset(attrs=idata.attrs)} if idata.attrs else {}
    parts |= {f"/{name}": idata[name] for name in idata.groups()}
    for i, (name, dataset) in enumerate(parts.items()):
        small = {k: {"zlib": True} for k, v in dataset.variables.items() if v.dtype.kind in "iufb"}
        mode = "a" if i else "w"
        dataset.to_netcdf(buffer, mode=mode, engine="h5netcdf", group=name, encoding=small)
    return buffer.getvalue()


def read(path: Path) -> az.InferenceData:
    """Read what `netcdf` made, into memory.

    Raises:
        Refused: not a file of InferenceData, or one that reaches out of itself.
    """
    try:
        check_closed(path)
        idata = az.from_netcdf(str(path), engine="h5netcdf")
        return idata.load()
    except Refused:
        raise
    except Exception as error:  # a dozen kinds, by where the file is damaged
        raise Refused(f"{path} is no readable InferenceData ({error}); run it again") from None
