"""`zoo.py new NAME`: a model file and its test that run as they are, to be made one's own."""

from __future__ import annotations

import keyword
from pathlib import Path

from ..contract import BadSetting, CannotWrite

_MODEL = '''"""{title}: one line that says what it is.

Two to five lines of story: what the data are, what the model teaches.

    mu    ~ Normal(0, scale)
    y_i   ~ Normal(mu, 1),  i = 1..n

Data:   y, shape (n,), real.
Priors: mu is within a few units of zero.
Exact:  mu | y ~ Normal(v sum(y), sqrt(v)) with v = 1 / (n + 1 / scale^2).
Known failure: none yet.

References: author (year), title, arXiv or DOI.
"""

from __future__ import annotations

from math import sqrt
from typing import Annotated, Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import stats

from {package}data.columns import column, name_of
from {package}contract import Data, Entry, Exact, Rows


def model(y, *, scale: Annotated[float, "> 0"] = 10.0):
    mu = pyro.sample("mu", dist.Normal(0.0, scale))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def data(source: Any = None, *, target: str | None = None) -> Data:
    """Five numbers, or a column of a file."""
    five = np.array([0.3, 1.2, 0.8, -0.4, 1.1])
    y = torch.as_tensor(five if source is None else column(source, target, hint="a file"))
    where = "five numbers" if source is None else name_of(source)
    return Data(tensors={{"y": y}}, rows=Rows("row", ("y",)), source=where)


def exact(data: Data, *, scale: float) -> Exact:
    """Conjugate posterior."""
    y = np.asarray(data.tensors["y"])
    variance = 1 / (len(y) + 1 / scale**2)
    posterior = stats.norm(variance * y.sum(), sqrt(variance))
    covariance = np.eye(len(y)) + scale**2
    return Exact(
        sample=lambda n, rng: {{"mu": posterior.rvs(n, random_state=rng)}},
        marginals={{"mu": posterior}},
        log_evidence=float(stats.multivariate_normal.logpdf(y, cov=covariance)),
    )


ENTRY = Entry(model=model, data=data, exact=exact)
'''

_TEST = '''"""The {name} model: its exact truth, and NUTS against it."""

import numpy as np
from scipy import stats

import zoo


def test_exact_evidence_is_the_integral_of_the_joint():
    run = zoo.run({call!r}, method="exact")
    y = run.idata["observed_data"]["y"].values
    grid = np.linspace(-60, 60, 200_001)
    joint = stats.norm.pdf(grid, 0, 10) * np.prod(stats.norm.pdf(y[:, None], grid, 1), axis=0)
    assert np.isclose(np.exp(run.metrics["log_evidence"]), np.trapezoid(joint, grid), rtol=1e-8)


def test_nuts_finds_the_exact_posterior():
    run = zoo.run({call!r}, method="nuts", draws=500, warmup=300)
    row, truth = run.summary().loc["mu"], run.exact.marginals["mu"]
    assert run.verdict.status == "pass"
    assert abs(row["mean"] - truth.mean()) < 5 * row["mcse_mean"]
    assert abs(row["sd"] - truth.std()) < 5 * row["mcse_sd"]
'''


def write(name: str) -> list[Path]:
    """Write the two files.

    Args:
        name: a new model of the zoo (`my_model`), or a file of the user's (`folder/my_model.py`).

    Returns:
        The paths of model and test.

    Raises:
        BadSetting: no valid name, or one that is taken. CannotWrite: not allowed, or no room.
    """
    path = Path(name)
    stem = path.stem
    if not stem.isidentifier() or keyword.iskeyword(stem) or stem.startswith("_"):
        raise BadSetting(f"'{stem}' is no name for a Python file; use letters, digits and _")
    if path.suffix == ".py":
        source, package = path, "models."
        test = path.with_name(f"test_{stem}.py")
    elif stem == name:
        models = Path(__file__).parents[1]
        source, package = models / f"{stem}.py", "."
        test = models.parent / "tests" / "models" / f"test_{stem}.py"
    else:
        raise BadSetting(f"{name} is no plain name; write {name}.py for a file of yours")
    for file in (source, test):
        if file.exists():
            raise BadSetting(f"{file} is there already; choose another name")
    call = str(source.resolve()) if path.suffix == ".py" else stem
    title = stem.replace("_", " ").capitalize()
    try:
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(_MODEL.format(title=title, package=package), encoding="utf-8")
        test.write_text(_TEST.format(name=stem, call=call), encoding="utf-8")
    except OSError as error:
        raise CannotWrite(
            f"cannot write {error.filename} ({error.strerror}); choose another folder"
        ) from None
    return [source, test]
