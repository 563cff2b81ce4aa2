"""Callbacks: told of start, steps and end; what they raise costs a warning, not the run."""

from __future__ import annotations

import pytest

import zoo


class Tracker(zoo.Callback):
    def __init__(self):
        self.told = []

    def on_start(self, record):
        self.told.append(("start", record["method"], record["seed"]))

    def on_step(self, step):
        self.told.append(("step", step["step"], step["of"]))

    def on_end(self, run):
        kept = run is not None and run.path is not None
        self.told.append(("end", run.record["status"] if run else None, kept))


def steps_of(tracker: Tracker) -> list[int]:
    return [told[1] for told in tracker.told if told[0] == "step"]


@pytest.mark.parametrize(
    ("asked", "of"),
    [
        ({"method": "nuts", "chains": 2, "draws": 30, "warmup": 20}, 100),
        ({"method": "svi", "guide": "normal", "steps": 300, "draws": 20}, 300),
    ],
)
def test_a_tracker_hears_of_start_steps_and_end(asked, of, tmp_path):
    tracker = Tracker()
    zoo.run("coin", seed=3, out=tmp_path, callbacks=[tracker], **asked)
    assert tracker.told[0] == ("start", asked["method"], 3)
    assert tracker.told[-1] == ("end", "done", True)
    steps = steps_of(tracker)
    assert (
        steps == sorted(steps) and steps[-1] <= of and all(t[2] == of for t in tracker.told[1:-1])
    )
    if asked["method"] == "nuts":
        assert steps[-1] == of


def test_svi_tells_its_objective_and_learning_rate():
    seen = []

    class Elbo(zoo.Callback):
        def on_step(self, step):
            seen.append((step["elbo"], step["lr"]))

    run = zoo.run("coin", method="svi", guide="normal", steps=300, draws=20, callbacks=[Elbo()])
    trace = run.idata["objective"]["value"].values
    assert seen[0][0] == pytest.approx(trace[:100].mean()) and seen[0][1] == 0.1


def test_what_a_callback_raises_is_told_and_the_run_goes_on():
    class Broken(zoo.Callback):
        def on_start(self, record):
            raise ConnectionError("the tracker is away")

    tracker, draws = Tracker(), {"method": "laplace", "draws": 20}
    with pytest.warns(UserWarning, match=r"on_start of Broken raised ConnectionError"):
        run = zoo.run("coin", callbacks=[Broken(), tracker], **draws)
    assert run.verdict.status and [told[0] for told in tracker.told] == ["start", "end"]
    with pytest.raises(zoo.UsageError, match=r"derive it from zoo\.Callback"):
        zoo.run("coin", callbacks=[print], **draws)


def test_a_run_without_a_result_ends_too():
    tracker = Tracker()
    with pytest.raises(zoo.Refused):
        zoo.run("coin", method="map", alpha=0.5, beta=0.5, callbacks=[tracker])
    assert tracker.told[-1] == ("end", None, False)
