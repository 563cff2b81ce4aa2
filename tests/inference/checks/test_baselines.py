"""Baselines: their closed forms by brute force, and how often a good fit is said to fall short."""

from __future__ import annotations

import arviz as az
import numpy as np
import pytest
import torch
import xarray as xr
from conftest import problem_of
from scipy import optimize, special, stats
from torch import distributions as dist

from inference.checks import baselines
from inference.checks.baselines import Gap, Rows, Table, constant, farther, linear
from inference.program.program import Program

RNG = np.random.default_rng(0)
X = RNG.normal(size=(25, 3)) * [1, 10, 0.1] + [0, 5, 1]
REAL = X @ [1.0, 0.2, 3.0] + RNG.normal(size=25)
CLASS = RNG.integers(0, 3, size=25)
COUNT = RNG.poisson(3.0, size=25).astype(float)
TARGETS = {"numbers": REAL, "classes": CLASS, "counts": COUNT}


def table(kind, train, test=None, elpd=None):
    rows = train.y if test is None else test.y
    elpd = np.zeros(len(rows)) if elpd is None else elpd
    return Table(kind, 3 if kind == "classes" else 0, train, test, elpd)


def without(i, y=None, x=None):
    return Rows(*(None if part is None else np.delete(part, i, 0) for part in (y, x)))


# -- the models -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(TARGETS))
def test_a_row_left_out_is_that_of_a_fit_without_it(kind):
    y = TARGETS[kind]
    found = constant(table(kind, Rows(y))).elpd
    alone = [constant(table(kind, without(i, y), Rows(y[i : i + 1]))).elpd[0] for i in range(25)]
    np.testing.assert_allclose(found, alone, rtol=1e-10)


def test_the_target_alone_by_hand():
    shares = (np.bincount(CLASS, minlength=3) + 0.5) / 26.5
    some = Rows(np.array([2, 0]))
    np.testing.assert_allclose(
        constant(table("classes", Rows(CLASS), some)).elpd, np.log(shares[[2, 0]])
    )
    new = Rows(np.array([1.5]))
    scale = REAL.std(ddof=1) * np.sqrt(1 + 1 / 25)
    expected = stats.t.logpdf((1.5 - REAL.mean()) / scale, 24) - np.log(scale)
    found = constant(table("numbers", Rows(REAL), new))
    np.testing.assert_allclose(found.elpd, expected)
    np.testing.assert_allclose(found.error, 1.5 - REAL.mean())
    level = constant(table("numbers", Rows(np.ones(25)))).elpd
    assert np.isfinite(level).all()


def test_ridge_regression_leaves_rows_out_exactly():
    """Against a fit to the others, on the features as all rows standardise them."""
    z = np.column_stack([(X - X.mean(0)) / X.std(0), np.ones(25)])
    penalty = np.diag([1, 1, 1, 1e-6])

    def error(i):
        others, y = np.delete(z, i, 0), np.delete(REAL, i)
        return REAL[i] - z[i] @ np.linalg.solve(others.T @ others + penalty, others.T @ y)

    errors = np.array([error(i) for i in range(25)])
    found = linear(table("numbers", Rows(REAL, X)))
    np.testing.assert_allclose(found.error, errors, rtol=1e-8)
    sd = np.sqrt([np.mean(np.delete(errors, i) ** 2) for i in range(25)])
    np.testing.assert_allclose(found.elpd, stats.norm.logpdf(errors, 0, sd), rtol=1e-8)
    held_out = linear(table("numbers", Rows(REAL, X), Rows(REAL[:4], X[:4])))
    w = np.linalg.solve(z.T @ z + penalty, z.T @ REAL)
    np.testing.assert_allclose(held_out.error, REAL[:4] - z[:4] @ w, rtol=1e-8)


