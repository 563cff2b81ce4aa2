"""What others wrote, without characters that do more than print."""

import pytest

from inference.core.plain_text import plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("done\rPASS\a\b\x7f", r"done\rPASS\x07\x08\x7f"),
        ("\x9b2J\x85", r"\x9b2J\x85"),
        ("a\u202eb\u2066c\u200f", r"a\u202eb\u2066c\u200f"),
        ("a\u2028b\ufeff\0", r"a\u2028b\ufeff\x00"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_steers_a_terminal_is_written_out(text, shown):
    assert plain(text) == shown
    assert plain(shown) == shown and shown.isprintable()


@pytest.mark.parametrize("text", ["", "w[bmi] ± 0.1", "two\nlines\tand a tab", "Größe 年 ✓ é"])
def test_all_else_stays(text):
    assert plain(text) == text
