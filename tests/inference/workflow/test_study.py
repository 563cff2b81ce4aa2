"""Studies: which runs they are, what varies, what grows."""

from __future__ import annotations

import pandas as pd
import pytest

import zoo
from inference.workflow import study
from models.contract import UsageError

METHODS = {"mle", "map", "laplace", "svi", "nuts", "exact"}


def test_jobs_are_methods_times_values():
    found = study.jobs("map, svi:mvn", "prior_scale=0.1,1")
    assert [job.label for job in found] == [
        "map prior_scale=0.1",
        "map prior_scale=1",
        "svi:mvn prior_scale=0.1",
        "svi:mvn prior_scale=1",
    ]
    assert found[2].guide == "mvn" and found[2].varied == {"prior_scale": "0.1"}

    def mine(x):
        pass

    assert study.jobs([("svi", mine), "nuts"], None)[0].label == "svi:mine"
    assert {job.method for job in study.jobs(None, None)} == METHODS


@pytest.mark.parametrize(
    ("methods", "vary", "message"),
    [
        ("", None, "nothing to compare"),
        ("map,map", None, "map is asked for twice"),
        ("prior", None, "prior gives no posterior"),
        ("map", "prior_scale", "--vary name="),
        ("map", "prior_scale=", "--vary name="),
        ("map", {"a": [1], "b": [2]}, "one setting"),
    ],
)
def test_what_cannot_be_asked(methods, vary, message):
    with pytest.raises(UsageError, match=message):
        study.jobs(methods, vary)


def test_sensitivity_in_words():
    parameters = pd.DataFrame(
        {"mean": [0.0, 2.0], "sd": [1.0, 2.0], "hdi_low": [0, 0], "hdi_high": [1, 1]},
        index=pd.MultiIndex.from_tuples(
            [("map s=1", "w"), ("map s=2", "w")], names=["run", "parameter"]
        ),
    )
    runs = {
        f"map s={s}": _Varied({"method": "map", "options": {}, "settings": {"s": s}})
        for s in (1, 2)
    }
    table = study.sensitivity(parameters, study.jobs("map,mle", "s=1,2"), runs)
    assert table["value"].tolist() == [1, 2]
    assert "mean of w moves by 2 of its smallest sds" in study.moved(table)[0]


class _Varied:
    def __init__(self, record):
        self.record = record


def test_an_interruption_begins_nothing_more_and_keeps_what_is_done(tmp_path, monkeypatch, capsys):
    from inference.methods import point

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(point, "map_", interrupted)
    words = ["compare", "coin", "--methods", "laplace,map,nuts", "--out", str(tmp_path)]
    assert zoo.main(words) == 130
    said = capsys.readouterr()
    assert "interrupted; what was done is saved" in said.err
    assert "nuts     INTERRUPTED  not run" in said.out
    assert [path.name[:12] for path in tmp_path.glob("*/run.json") for path in [path.parent]] == [
        "coin-laplace"
    ]
    assert zoo.main([*words[:3], "map,nuts"]) == 130
