"""Files of runs that reach out of themselves, or are larger than they look, are not read."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

import zoo
from inference.results import inference_data, netcdf
from models.contract import Refused


@pytest.fixture(scope="module")
def whole():
    return inference_data.netcdf(zoo.run("coin", method="laplace", data="HHT", draws=50).idata)


@pytest.fixture
def path(whole, tmp_path):
    """A run's file, beside another that must not be read through it."""
    (tmp_path / "secret").write_bytes(np.full(200, 7.0).tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = np.full(50, 7.0)
    path = tmp_path / "idata.nc"
    path.write_bytes(whole)
    return path


def external_link(group, folder):
    group["planted"] = h5py.ExternalLink(str(folder / "other.h5"), "/x")


def soft_link(group, folder):
    group["planted"] = h5py.SoftLink("/posterior/pi")


def dangling_link(group, folder):
    group["planted"] = h5py.SoftLink("/nowhere")


def link_to_a_group(group, folder):
    group.file["planted"] = h5py.ExternalLink(str(folder / "other.h5"), "/")


def external_storage(group, folder):
    where = [(str(folder / "secret"), 0, h5py.h5f.UNLIMITED)]
    group.create_dataset("planted", (50,), "f8", external=where)


def virtual(group, folder):
    layout = h5py.VirtualLayout((50,), "f8")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", (50,))
    group.create_virtual_dataset("planted", layout)


def filtered(group, folder):
    """The filter LZF, which h5py brings along, stands for any that is not HDF5's own."""
    group.create_dataset("planted", data=np.zeros(50), compression="lzf", chunks=True)


def named_type(group, folder):
    group["planted"] = np.dtype("f8")


def claims(group, folder):
    group.create_dataset("planted", (10**6, 10**6), "f8", chunks=(10, 10), compression="gzip")


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (external_link, "planted is a link to another place"),
        (soft_link, "planted is a link to another place"),
        (dangling_link, "planted is a link to another place"),
        (link_to_a_group, "/planted is a link to another place"),
        (external_storage, "/posterior/planted lies in another file"),
        (virtual, "/posterior/planted lies in another file"),
        (filtered, r"filter that is not built in \(32000\)"),
        (named_type, "is neither group nor array"),
        (claims, "would take 8e.03 GB of memory, more than 8"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_file_that_reaches_out_of_itself_is_refused_before_it_is_read(
    plant, message, path, monkeypatch
):
    with h5py.File(path, "a") as file:
        plant(file["posterior"], path.parent)
    monkeypatch.setattr(
        inference_data.az, "from_netcdf", lambda *_, **__: pytest.fail("it was read")
    )
    with pytest.raises(Refused, match=message) as caught:
        inference_data.read(path)
    assert caught.value.exit_code == 65 and "idata.nc" in str(caught.value)


def test_a_run_is_read_and_a_group_inside_itself_is_no_endless_way(path):
    assert set(inference_data.read(path)["posterior"].data_vars) == {"pi"}
    with h5py.File(path, "a") as file:
        file["posterior/again"] = file["/"]
    assert netcdf.check_closed(path) is None


@pytest.mark.parametrize("at", [0, 8, 100])
def test_other_content_is_no_result(at, path):
    content = path.read_bytes()
    path.write_bytes(content[:at] + b"\xff" * 2000 + content[at + 2000 :])
    with pytest.raises(Refused, match=r"idata\.nc"):
        inference_data.read(path)
