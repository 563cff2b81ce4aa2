"""Data given in Python: tables and columns find their keys, all else is told what to give."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import zoo
from models.contract import BadInput
from models.data.given import given

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
