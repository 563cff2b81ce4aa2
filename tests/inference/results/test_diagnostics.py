"""The verdict: each rule passes what is sound and catches what is planted."""

from __future__ import annotations

import arviz as az
import numpy as np
import pytest
import torch

from inference.core.problem import Finding, Fit
from inference.results.diagnostics import verdict

RNG = np.random.default_rng(0)


def judge(draws, *, energy=None, diverging=None, metrics=None, **fields):
    """The verdict on draws (chain, draw) of one site."""
    shape = draws.shape[:2]
    energy = RNG.normal(size=shape) if energy is None else energy
    diverging = np.zeros(shape, bool) if diverging is None else diverging
    statistics = {"energy": energy, "diverging": diverging}
    attrs = {"method": fields.pop("method", "nuts")}
    idata = az.from_dict(posterior={"x": draws}, sample_stats=statistics, attrs=attrs)
    fit = Fit(draws={"x": torch.as_tensor(draws)}, kind=fields.pop("kind", "chains"), **fields)
    return verdict(fit, idata, metrics or {})


GOOD = RNG.normal(size=(4, 1000))


def test_good_chains_pass():
    assert judge(GOOD).status == "pass"
    assert judge(GOOD).reasons == []


def few_divergences(n):
    flags = np.zeros((4, 1000), bool)
    flags[0, :n] = True
    return flags


def slow(shape, factor):
    return np.cumsum(RNG.normal(size=shape), axis=1) * factor


@pytest.mark.parametrize(
    ("planted", "status", "words"),
    [
        ({"draws": GOOD + np.arange(4)[:, None]}, "fail", "chains disagree"),
        ({"draws": GOOD[:, :60]}, "fail", "too few effective draws"),
        ({"draws": GOOD, "energy": slow((4, 1000), 1.0)}, "fail", "E-BFMI"),
        ({"draws": GOOD, "diverging": few_divergences(2)}, "warn", "2 of 4000 draws diverged"),
        ({"draws": GOOD, "diverging": few_divergences(40)}, "fail", "40 of 4000"),
        ({"draws": np.where(GOOD > 3, np.nan, GOOD)}, "fail", "not finite"),
    ],
)
def test_faults_of_chains_are_caught(planted, status, words):
    found = judge(**planted)
    assert found.status == status
    assert words in found.reasons[0]
    assert "; " in found.reasons[0], "a reason says what to do"


def many(shift, several=1):
    """Draws (4, 1000, 40) whose first few quantities differ between the chains."""
    draws = np.random.default_rng(3).normal(size=(4, 1000, 40))  # no other test's draws before it
    draws[:, :, :several] -= draws[:, :, :several].mean(1, keepdims=True)
    draws[:, :, :several] += shift * np.arange(4)[:, None, None]
    return draws


def test_many_quantities_get_a_wider_bound():
    draws = many(0.13)
    assert 1.01 < float(az.rhat(draws[:, :, 0])) < 1.02
    assert judge(draws).status == "pass"
    few = judge(draws[:, :, 0])
    assert few.status == "fail" and few.reasons[0].endswith(
        "in x, bound 1.01); run longer (--set warmup=... draws=...)"
    )
    # Of chains of another kind it is not known what makes them longer.
    assert judge(draws[:, :, 0], method="other").reasons[0].endswith("run longer")


def test_the_bound_that_was_crossed_is_named():
    apart = judge(many(0.3))
    assert apart.status == "fail" and "in x[0], bound 1.02)" in apart.reasons[0]
    share = judge(many(0.13, several=4))
    assert share.status == "fail"
    assert "R-hat above 1.01 in 10% of 40 quantities, bound 5%" in share.reasons[0]


def test_an_approximation_is_judged_by_k_hat_not_by_r_hat():
    sound = judge(
        GOOD[:1], kind="independent", log_ratios=torch.zeros(5000), metrics={"khat": 0.4}
    )
    assert sound.status == "pass"
    off = judge(GOOD[:1], kind="independent", log_ratios=torch.zeros(5000), metrics={"khat": 0.7})
    assert off.status == "warn" and "do not trust" in off.reasons[0]
    few = judge(GOOD[:1], kind="independent", log_ratios=torch.zeros(100), metrics={"khat": 0.55})
    assert few.status == "warn"  # 1 - 1 / log10(100) = 0.5


def test_findings_of_the_method_count_the_gravest_first():
    findings = [Finding("note", "a"), Finding("fail", "b", "do c"), Finding("warn", "d")]
    found = judge(GOOD, findings=findings)
    assert found.status == "fail"
    assert found.reasons == ["b; do c", "d", "a"]
    assert repr(found).splitlines()[0] == "fail: Do not use it: b."
    assert judge(GOOD, findings=[Finding("note", "a")]).status == "pass"


@pytest.mark.parametrize(
    ("khat", "measured", "status", "answer"),
    [
        (0.9, True, "pass", "yes"),
        (1.5, True, "pass", "not known"),  # weights without a mean
        (0.9, False, "warn", "no"),
    ],
)
def test_a_bad_k_hat_is_a_warning_where_nothing_else_measured_the_parameters(
    khat, measured, status, answer
):
    opened = Finding("note", "nothing measured it", opens=("parameters", "predictions"))
    idata = az.from_dict(posterior={"x": GOOD[:1]})
    ratios = torch.zeros(4000)
    fit = Fit(draws={"x": torch.as_tensor(GOOD[:1])}, kind="independent", log_ratios=ratios)
    found = verdict(fit, idata, {"khat": khat}, [] if measured else [opened])
    assert found.status == status
    assert found.trust["parameters"].answer == answer
    assert found.trust["evidence"].answer != "yes"


def test_the_sentence_says_converged_only_of_what_has_ended():
    gaining = [
        Finding(level, "the objective still rose", spoils=("evidence",), unfinished=True)
        for level in ("note", "warn")
    ]
    said = [judge(GOOD, findings=some).headline for some in ([], gaining[:1], gaining)]
    assert said[0].startswith("Converged.")
    assert said[1].startswith("Still gaining a little at its end.")
    assert said[2].startswith("Still gaining at its end.")
