"""The data sets that scikit-learn ships: the numbers that its own functions give."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import datasets

from models.data import shipped, tabular
from models.logistic import _breast_cancer

ROWS = {"breast_cancer": (569, 30), "diabetes": (442, 10), "digits": (1797, 64)}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("found", [True, False])
def test_the_files_hold_what_the_functions_give(name, found, monkeypatch):
    scaled = {"scaled": False} if name == "diabetes" else {}
    expected = getattr(datasets, f"load_{name}")(return_X_y=True, **scaled)
    if not found:  # as in a version that keeps them elsewhere
        monkeypatch.setattr(shipped, "_FILES", {name: [("gone.csv", ",", 0)]})
    x, y = shipped.features_and_target(name)
    assert x.shape == ROWS[name] and y.shape == ROWS[name][:1]
    for ours, theirs in zip((x, y), expected):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


def test_columns_are_named_as_scikit_learn_names_them():
    cancer, diabetes = datasets.load_breast_cancer(), datasets.load_diabetes()
    assert list(_breast_cancer().columns) == [*cancer.feature_names, "benign"]
    assert list(tabular.diabetes().columns) == [*diabetes.feature_names, "progression"]
