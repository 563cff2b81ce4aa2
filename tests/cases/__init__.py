"""Small models of the kinds that people report, each a folder: `model.py` and its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zoo

HERE = Path(__file__).parent


def run_case(name: str, method: str = "nuts", **asked: Any) -> zoo.Run:
    """The model of a folder run on its data."""
    (data,) = [path for path in (HERE / name).iterdir() if path.stem == "d"]
    return zoo.run(HERE / name / "model.py", method=method, data=str(data), **asked)


def check_mean(run: zoo.Run, name: str, mean: float, sd: float) -> None:
    """A parameter's mean and sd within five Monte Carlo errors of the truth, with enough draws."""
    row = run.summary().loc[name]
    assert row["ess_bulk"] > 400, row
    assert abs(row["mean"] - mean) < 5 * row["mcse_mean"] + 1e-3 * sd, row
    assert abs(row["sd"] - sd) < 5 * row["mcse_sd"] + 1e-3 * sd, row
