"""InferenceData: made from arrays, kept in a file, read again, and the statistics of its draws.

This is the one module that calls ArviZ, so that what depends on its version is in one place; the
others know its type alone.

Layout: a draw's array is (chain, draw, *shape) in every group of draws. Groups that ArviZ has no
name for (`predictions`, `loo`, `held_out`, ...) are ours.
"""

import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import arviz as az
import h5py
import numpy as np
import pandas as pd
import xarray as xr

from models.contract import Data, Exact, Refused, View

InferenceData = az.InferenceData
# The share of the draws in an interval that is shown.
HDI_PROB = 0.94
# Draws below which no Monte Carlo error of an average is computed.
_FEWEST_DRAWS = 8
# Rows whose predictions a summary shows.
_SUMMARISED = 20
_SUMMARY_NAMES = {"hdi_3%": "hdi_low", "hdi_97%": "hdi_high"}
# The filters that HDF5 has built in and that a run's file is written with; any other would load
# a plug-in, which is a program.
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
# What the arrays of a file may take in memory, bytes.
_MOST_BYTES = 8e9


# -- made --------------------------------------------------------------------------------------


def from_groups(
    groups: Mapping[str, Mapping[str, np.ndarray]],
    *,
    coords: Mapping[str, Sequence[Any]],
    dims: Mapping[str, Sequence[str]],
    attrs: Mapping[str, Any] | None = None,
) -> InferenceData:
    """The InferenceData of some arrays; groups that are empty are left out.

    Args:
        groups: group to variable to array, draws as (chain, draw, *shape).
        coords: dimension to the labels of its entries.
        dims: variable to the names of its dimensions beyond chain and draw.
        attrs: attributes of the whole.
    """
    filled: dict[str, Any] = {name: group for name, group in groups.items() if group}
    return az.from_dict(**filled, coords=coords, dims=dims, attrs=attrs)


def add_group(idata: InferenceData, name: str, variables: Mapping[str, Any], **more: Any) -> None:
    """Add a group of our own in place; ArviZ warns that it has no name for it, and keeps it.

    Args:
        idata: what it is added to.
        name: of the group.
        variables: variable to (dims, values) or DataArray.
        more: further arguments of `xarray.Dataset` (coords, attrs).
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", f"The group {name} is not defined")
        idata.add_groups({name: xr.Dataset(variables, **more)})


def add_original(
    idata: InferenceData, original: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> None:
    """Add the group `posterior_original`: the coefficients in the user's units.

    Args:
        idata: with a posterior in the model's units.
        original: the model's function of draws by site, (draws, *shape), in the model's units.
    """
    posterior = idata["posterior"]
    values = {}
    for name, draws in original(draws_of(idata)).items():
        shape = posterior[name].shape
        values[name] = (posterior[name].dims, np.asarray(draws).reshape(shape))
    add_group(idata, "posterior_original", values, coords=posterior.coords)


# -- kept in a file ----------------------------------------------------------------------------


def netcdf(idata: InferenceData) -> bytes:
    """The content of a compressed netCDF file of it.

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


def read(path: Path) -> InferenceData:
    """Read what `netcdf` made, into memory.

    Raises:
        Refused: not a file of InferenceData, or one that reaches out of itself.
    """
    try:
        check_closed(path)
        idata = az.from_netcdf(str(path), engine="h5netcdf")
        for dataset in idata.values():
            dataset.load()
        return idata
    except Refused:
        raise
    except Exception as error:  # a dozen kinds, by where the file is damaged
        raise Refused(f"{path} is no readable InferenceData ({error}); run it again") from None


def check_closed(path: Path) -> None:
    """Refuse a file that reaches out of itself, or that would not fit into memory.

    An HDF5 file may name other files (links, external and virtual storage), and filters, which
    are programs that the library loads; and a small one may unpack to more than memory holds. A
    run's own file has none of it, but one may come from a stranger.

    Raises:
        Refused: a link that is no plain one, storage in other files, a filter that is not built
            in, something that is neither group nor array, or arrays that are too large.
        OSError: no HDF5 file.
    """
    size = 0
    with h5py.File(path, "r") as file:
        for dataset in _datasets(file, path):
            _check_storage(dataset, path)
            size += (dataset.size or 0) * dataset.dtype.itemsize
    if size > _MOST_BYTES:
        most = f"more than {_MOST_BYTES / 1e9:.0f}"
        raise Refused(f"{path} would take {size / 1e9:.3g} GB of memory, {most}; run it again")


def _datasets(file: h5py.File, path: Path) -> Iterator[h5py.Dataset]:
    """The arrays of a file, each once, though groups may lie in themselves.

    Raises:
        Refused: a link that is no plain one, something that is neither group nor array.
    """
    links: dict[str, Any] = {}
    file.visititems_links(lambda name, link: links.update({name: link}))
    for name, link in links.items():
        if not isinstance(link, h5py.HardLink):
            raise _refused(path, f"/{name}", "is a link to another place")
    for member in dict.fromkeys(file[name] for name in links):
        if isinstance(member, h5py.Dataset):
            yield member
        elif not isinstance(member, h5py.Group):
            raise _refused(path, str(member.name), "is neither group nor array")


