"""Leave-one-out: closed forms, refits row by row, its Monte Carlo error, and what is said."""

from __future__ import annotations

from dataclasses import replace

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy
import torch
from scipy import stats

import zoo
from inference.results import loo
from models import linear

COIN = 2 * np.log(2 / 3)  # HH under the uniform prior: each flip is predicted by the other one


# -- truth ---------------------------------------------------------------------------------------


def gaussian_loo(x, y, noise, prior_scale=1.0):
    """log p(y_i | y_-i) of linear regression with known noise, by fitting all rows but one."""
    design = np.column_stack([x, np.ones(len(x))])
    found = []
    for i in range(len(y)):
        rest, target = np.delete(design, i, 0), np.delete(y, i)
        precision = rest.T @ rest / noise**2 + np.eye(design.shape[1]) / prior_scale**2
        covariance = np.linalg.inv(precision)
        mean = design[i] @ covariance @ rest.T @ target / noise**2
        sd = np.sqrt(noise**2 + design[i] @ covariance @ design[i])
        found.append(stats.norm.logpdf(y[i], mean, sd))
    return np.array(found)


def grid_loo(log_prior, log_likelihood):
    """The same by quadrature: log priors (nodes,) and log likelihoods (nodes, n) on a grid."""
    found = []
    for i in range(log_likelihood.shape[1]):
        rest = log_prior + np.delete(log_likelihood, i, 1).sum(1)
        weights = scipy.special.softmax(rest)
        found.append(scipy.special.logsumexp(log_likelihood[:, i], b=weights))
    return np.array(found)


# -- closed form ---------------------------------------------------------------------------------


def test_the_coin_in_closed_form():
    run = zoo.run("coin", method="exact", draws=400)
    assert run.metrics["elpd_loo"] == pytest.approx(COIN, abs=1e-12)
    assert run.metrics["elpd_loo_mcse"] == 0 and "elpd_loo_se" not in run.metrics
    assert "loo_khat_max" not in run.metrics and run.verdict.trust["loo"].answer == "yes"
    many = zoo.run("coin", method="exact", data="HHTHT" * 10, draws=400)
    heads, tails, n = 30, 20, 50
    by_hand = heads * np.log(heads / (n + 1)) + tails * np.log(tails / (n + 1))
    assert many.metrics["elpd_loo"] == pytest.approx(by_hand, abs=1e-10)
    assert many.metrics["elpd_loo_se"] == pytest.approx(
        np.log(heads / tails) * np.sqrt(n * 0.6 * 0.4), rel=1e-9
    )


def test_linear_regression_in_closed_form_in_the_users_units():
    run = zoo.run("linear", method="exact", noise=0.7, draws=400)
    x, y = (run.data.tensors[key].numpy() for key in ("x", "y"))
    expected = gaussian_loo(x, y, 0.7) - np.log(run.data.units["y"][1])
    np.testing.assert_allclose(run.idata["loo"]["elpd"], expected, rtol=0, atol=1e-9)
    assert run.metrics["elpd_loo_mcse"] == 0
    # The default model's noise is unknown: its predictions are mixed over it.
    unknown = zoo.run("linear", method="exact", draws=400)
    nuts = zoo.run("linear", method="nuts", draws=500)
    away = unknown.metrics["elpd_loo"] - nuts.metrics["elpd_loo"]
    assert abs(away) < 4 * nuts.metrics["elpd_loo_mcse"] < 2


def test_unknown_noise_in_closed_form_is_the_evidence_without_each_row():
    data = linear.data("simulate", n=9, standardise=False, data_seed=3)
    options = {"noise": None, "prior_scale": 1.3}
    truth = linear.exact(data, **options)
    for i, found in enumerate(truth.leave_one_out()):
        rest = {k: v[torch.arange(9) != i] for k, v in data.tensors.items()}
        without = linear.exact(replace(data, tensors=rest), **options)
        assert found == pytest.approx(truth.log_evidence - without.log_evidence, abs=1e-6)


def test_a_truth_that_contradicts_its_draws_is_not_believed(monkeypatch):
    wrong = scipy.special.betaln

    def skewed(a, b):
        return wrong(a, b) * 1.5

    monkeypatch.setattr(scipy.special, "betaln", skewed)
    run = zoo.run("coin", method="exact", data="HHTHTTHHTH")
    assert run.verdict.trust["loo"].answer == "not known"
    assert "contradicts its own draws" in run.verdict.trust["loo"].because
    assert run.metrics["elpd_loo_mcse"] > 0


