"""Runs that are stopped on their way, and what it means to be the same run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import zoo

NUTS = {"model": "coin", "method": "nuts", "draws": 200, "warmup": 60, "workers": 2}
SVI = {"model": "gaussian", "method": "svi", "guide": "mvn", "steps": 1500, "draws": 60}
BATCHES = SVI | {"model": "linear", "guide": "normal", "batch_size": 100, "lr": 0.02}
MOONS = {
    "model": "bnn",
    "data": "moons",
    "hidden": "4",
    "method": "svi",
    "steps": 600,
    "draws": 20,
}
LOCAL = MOONS | {"guide": "local"}
SPARSE = MOONS | {"guide": "sparse", "prior": "log_uniform"}
RUNS = {"nuts": NUTS, "svi": SVI, "batches": BATCHES, "local": LOCAL, "sparse": SPARSE}


class StopAt(zoo.Callback):
    """Ends the run as Ctrl-C would, at a share of its steps."""

    def __init__(self, share: float):
        self.share = share

    def on_step(self, step):
        if step["step"] >= self.share * step["of"]:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def save_at_each_chance(monkeypatch):
    monkeypatch.setattr("inference.storage.state._SECONDS", 0.0)
    monkeypatch.setattr("inference.storage.state._SHARE", 1e9)


def stopped(folder: Path, share: float, **asked) -> Path:
    """The folder of a run that was stopped on its way."""
    with pytest.raises(KeyboardInterrupt, match=r"continue with `zoo.py resume"):
        zoo.run(out=folder, callbacks=[StopAt(share)], **asked)
    (path,) = folder.iterdir()
    return path


def same(one: zoo.Run, other: zoo.Run) -> None:
    """Equal draws, statistics, parameters, objective and verdict."""
    assert set(one.idata.groups()) == set(other.idata.groups())
    for group in one.idata.groups():
        for name, values in one.idata[group].data_vars.items():
            assert np.array_equal(values, other.idata[group][name], equal_nan=True), name
    assert one.params.keys() == other.params.keys()
    assert all((one.params[name] == other.params[name]).all() for name in one.params)
    assert one.metrics == other.metrics
    assert one.record["verdict"] == other.record["verdict"]