def test_softmax_regression_against_another_optimiser_and_rows_left_out():
    z = np.column_stack([(X - X.mean(0)) / X.std(0), np.ones(25)])

    def logs(rows, at, start=None):
        def loss(flat):
            w = flat.reshape(4, 3)
            log = special.log_softmax(z[rows] @ w, axis=1)[np.arange(len(rows)), CLASS[rows]]
            return -log.sum() + (np.array([1, 1, 1, 1e-6])[:, None] * w**2).sum() / 2

        w = optimize.minimize(loss, np.zeros(12), tol=1e-8).x.reshape(4, 3)
        return special.log_softmax(z[at] @ w)[CLASS[at]]

    every = np.arange(25)
    held_out = linear(table("classes", Rows(CLASS, X), Rows(CLASS[:2], X[:2]))).elpd
    np.testing.assert_allclose(held_out, [logs(every, i) for i in (0, 1)], atol=1e-3)
    left_out = linear(table("classes", Rows(CLASS, X))).elpd
    expected = [logs(np.delete(every, i), i) for i in range(6)]
    np.testing.assert_allclose(left_out[:6], expected, atol=0.02)
    inside = [logs(every, i) for i in range(6)]  # what the rows' own fit would say
    assert np.abs(np.subtract(inside, expected)).max() > 0.1


def test_counts_and_tables_without_features_have_no_linear_model():
    assert linear(table("counts", Rows(COUNT, X))) is None
    assert linear(table("numbers", Rows(REAL))) is None
    wide = RNG.normal(size=(25, 200))
    assert linear(table("classes", Rows(CLASS, wide))) is None  # 600 coefficients by row
    assert linear(table("classes", Rows(CLASS, wide), Rows(CLASS, wide))) is not None


# -- the rule ---------------------------------------------------------------------------------


def test_a_fit_falls_short_by_nats_and_surely_by_a_paired_test():
    noise = RNG.normal(size=200)
    noise -= noise.mean()
    base = RNG.normal(size=200) * 3
    for away, short, sure in (
        (0.0, False, False),
        (-0.03, False, False),
        (-0.1, True, False),
        (-0.3, True, True),
        (0.3, False, False),
    ):
        gap = Gap.of(base + noise + away, base)
        assert (gap.short, gap.sure) == (short, sure)
    small = Gap.of(base[:10] - 0.3, base[:10])  # 3 nats: a prior may cost as much
    assert not small.short
    assert not Gap.of(np.full(5000, -0.01), np.zeros(5000)).short


def test_errors_of_the_means_are_compared():
    error = RNG.normal(size=300)
    assert farther(1.3 * error, error)
    assert not farther(1.04 * error, error)  # sure, and of no account
    assert not farther(error, 1.3 * error)


def test_good_fits_of_small_tables_are_warned_of_once_in_a_hundred_times_at_most():
    """Exact posterior predictives (normal-inverse-gamma) of data that are as the model says."""
    rng, many, told = np.random.default_rng(5), 800, 0
    for _ in range(many):
        n, k, scale = rng.choice([10, 20, 60]), rng.choice([1, 4]), rng.choice([0.1, 1.0, 3.0])
        z = np.column_stack([rng.normal(size=(n + 20, k)), np.ones(n + 20)])
        sigma = np.sqrt(1 / rng.gamma(2.0))
        y = z @ (rng.normal(size=k + 1) * scale * sigma) + sigma * rng.normal(size=n + 20)
        precision = z[:n].T @ z[:n] + np.eye(k + 1) / scale**2
        mean = np.linalg.solve(precision, z[:n].T @ y[:n])
        rate = 1 + (y[:n] @ y[:n] - mean @ precision @ mean) / 2
        spread = 1 + np.einsum("ij,ij->i", z[n:], np.linalg.solve(precision, z[n:].T).T)
        width = np.sqrt(rate / (2 + n / 2) * spread)
        elpd = stats.t.logpdf(y[n:], 4 + n, z[n:] @ mean, width)
        seen = Table("numbers", 0, Rows(y[:n], z[:n, :k]), Rows(y[n:], z[n:, :k]), elpd)
        told += any(Gap.of(elpd, one(seen).elpd).short for one in (constant, linear))
    assert told <= 0.01 * many


# -- what is told -----------------------------------------------------------------------------


def scored(elpd, error=None):
    """An InferenceData with the scores of rows held out."""
    idata = az.from_dict(posterior={"w": np.zeros((1, 2))})
    groups = {"elpd_test": {"elpd": ("row_test", elpd)}}
    if error is not None:
        groups["held_out_numbers"] = {"error": ("row_test", error)}
    idata.add_groups({name: xr.Dataset(group) for name, group in groups.items()})
    return idata


