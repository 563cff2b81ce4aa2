"""InferenceData of every method: groups, labels, log densities."""

from __future__ import annotations

import arviz as az
import numpy as np
import pytest
import torch
import xarray as xr
from conftest import problem_of
from scipy import stats

import zoo
from inference.core.problem import Fit
from inference.program.program import Program
from inference.results import inference_data, predictive, truth

POSTERIOR = {
    "posterior", "posterior_predictive", "log_likelihood", "prior", "prior_predictive",
    "observed_data",
}  # fmt: skip


@pytest.fixture(scope="module")
def runs():
    settings = {"nuts": {"draws": 200}, "svi": {"steps": 300}, "prior": {"draws": 500}}
    methods = ("nuts", "svi", "laplace", "map", "exact", "prior")
    return {m: zoo.run("coin", method=m, data="HHT", **settings.get(m, {})) for m in methods}


def test_groups_of_each_method(runs):
    groups = {method: set(run.idata.groups()) for method, run in runs.items()}
    assert groups["nuts"] == groups["laplace"] == POSTERIOR | {"sample_stats", "loo"}
    assert groups["svi"] == POSTERIOR | {"sample_stats", "loo", "objective"}
    assert groups["map"] == POSTERIOR
    assert groups["exact"] == POSTERIOR | {"loo"}
    assert groups["prior"] == {"prior", "prior_predictive", "observed_data"}
    assert {"log_p", "log_q"} <= set(runs["laplace"].idata["sample_stats"].data_vars)


def test_labels_and_values(runs):
    idata = runs["nuts"].idata
    assert idata["posterior"]["pi"].dims == ("chain", "draw")
    assert idata["log_likelihood"]["x"].dims == ("chain", "draw", "flip")
    pi = idata["posterior"]["pi"].values[..., None]
    expected = stats.bernoulli.logpmf([1, 1, 0], pi)
    np.testing.assert_allclose(idata["log_likelihood"]["x"], expected, rtol=1e-12)
    assert idata["observed_data"]["x"].values.tolist() == [1, 1, 0]
    assert idata.attrs["method"] == "nuts"


def test_log_p_and_log_q_of_the_guide_are_densities(runs):
    idata = runs["svi"].idata
    pi = idata["posterior"]["pi"].values
    joint = 2 * np.log(pi) + np.log1p(-pi)
    np.testing.assert_allclose(idata["sample_stats"]["log_p"], joint, rtol=1e-10)
    a, b = (runs["svi"].params[name].item() for name in ("concentration1", "concentration0"))
    expected = stats.beta.logpdf(pi, a, b)
    np.testing.assert_allclose(idata["sample_stats"]["log_q"], expected, rtol=1e-8)


def test_predictions_follow_the_posterior(runs):
    predicted = runs["exact"].idata["posterior_predictive"]["x"].values
    assert predicted.mean() == pytest.approx(3 / 5, abs=5 * np.sqrt(0.25 / predicted.size) + 0.02)
    assert runs["map"].idata["posterior_predictive"].sizes["draw"] == 1000
    assert runs["map"].idata["posterior_predictive"]["x"].values.mean() == (
        pytest.approx(2 / 3, abs=0.05)
    )


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


def test_the_shortest_interval():
    low, high = inference_data.exact_hdi(stats.beta(3, 1))
    assert high == pytest.approx(1)
    assert low == pytest.approx(0.06 ** (1 / 3), rel=1e-3)
    assert inference_data.exact_hdi(stats.norm()) == pytest.approx((-1.8808, 1.8808), abs=2e-3)


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


@pytest.mark.parametrize(("k", "trusted"), [(0.3, True), (0.5, True), (0.9, False), (1.2, False)])
def test_khat_finds_the_known_tail_of_the_weights(k, trusted):
    # exp(k E) with E standard exponential is Pareto, and its tail index is k.
    log_ratios = torch.as_tensor(k * np.random.default_rng(3).exponential(size=20_000))
    found, judged = _khat_and_verdict(log_ratios)
    assert found == pytest.approx(k, abs=0.1)
    assert (judged == "pass") is trusted
    # The other sign has a bounded tail: a bad guide would pass (the trap of the sign).
    assert _khat_and_verdict(-log_ratios)[0] < 0.1


def _khat_and_verdict(log_ratios):
    """Of a fit with those log p - log q."""
    fit = Fit(draws={"w": torch.randn(1, 100)}, kind="independent", log_ratios=log_ratios)
    idata = az.from_dict(posterior={"w": fit.draws["w"].numpy()})
    metrics = inference_data.metrics(fit, idata)
    return metrics["khat"], diagnostics.verdict(fit, idata, metrics).status


def test_weights_that_are_equal_up_to_rounding_have_no_tail():
    draws = np.random.default_rng(0).standard_t(1, size=4000).clip(-100, 100)
    noise = torch.as_tensor(draws)
    assert _khat_and_verdict(-500 + 1e-10 * noise) == (0.0, "pass")
    assert _khat_and_verdict(-500 + 0.1 * noise)[0] > 0.7


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_predictions_of_every_cell_in_the_users_units(shape):
    value = torch.arange(4.0)[:, None].reshape(2, 2, *[1] * len(shape)).expand(2, 2, *shape)
    table = inference_data.predictive_table({"y": value}, {"y": (10.0, 2.0)})
    assert list(table.index) == inference_data.indexed("y", shape)
    assert table["mean"].tolist() == pytest.approx([13.0] * len(table))


def test_the_scalars_of_a_site_are_named_as_in_a_summary():
    problem = problem_of("linear", noise=1.0)
    names = inference_data.cell_names(Program(problem), "w")
    assert names[:2] == ["w[age]", "w[sex]"] and len(names) == 10
    assert inference_data.cell_names(Program(problem), "b") == ["b"]
