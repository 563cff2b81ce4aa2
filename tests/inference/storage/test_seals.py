"""Seals: what is damaged is noticed, and costs no more than itself."""

from __future__ import annotations

import hashlib

from inference.storage.seals import read_lines, seal_of, sealed_line, sha256


def test_a_seal_is_that_of_the_content_however_it_is_laid_out(tmp_path):
    assert seal_of({"a": 1, "b": [2]}) == seal_of({"b": [2], "a": 1})
    assert seal_of({"a": 1}) != seal_of({"a": 2})
    file = tmp_path / "f"
    file.write_bytes(b"abc")
    assert sha256(file) == hashlib.sha256(b"abc").hexdigest()


def test_a_damaged_line_is_left_out(tmp_path):
    file = tmp_path / "fits.jsonl"
    assert read_lines(file) == []
    lines = [sealed_line({"i": i, "rank": {"pi": 7}}) for i in range(4)]
    lines[1] = lines[1].replace("7", "8")
    lines[3] = lines[3][:-9]  # cut short
    file.write_text("".join([*lines[:3], "3\n", "{}\n", "[1]\n", lines[3]]))
    assert [line["i"] for line in read_lines(file)] == [0, 2]
    assert read_lines(file)[0] == {"i": 0, "rank": {"pi": 7}}