def test_a_fit_worse_than_a_linear_model_denies_its_predictions():
    problem = problem_of("linear", split=0.5)
    unit = problem.log_units["y"]
    best = linear(baselines.table_of(Program(problem), scored(np.zeros(221))))
    own = best.in_units(unit)
    metrics, findings = baselines.compared(Program(problem), scored(own.elpd))
    assert findings == []
    assert metrics["baseline_linear"] == pytest.approx(own.elpd.sum())
    assert metrics["baseline_constant"] < metrics["baseline_linear"] - 20
    # In the user's units: a density of the target's own numbers.
    y = problem.test["y"].numpy() * np.exp(unit)
    sd = y.std()
    assert metrics["baseline_constant"] == pytest.approx(
        stats.norm.logpdf(y, y.mean(), sd).sum(), rel=0.01
    )
    _, (finding,) = baselines.compared(Program(problem), scored(own.elpd - 0.5))
    assert finding.level == "warn" and finding.spoils == ("predictions",)
    assert "worse than a linear model of the same columns" in finding.what
    _, (finding,) = baselines.compared(Program(problem), scored(own.elpd, 2 * own.error))
    assert "its means are farther from the rows held out" in finding.what


def test_a_difference_that_few_rows_may_have_made_leaves_predictions_open():
    problem = problem_of("linear", split=0.5)
    own = linear(baselines.table_of(Program(problem), scored(np.zeros(221)))).elpd
    own = own - problem.log_units["y"]
    noise = np.random.default_rng(1).normal(size=221)
    _, (finding,) = baselines.compared(Program(problem), scored(own + noise - noise.mean() - 0.1))
    assert finding.level == "warn" and finding.spoils == () and finding.opens == ("predictions",)
    assert "hold out more rows" in finding.fix


def test_only_one_observation_a_row_is_compared():
    coin = problem_of("coin", "HHTHTTHHHH")
    idata = az.from_dict(posterior={"pi": np.zeros((1, 2))})
    assert baselines.compared(Program(coin), idata) == ({}, [])  # nothing is scored
    loo = {"elpd": ("row", np.full(10, -0.7)), "khat": ("row", np.zeros(10))}
    idata.add_groups({"loo": xr.Dataset(loo)})
    metrics, findings = baselines.compared(Program(coin), idata)
    assert list(metrics) == ["baseline_constant"] and findings == []
    loo["khat"] = ("row", np.ones(10))
    idata = az.from_dict(posterior={"pi": np.zeros((1, 2))})
    idata.add_groups({"loo": xr.Dataset(loo)})
    assert baselines.compared(Program(coin), idata) == ({}, [])  # nor can its scores be trusted
    assert baselines.compared(Program(problem_of("vae")), idata) == ({}, [])


def test_large_tables_are_thinned():
    x = torch.randn(30_000, 60, generator=torch.Generator().manual_seed(0)).numpy()
    y = (x[:, 0] > 0).astype(int)
    rows, test = Rows(y, x), Rows(y[:100], x[:100])
    found = linear(Table("classes", 2, rows, test, np.zeros(100)))
    assert found.elpd.mean() > -0.1
    assert linear(Table("classes", 2, rows, None, np.zeros(30_000))) is None


def test_the_log_densities_are_those_of_scipy():
    rng = np.random.default_rng(0)
    (x, loc), (scale, rate) = rng.normal(size=(2, 50)), rng.gamma(2.0, size=(2, 50))
    counts = rng.poisson(3.0, size=50)
    ours = [
        baselines._log_prob(dist.Normal, x, 0.0, scale),
        baselines._log_prob(dist.StudentT, x, 7, loc, scale),
    ]
    theirs = stats.norm.logpdf(x, scale=scale), stats.t.logpdf(x, 7, loc, scale)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    expected = stats.poisson.logpmf(counts, rate)
    np.testing.assert_allclose(
        baselines._log_prob(dist.Poisson, counts, rate), expected, rtol=1e-12
    )
