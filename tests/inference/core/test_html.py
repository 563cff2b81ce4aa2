"""Pages: whatever comes from a record is text, never a part of the page."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import EVIL, HOUSE, UNESCAPED, tags

from inference.checks.calibration import Calibration
from inference.checks.checked import Check, Checked
from inference.core import html
from inference.results.comparison import Table


def framed(text: str) -> str:
    values = {text: [1.23456, float("nan")], "b": [text, None], "c": [1, 2]}
    return html.frame(pd.DataFrame(values, index=[text, 7]))


def noted(text: str) -> str:
    table = Table({"a": [1.0]}, index=[text])
    table.notes = [text, text]
    return table._repr_html_()


def checked(text: str) -> str:
    lines = (Check(text, False, text, text), Check(text, None, text, ""))
    return Checked(lines, text, text)._repr_html_()


def calibrated(text: str) -> str:
    table = Calibration({"says": [text]}, index=[text])
    table.notes, table.verdict = [text], SimpleNamespace(status="pass", reasons=[text])
    return table._repr_html_()


@pytest.mark.parametrize("kind", [framed, noted, checked, calibrated])
def test_text_stays_text(kind):
    page = kind(EVIL)
    assert tags(page) == tags(kind("harmless"))
    assert not [word for word in UNESCAPED if word in page]
    assert "&lt;script&gt;" in page


def test_numbers_are_short_and_what_is_missing_is_empty():
    page = framed("a")
    assert "<th>a</th><td>1.235</td><td>a</td><td>1</td>" in page
    assert "<th>7</th><td></td><td></td><td>2</td>" in page


def test_a_part_of_a_page_is_escaped_once():
    inner = html.filled("<b>{{ one }}</b>", one="a < b")
    outer = html.filled("<p>{{ inner }}</p>{{ said }}", inner=inner, said="'")
    assert outer == "<p><b>a &lt; b</b></p>&#39;"
    with pytest.raises(Exception, match="undefined"):
        html.filled("{{ forgotten }}")


def test_nobody_escapes_by_hand():
    for path in HOUSE.glob("inference/**/*.py"):
        text = path.read_text()
        found = [word for word in ("html import escape", "to_html(", "|safe") if word in text]
        assert not found, path
        assert path.name == "html.py" or "Markup(" not in text, path
