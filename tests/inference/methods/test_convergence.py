"""What a trace tells: levels, rises, rates that were too large, and the steps that are left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import signal
from test_ascent import LEVEL, Watch

from inference.methods.convergence import drifting, fallen, is_rising, outlook

LEVELLED = "the objective was level at the end"


def findings(values, rows=10, of_rows=False):
    watch = Watch(len(values), values, schedule="linear", rows=rows, of_rows=of_rows)
    return [(f.level, f.what, f.fix) for f in watch.run()["findings"]]


def at_full_rate(steps):
    """Steps by a linear schedule, each counted by its rate, as a share of all."""
    share = np.arange(steps) / steps
    return np.cumsum(np.minimum(1, 2 * (1 - share))) / steps


def autocorrelated(rng, steps, memory=0.9, sd=5.0):
    """Noise of an objective whose successive steps are alike: AR(1), (steps,)."""
    fresh = rng.normal(size=steps) * sd * np.sqrt(1 - memory**2)
    return signal.lfilter([1.0], [1.0, -memory], fresh)


def test_a_level_objective_is_nothing_to_tell():
    assert findings(LEVEL) == []
    early = np.where(np.arange(1000) < 300, LEVEL - 30 + np.arange(1000) / 10, LEVEL)
    assert findings(early) == []
    # Half a nat, which twice the steps would bring here, is nothing, of however few rows.
    slight = np.full(1000, -100.0) + 2 * np.arange(1000) / 1000
    assert findings(slight, rows=1) == []


def test_a_rise_at_the_end_is_weighed_by_the_row_and_names_more_steps():
    line = -100 + 0.05 * np.arange(1000)  # 11.25 nats from a quarter to a half of them
    for rows, level in (10, "fail"), (100, "warn"), (1000, "note"):
        (finding,) = findings(line, rows=rows)
        assert finding[0] == level
        assert "rose, by 5 nats in the last tenth of the steps" in finding[1]
        assert f"may bring some 11 nats ({11.2 / rows:.2g} a row)" in finding[1]
        assert finding[2] == "give more (--set steps=2000)"


def test_a_rise_that_ended_before_the_rate_fell_is_no_rise():
    steep = LEVEL - 50 + np.minimum(np.arange(1000), 500) / 10
    assert findings(steep, rows=1) == []
    goes_on = LEVEL - 50 + 50 * at_full_rate(1000)
    (finding,) = findings(goes_on, rows=10)
    assert finding[0] == "fail" and "many steps again may bring some" in finding[1]


def test_a_rise_that_waits_for_the_rate_to_fall_names_the_rate():
    share = np.arange(1000) / 1000
    (finding,) = findings(LEVEL + 200 * np.clip(share - 0.5, 0, None))
    assert "only as the learning rate fell: the learning rate of 0.1 is too large" in finding[1]
    assert finding[2] == "lower it (--set lr=0.01)"


def test_a_small_rise_of_rows_while_the_rate_falls_is_a_warning():
    share = np.arange(1000) / 1000
    slow = LEVEL + 20 * np.clip(share - 0.5, 0, None)  # 2 of some 90 nats in the last tenth
    (finding,) = findings(slow, rows=1, of_rows=True)
    assert finding[0] == "warn" and "a slower fall would end somewhat higher" in finding[1]
    assert finding[2] == "give more (--set steps=2000)"
    (finding,) = findings(slow, rows=1)
    assert finding[0] == "fail"
    steady = LEVEL + 20 * share
    (finding,) = findings(steady, rows=1, of_rows=True)
    assert finding[0] == "warn" and "the objective still rose, by 1.7 nats" in finding[1]
    (finding,) = findings(3 * steady + 190, rows=1, of_rows=True)
    assert finding[0] == "fail"


@pytest.mark.parametrize(("steps", "few"), [(1, True), (10, True), (99, True), (100, False)])
def test_too_few_steps_fail_and_are_named(steps, few):
    found = findings(LEVEL[:steps])
    assert [what for _, what, _ in found] == [f"{steps} steps are too few to train by"] * few
    assert all(level == "fail" for level, _, _ in found)


def test_first_steps_that_wreck_the_objective_fail_and_name_a_lower_rate():
    wrecked = LEVEL.copy()
    wrecked[37:42] = wrecked[0] - 120
    ((level, what, fix),) = findings(wrecked)
    assert level == "fail"
    assert "(step 38): the learning rate of 0.1 is too large" in what
    assert fix == "lower it (--set lr=0.01)"
    # Not by less than was there, nor later than in the first tenth.
    wrecked[37:42] = wrecked[0] - 90
    assert findings(wrecked) == []
    wrecked[37:42] = LEVEL[37:42]
    wrecked[237:242] = wrecked[0] - 120
    assert findings(wrecked) == []
    wrecked = LEVEL.copy()
    wrecked[37:39] = wrecked[0] - 10_000  # an outlier
    assert findings(wrecked) == []


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_what_twice_the_steps_bring_is_that_of_a_learning_curve(power):
    """A curve that goes with a power of the steps, counted at their rates, and its own gain."""
    rng, done = np.random.default_rng(1), at_full_rate(10_000)
    scale = 100 / 0.125**-power
    gain = scale * (0.75**-power - 1.5**-power)
    level = -1000 - scale * np.maximum(done, 0.01) ** -power
    clean = outlook(torch.as_tensor(level))
    noisy = outlook(torch.as_tensor(level + autocorrelated(rng, 10_000, sd=2.0)))
    assert not clean.by_rate and not noisy.by_rate
    assert clean.ahead == pytest.approx(gain, rel=0.25)
    assert noisy.ahead == pytest.approx(gain, rel=0.5)


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_noise_is_no_rise_and_a_rise_is_seen_through_noise(memory):
    """Of level traces fewer than 2 % are told to rise, however alike successive steps are."""
    rng, many = np.random.default_rng(2), 500
    told = raised = 0
    rise = 60 * at_full_rate(5000)
    for _ in range(many):
        noise = autocorrelated(rng, 5000, memory)
        told += str(outlook(torch.as_tensor(noise))) != LEVELLED
        raised += str(outlook(torch.as_tensor(noise + rise))) != LEVELLED
    assert told < 0.02 * many
    assert raised > 0.5 * many


def test_an_objective_that_changes_itself_at_first_is_judged_by_what_came_after():
    trace = -100 + 20 * at_full_rate(1000)
    trace[:100] += 50  # before the weight of its penalty was up
    assert outlook(torch.as_tensor(trace), live=True).ahead == pytest.approx(5, rel=0.1)


def test_verdict_and_caption_have_one_sentence():
    watch = Watch(1000, -100 + 0.05 * np.arange(1000), schedule="linear")
    ended = watch.run()
    assert ended["outlook"] in ended["findings"][0].what
    assert Watch(1000, LEVEL, schedule="linear").run()["outlook"] == LEVELLED


def test_a_plateau_is_seen_and_a_rise_is_not_one():
    noise = torch.randn(200, generator=torch.Generator().manual_seed(0))
    assert not is_rising(noise, 1)
    assert is_rising(noise + 0.02 * torch.arange(200), 1)
    # Two rows far apart, a batch of one: their pass is steady where single steps are not.
    rows = 100 * torch.tensor([1.0, -1.0]).repeat(100) + 0.01 * torch.arange(200)
    assert not is_rising(rows, 1)
    assert is_rising(rows, 2)


def test_a_drift_is_seen_and_a_wander_is_not_one():
    around = torch.randn(3, 500, generator=torch.Generator().manual_seed(0))
    assert not drifting(list(around))
    assert drifting(list(around + 5 * torch.arange(3)[:, None]))
    assert not drifting([torch.zeros(2)] * 3)


def test_an_end_far_below_the_best_is_told():
    trace = torch.as_tensor(np.concatenate([LEVEL[:500], LEVEL[500:] - 40]))
    (finding,) = fallen(trace, 100, 0.1)
    assert finding.level == "fail" and "the learning rate of 0.1 is too large" in finding.what
    assert fallen(torch.as_tensor(LEVEL), 100, 0.1) == []
    assert fallen(trace[:199], 100, 0.1) == []
