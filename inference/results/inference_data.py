"""InferenceData: made from arrays, kept in a file, read again, and the statistics of its draws.

This is the one module that calls ArviZ, so that what depends on its version is in one place.

Layout: a draw's array is (chain, draw, *shape) in every group of draws. Groups that ArviZ has no
name for (`predictions`, `loo`, `held_out`, ...) are ours.
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import xarray as xr

from models.contract import Data, Exact, Refused, View

from . import mixing

if TYPE_CHECKING:
    import arviz as az

# The share of the draws in an interval that is shown.
HDI_PROB = 0.94
# Draws below which no Monte Carlo error of an average is computed.
_FEWEST_DRAWS = 8
# Rows whose predictions a summary shows.
_SUMMARISED = 20
# The filters that HDF5 has built in and that a run's file is written with; any other would load
# a plug-in, which is a program.
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
# Bytes of the same place side by side pack better at the fastest level than at any without.
_PACKED = {"zlib": True, "complevel": 1, "shuffle": True}
# Numbers by which it is judged whether the others pack, and the size that is then worth it.
_TRIED, _WORTH = 10_000, 0.6
# What the arrays of a file may take in memory, bytes.
_MOST_BYTES = 8e9
# Groups in the order in which ArviZ has them; others come last. Those of data have no draws.
_ORDER = ("posterior", "posterior_predictive", "predictions", "log_likelihood", "sample_stats")
_ORDER += ("prior", "prior_predictive", "observed_data", "constant_data")
_OF_DATA = ("observed_data", "constant_data")


class InferenceData(Mapping[str, xr.Dataset]):
    """The groups of a run by name, as ArviZ's class of this name has them.

    ArviZ takes a second to import: `as_arviz` makes one of its own where somebody asks for it.

    Attributes:
        attrs: attributes of the whole.
    """

    def __init__(
        self,
        groups: Mapping[str, xr.Dataset] | None = None,
        attrs: Mapping[str, Any] | None = None,
    ):
        self._groups, self.attrs = dict(groups or {}), dict(attrs or {})

    def groups(self) -> list[str]:
        """The names of the groups, in ArviZ's order."""
        first = [name for name in _ORDER if name in self._groups]
        return first + [name for name in self._groups if name not in first]

    def add_groups(self, groups: Mapping[str, xr.Dataset]) -> None:
        """Add groups in place."""
        self._groups |= groups

    def __getitem__(self, name: str) -> xr.Dataset:
        return self._groups[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.groups())

    def __len__(self) -> int:
        return len(self._groups)


def as_arviz(idata: InferenceData) -> az.InferenceData:
    """The same groups as ArviZ's own InferenceData, which shares their arrays."""
    import arviz as az

    groups: dict[str, Any] = dict(idata)
    return az.InferenceData(attrs=idata.attrs, **groups)


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
    made = {"created_at": datetime.now(UTC).isoformat()}
    datasets = {}
    for group, variables in groups.items():
        more = made | dict(attrs or {}) if group in _OF_DATA else made
        first = () if group in _OF_DATA else ("chain", "draw")
        if variables:
            datasets[group] = _labelled(variables, first, coords, dims).assign_attrs(more)
    return InferenceData(datasets, attrs)


def _labelled(
    variables: Mapping[str, np.ndarray],
    first: Sequence[str],
    coords: Mapping[str, Sequence[Any]],
    dims: Mapping[str, Sequence[str]],
) -> xr.Dataset:
    """A dataset of arrays whose dimensions begin with `first`; the rest as for `from_groups`.

    A dimension that has no name is `name_dim_0`, and one without labels is numbered.
    """
    named, labels = {}, {}
    for name, value in variables.items():
        array = np.atleast_1d(value)
        own = list(dims.get(name, ()))[: array.ndim - len(first)]
        own += [f"{name}_dim_{i}" for i in range(len(own), array.ndim - len(first))]
        named[name] = ([*first, *own], array)
        for dim, size in zip(named[name][0], array.shape):
            labels[dim] = np.asarray(coords[dim]) if dim in coords else np.arange(size)
    return xr.Dataset(named, coords=labels)