def _check_storage(dataset: h5py.Dataset, path: Path) -> None:
    """An array's content must lie in the file itself, packed by HDF5's own filters."""
    if dataset.external or dataset.is_virtual:
        raise _refused(path, str(dataset.name), "lies in another file")
    plan = dataset.id.get_create_plist()
    filters = {plan.get_filter(i)[0] for i in range(plan.get_nfilters())}
    if not filters <= _FILTERS:
        others = ", ".join(map(str, sorted(filters - _FILTERS)))
        raise _refused(path, str(dataset.name), f"needs a filter that is not built in ({others})")


def _refused(path: Path, where: str, fault: str) -> Refused:
    return Refused(f"{where} {fault}, {path}; no run writes that, run it again")


# -- its parts ---------------------------------------------------------------------------------


def judged(idata: InferenceData) -> xr.Dataset:
    """The quantities that a result is judged by: the posterior's, a network's predictions."""
    return idata["predictions" if "predictions" in idata.groups() else "posterior"]


def draws_of(idata: InferenceData) -> dict[str, np.ndarray]:
    """Posterior draws by site, (draws, *shape); prior ones where the run was of the prior."""
    return flattened(idata["posterior" if "posterior" in idata.groups() else "prior"])


def flattened(dataset: xr.Dataset) -> dict[str, np.ndarray]:
    """Variable to its draws of all chains, chain after chain, (draws, *shape)."""
    variables = dataset.data_vars.items()
    return {str(name): v.values.reshape(-1, *v.shape[2:]) for name, v in variables}


def cells(name: str, labels: Iterable[Iterable[Any]]) -> Iterator[str]:
    """The scalars of an array as a summary names them (`w[bmi, 0]`), the last index fastest.

    Args:
        name: of the array.
        labels: of the entries of each of its dimensions.
    """
    for cell in product(*labels):
        yield f"{name}[{', '.join(map(str, cell))}]" if cell else name


def view(
    data: Data,
    idata: InferenceData,
    params: Mapping[str, Any],
    options: Mapping[str, Any],
    metrics: Mapping[str, float],
    exact: Exact | None = None,
) -> View:
    """A result as the functions of the model's own see it; parameters as for `View`."""
    groups = {
        group: {str(name): value.values for name, value in idata[group].data_vars.items()}
        for group in idata.groups()
    }
    return View(
        data=data,
        draws=draws_of(idata),
        groups=groups,
        params=params,
        guide=idata.attrs.get("guide", ""),
        exact=exact,
        options=options,
        metrics=metrics,
    )


# -- statistics of draws -----------------------------------------------------------------------


def ess(draws: xr.Dataset | np.ndarray, method: str) -> Any:
    """Effective sample size (Vehtari et al. 2021, arXiv:1903.08008, section 3).

    Args:
        draws: (chain, draw), or a Dataset of (chain, draw, *shape).
        method: `bulk`, `tail`, or of the `mean`.

    Returns:
        A number, or a Dataset of (*shape); NaN of what never moves.
    """
    return az.ess(draws, method=method)


def r_hat(draws: xr.Dataset) -> Any:
    """Rank-normalised split R-hat (ibid., section 4), a Dataset (*shape); NaN of what is fixed."""
    with np.errstate(invalid="ignore"):
        return az.rhat(draws)


# Energy-Bayesian fraction of missing information (Betancourt 2016), (chain,), of InferenceData.
bfmi = az.bfmi


def hdi(draws: np.ndarray, prob: float = HDI_PROB) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the shortest intervals that hold `prob` of the draws (S, cells), (cells,) each."""
    ends = az.hdi(draws[None], hdi_prob=prob)
    return ends[:, 0], ends[:, 1]


def summary(idata: InferenceData) -> pd.DataFrame:
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
        return pd.DataFrame(az.summary(dataset, stat_funcs=few, extend=False, **options))
    single = dataset.sizes["chain"] == 1
    with np.errstate(invalid="ignore"):  # a site that never moves has no R-hat
        table = pd.DataFrame(az.summary(in_halves(dataset) if single else dataset, **options))
    return table.rename(columns=_SUMMARY_NAMES).drop(columns=["r_hat"] if single else [])


def in_halves(dataset: xr.Dataset) -> xr.Dataset:
    """One chain as two: ArviZ's statistics want two, and independent draws have no order."""
    half = dataset.sizes["draw"] // 2
    parts = [dataset.isel(draw=slice(i * half, (i + 1) * half)) for i in (0, 1)]
    halves = [part.assign_coords(draw=range(half), chain=[i]) for i, part in enumerate(parts)]
    return xr.concat(halves, dim="chain")


def as_elpd_data(values: Mapping[str, Any]) -> Any:
    """Leave-one-out as `az.compare` takes it, by the names of ArviZ's `ELPDData`."""
    from arviz.stats.stats_utils import ELPDData

    return ELPDData(data=list(values.values()), index=list(values))
