"""The report: verdicts first and the gravest on top, self-contained, nothing unescaped."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from conftest import EVIL, UNESCAPED, tags
from matplotlib.figure import Figure

import zoo
from inference.core.problem import Finding
from inference.results.comparison import Comparison
from inference.results.diagnostics import Verdict
from inference.show import report
from inference.storage import seals
from inference.storage.record import read_record, write_record
from models.contract import CannotWrite, UsageError

BAD = Finding("fail", "the chains disagree <in pi>", "run longer")


@pytest.fixture(scope="module")
def runs():
    coin = {"model": "coin", "data": "HHHTT"}
    found = [zoo.run(**coin, method=method, draws=200) for method in ("laplace", "exact")]
    found.append(zoo.run(**coin, method="map"))
    bad = zoo.run(**coin, method="laplace", draws=200, seed=7)
    bad.record["verdict"] = {"status": "fail", "reasons": [str(BAD)]}
    found.append(replace(bad, verdict=Verdict("fail", (BAD,))))
    found.append(zoo.run("gaussian", method="exact", draws=200))
    return found


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    file = tmp_path_factory.mktemp("report") / "report.html"
    assert zoo.report(*runs, out=file) == file.read_text()
    return file.read_text()


def test_the_gravest_verdict_is_on_top_with_its_cause_and_the_trusted_are_named(page):
    listed = re.findall(r'<li><span class="verdict"[^>]*>(\w+)</span> <b>([^<]*)</b>', page)
    assert listed[0] == ("fail", "coin laplace seed=7")
    assert [status for status, _ in listed] == ["fail", "pass", "pass", "pass", "pass"]
    assert page.index("the chains disagree &lt;in pi&gt;; run longer") < page.index("<table>")
    (trusted,) = re.findall(r"<b>You may publish: parameters of (.*?);", page)
    assert {"coin exact", "gaussian exact"} <= set(trusted.split(", "))
    assert "coin map" not in trusted
    assert "coin laplace seed=7" not in trusted


def test_it_needs_nothing_else(page):
    targets = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert targets and all(target.startswith("data:") for target in targets)
    assert "<script" not in page and "url(" not in page and "@import" not in page
    assert page.count("<img ") > 8
    assert all('alt="' in tag for tag in re.findall(r"<img [^>]{0,80}", page))


def test_settings_versions_and_commands_are_there(page):
    for word in ("torch", "nutpie", "Options and settings", "seed", "sha256", "Commands"):
        assert word in page


def test_only_runs_of_the_same_data_are_compared(page):
    assert page.count("<h2>Side by side</h2>") == 1


@pytest.fixture
def without_data(tmp_path):
    """A run whose data are gone."""
    (tmp_path / "flips.csv").write_text("x\n1\n1\n0\n")
    run = zoo.run("coin", method="laplace", data=tmp_path / "flips.csv", draws=100)
    (tmp_path / "flips.csv").unlink()
    return run


def test_a_run_without_its_data_lacks_a_picture_and_the_prior_is_no_answer(
    without_data, tmp_path, monkeypatch
):
    monkeypatch.setattr("inference.storage.run_folder._write_figures", lambda *_: None)
    folder, prior = without_data.save(tmp_path), zoo.run("coin", method="prior", draws=100)
    page = zoo.report(folder, prior, out=tmp_path / "report.html")
    assert "no picture updating: there is no file" in page
    assert "These are draws of the prior." in page


def test_pictures_that_were_saved_are_shown_and_none_is_drawn(tmp_path, monkeypatch):
    folder = zoo.run("coin", method="laplace", data="HHT", draws=100).save(tmp_path)
    kinds = sorted(path.stem for path in folder.glob("figures/*.png"))
    assert "updating" in kinds  # which needs the model
    (folder / "figures" / "khat.png").write_bytes(b"no picture at all")
    record = read_record(folder)
    record["files"]["figures/khat.png"] = seals.sha256(folder / "figures" / "khat.png")
    write_record(folder, record)
    monkeypatch.setattr(zoo.Run, "plot", None)
    page = zoo.report(folder, out=tmp_path / "report.html")
    assert re.findall(r'alt="[^"]*: (\w+)"', page) == [k for k in kinds if k != "khat"]
    assert "no picture khat: cannot identify" in page
    assert len(page) < 400_000


class Planted:
    """A run of which every word, name and number that can be text is this one."""

    def __init__(self, run, text):
        keys = {"model": text, "options": {text: text}, "settings": {text: [text]}}
        keys |= {"seed": text, "metrics": {text: 0.5}, "timing": {text: text}}
        keys |= {"versions": {text: text}, "command": [text, text]}
        data = {"source": text, "n": text, "sha256": text, "notes": [text]}
        self.record = {**run.record, **keys, "data": data}
        self.verdict = Verdict("fail", (Finding("fail", text, text),))
        self.table, self.text, self.path = run.summary(), text, None

    def summary(self):
        return self.table.rename(index={"pi": self.text}, columns={"mean": self.text})

    def plots(self):
        return [self.text, "none"]

    def plot(self, kind):
        if kind == "none":
            raise ValueError(self.text)
        return Figure(figsize=(1, 1))


def planted(runs, text):
    """The page of such a run, and of a comparison of such runs."""
    found = zoo.compare(*runs[:2])
    table = Comparison(found.rename(index={label: text + label for label in found.index}))
    table.trust = dict.fromkeys([text], found.trust[found.index[0]])
    table.references, table.notes, table.pictures = {text: text}, [text], {text: lambda: Figure()}
    table[["reading", "reason"]] = text
    page = report.report({text: Planted(runs[0], text)}, [table], {})
    return "".join((page, report.comparison_html(table)))


def test_nothing_of_a_record_becomes_a_part_of_the_page(runs):
    page = planted(runs, EVIL)
    assert tags(page) == tags(planted(runs, "harmless"))
    assert not [word for word in UNESCAPED if word in page]
    assert page.count("&lt;script&gt;") > 30


def test_what_cannot_be_reported(tmp_path):
    with pytest.raises(UsageError, match="needs runs"):
        zoo.report()
    with pytest.raises(UsageError, match=r"is no \.html"):
        zoo.report(tmp_path, out="report.pdf")
    with pytest.raises(CannotWrite, match="cannot write"):
        zoo.report(tmp_path, out="/proc/nowhere/report.html")


def test_from_the_command_line(runs, tmp_path, capsys):
    folders = [str(run.save(tmp_path)) for run in runs[:2]]
    out = tmp_path / "both.html"
    assert zoo.main(["report", *folders, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    assert "2 runs of coin" in out.read_text()
    assert zoo.main(["compare", *folders, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("compared with exact\n") and "the reference" in said
    assert "saved in" in said
    (compared,) = tmp_path.glob("compare-*")
    assert zoo.main(["report", *folders, str(compared), "--out", str(out)]) == 0
    assert compared.name in capsys.readouterr().err


def test_runs_without_a_result_are_left_out_and_told(tmp_path, capsys):
    done = zoo.run("coin", method="exact", draws=50, out=tmp_path).path
    with pytest.raises(Exception, match="not finite"):
        zoo.run("linear", method="svi", lr=1e9, out=tmp_path)
    runs, page = sorted(map(str, tmp_path.glob("*-0-*"))), tmp_path / "page.html"
    assert zoo.main(["report", *runs, "--out", str(page)]) == 0
    assert "left out, without a result: linear-svi" in capsys.readouterr().err
    assert "coin" in page.read_text() and done.is_dir()
