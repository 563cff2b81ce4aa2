"""Tables: what is read is what was written; every odd table is named, none is changed silently."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

from models.contract import BadInput, BadSetting, MissingInput
from models.data.columns import read_columns
from models.data.tables import encode, from_columns, scaling, split_rows

HOMES = "size,city,price\n50,Rome,1.5\n80,Berlin,2.5\n65,Paris,2.0\n70,Rome,3.5\n"
DEFAULTS = {"target": None, "features": None, "classes": False}


@pytest.fixture
def table(tmp_path):
    def read(text, name="table.csv", **options):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_table(path, **options)

    return read


def read_table(path, **options):
    return from_columns(read_cells(path), source=str(path), **DEFAULTS | options)


def read_cells(path):
    return read_columns(path, as_written=True)


def build(columns, **options):
    return from_columns(columns, source="Python", **DEFAULTS | options)


def said(table, *words):
    return any(all(word in note for word in words) for note in table.notes)


def test_one_hot_matches_a_matrix_by_hand(table):
    homes = table(HOMES)
    assert homes.coding.target == "price"
    assert homes.coding.names == ("size", "city[Paris]", "city[Rome]")
    np.testing.assert_array_equal(homes.x, [[50, 0, 1], [80, 0, 0], [65, 1, 0], [70, 0, 1]])
    np.testing.assert_array_equal(homes.y, [1.5, 2.5, 2.0, 3.5])
    assert homes.x.dtype == homes.y.dtype == np.float64
    assert "city: Berlin (reference), Paris, Rome" in homes.notes
    assert said(homes, "last column", "'price'")


@pytest.mark.parametrize(
    "text",
    [
        "a,b,y\n1,2,3\n4,5,6\n",
        "\ufeff a , b,y \r\n\r\n 1 ,2, 3\r\n   \r\n4,5,6",
        "a;b;y\n1;2;3\n4;5;6\n",
        "a\tb\ty\n1\t2\t3\n4\t5\t6\n",
        '"a","b" ,"y"\n"1", "2" ,"3"\n4,5,6\n',
    ],
)
def test_spellings_of_one_csv(table, text):
    read = table(text)
    assert (read.coding.names, read.coding.target) == (("a", "b"), "y")
    np.testing.assert_array_equal(np.column_stack([read.x, read.y]), [[1, 2, 3], [4, 5, 6]])


def test_quoted_separators_and_newlines(table):
    text = 'note,"a, b",y\n"x, ""1""\nend",1,2\n"x, ""1""\nend",2,3\nz,3,5\n'
    read = table(text, features='note,"a, b"')
    assert read.coding.levels == {"note": ('x, "1" end', "z")}
    np.testing.assert_array_equal(read.x, [[0, 1], [0, 2], [1, 3]])


@pytest.mark.parametrize(
    ("text", "names", "rows"),
    [
        ("1,2\n3,4\n", ["column_1", "column_2"], 2),
        ("?,2\n3,4\n", ["column_1", "column_2"], 2),
        ("Rome,2\nParis,4\n", ["column_1", "column_2"], 2),
        ("id,2020\n1,2\n3,4\n", ["id", "2020"], 2),
        (",a\n0,2\n1,4\n", ["column_1", "a"], 2),
        ("city,sold\nRome,no\nRome,yes\n", ["city", "sold"], 2),
        ("5,1\n", ["column_1", "column_2"], 1),
    ],
)
def test_header_or_none(tmp_path, text, names, rows):
    path = tmp_path / "t.csv"
    path.write_text(text)
    cells = read_cells(path)
    assert list(cells) == names and {len(column) for column in cells.values()} == {rows}
    with pytest.raises(MissingInput):
        read_cells(tmp_path / "none.csv")


def test_codes_with_letters_among_them_stay_categories(table):
    read = table("floor,y\n" + "".join(f"{'12A'[i % 3]},{i}\n" for i in range(30)))
    assert read.coding.names == ("floor[2]", "floor[A]")


def test_json_npz_and_frames_agree(table, tmp_path):
    x, y = [[1.0, 2.0], [3.0, 5.0], [4.0, 9.0]], [[0], [1], [1]]
    np.savez(tmp_path / "t.npz", x=np.array(x), y=np.array(y))
    from_json = table(json.dumps({"x": x, "y": y}), name="t.json")
    frame = pd.DataFrame(x, columns=["x_1", "x_2"]).assign(y=np.ravel(y))
    for read in (read_table(tmp_path / "t.npz"), from_json, build(frame)):
        assert read.coding.names == ("x_1", "x_2") and read.y.shape == (3,)
        np.testing.assert_array_equal(np.column_stack([read.x, read.y]), np.hstack([x, y]))


def test_target_and_features(table):
    text = "Y,mean radius,b,c\n1,2,3,5\n4,5,6,4\n7,7,7,1\n"
    assert table(text).coding.target == "Y"
    chosen = table(text, target="c", features=" mean radius, Y")
    assert (chosen.coding.target, chosen.coding.names) == ("c", ("mean radius", "Y"))
    np.testing.assert_array_equal(chosen.x, [[2, 1], [5, 4], [7, 7]])


@pytest.mark.parametrize(
    ("labels", "classes", "codes"),
    [
        (["no", "yes", "no"], ("no", "yes"), [0, 1, 0]),
        ([1, 0, 1], ("0", "1"), [1, 0, 1]),
        ([10.0, 2.0, 10.0], ("2", "10"), [1, 0, 1]),
        ([True, False, False], ("0", "1"), [1, 0, 0]),
        (["01", "a", "1"], ("01", "1", "a"), [0, 2, 1]),
        ([1, 1, 1], ("0", "1"), [1, 1, 1]),
    ],
)
def test_classes_are_coded_by_sorted_label(labels, classes, codes):
    read = build({"a": [3, 1, 2], "y": labels}, classes=True)
    assert read.coding.classes == classes and read.y.tolist() == codes
    new = [str(label) for label in labels]
    assert encode({"a": codes, "y": new}, read.coding, source="new")[1].tolist() == codes
    assert said(read, "one class only") == (len(set(codes)) == 1)


def test_booleans_are_0_and_1(table):
    assert table("a,y\nTrue,1\nfalse,2\nTRUE,3\n").x.tolist() == [[1], [0], [1]]
    assert build({"a": [True, False], "y": [1, 2]}).x.tolist() == [[1], [0]]


BAD = [
    ("a,y\n1,2\n,3\n4,5\n,6\n", {}, "'a' is missing in row 2 (2 in this column, 2 in all)"),
    ("a,y\n1,2\n,3\n", {}, "yourself, or leave the column out by --features; the zoo never"),
    ("a,b,y\n1,2,2\n3,?,4\n5,6,NA\n", {}, "'b' is missing in row 2 (1 in this column, 2 in all)"),
    ("a,y\nRome,1\nnull,2\nRome,3\n", {}, "'a' is missing in row 2"),
    ("a,y\n1,2\n3,-inf\n", {}, "'y' is infinite in row 2"),
    ("a,a,y\n1,2,3\n", {}, "has several columns called a"),
    ("a,y\n1,2\n3\n", {}, "1 fields instead of 2, "),
    ('"a\nb",y\nu,1\n"v\nw",2\n', {}, "'a b' is text"),
    ('a,y\n"u\nv",2\n\n3,4,5\n', {}, "line 5; correct it"),
    ('a,y\n1,2\n3,"4\n5,6\n', {}, "line 3; correct the quotes"),
    ("a,y\n", {}, "no rows"),
    (" \n", {}, "is empty"),
    ("y\n1\n", {}, "no feature beside the target 'y'"),
    (b"a,y\n\xff,1\n", {}, "no text in UTF-8"),
    ("alpha,y\n1,2\n", {"features": "alpah"}, "did you mean 'alpha'?"),
    ("alpha,y\n1,2\n", {"target": "alhpa"}, "did you mean 'alpha'?"),
    ("a,y\n1,2\n", {"features": "a,y"}, "'y' is target and feature"),
    ("a,y\n1,2\n", {"features": "a,a"}, "named twice"),
    ("a,y\nAnn,2\nBob,3\nEve,3\n", {}, "'a' is text ('Ann' in row 1) with 3 levels in 3 rows"),
    ("a,y\n" + "".join(f"w{i % 51},1\n" for i in range(102)), {}, "51 levels in 102 rows"),
    ("1,5;2,5\n2,5;3,5\n2,5;1,5\n1,5;4,5\n", {}, "a decimal point and without commas, as 1234.5"),
    ("a;y\n1;225,3\n2;1.310,5\n", {}, "row 1 ('225,3') where numbers are needed, "),
    ("a;y\n1;225,3\n2;1.310,5\n", {}, "; write numbers with a decimal point"),
    ("a,y\n1,low\n2,high\n", {}, "; correct it or choose another column"),
    ("a,y\n3O,0\n" + "".join(f"{i % 9},{i}\n" for i in range(59)), {}, "59 others are numbers"),
    ("a,y\nRome,1\nRome,2\n", {}, "no feature takes two values"),
    ("a,y\n1,low\n2,high\n", {}, "'y' is text in row 1 ('low') where numbers are needed"),
    ("a,y\n1,0\n2,0.5\n", {"classes": True}, "'y' is 0.5 in row 2, which is no class"),
    ("a,y\n" + "".join(f"1,{i}\n" for i in range(101)), {"classes": True}, "has 101 classes"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "options", "fragment"), BAD)
def test_bad_files_are_named_in_one_line(table, text, options, fragment):
    with pytest.raises(BadInput) as caught:
        table(text, **options)
    assert fragment in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_code == 65


@pytest.mark.parametrize(
    ("columns", "fragment"),
    [
        ({"a": [1, 2], "y": [1, 2, 3]}, "'a' has 2 rows and 'y' has 3"),
        ({"a": [1, 2], "y": [[1, 2], [3, 4]]}, "'y' has shape (2, 2)"),
        ({"a": [1, 2], "y": 3}, "'y' has shape ()"),
        ({"a": [1.0, np.nan], "y": [1, 2]}, "'a' is missing in row 2"),
        ({"a": [1, None], "y": [1, 2]}, "'a' is missing in row 2"),
        ({}, "no columns"),
    ],
)
def test_bad_columns_are_named(columns, fragment):
    with pytest.raises(BadInput, match=re.escape(fragment)):
        build(columns)


def test_notes_name_the_odd_columns():
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(3, 30))
    columns = {"a": a, "b": b, "flat": 0 * a + 0.1, "again": a, "sum": 3 * a - b + 7, "c": c}
    odd = build({**columns, "id": np.arange(30), "one": ["w"] * 30, "y": b + c})
    assert said(odd, "'flat' is constant") and said(odd, "'again' repeats 'a'")
    assert said(odd, "'id' counts the rows") and said(odd, "'one' left out: constant")
    assert "collinear, each follows from others of them: 'a', 'b', 'sum'" in odd.notes
    assert odd.x.shape == (30, 7) and "one" not in odd.coding.names
    assert build({"a": a, "b": b, "y": c}).notes == ()
    assert said(build({"a": a[:2], "b": b[:2], "y": c[:2]}), "2 features", "2 rows")
    assert said(build({"a": [1], "y": [2]}), "one row only")
    assert said(build({"a": a, "y": 0 * a}), "'y' is constant")
    assert said(build({"a": a, "y": ["u", "v"] * 15}, classes=True), "y: u = 0, v = 1")


def test_new_rows_are_coded_alike(table):
    coding = table(HOMES).coding
    new = {"extra": ["?", "?"], "city": ["Paris", "Berlin"], "size": [10, 20]}
    x, y = encode(new, coding, source="new")
    assert x.tolist() == [[10, 1, 0], [20, 0, 0]] and y is None
    assert encode({**new, "price": ["1", "2.5"]}, coding, source="new")[1].tolist() == [1, 2.5]


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({}, "no column 'size', new; add it: the run needs size, city"),
        (
            {"size": [1, np.nan]},
            "all), new; drop or fill the rows yourself; the zoo never imputes",
        ),
        ({"city": ["Rome", "Oslo"], "size": [1, 2]}, "row 2, which the table never had, new; kn"),
        ({"city": ["", "Rome"], "size": [1, 2]}, "'city' is missing in row 1"),
        ({"size": [1, "big"]}, "'size' is text in row 2 ('big')"),
        ({"size": [1, np.inf]}, "'size' is infinite in row 2"),
    ],
)
def test_bad_new_rows_are_named(table, change, fragment):
    new = {"city": ["Rome", "Rome"]} | change
    with pytest.raises(BadInput, match=re.escape(fragment)):
        encode(new, table(HOMES).coding, source="new")


def test_scaling_standardises_and_inverts():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 4)) * [1, 1e-200, 1e200, 0] + [5, 0, 0, 0.1], rng.normal(size=40)
    scale = scaling(x, y, features=True, target=True)
    z = (x - scale.x_loc) / scale.x_scale
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(z.std(axis=0), [1, 1, 1, 0], rtol=1e-12)
    np.testing.assert_allclose(z * scale.x_scale + scale.x_loc, x, rtol=1e-12)
    assert scale.x_scale[3] == 1 and scale.x_loc[3] == x[0, 3]
    np.testing.assert_allclose([scale.y_loc, scale.y_scale], [y.mean(), y.std()], rtol=1e-12)
    plain = scaling(x, y, features=True, target=False)
    assert (plain.y_loc, plain.y_scale) == (0.0, 1.0)


def test_split_depends_on_the_seed_alone():
    for n, share, size in [(100, 0.2, 20), (2, 0.01, 1), (3, 0.99, 2)]:
        train, test = split_rows(n, share, 7)
        assert len(test) == size and (np.diff(train) > 0).all() and (np.diff(test) > 0).all()
        assert sorted([*train, *test]) == list(range(n))
    assert (split_rows(100, 0.2, 7)[1] == split_rows(100, 0.2, 7)[1]).all()
    assert (split_rows(100, 0.2, 7)[1] != split_rows(100, 0.2, 8)[1]).any()
    with pytest.raises(BadSetting):
        split_rows(10, 1.0, 0)
    with pytest.raises(BadInput, match="two or more"):
        split_rows(1, 0.2, 0)
