"""The benchmark of the verdict: its truths against closed forms, its arithmetic, a run of it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import arviz as az
import numpy as np
import pytest
import torch
from pyro import poutine
from scipy import stats

import models
from inference.core import settings
from inference.program import prepare
from inference.program.program import Program

BENCH = Path(__file__).resolve().parent / "bench"
sys.path.insert(0, str(BENCH))

from verdict_case import half_of, log_density, log_joint  # noqa: E402
from verdict_location import uniform_bound  # noqa: E402
from verdict_models import CASES, jobs  # noqa: E402
from verdict_score import class_of, class_of_moments, judged, loo_error  # noqa: E402
from verdict_table import by_resampling, clopper_pearson, withheld, wrong_yeses  # noqa: E402
from verdict_truth import Truth, computed, total_variation  # noqa: E402
from verdicts import answers, lines, todo  # noqa: E402

MEAN = CASES["normal mean n=5"]


@pytest.fixture(scope="module")
def truth() -> Truth:
    return computed(MEAN, None)


def closed_form() -> tuple[float, float]:
    """Posterior mean and sd of a normal mean, prior N(0, 2), noise 1."""
    y = MEAN.observed
    precision = len(y) + 1 / 4
    return y.sum() / precision, precision**-0.5


def run_of(draws: np.ndarray, status: str = "pass", **metrics: float) -> SimpleNamespace:
    """What is judged of a run whose draws of `mu` are these, (chain, draw)."""
    idata = az.from_dict(posterior={"mu": draws})
    return SimpleNamespace(idata=idata, metrics=metrics, verdict=SimpleNamespace(status=status))


def test_a_grid_gives_the_closed_form(truth):
    y, (mean, sd) = MEAN.observed, closed_form()
    assert truth.moments["mean"][0] == pytest.approx(mean, abs=1e-6)
    assert truth.moments["sd"][0] == pytest.approx(sd, rel=1e-6)
    assert truth.moments["q95"][0] == pytest.approx(mean + 1.644854 * sd, abs=1e-3)
    covariance = np.eye(len(y)) + 4.0
    joint = stats.multivariate_normal(np.zeros(len(y)), covariance)
    assert truth.log_evidence == pytest.approx(joint.logpdf(y), abs=1e-8)
    without = [stats.multivariate_normal(np.zeros(len(y) - 1), covariance[1:, 1:])] * len(y)
    loo = sum(joint.logpdf(y) - one.logpdf(np.delete(y, i)) for i, one in enumerate(without))
    assert truth.elpd_loo == pytest.approx(loo, abs=1e-6)
    edges = np.array(truth.edges)
    cdf = stats.norm(mean, np.hypot(1, sd)).cdf(edges)
    whole = np.concatenate([np.zeros((len(y), 1)), cdf, np.ones((len(y), 1))], axis=1)
    assert total_variation(np.diff(whole, axis=1), np.array(truth.table)) < 1e-3


@pytest.mark.parametrize(
    ("shift", "scale", "expected"),
    [
        (0, 1, "right"),
        (0.15, 1.1, "right"),
        (0.4, 1, "wrong"),
        (0, 0.6, "wrong"),
        (0, 1.5, "wrong"),
    ],
)
def test_draws_that_are_off_are_wrong(truth, shift, scale, expected):
    mean, sd = closed_form()
    z = np.random.default_rng(0).standard_normal((1, 4000))
    found = judged(MEAN, truth, run_of(mean + sd * (shift + scale * z)))
    assert found["parameters"]["class"] == expected


def test_draws_that_are_not_finite_are_wrong(truth):
    draws = np.zeros((1, 4000))
    draws[0, 7] = np.nan
    found = judged(MEAN, truth, run_of(draws))
    assert {one["class"] for one in found.values()} == {"wrong"}


def test_predictions_are_judged_by_total_variation(truth):
    mean, sd = closed_form()
    z = np.random.default_rng(1).standard_normal((1, 4000))
    right = judged(MEAN, truth, run_of(mean + sd * z))["predictions"]
    off = judged(MEAN, truth, run_of(mean + 0.3 + sd * z))["predictions"]
    scale = np.hypot(1, sd)
    exact = 2 * stats.norm.cdf(0.3 / scale / 2) - 1
    assert right["class"] == "right" and right["total_variation"] < 0.01
    assert off["class"] == "wrong" and off["total_variation"] == pytest.approx(exact, abs=0.01)


def test_what_is_right_by_luck_is_at_the_border(truth):
    mean, sd = closed_form()
    few = np.array([[-1.2, -0.4, 0.0, 0.4, 1.2, -0.8, 0.8, 0.0]]) * sd * 1.3 + mean
    assert judged(MEAN, truth, run_of(few))["parameters"]["class"] == "border"


def test_what_noise_alone_would_excuse_is_at_the_border(truth):
    mean, sd = closed_form()
    z = np.random.default_rng(0).standard_normal((1, 300))
    wide = judged(MEAN, truth, run_of(mean + 1.25 * sd * (z - z.mean()) / z.std()))
    assert wide["parameters"]["class"] == "border"
    assert wide["parameters"]["sd_high"] == ("mu", pytest.approx(1.25, abs=0.001))


def test_numbers_are_judged_where_there_are_any(truth):
    run = run_of(np.zeros((1, 4000)), log_evidence=truth.log_evidence + 0.7)
    assert judged(MEAN, truth, run)["evidence"]["class"] == "wrong"
    run.metrics |= {"elpd_loo": truth.elpd_loo + 0.1, "elpd_loo_mcse": 0.1}
    assert judged(MEAN, truth, run)["loo"]["class"] == "right"
    run.metrics["elpd_loo"] = truth.elpd_loo + 0.5
    assert judged(MEAN, truth, run)["loo"]["class"] == "wrong"


def test_the_error_of_loo_is_that_of_its_estimate(truth):
    (mean, sd), y = closed_form(), MEAN.observed
    estimates, errors = [], []
    for seed in range(200):
        z = np.random.default_rng(seed).standard_normal((1, 1000))
        likelihood = stats.norm(mean + sd * z[..., None], 1).logpdf(y)
        run = SimpleNamespace(idata=az.from_dict(log_likelihood={"y": likelihood}))
        errors.append(loo_error(run))
        estimates.append(-np.log(np.exp(-likelihood).mean((0, 1))).sum())
    assert np.mean(estimates) == pytest.approx(truth.elpd_loo, abs=0.02)
    assert np.mean(errors) == pytest.approx(np.std(estimates), rel=0.2)


def test_a_truth_on_which_long_runs_differ_judges_nothing(truth):
    far = replace(truth, differences={"mean": 0.2, "sd": 0.0, "predictions": 0.001})
    found = judged(MEAN, far, run_of(np.zeros((1, 4000))))
    assert "parameters" not in found and "predictions" in found


def test_classes_have_borders():
    assert [class_of_moments(m, 1, 1) for m in (0.1, 0.25, 0.31)] == ["right", "border", "wrong"]
    ratios = (0.69, 0.75, 0.9, 1.25, 1.31)
    found = [class_of_moments(0, min(r, 1), max(r, 1)) for r in ratios]
    assert found == ["wrong", "border", "right", "border", "wrong"]
    assert [class_of("evidence", e) for e in (0.3, 0.5, 0.7)] == ["right", "border", "wrong"]
    assert class_of_moments(float("nan"), 1, 1) == "wrong"


def test_a_verdict_without_trust_says_yes_where_it_passes():
    assert answers(run_of(np.zeros((1, 2)))) == {
        "parameters": "yes",
        "predictions": "yes",
        "evidence": "no",
        "loo": "no",
    }
    assert answers(run_of(np.zeros((1, 2)), log_evidence=1.0))["evidence"] == "yes"
    assert set(answers(run_of(np.zeros((1, 2)), "warn", elpd_loo=1.0)).values()) == {"no"}


def test_intervals_of_shares_have_known_values():
    assert clopper_pearson(0, 20) == pytest.approx((0, 1 - 0.025 ** (1 / 20)))
    assert clopper_pearson(5, 10) == pytest.approx((0.187086, 0.812914), abs=1e-6)
    low, high = by_resampling([("a", True)] * 5 + [("b", False)] * 5)
    assert (low, high) == (0.0, 1.0)  # two models: either may be drawn twice


def line(case: str, says: str, found: str, sort: str = "default") -> dict:
    return {
        "case": case,
        "sort": sort,
        "says": {"parameters": says},
        "is": {"parameters": {"class": found}},
    }


def test_the_table_counts_wrong_yeses_and_right_results_without_one():
    found = [
        line("a", "yes", "wrong"),
        line("a", "yes", "right"),
        line("b", "yes", "border"),
        line("b", "no", "right"),
        line("b", "not known", "right", "bad"),
        {"case": "c", "sort": "default", "refused": "no mode"},
    ]
    wrong = wrong_yeses(found, "parameters")
    assert (wrong.bad, wrong.of) == (1, 2)
    none = withheld(found, "parameters")
    assert (none.bad, none.of) == (1, 2)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.priors])
def test_a_model_is_the_same_in_pyro_and_in_numpy(name):
    case, rng = CASES[name], np.random.default_rng(0)
    problem = prepare.program_of(*_entry_of(case)).problem
    draws = {}
    for site, prior in case.priors.items():
        several = prior if isinstance(prior, list) else [prior]
        columns = [one.rvs(size=3, random_state=rng) for one in several]
        draws[site] = columns[0] if len(columns) == 1 else np.stack(columns, -1)
    if case.model in (uniform_bound,):
        draws["theta"] = draws["theta"] + 4.0
    expected = log_joint(case, draws)
    program = Program(problem)
    shapes = {site.name: site.value.shape for site in program.of("latent")}
    found = [
        program.log_joint({k: torch.tensor(v[i]).reshape(shapes[k]) for k, v in draws.items()})
        for i in range(3)
    ]
    assert torch.stack(found).tolist() == pytest.approx(expected.tolist(), rel=1e-8)


LONG = [name for name, case in CASES.items() if case.is_long and case.group == "posterior"]


@pytest.mark.parametrize("name", LONG)
def test_rows_are_the_same_in_pyro_and_in_numpy(name):
    case = CASES[name]
    model = case.model if callable(case.model) else case.twin[0]
    tensors = {key: torch.as_tensor(value) for key, value in case.data.items()}
    nodes = poutine.trace(model).get_trace(**tensors)
    nodes.compute_log_prob()
    draws = {k: v["value"].numpy()[None] for k, v in nodes.nodes.items() if k in _drawn(nodes)}
    rows = nodes.nodes["y"]["log_prob"].sum()
    found = log_density(case.rows(draws), case.observed)
    assert found.sum() == pytest.approx(rows.item(), rel=1e-8)


def _drawn(trace):
    """The latents of a trace, and what is made of them."""
    sites = {**trace.nodes}
    return [k for k, v in sites.items() if v["type"] == "sample" and _is_of_draws(v)]


def _is_of_draws(site) -> bool:
    return not site["is_observed"] or site["infer"].get("_deterministic", False)


def _entry_of(case):
    """What `prepare.program_of` takes: the entry, its options and the data of a case."""
    entry = models.load(case.model) if isinstance(case.model, str) else models.wrap(case.model)
    known = settings.declared(entry.data)
    data = {k: v for k, v in case.options.items() if k in known}
    options = {k: s.default for k, s in settings.declared(entry.model).items()}
    options |= {k: v for k, v in case.options.items() if k not in known}
    return entry, options, entry.data(models.given(entry.model, case.data), **data)


def test_families_stay_in_one_half_and_the_halves_are_alike():
    families = {case.family: case for case in CASES.values()}
    assert all(case.half == half_of(case.family) for case in CASES.values())
    for kind in {case.kind for case in families.values()}:
        halves = [case.half for case in families.values() if case.kind == kind]
        assert abs(halves.count("tuned") - halves.count("reported")) <= 2
    sizes = [sum(case.half == half for case in CASES.values()) for half in ("tuned", "reported")]
    assert abs(sizes[0] - sizes[1]) <= 0.1 * len(CASES)


def test_what_is_done_is_not_done_again(tmp_path):
    file = tmp_path / "results.jsonl"
    every = list(jobs(MEAN))
    first = {"label": "one", "key": every[0].key()}
    file.write_text(json.dumps(first) + '\n{"label": "one", "key"')
    assert list(lines(file)) == [first]
    assert len(todo([MEAN.name], file, "one")) == len(every) - 1
    assert len(todo([MEAN.name], file, "another")) == len(every)


@pytest.mark.slow
def test_the_benchmark_runs_and_goes_on_where_it_was_ended(tmp_path):
    command = [sys.executable, str(BENCH / "verdicts.py"), "--out", str(tmp_path), "--jobs", "2"]
    command += ["--models", "normal mean n=5,square equal", "--label", "test"]  # 2 minutes
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    done = list(lines(tmp_path / "results.jsonl"))
    asked = ("normal mean n=5", "square equal")
    assert {d["key"] for d in done} == {job.key() for name in asked for job in jobs(CASES[name])}
    judged_ones = [d for d in done if "is" in d]
    assert any(d["is"]["parameters"]["class"] == "right" for d in judged_ones)
    assert any(d["is"]["parameters"]["class"] == "wrong" for d in judged_ones)
    assert f"{len(done)} fits of 2 models" in first.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout == first.stdout
    assert len(list(lines(tmp_path / "results.jsonl"))) == len(done)
