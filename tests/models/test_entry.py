"""The record of a model, and the hash of data."""

import pytest
import torch

from models.contract import Data, Entry, Guide, Inference, Results, Rows, data_keys


def data(**tensors):
    return Data(tensors=tensors, rows=Rows("row", ("y",)), source="test")


def test_the_hash_depends_on_names_types_shapes_and_values():
    y = torch.tensor([1.0, 2.0])
    assert data(y=y).sha256 == data(y=y.clone()).sha256
    others = [
        data(z=y, y=y),
        data(y=y.float()),
        data(y=y[None]),
        data(y=y + 1),
        data(y=y.flip(0)),
    ]
    assert len({data(y=y).sha256, *(other.sha256 for other in others)}) == 6


def test_rows_are_counted():
    assert data(y=torch.zeros(5)).n == 5
    assert Data(tensors={}, source="none").n is None


def test_an_entry_needs_a_model_and_data_and_refuses_nothing_by_itself():
    def model(x, y, *, scale=1.0):
        pass

    entry = Entry(model=model, data=data)
    assert entry.inference.refuses("mle", {}, data(y=torch.zeros(1))) is None
    assert list(data_keys(model)) == ["x", "y"]


@pytest.mark.parametrize(
    ("field", "place"),
    [
        ("guides", r"inference=Inference\(guides="),
        ("settings", r"inference=Inference\(settings="),
        ("metrics", r"results=Results\(metrics=.* View"),
        ("doubts", r"results=Results\(caveats="),
    ],
)
def test_a_field_that_moved_is_an_error_that_names_its_place(field, place):
    with pytest.raises(TypeError, match=rf"no field {field} any more; write {place}"):
        Entry(model=lambda y: None, data=data, **{field: {}})


def test_estimators_of_one_bound_are_told_by_name():
    def guide(y):
        pass

    guides = {"one": Guide(guide, estimator=True), "two": Guide(guide), "three": Guide(guide)}
    guides["three"] = Guide(guide, objective=max, estimator=True)
    assert Inference(guides=guides).estimators == ["one", "three"]
    assert Inference().estimators == [] and Results().figures == {}
