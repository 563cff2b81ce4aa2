"""The ascent: its learning rates, what it says of its end, batches, and how it goes on."""

from __future__ import annotations

import signal as signals

import numpy as np
import pytest
import torch
from conftest import QUIET, problem_from, regression
from scipy import signal

from inference.core.callbacks import Callback
from inference.core.problem import Context, State
from inference.methods.ascent import Adam, Ascent, AscentSettings
from inference.methods.batches import batches
from inference.methods.convergence import drifting, fallen, is_rising, outlook
from inference.storage.state import Folder
from models.contract import Fault, Refused

NO_BATCHES = iter(lambda: [], None)


class Watch:
    """An objective -(x - 1)^2 / 2 (or values of its own) that notes the rates it was called at."""

    def __init__(
        self,
        steps,
        values=None,
        schedule="plateau",
        live=(),
        of_pass=1,
        state=None,
        rows=10,
        **settings,
    ):
        self.flat = torch.zeros(3)
        self.adam, self.rates, self.seen = Adam(self.flat, 0.1), [], []
        self.values, self.live = values, live
        self.ascent = Ascent(
            self.adam,
            AscentSettings(steps, window=10, schedule=schedule),
            state or State(),
            of_pass=of_pass,
            rows=rows,
            live=live,
            **settings,
        )

    def __call__(self, *rows):
        self.rates.append(self.adam.lr)
        self.seen.append([float(number) for number, _ in self.live])
        step = len(self.rates) - 1
        gap = self.flat - 1 + (0.1 * rows[0].mean() if rows else 0)
        value = -0.5 * gap @ gap if self.values is None else torch.tensor(self.values[step])
        return value, -gap

    def run(self, parts=NO_BATCHES, context=QUIET):
        return self.ascent.run(self, parts, context)


def findings(values, rows=10, of_rows=False):
    watch = Watch(len(values), values, schedule="linear", rows=rows, of_rows=of_rows)
    return [(f.level, f.what, f.mend) for f in watch.run()["findings"]]


def test_a_signal_that_comes_too_late_is_passed_on():
    watch = Watch(400, schedule="linear")

    def step(*rows):
        if len(watch.rates) == 399:
            signals.raise_signal(signals.SIGINT)
        return watch(*rows)

    ended = watch.ascent.run(step, NO_BATCHES, QUIET)
    assert ended["signal"] == signals.SIGINT and ended.get("status", "done") == "done"
    assert len(ended["trace"]) == 400


# -- the linear schedule -----------------------------------------------------------------------


def test_the_rate_stands_for_half_of_the_steps_and_falls_to_zero_in_the_other_half():
    watch = Watch(400, schedule="linear")
    ended = watch.run()
    rates = np.array(watch.rates)
    assert len(rates) == 400 == len(ended["trace"])
    assert (rates[:201] == 0.1).all()
    assert rates[[300, 360, 399]] == pytest.approx([0.05, 0.02, 0.0005])
    np.testing.assert_allclose(np.diff(rates[200:]), -0.0005)
    torch.testing.assert_close(watch.flat, torch.ones(3), atol=1e-3, rtol=0)


def test_adam_is_torchs():
    torch.manual_seed(0)
    flat = torch.zeros(4, requires_grad=True)
    theirs, ours = torch.optim.Adam([flat], lr=0.03, maximize=True), Adam(torch.zeros(4), 0.03)
    for _ in range(20):
        flat.grad = torch.randn(4)
        theirs.step()
        ours(flat.grad)
    torch.testing.assert_close(ours.flat, flat.detach())