# -- refits row by row ---------------------------------------------------------------------------

RNG = np.random.default_rng(5)
X = RNG.normal(size=30)
LABELS = (RNG.random(30) < scipy.special.expit(1.2 * X - 0.3)).astype(float)
COUNTS = RNG.poisson(np.exp(0.6 * X + 0.5)).astype(float)
NODES = np.stack(np.meshgrid(np.linspace(-4, 5, 361), np.linspace(-4, 4, 321)), -1).reshape(-1, 2)


def logistic(x, y):
    w, b = pyro.sample("w", dist.Normal(0.0, 2.0)), pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=w * x + b), obs=y)


def poisson(x, y):
    w, b = pyro.sample("w", dist.Normal(0.0, 2.0)), pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Poisson((w * x + b).exp()), obs=y)


@pytest.fixture(scope="module")
def refitted():
    """Model to its log p(y_i | y_-i), by quadrature of the 30 fits without a row."""
    log_prior = stats.norm.logpdf(NODES, 0, 2).sum(1)
    at = NODES @ np.stack([X, np.ones(30)])  # (nodes, 30)
    classes = scipy.special.log_expit(at * (2 * LABELS - 1))
    counts = stats.poisson.logpmf(COUNTS, np.exp(at))
    return {logistic: grid_loo(log_prior, classes), poisson: grid_loo(log_prior, counts)}


HOW = {
    "nuts": {"draws": 500},
    "laplace": {},
    "svi:mvn": {"method": "svi", "guide": "mvn"},
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("model", [logistic, poisson], ids=lambda m: m.__name__)
def test_methods_agree_with_refits(model, how, refitted):
    asked = {"method": how, **HOW[how]}
    run = zoo.run(model, data={"x": X, "y": LABELS if model is logistic else COUNTS}, **asked)
    error, truth = run.metrics["elpd_loo_mcse"], refitted[model]
    assert run.verdict.trust["loo"].answer == "yes", run.verdict.reasons
    assert abs(run.metrics["elpd_loo"] - truth.sum()) < 4 * error
    assert error < 0.25
    np.testing.assert_allclose(run.idata["loo"]["elpd"], truth, rtol=0, atol=4 * error)


# -- the Monte Carlo error -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_coin_by_chains(seed):
    run = zoo.run("coin", method="nuts", draws=500, seed=seed)
    assert abs(run.metrics["elpd_loo"] - COIN) < 4 * run.metrics["elpd_loo_mcse"] < 0.6


# -- rows that do not count ----------------------------------------------------------------------


def test_certain_rows_are_no_reason_for_doubt():
    """ArviZ finds no number at all where a row's likelihood is one up to rounding."""
    x = np.concatenate([np.linspace(-3, 3, 30), [60.0, 70.0, 80.0, 90.0]])
    y = (np.random.default_rng(2).random(34) < scipy.special.expit(x)).astype(float)
    run = zoo.run(logistic, data={"x": x, "y": y}, draws=1000, target_accept=0.95)
    assert run.verdict.trust["loo"].answer == "yes", run.verdict.reasons
    found = run.loo()
    assert np.isfinite(found.elpd_loo) and not found.warning
    np.testing.assert_allclose(found.loo_i[-4:], 0, atol=1e-4)


def test_a_row_the_draws_cannot_do_without_spoils_the_sum():
    x = np.concatenate([np.linspace(-1, 1, 20), [8.0]])
    y = np.concatenate([x[:-1], [20.0]])
    run = zoo.run("linear", method="nuts", data={"x": x, "y": y}, target="y", noise=0.5, draws=500,
                  standardise=False)  # fmt: skip
    answer = run.verdict.trust["loo"]
    assert answer.answer == "no" and "for 1 of 21 rows" in answer.because
    assert "rows 20)" in answer.because
    assert "elpd_loo_mcse" not in run.metrics and run.loo().warning
    assert run.verdict.trust["parameters"].answer == "yes"


# -- what has no answer --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "asked", "words"),
    [
        ("coin", {"method": "map"}, "a point estimate has no leave-one-out"),
        ("coin", {"method": "svi", "guide": "normal"}, "of k-hat 0.7"),
        ("coin", {"method": "exact", "data": "H"}, "a single row"),
        ("gaussian", {"method": "exact"}, "no row is observed"),
    ],
)
def test_no_number_where_there_is_no_answer(name, asked, words):
    run = zoo.run(name, **asked)
    assert "elpd_loo" not in run.metrics and "loo" not in run.idata.groups()
    assert run.verdict.trust["loo"].answer != "yes"
    assert words in run.verdict.trust["loo"].because
    with pytest.raises(zoo.Refused):
        run.loo()


