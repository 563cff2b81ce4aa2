"""Studies: which runs they are, what varies, what grows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import zoo
from inference.workflow import study
from models.contract import BadSetting, Fault, Refused, UsageError

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


def test_sizes_are_whole_numbers_of_rows_that_there_are():
    assert study.sizes("10,2,10", None) == [2, 10]
    for words in ("2,x", "", "0,5", "1.5"):
        with pytest.raises(UsageError, match="--sizes 2,10,100"):
            study.sizes(words, None)
    with pytest.raises(UsageError, match="there are 5 rows"):
        study.sizes([2, 6], 5)


def test_asymptopia_of_the_coin():
    table = zoo.compare("coin", sizes="2,10000", heads=0.7).set_index(["n", "estimate"])
    two, many = table.loc[2], table.loc[10_000]
    pi = two[two["parameter"] == "pi"]["value"]
    assert pi["mle"] == pi["map"] == 1.0  # the sequence begins with two heads
    assert pi["posterior"] == pytest.approx(0.75)
    assert two.loc["predictive", "value"] == pytest.approx(0.75)
    agreeing = many[many["parameter"] == "pi"]["value"]
    assert np.ptp(agreeing) < 1e-3
    assert many.loc["posterior", "high"] - many.loc["posterior", "low"] < 0.02


def test_rows_that_are_given_grow_in_their_order():
    table = zoo.compare("coin", sizes=[1, 3], data="HTT")
    means = table[table["estimate"] == "posterior"]["value"]
    assert means.tolist() == pytest.approx([2 / 3, 2 / 5])


def test_growing_logistic_predicts_the_same_next_row_and_says_what_is_missing():
    table = zoo.compare("logistic", sizes=[2, 40], methods="mle,laplace")
    assert any(note.startswith("n = 2: mle is refused") for note in table.notes)
    assert set(table[table["n"] == 2]["estimate"]) == {"posterior", "predictive"}
    chances = table[table["parameter"] == "P(next y = 1)"]["value"]
    assert chances.between(0, 1).all() and len(chances) == 3
    with pytest.raises(UsageError, match="no rows that could grow"):
        zoo.compare("gaussian", sizes=[2], data="y=1")
    with pytest.raises(UsageError, match="simulates no data"):
        zoo.compare("gaussian", sizes=[2])


def test_growing_linear_has_an_interval_of_the_next_row():
    table = zoo.compare("linear", sizes=[20], noise=0.5).set_index(["parameter", "estimate"])
    drawn = table.loc[("next y", "predictive")]
    assert drawn["low"] < drawn["value"] < drawn["high"]
    # A new row's 94 % interval is at least that of its noise, 2 x 1.88 x 0.5.
    assert drawn["high"] - drawn["low"] > 1.7


def test_each_method_takes_the_settings_it_knows_and_unknown_ones_are_errors():
    table = zoo.compare("coin", methods="map,laplace", draws=100, alpha=2.0)
    assert table.runs["laplace"].idata["posterior"].sizes["draw"] == 100
    assert table.runs["map"].record["options"]["alpha"] == 2.0
    with pytest.raises(BadSetting, match="did you mean 'draws'"):
        zoo.compare("coin", methods="map,laplace", drwas=100)
    with pytest.raises(BadSetting, match="there is no setting 'draws'"):
        zoo.compare("coin", methods="map", draws=100)
    with pytest.raises(Refused, match="no method ran, the first because: mle is refused"):
        zoo.compare("gaussian", methods="mle")
    with pytest.raises(UsageError, match="one model"):
        zoo.compare("coin", "linear")


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


@pytest.mark.parametrize("vary", ["alpha=1,5", "prior=normal,laplace"], ids=["numbers", "words"])
def test_a_setting_varies_from_the_command_line(vary, tmp_path, capsys):
    model = {"alpha": "coin", "prior": "logistic"}[vary.partition("=")[0]]
    words = ["compare", model, "--methods", "map", "--vary", vary, "--out", str(tmp_path)]
    words += ["--features", "mean radius"] if model == "logistic" else []
    assert zoo.main(words) == 0
    assert f"map {vary.partition(',')[0]}" in capsys.readouterr().out
    assert len(list(tmp_path.glob("compare-*/figures/sensitivity.png"))) == 1


def test_what_would_have_no_effect_or_differ_in_data_is_told_before_the_work(tmp_path):
    run = zoo.run("coin", method="exact", draws=50)
    with pytest.raises(UsageError, match="methods would have no effect"):
        zoo.compare(run, methods="map")
    with pytest.raises(UsageError, match="vary would have no effect"):
        zoo.compare("coin", sizes="2", vary="alpha=1,2")
    with pytest.raises(UsageError, match="one method for the posterior"):
        zoo.compare("coin", sizes="2", methods="exact,laplace")
    with pytest.raises(UsageError, match="jobs=0"):
        zoo.compare("coin", jobs=0)
    with pytest.raises(BadSetting, match="has no setting 'draws' to vary; choose --methods lap"):
        zoo.compare("coin", methods="laplace,map", vary="draws=10,20")
    with pytest.raises(BadSetting, match=r"^linear has .* did you mean 'prior_scale'"):
        zoo.compare("linear", vary="prior_scael=1,2")
    with pytest.raises(Refused, match="different data"):
        zoo.compare("linear", methods="map", vary="standardise=yes,no")
    with pytest.raises(UsageError, match="a run of the prior"):
        zoo.compare(run, zoo.run("coin", method="prior", draws=50))
    with pytest.raises(Fault, match="no run in") as caught:
        zoo.compare(run, tmp_path / "typo")
    assert caught.value.exit_code == 66


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


def test_jobs_at_once_give_the_same_draws():
    alone = zoo.compare("coin", methods="laplace,nuts", draws=50, chains=2)
    at_once = zoo.compare("coin", methods="laplace,nuts", draws=50, chains=2, jobs=2)
    for label, run in alone.runs.items():
        np.testing.assert_array_equal(
            run.idata["posterior"]["pi"], at_once.runs[label].idata["posterior"]["pi"]
        )
    assert at_once.runs["nuts"].predict(rows=2).shape[0] == 2


@pytest.mark.slow
def test_jobs_at_once_from_the_command_line_and_of_a_file(command, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import pyro, pyro.distributions as dist\n"
        "def model(y):\n"
        "    mu = pyro.sample('mu', dist.Normal(0.0, 1.0))\n"
        "    with pyro.plate('row', len(y)):\n"
        "        pyro.sample('y', dist.Normal(mu, 1.0), obs=y)\n"
    )
    (tmp_path / "y.json").write_text('{"y": [1, 2]}')
    words = ["compare", "mine.py", "--data", "y.json", "--methods", "map,laplace", "--jobs", "2"]
    done = command(*words)
    assert done.returncode == 0, done.stderr
    assert "laplace  PASS" in done.stdout and done.stdout.count("saved in") == 1
    # The comparison lies among the runs, and is no run.
    assert (
        zoo.main(["report", *map(str, tmp_path.glob("runs/*")), "--out", str(tmp_path / "r.html")])
        == 0
    )
