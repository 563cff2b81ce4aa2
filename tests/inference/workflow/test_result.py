"""A finished run: read, shown, predicted from."""

from __future__ import annotations

import numpy as np
import pytest

import zoo


def test_a_saved_run_is_read_shown_and_predicts_alike(tmp_path, capsys):
    run = zoo.run("coin", method="laplace", data="HHT", seed=3, out=tmp_path)
    again = zoo.load(run.path)
    assert again.verdict == run.verdict
    assert again.metrics == run.metrics
    assert again.summary().equals(run.summary())
    assert again.predict(rows=2).equals(run.predict(rows=2))
    assert again.plots() == run.plots()
    assert set(again.params) == {"loc", "scale_tril"}
    assert zoo.main(["show", str(run.path)]) == 0
    assert "PASS" in capsys.readouterr().out
    table = tmp_path / "table.csv"
    assert zoo.main(["predict", str(run.path), "--rows", "2", "--out", str(table)]) == 0
    assert table.read_text().splitlines()[0] == ",mean,sd,hdi_low,hdi_high"
    assert len(table.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (-1, "rows=-1 is too few; give 1 or more"),
        (0, "rows=0 is too few; give 1 or more"),
        (2.5, "rows=2.5 is no whole number; give 1 or more"),
    ],
)
def test_rows_to_predict_are_counts(rows, message):
    run = zoo.run("coin", method="exact", data="HHT")
    with pytest.raises(zoo.UsageError, match=message):
        run.predict(rows=rows)
    assert len(run.predict(rows=np.int64(2))) == 2


def test_in_python_the_same_verbs_and_a_table_for_notebooks():
    run = zoo.run("coin", method="exact", data="HH")
    assert run.path is None
    assert "<table" in run._repr_html_() and "pass" in run._repr_html_()
    assert repr(run).startswith("coin exact, pass: Converged. Trust") and "0.75" in repr(run)
    with pytest.raises(zoo.UsageError, match="did you mean 'marginals'"):
        run.plot("marginal")
    assert run.plot("marginals").axes
