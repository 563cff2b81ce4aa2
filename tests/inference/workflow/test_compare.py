"""Several methods on one model, or saved runs, side by side."""

from __future__ import annotations

import numpy as np
import pytest

import zoo
from models.contract import BadSetting, Fault, Refused, UsageError


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


def test_a_page_of_runs_that_are_not_saved(tmp_path):
    run = zoo.run("coin", method="exact", data="HHT")
    page = zoo.report(run)
    assert page.startswith("<!doctype html>") and 'src="data:image/png;base64,' in page
    assert list(tmp_path.iterdir()) == []
    out = tmp_path / "page.html"
    assert zoo.report(run, zoo.run("coin", method="map", data="HHT"), out=out) == out.read_text()
    assert "compared with" in out.read_text()  # both saw the same data


def test_a_report_needs_runs():
    with pytest.raises(zoo.UsageError, match=r"see `zoo\.py list runs`"):
        zoo.report()
