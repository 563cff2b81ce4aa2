"""Calibration: right posteriors pass, wrong ones fail by what theory says, chance fails 1 %."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import problem_of
from scipy import special, stats

import models
import zoo
from inference.checks import calibration, simulated
from inference.core.problem import Fit
from inference.program.program import Program
from models.contract import Fault, Refused, UsageError

RHO = 0.9


def study(name, sampler, n, source=None, seed=0, **options):
    """The calibration of `sampler(problem, rng, size)`, which gives site to draws (size, ...)."""

    def method(program, *, seed, context):
        drawn = sampler(program.problem, np.random.default_rng(seed), 999)
        return Fit(
            draws={k: torch.as_tensor(np.asarray(v))[None] for k, v in drawn.items()},
            kind="independent",
        )

    problem, entry = problem_of(name, source, **options), models.load(name)
    bound = problem.model.keywords

    def given(program):
        data = entry.data(source)
        data = replace(data, tensors={key: program.tensors[key] for key in data.tensors})
        return program.changed(exact=partial(entry.exact, data, **bound))

    made = simulated.Simulated(Program(problem), method, {}, seed, given)
    return calibration.judge(simulated.run(made.fit, n)[0], n)


def right(problem, rng, size):
    return problem.exact().sample(size, rng)


# -- planted faults ---------------------------------------------------------------------------


def test_an_exact_posterior_passes():
    table = study("linear", right, 100, "simulate", noise=1.0)
    assert table.verdict.status == "pass" and (table["p_holm"] > 0.01).all()
    assert list(table.index) == ["w[x_1]", "b", "log likelihood", "mean of new y"]
    assert table["error2"].iloc[:2].to_numpy() == pytest.approx(1.0, abs=4 * np.sqrt(2 / 100))
    assert set(table["says"]) == {"as it should be"}


def test_an_sd_a_fifth_too_small_fails():
    def narrow(problem, rng, size):
        truth = problem.exact().marginals["x"]
        return {"x": truth.mean() + 0.8 * (truth.rvs(size, random_state=rng) - truth.mean())}

    table = study("gaussian", narrow, 200, {"y": 1.5})
    assert table.verdict.status == "fail"
    assert table.loc["x", "mean_z2"] == pytest.approx(
        1 / 0.8**2, abs=4 * np.sqrt(2 / 200) / 0.8**2
    )
    assert "too narrow" in table.loc["x", "says"]


def test_data_that_are_ignored_show_in_the_log_likelihood_alone():
    table = study("coin", lambda problem, rng, size: {"pi": rng.random(size)}, 80, "HTHTHTHTHT")
    assert table.verdict.status == "fail"
    assert table.index[table["p_holm"] < 0.01].tolist() == ["log likelihood"]
    assert "the data count too little" in table.loc["log likelihood", "says"]


def test_the_wrong_sign_of_the_jacobian_fails():
    def wrong(problem, rng, size):
        # u = logit(pi): log|dT/du| = log pi (1 - pi) once subtracted where it should be added.
        a, b = problem.exact().marginals["pi"].args
        return {"pi": rng.beta(a - 2, b - 2, size)}

    table = study("coin", wrong, 250, "HT", alpha=3.0, beta=3.0)
    assert table.verdict.status == "fail" and "too wide" in table.loc["pi", "says"]


def test_parameters_that_are_swapped_fail():
    def swapped(problem, rng, size):
        draws = right(problem, rng, size)
        return {"w": draws["b"][:, None], "b": draws["w"][:, 0]}

    table = study("linear", swapped, 40, "simulate", noise=1.0)
    assert table.verdict.status == "fail" and (table["p_holm"].iloc[:2] < 0.01).all()


def test_a_shift_is_told_with_its_direction():
    def shifted(problem, rng, size):
        truth = problem.exact().marginals["x"]
        return {"x": truth.rvs(size, random_state=rng) + 0.5 * truth.std()}

    table = study("gaussian", shifted, 100, {"y": 1.5})
    assert table.loc["x", "mean_z"] == pytest.approx(-0.5, abs=0.4)
    assert re.search(r"x: posterior shifted up by 0\.\d\d sd", str(table.verdict))


# -- what theory says -------------------------------------------------------------------------


def expected_square(scale, levels):
    """E z^2 where the standardised truth is Normal(0, scale^2), by quadrature."""
    nodes, weights = special.roots_hermitenorm(200)
    chance = stats.norm.cdf(scale * nodes)
    pmf = stats.binom.pmf(np.arange(levels)[:, None], levels - 1, chance)
    squares = calibration.scores(np.arange(levels), levels) ** 2
    return float(squares @ pmf @ weights / weights.sum())


def mean_field(problem, rng, size):
    """The best factorised approximation of the two correlated normals (Bishop, 10.1.2)."""
    return dict(zip("xy", np.sqrt(1 - RHO**2) * rng.normal(size=(2, size))))


def check_mean_field(table, n):
    theory = 1 / (1 - RHO**2)  # 5.26
    square = expected_square(np.sqrt(theory), 1000)  # ranks among 999 draws end at 3.3 sd
    assert square == pytest.approx(3.909, abs=0.001)
    assert table.verdict.status == "fail" and list(table.index) == ["x", "y"]
    assert table["error2"].to_numpy() == pytest.approx(theory, abs=4 * theory * np.sqrt(2 / n))
    assert table["mean_z2"].to_numpy() == pytest.approx(square, abs=16 / np.sqrt(n))


def test_mean_field_is_too_narrow_by_what_theory_says():
    check_mean_field(study("gaussian", mean_field, 120), 120)


@pytest.mark.slow
def test_the_mean_field_guide_is_too_narrow_by_what_theory_says():
    check_mean_field(zoo.calibrate("gaussian", 200, method="svi", guide="normal"), 200)


def laplace_square():
    """E z^2 of Laplace's approximation of a coin flipped twice: a normal in u = logit(pi).

    The density of u has its mode at log(a / b) and the curvature n' = a b / (a + b) there.
    """
    total, u = 0.0, np.linspace(-40, 40, 200_001)
    for heads in range(3):  # equally probable under the flat prior
        a, b = 1 + heads, 3 - heads
        log_density = a * special.log_expit(u) + b * special.log_expit(-u) - special.betaln(a, b)
        square = (u - np.log(a / b)) ** 2 * a * b / (a + b)
        total += np.trapezoid(np.exp(log_density) * square, u) / 3
    return total


@pytest.mark.slow
def test_laplace_fails_on_two_flips_by_what_theory_says():
    theory = laplace_square()
    assert theory == pytest.approx(1.5, abs=0.05)
    table = zoo.calibrate("coin", 500, method="laplace", n=2)
    assert table.verdict.status == "fail" and "too narrow" in table.loc["pi", "says"]
    assert table.loc["pi", "mean_z2"] == pytest.approx(theory, abs=0.3)


# -- the statistics under the null ------------------------------------------------------------


@pytest.mark.parametrize(("n", "levels"), [(100, 1000), (30, 100), (20, 20)])
def test_chance_fails_one_study_in_a_hundred(n, levels):
    studies, k = 10_000, 4
    ranks = np.random.default_rng(0).integers(levels, size=(n, studies * k))
    z = calibration.scores(ranks, levels)
    p = np.stack([calibration.shift_test(z, levels), calibration.spread_test(z, levels)])
    families = p.reshape(2, studies, k).swapaxes(0, 1).reshape(studies, 2 * k)
    alarms = np.mean([calibration.holm(family).min() < calibration.FAMILY for family in families])
    assert alarms == pytest.approx(0.01, abs=0.004)


def test_many_draws_give_the_chi_square_distribution():
    z = np.random.default_rng(0).normal(size=(50, 300))
    total = (z**2).sum(0)
    exact = 2 * np.minimum(stats.chi2(50).cdf(total), stats.chi2(50).sf(total))
    assert calibration.spread_test(z, 10**6) == pytest.approx(exact, rel=0.02)


def test_the_null_of_few_fits_is_that_of_all_their_ranks():
    """Against the distribution of a sum of five squares, enumerated."""
    squares = calibration.scores(np.arange(10), 10) ** 2
    sums = squares
    for _ in range(4):
        sums = np.add.outer(sums, squares).ravel()
    law = calibration._squares(5, 10)
    for prob in (0.005, 0.05, 0.5, 0.95, 0.995):
        assert law.cdf(np.quantile(sums, prob)) == pytest.approx(prob, abs=0.03)
    assert (law.mean(), law.std()) == pytest.approx((sums.mean(), sums.std()))


def test_holm_corrects_each_by_those_still_in():
    corrected = calibration.holm(np.array([0.04, 0.001, 0.03]))
    assert corrected == pytest.approx([0.06, 0.003, 0.06])


def test_the_band_holds_the_share_that_it_says():
    band = calibration.band(200, 100)
    ranks = np.random.default_rng(1).integers(100, size=(4000, 200))
    inside = [
        np.all((ecdf >= band.low - 1e-12) & (ecdf <= band.high + 1e-12))
        for ecdf in (calibration.ecdf(one, 100) for one in ranks)
    ]
    assert np.mean(inside) == pytest.approx(0.99, abs=0.006)


# -- the verdict ------------------------------------------------------------------------------


def fits(n, missing=0, findings=(), status="pass"):
    rng = np.random.default_rng(0)
    there = [
        {
            "i": i,
            "seconds": 0.1,
            "draws": 99,
            "rank": {"pi": int(rng.integers(100))},
            "error": {"pi": float(rng.normal())},
            "status": status,
            "findings": list(findings),
        }
        for i in range(n - missing)
    ]
    gone = {"missing": "refused", "reason": "a line passes through every row"}
    return there + [{"i": n - 1 - i, "seconds": 0.1, **gone} for i in range(missing)]


def test_fits_that_are_missing_are_counted_and_too_many_fail():
    few, many = (calibration.judge(fits(100, missing), 100) for missing in (5, 6))
    assert few.verdict.status == "pass" and many.verdict.status == "fail"
    said = "6 of 100 fits are missing (6 x refused: a line passes through every row)"
    assert said in str(many.verdict)
    assert many.to_json_object()["missing"] == 6


def test_fits_that_failed_their_own_verdict_count_and_are_told():
    bad = [["fail", "the chains disagree (R-hat 1.034 in w, bound 1.01)"], ["note", "so what"]]
    table = calibration.judge(fits(50, findings=bad, status="fail"), 50)
    words = "50 of 50 fits failed their own verdict (50 x the chains disagree); they are included"
    assert words in str(table.verdict) and table.verdict.status == "pass"
    assert len(table.ranks["pi"]) == 50


def test_the_verdict_begins_with_a_sentence_and_says_how_far_it_sees():
    table = calibration.judge(fits(100), 120)
    first, second, *rest = table.verdict.reasons
    assert first.startswith("calibrated as far as 2 tests of 1 quantities over 100 data sets")
    assert "an sd 19 % too small" in second and "100 of 120 fits" in rest[0]
    assert json.loads(json.dumps(table.to_json_object()))["verdict"]["status"] == "pass"
    assert "<b>pass</b>" in table._repr_html_()


def test_too_few_fits_and_fits_of_other_studies_are_faults():
    with pytest.raises(Fault, match="9 fits say nothing"):
        calibration.judge(fits(9), 9)
    other = [{**fit, "draws": 49} for fit in fits(20)]
    with pytest.raises(Fault, match="begin anew"):
        calibration.judge(fits(20) + other, 40)


# -- from the front door ----------------------------------------------------------------------


def test_the_number_of_rows_is_that_of_the_design(tmp_path):
    table = zoo.calibrate("coin", 30, method="exact", n=10)
    assert table.verdict.status == "pass"
    assert table.notes == ["design: simulate n=10 heads=0.5 data_seed=0"]
    assert [fit["i"] for fit in table.fits] == list(range(30))
    table.figure("ranks").savefig(tmp_path / "ranks.png", dpi=60)


def test_with_nothing_observed_the_posterior_is_the_prior():
    table = zoo.calibrate("gaussian", 30, method="exact")
    assert table.verdict.status == "pass" and list(table.index) == ["x", "y"]
    table = zoo.calibrate("coin", 30, method="exact", data="")
    assert table.verdict.status == "pass" and list(table.index) == ["pi", "x[0]"]


def test_what_has_no_posterior_draws_is_told():
    for method in ("map", "mle", "prior"):
        with pytest.raises(UsageError, match="no draws of a posterior"):
            zoo.calibrate("coin", method=method)
    with pytest.raises(UsageError, match="sbc=0"):
        zoo.calibrate("coin", 0)
    with pytest.raises(Refused, match="improper"):
        zoo.calibrate("logistic", 20, method="laplace", prior="flat", features="mean radius")


@pytest.mark.slow
def test_several_workers_give_the_same_fits():
    one, two = (
        zoo.calibrate("coin", 16, n=10, chains=1, draws=100, warmup=50, jobs=jobs)
        for jobs in (1, 2)
    )
    assert all((one.ranks[name] == two.ranks[name]).all() for name in one.ranks)
    assert one["error2"].iloc[0] == two["error2"].iloc[0]
