"""From a table to data and back: standardised by the training rows, new rows coded alike."""

import numpy as np
import pytest

from models import linear
from models.contract import UsageError
from models.data import tabular

COLUMNS = {
    "age": [30.0, 40.0, 50.0, 60.0, 70.0],
    "city": ["A", "B", "A", "B", "B"],
    "y": [1.0, 3.0, 2.0, 5.0, 4.0],
}


def test_training_rows_alone_set_the_units():
    data = linear.data(COLUMNS, split=0.4, data_seed=1)
    x, y = data.tensors["x"].numpy(), data.tensors["y"].numpy()
    assert x.shape == (3, 2) and data.test["x"].shape == (2, 2)
    np.testing.assert_allclose([x.mean(0), x.std(0)], [[0, 0], [1, 1]], atol=1e-12)
    assert (y.mean(), y.std()) == pytest.approx((0, 1))
    loc, scale = data.units["y"]
    everything = np.sort(np.concatenate([y, data.test["y"]]) * scale + loc)
    np.testing.assert_allclose(everything, [1, 2, 3, 4, 5])
    assert data.coords["feature"] == ("age", "city[B]")


def test_new_rows_are_coded_as_the_old_ones():
    data = linear.data(COLUMNS)
    again = data.new_rows({name: values[:2] for name, values in COLUMNS.items()})
    np.testing.assert_allclose(again["x"], data.tensors["x"][:2])
    assert "y" not in again
    with_hole = {"age": [1.0], "city": ["A"], "y": [float("nan")]}
    assert set(data.new_rows(with_hole)) == {"x"}


def test_coefficients_give_the_same_line_in_both_units():
    data = linear.data(COLUMNS)
    rng = np.random.default_rng(0)
    draws = {"w": rng.normal(size=(4, 2)), "b": rng.normal(size=4), "sigma": np.ones(4)}
    original = tabular.coefficients(draws, data)
    x = np.column_stack([COLUMNS["age"], [0, 1, 0, 1, 1]])
    loc, scale = data.units["y"]
    line = draws["w"] @ data.tensors["x"].numpy().T + draws["b"][:, None]
    np.testing.assert_allclose(
        original["w"] @ x.T + original["b"][:, None], loc + scale * line, rtol=1e-12
    )
    assert original["sigma"] == pytest.approx(scale)


def test_untouched_where_asked():
    data = linear.data(COLUMNS, standardise=False)
    assert data.tensors["x"][:, 0].tolist() == COLUMNS["age"]
    assert data.units["y"] == (0.0, 1.0)


def test_unknown_sets_are_named():
    with pytest.raises(UsageError, match="did you mean 'diabetes'"):
        linear.data("diabetis")