def test_few_rows_have_no_standard_error():
    run = zoo.run("coin", method="exact", data="HHT", draws=400)
    assert "elpd_loo_se" not in run.metrics
    assert "3 rows has no standard error" in run.verdict.reasons[0]
    assert run.verdict.status == "pass" and run.verdict.trust["loo"].answer == "yes"


# -- what is kept --------------------------------------------------------------------------------


def test_each_row_is_kept_under_its_label(tmp_path):
    run = zoo.run(logistic, data={"x": X, "y": LABELS}, method="laplace")
    rows, metrics = run.idata["loo"], run.metrics
    assert rows["elpd"].values.sum() == pytest.approx(metrics["elpd_loo"], rel=1e-12)
    assert rows["khat"].values.max() == metrics["loo_khat_max"]
    assert rows["elpd"].dims == ("row",) and rows["row"].values.tolist() == list(range(30))
    again = zoo.load(run.save(tmp_path)).loo()
    assert again.elpd_loo == run.loo().elpd_loo
    np.testing.assert_array_equal(again.loo_i, rows["elpd"])


def test_arviz_compares_what_we_give_it():
    data = {"x": X, "y": COUNTS}
    runs = {m.__name__: zoo.run(m, data=data, draws=500) for m in (poisson, overdispersed)}
    table = az.compare({name: run.loo() for name, run in runs.items()})
    ours = [runs[name].idata["loo"]["elpd"].values for name in table.index]
    away, error = loo.difference(*ours)
    assert table["elpd_diff"].iloc[1] == pytest.approx(away, rel=1e-9)
    assert table["dse"].iloc[1] == pytest.approx(error, rel=1e-9)
    own = az.loo(runs["poisson"].idata)
    assert runs["poisson"].loo().elpd_loo == pytest.approx(own.elpd_loo, abs=0.02)
    assert runs["poisson"].loo().se == pytest.approx(own.se, rel=0.01)
    assert "Computed from 2000" in str(runs["poisson"].loo())


def overdispersed(x, y):
    w, b = pyro.sample("w", dist.Normal(0.0, 2.0)), pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.NegativeBinomial(3.0, logits=w * x + b), obs=y)


def test_differences_are_of_the_same_rows():
    ours, theirs = np.arange(12.0), np.zeros(12)
    away, error = loo.difference(ours, theirs)
    assert away == 66 and error == pytest.approx(np.sqrt(12 * np.var(np.arange(12.0))))
    assert np.isnan(loo.difference(ours[:5], theirs[:5])[1])
    with pytest.raises(ValueError, match="12 and of 5 rows"):
        loo.difference(ours, theirs[:5])


def test_rows_of_several_sites_are_summed_where_they_match():
    groups = {"a": np.ones((1, 2, 3)), "b": 2 * np.ones((1, 2, 3))}
    same = {"a": ["row"], "b": ["row"]}
    observed = {"a": np.zeros(3), "b": np.zeros(3)}
    idata = az.from_dict(log_likelihood=groups, observed_data=observed, dims=same)
    np.testing.assert_array_equal(loo.pointwise(idata), np.full((3, 2), 3.0))
    assert loo.labels(idata) == [0, 1, 2]
    other = {"a": ["row"], "b": ["other"]}
    idata = az.from_dict(log_likelihood=groups, observed_data=observed, dims=other)
    assert loo.pointwise(idata).shape == (6, 2)
    assert loo.labels(idata) == ["a 0", "a 1", "a 2", "b 0", "b 1", "b 2"]


def test_many_rows_that_the_draws_cannot_do_without_are_a_warning():
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=(20, 30)), "y": rng.integers(0, 2, 20).astype(float)}
    run = zoo.run("logistic", method="nuts", data=data, draws=500, prior_scale=5.0)
    assert run.verdict.status == "warn" and run.verdict.trust["loo"].answer == "no"
    assert "separate the classes" in " ".join(run.verdict.reasons)
