"""The ascent: its learning rates, what it says of its end, batches, and how it goes on."""

from __future__ import annotations

import signal as signals

import numpy as np
import pytest
import torch
from conftest import QUIET, problem_from, regression

from inference.core.callbacks import Callback
from inference.core.problem import Context
from inference.methods.ascent import Adam, Ascent, AscentSettings
from inference.methods.training import batches
from inference.storage.state import SavedState
from models.contract import Fault

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
        context=QUIET,
        rows=10,
        **settings,
    ):
        self.flat = torch.zeros(3)
        self.rates, self.seen, self.values, self.live = [], [], values, live
        self.ascent = Ascent(
            self.flat,
            AscentSettings(steps, window=10, schedule=schedule),
            context,
            of_pass=of_pass,
            rows=rows,
            live=live,
            **settings,
        )

    def __call__(self, *rows):
        self.rates.append(self.ascent.adam.lr)
        self.seen.append([float(number) for number, _ in self.live])
        step = len(self.rates) - 1
        gap = self.flat - 1 + (0.1 * rows[0].mean() if rows else 0)
        value = -0.5 * gap @ gap if self.values is None else torch.tensor(self.values[step])
        return value, -gap

    def run(self, parts=NO_BATCHES):
        return self.ascent.run(self, parts)


def test_a_signal_that_comes_too_late_is_passed_on():
    watch = Watch(400, schedule="linear")

    def step(*rows):
        if len(watch.rates) == 399:
            signals.raise_signal(signals.SIGINT)
        return watch(*rows)

    ended = watch.ascent.run(step, NO_BATCHES)
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

    def watch(folder, **context):
        number = torch.zeros(())
        context = Context(state=SavedState(tmp_path / folder), **context)
        made = Watch(400, live=[(number, float)], of_pass=4, context=context, schedule=schedule)
        made.ascent.window = 20
        return made

    torch.manual_seed(7)
    whole = watch("whole")
    ended = whole.run(batches(problem, 5))
    torch.manual_seed(7)
    first = watch("parts", callbacks=StopAt(240))
    with pytest.raises(KeyboardInterrupt):
        first.run(batches(problem, 5))
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
    context = Context(state=SavedState(tmp_path / "state"))
    watch = Watch(100, schedule="linear", context=context)
    assert not watch.ascent.load()
    watch.ascent.save()
    assert not Ascent(torch.zeros(5), AscentSettings(100), context).load()
    assert Watch(100, schedule="linear", context=context).ascent.load()
