"""InferenceData of every method: summaries; files, also those that reach out of themselves."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import xarray as xr

import zoo
from inference.results import inference_data
from models.contract import Refused


@pytest.fixture(scope="module")
def runs():
    settings = {"nuts": {"draws": 200}, "svi": {"steps": 300}, "prior": {"draws": 500}}
    methods = ("nuts", "svi", "laplace", "map", "exact", "prior")
    return {m: zoo.run("coin", method=m, data="HHT", **settings.get(m, {})) for m in methods}


def test_held_out_probabilities_are_kept_and_survive_a_file(tmp_path):
    run = zoo.run("logistic", method="map", split=0.2, features="mean radius")
    (tmp_path / "idata.nc").write_bytes(inference_data.netcdf(run.idata))
    group = inference_data.read(tmp_path / "idata.nc")["held_out"]
    probability, label = group["probability"].values, group["label"].values
    assert probability.shape == (114, 2)
    np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-12)
    np.testing.assert_array_equal(label, run.data.test["y"])
    own = probability[np.arange(114), label]
    assert np.log(own).mean() == pytest.approx(run.metrics["log_score"], rel=1e-12)
    point = {k: v.values.item() for k, v in run.idata["posterior"].data_vars.items()}
    x = run.data.test["x"].numpy()[:, 0]
    by_hand = 1 / (1 + np.exp(-(x * point["w"] + point["b"])))
    np.testing.assert_allclose(probability[:, 1], by_hand, rtol=1e-9)


def test_summaries_hold_what_applies(runs):
    columns = {method: set(run.summary().columns) for method, run in runs.items()}
    assert columns["map"] == {"mean"}
    assert columns["exact"] == {"mean", "sd", "hdi_low", "hdi_high"}
    assert "r_hat" in columns["nuts"] and "r_hat" not in columns["svi"]
    assert {"ess_bulk", "ess_tail", "mcse_mean", "mcse_sd"} <= columns["svi"]


def test_files_keep_every_bit_and_labels(runs, tmp_path):
    path = tmp_path / "idata.nc"
    path.write_bytes(inference_data.netcdf(runs["svi"].idata))
    again = inference_data.read(path)
    assert again.groups() == runs["svi"].idata.groups()
    assert again.attrs["khat"] == runs["svi"].metrics["khat"]
    for group in again.groups():
        xr.testing.assert_identical(
            again[group].drop_attrs(), runs["svi"].idata[group].drop_attrs()
        )
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(inference_data.Refused, match="no readable InferenceData"):
        inference_data.read(path)


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
        inference_data.xr, "load_dataset", lambda *_, **__: pytest.fail("it was read")
    )
    with pytest.raises(Refused, match=message) as caught:
        inference_data.read(path)
    assert caught.value.exit_code == 65 and "idata.nc" in str(caught.value)


def test_a_run_is_read_and_a_group_inside_itself_is_no_endless_way(path):
    assert set(inference_data.read(path)["posterior"].data_vars) == {"pi"}
    with h5py.File(path, "a") as file:
        file["posterior/again"] = file["/"]
    assert inference_data.check_closed(path) is None


@pytest.mark.parametrize("at", [0, 8, 100])
def test_other_content_is_no_result(at, path):
    content = path.read_bytes()
    path.write_bytes(content[:at] + b"\xff" * 2000 + content[at + 2000 :])
    with pytest.raises(Refused, match=r"idata\.nc"):
        inference_data.read(path)


def test_labels_are_compressed_and_real_numbers_are_not():
    rng = np.random.default_rng(0)
    assert inference_data._packs(rng.integers(0, 2, (4, 1000)).astype(float))
    assert inference_data._packs(np.zeros((4, 1000), dtype=bool))
    assert not inference_data._packs(rng.normal(size=(4, 1000)))
    assert not inference_data._packs(np.array(["a", "b"])) and not inference_data._packs(
        np.ones(0)
    )