def add_group(idata: InferenceData, name: str, variables: Mapping[str, Any], **more: Any) -> None:
    """Add a group of our own in place; ArviZ's class warns that it has no name for it.

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
        small = {k: _PACKED for k, v in dataset.variables.items() if _packs(v.values)}
        mode = "a" if i else "w"
        dataset.to_netcdf(buffer, mode=mode, engine="h5netcdf", group=name, encoding=small)
    return buffer.getvalue()


def _packs(values: np.ndarray) -> bool:
    """Whether numbers become much smaller when they are compressed, by the first of them.

    Labels do. Of real numbers a seventh is saved, for most of the time that a file takes.
    """
    if values.dtype.kind not in "iufb":
        return False
    some = np.ascontiguousarray(values.ravel()[:_TRIED])
    side_by_side = some.view(np.uint8).reshape(-1, values.itemsize).T.tobytes()
    return len(zlib.compress(side_by_side, 1)) < _WORTH * max(some.nbytes, 1)


def read(path: Path) -> InferenceData:
    """Read what `netcdf` made, into memory.

    Raises:
        Refused: not a file of InferenceData, or one that reaches out of itself.
    """
    try:
        check_closed(path)
        with h5py.File(path) as file:
            names = [name for name, member in file.items() if isinstance(member, h5py.Group)]
        groups = {name: xr.load_dataset(path, group=name, engine="h5netcdf") for name in names}
        return InferenceData(groups, xr.load_dataset(path, engine="h5netcdf").attrs)
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


def ess(draws: xr.Dataset, kind: str) -> xr.Dataset:
    """Effective sample sizes of a kind (`mixing.ess`) of (chain, draw, *shape), (*shape)."""
    return _of_cells(lambda values: mixing.ess(values, kind), draws)


def r_hat(draws: xr.Dataset) -> xr.Dataset:
    """R-hat (`mixing.r_hat`) of (chain, draw, *shape), (*shape); NaN of what is fixed."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return _of_cells(mixing.r_hat, draws)


def _of_cells(statistic: Callable[[np.ndarray], float], draws: xr.Dataset) -> xr.Dataset:
    """A statistic of (chain, draw) of each scalar."""
    how = {"vectorize": True, "output_dtypes": [float]}
    return xr.apply_ufunc(statistic, draws, input_core_dims=[["chain", "draw"]], **how)


def hdi(draws: np.ndarray, prob: float = HDI_PROB) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the shortest intervals that hold `prob` of the draws (S, cells), (cells,) each."""
    return mixing.hdi(draws, prob)


def bfmi(idata: InferenceData) -> np.ndarray:
    """Energy-Bayesian fraction of missing information of each chain, (chain,)."""
    return mixing.bfmi(idata["sample_stats"]["energy"].values)


def summary(idata: InferenceData) -> pd.DataFrame:
    """One row per scalar: mean, sd, HDI (94 %), Monte Carlo errors, ESS, R-hat; what applies.

    Of a network the scalars are its predictions of the first rows, not its weights. R-hat is for
    chains, ESS and Monte Carlo errors for draws; a point estimate has its value.
    """
    dataset = judged(idata) if "posterior" in idata.groups() else idata["prior"]
    dataset = dataset.isel(row_test=slice(_SUMMARISED)) if "row_test" in dataset.dims else dataset
    if not len(dataset.data_vars):
        return pd.DataFrame(columns=["mean"])
    single = dataset.sizes["chain"] == 1
    few = dataset.sizes["draw"] < _FEWEST_DRAWS  # a point, or the few members of an ensemble
    dataset = in_halves(dataset) if single and not few else dataset
    columns = _of_few if few else _of_many
    rows = {}
    with np.errstate(invalid="ignore", divide="ignore"):  # a site that never moves has no R-hat
        for name, array in dataset.data_vars.items():
            names = cells(str(name), [array[dim].values for dim in array.dims[2:]])
            values = np.moveaxis(array.values.reshape(*array.shape[:2], -1), 2, 0)
            rows |= {cell: columns(draws) for cell, draws in zip(names, values)}
    table = pd.DataFrame.from_dict(rows, orient="index", dtype=float)
    return table.drop(columns=["r_hat"] if single and not few else [])


def _of_few(draws: np.ndarray) -> dict[str, float]:
    """What a summary says of few draws (chain, draw)."""
    return {"mean": draws.mean()} | ({"sd": draws.std()} if draws.shape[1] > 1 else {})


def _of_many(draws: np.ndarray) -> dict[str, float]:
    """What a summary says of draws (chain, draw)."""
    low, high = mixing.hdi(draws.reshape(-1, 1), HDI_PROB)
    numbers = {"mean": draws.mean(), "sd": draws.std(ddof=1), "hdi_low": low[0]}
    numbers["hdi_high"] = high[0]
    numbers["mcse_mean"], numbers["mcse_sd"] = mixing.errors(draws)
    numbers |= {f"ess_{kind}": mixing.ess(draws, kind) for kind in ("bulk", "tail")}
    return {**numbers, "r_hat": mixing.r_hat(draws)}


def in_halves(dataset: xr.Dataset) -> xr.Dataset:
    """One chain as two: R-hat wants two, and independent draws have no order."""
    half = dataset.sizes["draw"] // 2
    parts = [dataset.isel(draw=slice(i * half, (i + 1) * half)) for i in (0, 1)]
    halves = [part.assign_coords(draw=range(half), chain=[i]) for i, part in enumerate(parts)]
    return xr.concat(halves, dim="chain")


def as_elpd_data(values: Mapping[str, Any]) -> Any:
    """Leave-one-out as `az.compare` takes it, by the names of ArviZ's `ELPDData`."""
    from arviz.stats.stats_utils import ELPDData

    return ELPDData(data=list(values.values()), index=list(values))
