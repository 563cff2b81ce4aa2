"""A user's file as an entry: parameters are data, values keep their type, columns find a place."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
import torch

import models
from models.users import file, template


def model(x, y, n=3, *, scale=1.0):
    """Only its signature is read here."""


def read(source, **options):
    return file.wrap(model).data(source, **options)


def test_values_keep_their_types():
    tensors = read({"x": [[1, 2], [3, 4]], "y": [0.5, 1.5], "n": 7}).tensors
    assert tensors["x"].dtype == torch.int64
    assert tensors["y"].dtype == torch.float64
    assert tensors["n"] == 7 and type(tensors["n"]) is int
    assert read({"y": torch.ones(2)}).tensors["y"].tolist() == [1, 1]


def test_columns_of_a_csv_by_name_or_as_x_and_y(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("age,city,weight,speed\n1,A,2.5,7\n2,B,3.5,8\n")
    tensors = read(path, target="speed").tensors
    assert tensors["y"].tolist() == [7, 8]
    np.testing.assert_array_equal(tensors["x"], [[1, 2.5], [2, 3.5]])
    chosen = read(path, target="speed", features="weight").tensors
    assert chosen["x"].tolist() == [[2.5], [3.5]]
    with pytest.raises(models.BadInput, match="did you mean 'speed'"):
        read(path, target="sped")
    path.write_text("x,y\n1,2\n3,4\n")
    assert read(path).tensors["x"].tolist() == [1, 3]


def test_a_mapping_with_a_target_or_features_is_a_table():
    table = {"age": [1, 2], "a, b": [2.5, 3.5], "city": ["A", "B"], "speed": [7, 8]}
    data = read(table, target="speed")
    np.testing.assert_array_equal(data.tensors["x"], [[1, 2.5], [2, 3.5]])
    np.testing.assert_array_equal(data.new_rows(table)["x"], data.tensors["x"])
    with pytest.raises(models.BadInput, match=r"'age' \(needed: age, a, b\), given in Python"):
        data.new_rows({"a, b": [1.0], "other": [2.0]})
    assert data.new_rows({"x": [[5, 6]]})["x"].tolist() == [[5, 6]]
    assert read(table, target="speed", features='"a, b"').tensors["x"].tolist() == [[2.5], [3.5]]
    with pytest.raises(models.BadInput, match="differ in length"):
        read({**table, "age": [1]}, target="speed")


def test_a_column_of_numbers_is_not_left_out_for_a_slip():
    table = {"age": [*map(str, range(40, 59)), "3O"], "size": np.arange(20.0), "y": np.arange(20)}
    with pytest.raises(models.BadInput, match=r"'age' is text in row 20 .*19 others are numbers"):
        read(table, target="y")
    assert read(table, target="y", features="size").tensors["x"].shape == (20, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"y": ["a", "b"]}, "y holds 'a' in row 1, not numbers"),
        ({"y": [1.0, 2.0, "a"]}, "y holds 'a' in row 3, not numbers"),
        ({"x": [[1, 2], [3, 4], [5, "b"]]}, "x holds 'b' in row 3, not numbers"),
        ({"x": [["1", "2"]]}, "x holds '1' in row 1, not numbers"),
        (
            {"y": ["1,5", "2,5"]},
            "y holds '1,5' in row 1, not numbers; write numbers with a decimal",
        ),
        ({"n": "three"}, "n holds 'three', not numbers"),
        ({"y": np.array([], dtype=str)}, "y is empty"),
        ({"y": [1.0, float("nan")]}, "y is not finite in row 2"),
        ({"z": [1.0]}, "takes no 'z'"),
        ({"n": float("inf")}, "n is not finite"),
    ],
)
def test_values_that_cannot_be_data(values, message):
    with pytest.raises(models.BadInput, match=message):
        read(values)


def test_the_words_for_an_unknown_name_are_never_empty():
    with pytest.raises(
        models.BadInput, match=r"takes no data, 'y' given \(given in Python\); leave"
    ):
        file.wrap(lambda *, scale=1.0: None).data({"y": [1.0]})
    with pytest.raises(models.BadInput, match=r"takes no 'z' .*; known: x, y, n"):
        read({"z": [1.0]})
    with pytest.raises(models.BadInput, match="there is no column 'w'; known: none"):
        read({}, target="w")


def test_missing_values_are_let_through_where_the_model_asks_for_them():
    given = {"x": [[1, None], [3, 4]], "y": [1.5, float("nan")]}
    with pytest.raises(
        models.BadInput, match=r"x is not finite in row 1 .*say --set missing=model"
    ):
        read(given)
    data = read(given, missing="model")
    assert data.tensors["x"].dtype == torch.float64
    assert data.tensors["x"].isnan().tolist() == [[False, True], [False, False]]
    assert data.notes[1].startswith("1 of 2 values of y are NaN") and len(data.notes) == 2
    assert data.new_rows({"y": [None, 1.0]})["y"].isnan().tolist() == [True, False]
    with pytest.raises(models.BadInput, match="n is not finite"):
        read({"n": float("inf")}, missing="model")


def test_columns_with_gaps_are_numbers(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("a,b,y\n1,2.5,NA\n,3,4\n")
    tensors = read(path, target="y", missing="model").tensors
    assert tensors["y"].isnan().tolist() == [True, False]
    assert tensors["x"].isnan().tolist() == [[False, False], [True, False]]


def test_a_model_of_any_keywords_takes_all_columns(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("a,b\n1,2.5\n2,3\n")
    data = file.wrap(lambda **rows: rows).data(path)
    assert {k: v.tolist() for k, v in data.tensors.items()} == {"a": [1, 2], "b": [2.5, 3]}


def test_a_file_is_imported_in_the_number_type_of_the_run(tmp_path):
    path = tmp_path / "m.py"
    path.write_text("import torch\nONE = torch.ones(1), torch.rand(1)\ndef model(y): return ONE\n")
    state = torch.get_rng_state()
    double, again = (models.load(str(path)).model(y=0) for _ in range(2))
    single = models.load(str(path), "float32").model(y=0)
    assert double[0].dtype == torch.float64 and single[0].dtype == torch.float32
    assert double[1] == again[1] and torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float64


def test_a_wild_scale_is_noted():
    assert "rescale" in read({"y": [1e8, 2e8]}).notes[0]
    assert read({"y": [1.0, 20.0]}).notes == ()
    assert "1e+08" in read({"y": [1e8, float("nan")]}, missing="model").notes[0]


@pytest.mark.parametrize("text", ["raise SystemExit(0)", "raise ValueError('two\\nlines')", "\0"])
def test_what_a_file_raises_is_told_in_one_line(text, tmp_path):
    (tmp_path / "m.py").write_text(text)
    with pytest.raises(models.BadInput, match="correct the file") as caught:
        models.load(str(tmp_path / "m.py"))
    assert "\n" not in str(caught.value)


def test_an_entry_of_its_own_is_taken_whole(tmp_path):
    path = tmp_path / "mine.py"
    template.write(str(path))
    assert models.load(str(path)).exact is not None


def test_a_field_of_an_older_entry_is_named_with_its_place(tmp_path):
    path = tmp_path / "mine.py"
    template.write(str(path))
    path.write_text(path.read_text().replace("exact=exact)", "exact=exact, figures={})"))
    with pytest.raises(
        models.BadInput, match=r"no field figures any more; write results="
    ) as told:
        models.load(str(path))
    assert f"{path}, line " in str(told.value)


def _written(folder, helper, line):
    folder.mkdir(exist_ok=True)
    (folder / "helper.py").write_text(helper)
    (folder / "model.py").write_text(f"{line}\ndef model(y):\n    return helper.scale()\n")
    return folder / "model.py"


@pytest.mark.parametrize("package", [False, True])
def test_a_file_imports_what_lies_beside_it(tmp_path, package):
    """Each its own, as it is now; a change of it makes another model."""
    line = "from . import helper" if package else "import helper"
    found = []
    for name, value in [("one", 1), ("two", 2), ("two", 3)]:
        path = _written(tmp_path / name, f"def scale():\n    return {value}\n", line)
        if package:
            (path.parent / "__init__.py").touch()
        os.utime(path.parent / "helper.py", (value, value))
        before = list(sys.path)
        model = file.load_file(str(path)).model
        found.append((model(None), models.fingerprint(model)))
        assert sys.path == before
    assert [value for value, _ in found] == [1, 2, 3]
    assert len({name for _, name in found}) == 3


def test_a_guide_shares_what_lies_beside_its_model(tmp_path):
    helper = "class Net:\n    pass\n\ndef scale():\n    return Net\n"
    path = _written(tmp_path, helper, "import helper")
    model = file.load_file(str(path)).model
    (tmp_path / "guide.py").write_text("import helper\ndef guide(y):\n    return helper.Net\n")
    assert file.load_guide(str(tmp_path / "guide.py"), ["y"])(None) is model(None)
