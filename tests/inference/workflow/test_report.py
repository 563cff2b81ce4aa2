"""The report as a verb: of runs in memory and on disk, with a file and without."""

from __future__ import annotations

import pytest

import zoo


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
