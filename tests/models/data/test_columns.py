"""Files and words as data: every format, every fault named with its place."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import zoo
from models.contract import BadInput, MissingInput, nearest
from models.data import columns
from models.data.columns import given


def test_the_three_formats_give_the_same_columns(tmp_path):
    (tmp_path / "d.csv").write_text("a,b\n1,0.5\n2,1.5\n")
    (tmp_path / "d.json").write_text('{"a": [1, 2], "b": [0.5, 1.5]}')
    np.savez(tmp_path / "d.npz", a=np.array([1, 2]), b=np.array([0.5, 1.5]))
    for suffix in ("csv", "json", "npz"):
        read = columns.read_columns(tmp_path / f"d.{suffix}")
        assert {k: v.tolist() for k, v in read.items()} == {"a": [1, 2], "b": [0.5, 1.5]}
        assert read["a"].dtype.kind == "i"


def test_a_csv_without_header_and_plain_numbers_in_json(tmp_path):
    (tmp_path / "d.csv").write_text("1,2\n3,4\n")
    assert list(columns.read_columns(tmp_path / "d.csv")) == ["column_1", "column_2"]
    (tmp_path / "d.json").write_text('{"n": 3, "flag": true, "rate": 0.5}')
    found = columns.read_columns(tmp_path / "d.json")
    assert found == {"n": 3, "flag": 1, "rate": 0.5}
    assert type(found["flag"]) is int


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.json", '{"a": [1', "broken JSON.*line 1"),
        ("d.json", "[1, 2]", "no JSON object"),
        ("d.json", '{"a": [[1], [1, 2]]}', "rows of a .* differ in length"),
        ("d.json", '{"a": "text"}', 'a in .* is "text"'),
        ("d.csv", "", "is empty"),
        ("d.csv", "a,b\n1,2\n3\n4,5,6\n", "1 fields instead of 2.*line 3"),
        ("d.npz", "no zip", "no readable NPZ"),
        ("d.xlsx", "1", "is none of"),
    ],
)
def test_broken_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=message):
        columns.read_columns(tmp_path / name)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed, np.save])
def test_a_damaged_archive_is_told_wherever_it_is_damaged(write, tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "d.npz"
    with path.open("wb") as file:
        write(file, np.arange(9.0))
    whole = path.read_bytes()
    for _ in range(150):
        content = bytearray(whole)
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(content if rng.random() < 0.7 else content[: rng.integers(len(content))])
        try:
            columns.read_columns(path)  # a flipped date of the archive does no harm
        except BadInput as fault:
            assert "no readable NPZ" in str(fault) and "\n" not in str(fault)


def test_a_pickle_in_an_npz_is_not_run(tmp_path):
    np.savez(tmp_path / "d.npz", a=np.array([{"planted": 1}], dtype=object))
    with pytest.raises(BadInput, match="plain arrays"):
        columns.read_columns(tmp_path / "d.npz")


def test_missing_files_and_columns(tmp_path):
    with pytest.raises(MissingInput, match="no file"):
        columns.read_columns(tmp_path / "gone.csv")
    with pytest.raises(MissingInput, match=r"nothing is downloaded.* https://a.org/x.csv"):
        columns.read_columns("https://a.org/x.csv")
    (tmp_path / "d.csv").write_text("flip,day\n1,0\n")
    path = str(tmp_path / "d.csv")
    with pytest.raises(BadInput, match=r"2 columns.*--target"):
        columns.column(path, hint="")
    with pytest.raises(BadInput, match="did you mean 'flip'"):
        columns.column(path, "flop", hint="")
    assert columns.column(path, "flip", hint="").tolist() == [1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named_with_their_row(bad):
    with pytest.raises(BadInput, match=r"speed is not finite in row 2 \(.*never imputes"):
        columns.check_finite("speed", np.array([1.0, bad, bad]))
    assert columns.check_finite("speed", np.array([1, 2])).tolist() == [1, 2]


def test_assignments():
    assert columns.assignments("y=1.5", keys=("x", "y"))["y"].item() == 1.5
    with pytest.raises(BadInput, match="did you mean 'y'"):
        columns.assignments("yy=1", keys=("x", "y"))
    with pytest.raises(BadInput, match="must be one number"):
        columns.assignments("y=much", keys=("x", "y"))


def test_of_many_names_the_first_are_listed():
    names = [f"gene_{i}" for i in range(10_000)]
    assert nearest("x", names).endswith(", gene_39, ... (10000 in all)")
    assert nearest("gene9", names).startswith("did you mean 'gene_9")
    assert nearest("x", []) == "known: none"


FRAME = pd.DataFrame(
    {
        "rooms": [1, 2, 3, 4, 2, 3],
        "age": [5.0, 3.0, 8.0, 1.0, 2.0, 2.5],
        "city": ["A", "B", "A", "B", "A", "B"],
        "price": [1.0, 2.0, 2.5, 4.5, 2.0, 3.5],
    }
)
NEEDS_BOTH = "do not say what is x and what is y; give a mapping such as {'x': ..., 'y': ...}, a D"


def coin(x):
    """One key, as the coin has."""


def line(x, y, n=3):
    """Two keys that are needed."""


@pytest.mark.parametrize(
    "flips",
    [
        [1, 0, 1],
        (1, 0, 1),
        ["H", "T", "H"],
        np.array([1, 0, 1]),
        torch.tensor([1.0, 0.0, 1.0], requires_grad=True),
        pd.Series([1, 0, 1], dtype="Int64"),
        pd.DataFrame({"flips": [1, 0, 1]}),
        {"x": torch.tensor([1, 0, 1])},
    ],
    ids=lambda flips: type(flips).__name__,
)
def test_a_column_alone_is_the_one_key_of_the_coin(flips):
    run = zoo.run("coin", method="exact", data=flips)
    assert run.data.tensors["x"].tolist() == [1, 0, 1]
    assert run.record["data"]["source"] == "given in Python"
    assert run.metrics["p_heads"] == pytest.approx(3 / 5)


@pytest.mark.parametrize("source", [None, "HH", {"x": [1, 0]}])
def test_what_models_take_already_stays_as_it_is(source):
    assert given(coin, source) == source


@pytest.mark.parametrize("features", [["rooms", "city"], ("rooms", "city"), "rooms,city"])
def test_a_frame_is_a_table_and_columns_may_be_listed(features):
    run = zoo.run("linear", data=FRAME, target="price", features=features, method="map")
    assert run.data.coords["feature"] == ("rooms", "city[B]")
    columns = {name: FRAME[name].tolist() for name in ("rooms", "city", "price")}
    alone = zoo.run("linear", data=columns, target="price", method="map")
    assert run.record["data"]["sha256"] == alone.record["data"]["sha256"]
    assert run.predict(FRAME).equals(alone.predict(columns))


def test_a_run_on_a_frame_is_kept_with_its_data(tmp_path):
    features = FRAME.columns[:2]
    run = zoo.run(
        "linear", data=FRAME, target="price", features=features, method="map", out=tmp_path
    )
    again = zoo.load(run.path)
    assert again.data.sha256 == run.data.sha256
    assert again.predict(FRAME).equals(run.predict(FRAME))


def test_types_of_pandas_become_plain_ones():
    kinds = {"rooms": "Int64", "age": "Float64", "city": "category"}
    columns = given(line, FRAME.astype(kinds))
    assert [columns[name].dtype.kind for name in columns] == ["i", "f", "O", "f"]
    holes = given(
        line, pd.DataFrame({"city": ["A", None], "n": pd.array([1, None], dtype="Int64")})
    )
    for value in (holes["city"][1], holes["n"][1]):
        assert value is None or np.isnan(value)


@pytest.mark.parametrize(
    ("model", "source", "message"),
    [
        (coin, {1, 0}, "data given as set do not say what is x; give a list, a mapping such as"),
        (coin, 3, "data given as int"),
        (coin, b"HH", "data given as bytes"),
        (coin, [[1], [1, 0]], "the rows of x differ in length; make them equal"),
        (line, (np.ones(3), np.ones(3)), NEEDS_BOTH),
        (line, [1, 2], NEEDS_BOTH),
        (line, np.ones((3, 2)), NEEDS_BOTH),
        (line, FRAME["age"], NEEDS_BOTH),
        (line, FRAME.set_axis(["a", "b", "a", "c"], axis=1), "has several columns called a;"),
        (lambda: None, [1], "the model needs no data"),
    ],
)
def test_what_cannot_be_told_apart_is_refused_in_one_line(model, source, message):
    with pytest.raises(BadInput) as caught:
        given(model, source)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_code == 65


def test_columns_that_stand_side_by_side_are_no_flips():
    with pytest.raises(BadInput, match=r"x has shape \(2, 2\); give one value per row"):
        zoo.run("coin", data=(np.ones(2), np.zeros(2)))


@pytest.mark.parametrize("features", [{"rooms"}, 5])
def test_features_in_no_order_are_no_features(features):
    with pytest.raises(zoo.UsageError, match="no names of columns"):
        zoo.run("linear", data=FRAME, features=features)
