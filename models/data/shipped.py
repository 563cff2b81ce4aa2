"""The data sets that scikit-learn ships, read from its files: to import it takes half a second."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

# Data set to its files, each with what separates its columns and how many lines come before.
_FILES = {
    "breast_cancer": [("breast_cancer.csv", ",", 1)],
    "diabetes": [("diabetes_data_raw.csv.gz", None, 0), ("diabetes_target.csv.gz", None, 0)],
    "digits": [("digits.csv.gz", ",", 0)],
}


def features_and_target(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, k), in their own units, and target (n,) of one of the data sets.

    Where the files lie elsewhere in another version, scikit-learn's own function reads them.
    """
    try:
        return _read(name)
    except (OSError, ValueError):
        from sklearn import datasets

        scaled = {"scaled": False} if name == "diabetes" else {}
        return getattr(datasets, f"load_{name}")(return_X_y=True, **scaled)


def _read(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The columns of the files, of which the last is the target.

    Raises:
        OSError, ValueError: no file there, or another one.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise FileNotFoundError("scikit-learn is not installed")
    folder = Path(package.origin).parent / "datasets" / "data"
    tables = [
        np.loadtxt(folder / file, delimiter=separator, skiprows=lines)
        for file, separator, lines in _FILES[name]
    ]
    if len(tables) == 2:
        return tables[0], tables[1]
    return tables[0][:, :-1], tables[0][:, -1].astype(int)
