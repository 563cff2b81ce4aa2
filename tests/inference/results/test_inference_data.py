"""InferenceData of every method: groups, labels, log densities."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import zoo
from inference.results import inference_data


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
