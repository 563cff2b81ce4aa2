"""The report on the terminal: verdict, table, numbers short enough to read."""

import pandas as pd

from inference import terminal


def test_long_tables_are_cut_with_a_word(capsys):
    table = pd.DataFrame({"mean": range(50)}, index=[f"w[{i}]" for i in range(50)])
    terminal.show_table(terminal.console(), table)
    text = capsys.readouterr().out
    assert "w[39]" in text and "w[40]" not in text
    assert "10 more" in text


def test_verdicts_and_brackets_are_printed_as_they_are(capsys):
    verdict = {"status": "warn", "reasons": ["w[bmi] is odd; look at it"]}
    terminal.show_verdict(terminal.console(), verdict)
    assert capsys.readouterr().out == "WARN\n  - w[bmi] is odd; look at it\n"


def test_numbers():
    assert terminal.number(0.53333333333) == "0.533333"
    assert terminal.number([1.0, [2.5]]) == "[1, [2.5]]"
