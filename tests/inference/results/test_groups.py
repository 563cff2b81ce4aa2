"""InferenceData of every method: groups, labels, log densities."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import problem_of
from scipy import stats

import zoo
from inference.program.program import Program
from inference.results import groups

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
    found = {method: set(run.idata.groups()) for method, run in runs.items()}
    assert found["nuts"] == found["laplace"] == POSTERIOR | {"sample_stats", "loo"}
    assert found["svi"] == POSTERIOR | {"sample_stats", "loo", "objective"}
    assert found["map"] == POSTERIOR
    assert found["exact"] == POSTERIOR | {"loo"}
    assert found["prior"] == {"prior", "prior_predictive", "observed_data"}
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


def test_the_scalars_of_a_site_are_named_as_in_a_summary():
    problem = problem_of("linear", noise=1.0)
    names = groups.cell_names(Program(problem), "w")
    assert names[:2] == ["w[age]", "w[sex]"] and len(names) == 10
    assert groups.cell_names(Program(problem), "b") == ["b"]
