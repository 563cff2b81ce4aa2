"""The report on the terminal: verdict, table, numbers short enough to read."""

import pandas as pd
import pytest
from conftest import EVIL

from inference.checks.checked import Check, Checked
from inference.show import terminal


def test_long_tables_are_cut_with_a_word(capsys):
    table = pd.DataFrame({"mean": range(50)}, index=[f"w[{i}]" for i in range(50)])
    terminal.show_table(terminal.console(), table)
    text = capsys.readouterr().out
    assert "w[39]" in text and "w[40]" not in text
    assert "10 more" in text


def test_wide_tables_are_cut_with_a_word(capsys):
    table = pd.DataFrame([[-0.12345] * 100], columns=[f"z[{i}]" for i in range(100)])
    terminal.show_table(terminal.console(), table)
    text = capsys.readouterr().out
    assert "z[12]" in text and "z[13]" not in text  # 1 + 13 (2 + 7) letters, of 120
    assert "87 more columns" in text and text.count("-0.1235") == 13 and "\u2026" not in text


def test_metrics_of_several_things_are_a_table(capsys):
    metrics = {"khat": 0.5, "layers[mode]": 2.0, "layers[sample]": 1.0, "work[mode]": 0.25}
    metrics |= {"work": 1.0}  # of the predictive
    terminal._show_metrics(terminal.console(), metrics | {"work[sample]": 0.125})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["khat", "0.5"],
        ["layers", "work"],
        ["mode", "2", "0.25"],
        ["sample", "1", "0.125"],
        ["predictive", "1"],
    ]


def test_verdicts_and_brackets_are_printed_as_they_are(capsys):
    verdict = {"status": "warn", "reasons": ["w[bmi] is odd; look at it"]}
    terminal.show_verdict(terminal.console(), verdict)
    assert capsys.readouterr().out == "WARN\n  - w[bmi] is odd; look at it\n"


def test_numbers():
    assert terminal.number(0.53333333333) == "0.533333"
    assert terminal.number([1.0, [2.5]]) == "[1, [2.5]]"


def test_cells_hold_values_with_their_errors_and_empty_columns_are_left_out():
    table = pd.DataFrame(
        {
            "time_s": [1.25, 2.0],
            "mean_error": [0.01234, float("nan")],
            "mean_error_se": [0.0051, float("nan")],
            "sd_low": [0.431, float("nan")],
            "sd_high": [0.99, float("nan")],
            "elbo": [-2423.28, -3.0],
            "elbo_se": [0.0014, 0.0],
        },
        index=["svi", "laplace"],
    ).reindex(columns=[name for group in terminal._CELLS for c in group.values() for name in c])
    first, second = terminal.layout(table)
    assert first["mean error, sd"] == ["0.0123 ± 0.0051", ""]
    assert first["sd ratio"] == ["0.43 .. 0.99", ""]
    assert "k-hat" not in first
    assert second["ELBO"] == ["-2423.2800 ± 0.0014", "-3"]


@pytest.mark.parametrize(("encoding", "marks"), [("utf-8", "✓✗-"), ("ascii", ["ok", "NO", "-"])])
def test_checks_have_marks_that_the_terminal_can_show(encoding, marks, monkeypatch, tmp_path):
    lines = [("shapes", True, "", ""), ("plates", False, "y lies in no plate", "add one")]
    lines = [Check(*line) for line in [*lines, ("guide", None, "there is none", "")]]
    with (tmp_path / "out").open("w", encoding=encoding) as out:
        monkeypatch.setattr("sys.stdout", out)
        terminal.show_checks(Checked(tuple(lines), "mine.py", "d.json"))
    shown = (tmp_path / "out").read_text(encoding=encoding).splitlines()
    assert [line.split()[0] for line in shown] == ["mine.py", *marks]
    assert shown[2].split(maxsplit=1)[1] == "plates  y lies in no plate; add one"


def test_nothing_of_a_record_steers_the_terminal(capsys):
    table = pd.DataFrame({f"{EVIL}[/]": [1.0], "mean": [2.0]}, index=[EVIL])
    data = {"source": EVIL, "n": 3, "notes": [EVIL]}
    verdict = {"status": "warn", "headline": EVIL, "reasons": [EVIL]}
    record = {"model": EVIL, "method": "map", "guide": EVIL, "seed": 0, "data": data}
    record |= {"verdict": verdict, "metrics": {EVIL: 1.0}, "point": {EVIL: 1.0}}
    terminal.show_run(record, table)
    terminal.show_checks(Checked((Check(EVIL, False, EVIL, EVIL),), EVIL, EVIL))
    error = ValueError(EVIL)
    terminal.show_tracebacks(Checked((Check("a", False, "b", "c", error=error),), "m", "d"))
    out, err = capsys.readouterr()
    assert (out + err).replace("\n", "").isprintable()
    assert out.count(r"\x1b[2J\u202e") > 8 and r"\x1b[2J" in err


def test_a_forced_terminal_has_colours_of_ours_alone(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    verdict = {"status": "fail", "reasons": ["\x1b[32mPASS [bold]"]}
    terminal.show_verdict(terminal.console(), verdict)
    out = capsys.readouterr().out
    assert "\x1b[1;31mFAIL" in out and r"\x1b[32mPASS [bold]" in out and "\x1b[32m" not in out
