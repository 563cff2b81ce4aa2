"""A netCDF file of a stranger is looked through before anything in it is loaded.

An HDF5 file may name other files (links, external and virtual storage), and filters, which are
programs that the library loads; and a small one may unpack to more than memory holds. A run's own
file has none of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py

from models.contract import Refused

# The filters that HDF5 has built in and that a run's file is written with; any other would load
# a plug-in, which is a program.
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
# What the arrays of a file may take in memory, bytes.
_MOST_BYTES = 8e9


def check_closed(path: Path) -> None:
    """Refuse a file that reaches out of itself, or that would not fit into memory.

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
    left, seen = [file["/"]], set()
    while left:
        group = left.pop()
        for name in group:
            where = f"{group.name.rstrip('/')}/{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise _refused(path, where, "is a link to another place")
            member = group[name]
            place = h5py.h5o.get_info(member.id).addr
            if place in seen:
                continue
            seen.add(place)
            if isinstance(member, h5py.Group):
                left.append(member)
            elif isinstance(member, h5py.Dataset):
                yield member
            else:
                raise _refused(path, where, "is neither group nor array")


def _check_storage(dataset: h5py.Dataset, path: Path) -> None:
    """An array's content must lie in the file itself, packed by HDF5's own filters."""
    if dataset.external or dataset.is_virtual:
        raise _refused(path, dataset.name, "lies in another file")
    plan = dataset.id.get_create_plist()
    filters = {plan.get_filter(i)[0] for i in range(plan.get_nfilters())}
    if not filters <= _FILTERS:
        others = ", ".join(map(str, sorted(filters - _FILTERS)))
        raise _refused(path, dataset.name, f"needs a filter that is not built in ({others})")


def _refused(path: Path, where: str, fault: str) -> Refused:
    return Refused(f"{where} {fault}, {path}; no run writes that, run it again")