def test_live_numbers_have_the_value_of_their_share_of_the_steps():
    number = torch.zeros(())
    watch = Watch(200, live=[(number, lambda share: 2 * share)], schedule="linear")
    watch.run()
    seen = np.array(watch.seen)[:, 0]
    # Set at the beginning of each window of a fiftieth of the steps.
    np.testing.assert_allclose(seen, 2 * (np.arange(200) // 4 * 4) / 200)


# -- what is said of the end -------------------------------------------------------------------

RNG = np.random.default_rng(0)
LEVEL = -100 + RNG.normal(size=1000)


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
    assert "only as the learning rate fell: 0.1 is too large" in finding[1]
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
    ((level, what, mend),) = findings(wrecked)
    assert level == "fail"
    assert "(step 38): the learning rate of 0.1 is too large" in what
    assert mend == "lower it (--set lr=0.01)"
    # Not by less than was there, nor later than in the first tenth.
    wrecked[37:42] = wrecked[0] - 90
    assert findings(wrecked) == []
    wrecked[37:42] = LEVEL[37:42]
    wrecked[237:242] = wrecked[0] - 120
    assert findings(wrecked) == []
    wrecked = LEVEL.copy()
    wrecked[37:39] = wrecked[0] - 10_000  # an outlier
    assert findings(wrecked) == []


def test_what_is_not_finite_keeps_the_last_window_or_is_a_fault():
    values = LEVEL[:500].copy()
    values[203] = np.nan
    watch = Watch(500, values, schedule="linear")
    ended = watch.run()
    assert ended["status"] == "failed"
    assert "not finite in step 204; kept is the state after step 200" in ended["findings"][0].what
    assert len(ended["trace"]) == 200 and watch.flat.isfinite().all()
    values[3] = np.inf
    with pytest.raises(Fault, match=r"not finite in step 4; lower lr \(it was 0.1\)"):
        Watch(500, values, schedule="linear").run()


def test_a_plateau_ends_an_ascent_of_the_other_schedule_before_its_steps_do():
    torch.manual_seed(0)
    watch = Watch(5000, (-100 + np.random.default_rng(1).normal(size=5000)).tolist())
    watch.flat.fill_(1.0)
    ended = watch.run()
    assert ended.get("findings", []) == [] and len(ended["trace"]) < 5000
    assert min(watch.rates) == pytest.approx(0.1 * 0.3**4)
    rises = Watch(300, np.arange(300.0).tolist()).run()
    assert "still rising, or too noisy to tell, after 300 steps" in rises["findings"][0].what


# -- further steps -----------------------------------------------------------------------------

LEVELLED = "the objective was level at the end"


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


# -- what a trace tells ------------------------------------------------------------------------


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


# -- batches -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "of_pass"), [(5, 4), (6, 3), (20, 1)])
def test_a_pass_has_each_row_once_and_the_last_few_wait(size, of_pass):
    problem = problem_from(regression, {"y": torch.arange(20.0)})
    torch.manual_seed(0)
    parts = batches(problem, size)
    passes = [torch.cat([next(parts)[0] for _ in range(of_pass)]) for _ in range(2)]
    for rows in passes:
        assert len(rows.unique()) == len(rows) == size * of_pass
    assert not torch.equal(*passes)


def test_all_rows_are_no_batch_and_data_without_rows_have_none():
    problem = problem_from(regression, {"y": torch.arange(20.0)})
    assert next(batches(problem, None)) == []

    def alone(y):
        return regression(y[None])

    with pytest.raises(Refused, match="no rows to take batches of; leave batch_size out"):
        next(batches(problem_from(alone, {"y": torch.tensor(1.0)}), 5))


# -- going on ----------------------------------------------------------------------------------


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_step(self, step):
        if step["step"] >= self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("schedule", ["linear", "plateau"])
def test_an_ascent_that_goes_on_is_one_that_never_stopped(schedule, tmp_path, monkeypatch):
    monkeypatch.setattr("inference.storage.state._SECONDS", 0.0)
    monkeypatch.setattr("inference.storage.state._SHARE", 1e9)
    problem = problem_from(regression, {"y": torch.arange(20.0)})

    def watch(folder):
        number = torch.zeros(())
        state = Folder(tmp_path / folder)
        made = Watch(400, live=[(number, float)], of_pass=4, state=state, schedule=schedule)
        made.ascent.window = 20
        return made

    torch.manual_seed(7)
    whole = watch("whole")
    ended = whole.run(batches(problem, 5))
    torch.manual_seed(7)
    first = watch("parts")
    with pytest.raises(KeyboardInterrupt):
        first.run(batches(problem, 5), Context(callbacks=StopAt(240)))
    torch.manual_seed(8)
    second = watch("parts")
    assert second.ascent.load()
    assert 200 <= second.ascent.at.done < 240
    again = second.run(batches(problem, 5))
    assert torch.equal(again["trace"], ended["trace"])
    assert torch.equal(second.flat, whole.flat)
    assert second.rates == whole.rates[-len(second.rates) :]
    assert second.seen == whole.seen[-len(second.seen) :]
    assert again["findings"] == ended["findings"]


def test_without_a_state_or_with_that_of_other_parameters_it_begins_anew(tmp_path):
    (tmp_path / "state").mkdir()
    watch = Watch(100, schedule="linear", state=Folder(tmp_path / "state"))
    assert not watch.ascent.load()
    watch.ascent.save()
    other = Ascent(Adam(torch.zeros(5), 0.1), AscentSettings(100), Folder(tmp_path / "state"))
    assert not other.load()
    assert Watch(100, schedule="linear", state=Folder(tmp_path / "state")).ascent.load()
