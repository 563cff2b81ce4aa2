"""A calibration in its folder."""

from __future__ import annotations

import pytest
from stopping import save_at_each_chance  # noqa: F401

import zoo
from inference.storage import run_folder, seals, state
from inference.storage.record import read_record


def test_a_calibration_goes_on_from_its_last_fit(tmp_path, monkeypatch, capsys):
    asked = {"method": "exact", "n": 5, "draws": 100}
    first = state.Journal.on_step

    def stop_at_15(self, step):
        first(self, step)
        if step["step"] == 15:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(state.Journal, "on_step", stop_at_15)
        with pytest.raises(KeyboardInterrupt, match=r"continue with `zoo\.py resume"):
            zoo.calibrate("coin", 30, out=tmp_path, **asked)
    (path,) = tmp_path.iterdir()
    fits = path / run_folder.FITS
    assert len(seals.read_lines(fits)) == 15
    fits.write_text(fits.read_text() + '{"i": 15, "ra')  # as a kill would leave it
    assert zoo.main(["list", "runs", "--out", str(tmp_path)]) == 0
    assert "interrupted, 15 of 30 steps" in capsys.readouterr().out
    table, whole = zoo.resume(path), zoo.calibrate("coin", 30, **asked)
    assert read_record(path)["timing"]["fits"] == 15
    assert all((table.ranks[name] == whole.ranks[name]).all() for name in whole.ranks)
    assert (path / "figures" / "ranks.png").stat().st_size > 10_000
    assert zoo.main(["show", str(path)]) == 0
    assert "tests of 3 quantities over 30 data sets" in capsys.readouterr().out
    assert zoo.main(["resume", str(path), "-q"]) == 0
    with pytest.raises(zoo.UsageError, match=r"needs runs|run with a result"):
        zoo.report(path)
    fits.write_text(fits.read_text().replace("7", "8"))
    assert zoo.main(["show", str(path)]) == 65
