"""CSV text: typed columns, headers told from data."""

import numpy as np
import pytest

from models.contract import BadInput
from models.data import csv


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("a,b\n1,2.5\n3,4\n", {"a": [1, 3], "b": [2.5, 4.0]}),
        ("1,2\n3,4\n", {"column_1": [1, 3], "column_2": [2, 4]}),
        ("H\nT\nH\n", {"column_1": ["H", "T", "H"]}),
        ("city\nA\nB\n", {"city": ["A", "B"]}),
        ("a;b\n1,5;2\n", {"a": ["1,5"], "b": [2]}),
        ("flag\ntrue\nfalse\n", {"flag": [1.0, 0.0]}),
    ],
)
def test_columns_have_names_and_types(tmp_path, text, columns):
    path = tmp_path / "t.csv"
    path.write_text(text)
    found = csv.read_csv(path)
    assert {name: values.tolist() for name, values in found.items()} == columns


def test_whole_numbers_stay_whole_and_gaps_show(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,x\n2,\n")
    found = csv.read_csv(path)
    assert found["a"].dtype == np.int64
    assert found["b"].tolist() == ["x", None]
    path.write_text("a\n1\nNA\n")
    assert np.isnan(csv.read_csv(path)["a"][1])


NAMED = {
    "quoted": '"a","b"\n"r1",1,2.5\n"r2",3,4\n',
    "words": "a;b\nMazda;1;2.5\nFiat 128;3;4\n",
    "counted": "a\tb\n1\t1\t2.5\n2\t3\t4\n",
    "quoted numbers": '"a" "b"\n"7" 1 2.5\n"3" 3 4\n'.replace(" ", ","),
    "one row": "a,b\nr1,1,2.5\n",
}


@pytest.mark.parametrize("kind", NAMED)
def test_rows_that_bear_a_name_are_read_without_it(tmp_path, kind):
    path = tmp_path / "t.csv"
    path.write_text(NAMED[kind])
    found = csv.read_csv(path)
    rows = NAMED[kind].count("\n") - 1
    assert {k: v.tolist() for k, v in found.items()} == {"a": [1, 3][:rows], "b": [2.5, 4][:rows]}
    assert found.notes == ("the first field of each row is its name, and left out",)
    assert csv.read_cells(path).notes == found.notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"a","b"\n"1",1,2\n2,3\n', "3 fields instead of 2, .* line 2; correct it"),
        ("a,b\n1,2\n1,2,3\n", "3 fields instead of 2, .* line 3; correct it"),
        ("a,b\n7,1,2\n3,4,5\n", "line 2; if each row begins with its name, give the header a"),
        ('"a","b"\n"r",1,2\n"r",4,5\n', "line 2; if each row begins with its name"),
        ("a,b\n1,2,\n2,4,\n", "line 2; every row ends with a separator: take it away"),
        ("1,2\n3,4,5\n6,7,8\n", "3 fields instead of 2, .* line 2; correct it"),
    ],
)
def test_rows_of_other_lengths_are_told_with_what_to_do(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(BadInput, match=message):
        csv.read_csv(path)


def test_names_are_joined_and_split_again():
    names = ["rooms", "size, m2", 'the "old" one']
    assert csv.split_names(csv.join_names(names)) == names
    assert csv.split_names(' a, "b, c" ') == ["a", "b, c"] and csv.split_names("") == []


NUMBERS = [str(i) for i in range(9)]


def test_a_word_in_a_column_of_numbers_is_a_slip():
    with pytest.raises(
        BadInput, match=r"'age' is text in row 10 \('3O'\), 9 others are numbers, t.csv"
    ):
        csv.check_stray("age", [*NUMBERS, "3O"], "t.csv")
    with pytest.raises(BadInput, match=r"row 12 \('x'\), 18 others"):
        csv.check_stray("age", [*NUMBERS, None, None, "x", *NUMBERS, "y"], "t.csv")


@pytest.mark.parametrize(
    "cells",
    [
        NUMBERS,
        [*NUMBERS, "a", "b"],  # one in ten is rare, more are not
        ["1", "2"] * 20 + ["A"],  # codes
        ["Rome", "Paris"] * 5,
        [None],
    ],
)
def test_words_that_are_no_exception_are_categories(cells):
    assert csv.check_stray("age", cells, "t.csv") is None


@pytest.mark.parametrize(
    ("cell", "comma"),
    [
        ("225,3", True),
        ("-1.234,5", True),
        ("1,234.5", True),
        ("Rome, Italy", False),
        ("3O", False),
    ],
)
def test_a_comma_is_named_only_in_what_is_a_number(cell, comma):
    assert (csv.fix_of(cell, "correct it") == "correct it") != comma


def test_words_for_true_and_false_are_truths(tmp_path):
    (tmp_path / "d.csv").write_text("event,some\nTRUE,true\nfalse,\n")
    found = csv.read_csv(tmp_path / "d.csv")
    assert found["event"].dtype == bool and found["event"].tolist() == [True, False]
    assert found["some"].dtype == float and np.isnan(found["some"][1])


@pytest.mark.parametrize(
    "text",
    ['"s" "x"\n"1" "a, b" 1\n"2" "c" 2\n', "s x\n1 a 1\n2 b 2\n", "s   x\na 1\n b   2\n"],
)
def test_a_space_cuts_what_nothing_else_cuts(tmp_path, text):
    (tmp_path / "d.txt").write_text(text)
    assert csv.read_csv(tmp_path / "d.txt")["x"].tolist() == [1, 2]


@pytest.mark.parametrize("text", ["my price\n100\n200\n", "name\nHouse 1\nHouse 2\n"])
def test_a_space_does_not_cut_a_single_column(tmp_path, text):
    (tmp_path / "d.txt").write_text(text)
    assert len(csv.read_csv(tmp_path / "d.txt")) == 1


CELLS = [
    "1",
    "-2",
    "+3",
    "4.5",
    " 6",
    "7 ",
    '"8"',
    '"9.5"',
    "1e3",
    "-0.0",
    ".5",
    "0123",
    "1_0",
    "1,5",
]
CELLS += [
    "",
    "NA",
    "nan",
    "inf",
    "true",
    "x",
    '"a b"',
    "0x1F",
    "1d3",
    "9" * 20,
    "٣",
    "1e400",
    '"1',
    "#2",
]


def random_text(rng: np.random.Generator) -> str:
    """A table of mostly numbers, here and there with an odd cell, row, end or header."""
    mark, end = rng.choice(list(",;\t "), p=[0.6, 0.2, 0.1, 0.1]), rng.choice(["\n", "\r\n", "\r"])
    columns, odd = rng.integers(1, 4), rng.choice([0.0, 0.02, 0.2])
    rows = [
        [CELLS[rng.integers(len(CELLS) if rng.random() < odd else 12)] for _ in range(columns)]
        for _ in range(rng.integers(1, 8))
    ]
    if rng.random() < odd:
        rows[rng.integers(len(rows))].append("5")
    if rng.random() < 0.7:
        rows.insert(0, list(rng.choice(["a", "b", "c d", "a", "", "é", "7"], columns)))
    if rng.random() < 0.1:
        rows.insert(rng.integers(len(rows)), [])
    text = end.join(mark.join(row) for row in rows)
    return rng.choice(["", "\ufeff"], p=[0.9, 0.1]) + text + rng.choice(["", end])


def test_large_files_are_read_as_small_ones_are(tmp_path, monkeypatch):
    """By pandas, whatever of them are numbers, as by a text for each cell; or refused alike."""
    path, read = tmp_path / "t.csv", []
    by_pandas = csv._Text.numbers
    for seed in range(1500):
        path.write_bytes(random_text(np.random.default_rng(seed)).encode())
        monkeypatch.setattr(csv, "_LARGE", 10**9)
        general = read_or_told(path)
        monkeypatch.setattr(csv, "_LARGE", 0)
        monkeypatch.setattr(
            csv._Text, "numbers", lambda *given: read.append(by_pandas(*given)) or read[-1]
        )
        quick = read_or_told(path)
        if isinstance(general, str):
            assert quick == general, seed
            continue
        assert list(quick) == list(general), seed
        for name, values in quick.items():
            np.testing.assert_array_equal(values, general[name], err_msg=f"{seed}")
            assert values.dtype == general[name].dtype, seed
    assert sum(columns is not None for columns in read) > 300


def read_or_told(path):
    try:
        return csv.read_csv(path)
    except BadInput as refusal:
        return str(refusal)
