"""Cases: locations, scales and other parameters of rows that are drawn alike."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
from scipy import stats
from verdict_case import Case

EVERY = ("nuts", "laplace", "svi:normal", "svi:mvn", "map", "mle")
ONE = ("nuts", "laplace", "svi:normal", "map", "mle")


def normal_mean(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def normal(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(5.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, sigma), obs=y)


def cauchy_pair(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Cauchy(mu, 1.0), obs=y)


def square(y):
    theta = pyro.sample("theta", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(theta**2, 0.5), obs=y)


def _drawn(seed: int, n: int, loc: float, scale: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(loc, scale, n)


def _means(name: str, y: np.ndarray) -> Case:
    return Case(
        name=name,
        family="normal mean",
        kind="location",
        model=normal_mean,
        data={"y": y},
        observed=y,
        rows=lambda d: stats.norm(d["mu"][:, None], 1.0),
        priors={"mu": stats.norm(0, 2)},
        methods=ONE,
    )


def _normals(n: int) -> Case:
    y = _drawn(n, n, 1.0, 2.0)
    return Case(
        name=f"normal n={n}",
        family="normal",
        kind="location",
        model=normal,
        data={"y": y},
        observed=y,
        rows=lambda d: stats.norm(d["mu"][:, None], d["sigma"][:, None]),
        priors={"mu": stats.norm(0, 5), "sigma": stats.halfnorm(scale=5)},
    )


def _one(name: str, family: str, model, y: np.ndarray, rows, **more) -> Case:
    """A case of one site, of rows without covariates."""
    more = {"kind": "location", "methods": ONE} | more
    return Case(
        name=name, family=family, model=model, data={"y": y}, observed=y, rows=rows, **more
    )


_PAIR = np.array([-6.0, 6.0])
_SQUARES = _drawn(3, 6, 4.0, 0.5)

CASES = [
    _one(
        "two far Cauchy data",
        "Cauchy pair",
        cauchy_pair,
        _PAIR,
        lambda d: stats.cauchy(d["mu"][:, None], 1.0),
        kind="several modes",
        priors={"mu": stats.norm(0, 10)},
    ),
    _one(
        "square equal modes",
        "square",
        square,
        _SQUARES,
        lambda d: stats.norm(d["theta"][:, None] ** 2, 0.5),
        kind="several modes",
        priors={"theta": stats.norm(0, 2)},
    ),
    _means("normal mean n=5", _drawn(0, 5, 1.0, 1.0)),
    _means("normal mean conflict", _drawn(1, 3, 12.0, 1.0)),
    *(_normals(n) for n in (3, 10, 50)),
]
