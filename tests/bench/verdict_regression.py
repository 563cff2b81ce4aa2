"""Cases: rows with covariates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import stats
from scipy.special import expit, log_softmax
from verdict_case import Case, Classes, Draws, yes_or_no
from verdict_grid import Axis, on_grid, resampled
from verdict_known import Known, gaussian

RICH = ("nuts", "laplace", "svi:normal", "svi:mvn", "svi:lowrank", "map", "mle")


def with_rows(
    name: str, family: str, model: Callable, data: dict, rows: Callable, **more: Any
) -> Case:
    """A case whose observed site is `y`."""
    return Case(
        name=name,
        family=family,
        kind="regression",
        model=model,
        data=data,
        observed=np.asarray(data["y"], dtype=float),
        rows=rows,
        **more,
    )


def correlated(seed: int, n: int, k: int, rho: float) -> np.ndarray:
    """Standard normal columns, each pair correlated by rho, (n, k)."""
    covariance = np.full((k, k), rho) + (1 - rho) * np.eye(k)
    return np.random.default_rng(seed).multivariate_normal(np.zeros(k), covariance, size=n)


def linear(draws: Draws, x: np.ndarray) -> np.ndarray:
    """The linear predictor w x + b at draws, (S, n)."""
    return draws["w"].reshape(len(draws["w"]), -1) @ x.T + draws["b"][:, None]


def unknown_noise(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 3.0).expand([x.shape[1]]).to_event(1))
    b = pyro.sample("b", dist.Normal(0.0, 3.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ w + b, sigma), obs=y)


def logistic(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 2.5).expand([x.shape[1]]).to_event(1))
    b = pyro.sample("b", dist.Normal(0.0, 5.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=x @ w + b), obs=y)


def separable(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 10.0))
    b = pyro.sample("b", dist.Normal(0.0, 10.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=w * x + b), obs=y)


def poisson_regression(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Poisson((w * x + b).exp()), obs=y)


def negative_binomial(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    size = pyro.sample("size", dist.Exponential(0.2))
    with pyro.plate("row", len(y)):
        logits = w * x + b - size.log()
        pyro.sample("y", dist.NegativeBinomial(size, logits=logits), obs=y)


def robust(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 3.0))
    b = pyro.sample("b", dist.Normal(0.0, 3.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.StudentT(2.0, w * x + b, sigma), obs=y)


def ordinal(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 2.0))
    first = pyro.sample("first", dist.Normal(0.0, 3.0))
    gap = pyro.sample("gap", dist.LogNormal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        cuts = torch.stack([first, first + gap])
        pyro.sample("y", dist.OrderedLogistic(w * x, cuts), obs=y)


def classes(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([x.shape[1], 3]).to_event(2))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Categorical(logits=x @ w), obs=y)


def horseshoe(x, y):
    k = x.shape[1]
    tau = pyro.sample("tau", dist.HalfCauchy(0.5))
    scale = pyro.sample("scale", dist.HalfCauchy(torch.ones(k)).to_event(1))
    z = pyro.sample("z", dist.Normal(torch.zeros(k), 1.0).to_event(1))
    w = pyro.deterministic("w", z * scale * tau)
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def sinusoid(x, y):
    frequency = pyro.sample("frequency", dist.Uniform(0.1, 6.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(torch.sin(frequency * x), 0.5), obs=y)


def measurement(seen, y):
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(y)):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("seen", dist.Normal(x, 0.5), obs=seen)
        pyro.sample("y", dist.Normal(a + b * x, 0.5), obs=y)


def _unknown_noise(n: int, k: int, rho: float) -> Case:
    x = correlated(n, n, k, rho)
    y = x @ np.linspace(-1, 1, k) + 0.5 + np.random.default_rng(n + 1).normal(0, 0.7, n)
    grid = [stats.norm(0, 3)] * k
    return with_rows(
        f"regression n={n} k={k} rho={rho}",
        "regression",
        unknown_noise,
        {"x": x, "y": y},
        lambda d: stats.norm(linear(d, x), d["sigma"][:, None]),
        priors={"w": grid, "b": stats.norm(0, 3), "sigma": stats.halfnorm(scale=2)},
        methods=RICH,
    )


def _logistic(n: int, k: int, rho: float) -> Case:
    x = correlated(n + k, n, k, rho)
    odds = x @ np.linspace(1.5, -0.5, k)
    y = (np.random.default_rng(k).random(n) < expit(odds)).astype(float)
    return with_rows(
        f"logistic n={n} k={k} rho={rho}",
        "logistic",
        logistic,
        {"x": x, "y": y},
        lambda d: yes_or_no(linear(d, x)),
        priors={"w": [stats.norm(0, 2.5)] * k, "b": stats.norm(0, 5)},
        methods=RICH,
    )


def _apart(name: str, x: np.ndarray) -> Case:
    y = (x > 0).astype(float)
    return with_rows(
        name,
        "separable",
        separable,
        {"x": x, "y": y},
        lambda d: yes_or_no(d["w"][:, None] * x + d["b"][:, None]),
        priors={"w": stats.norm(0, 10), "b": stats.norm(0, 10)},
    )


_X = np.linspace(-1.5, 1.5, 20)


def _counts(name: str, model: Callable, rows: Callable, y: np.ndarray, **priors: Any) -> Case:
    normals = {"w": stats.norm(0, 1), "b": stats.norm(0, 2)}
    data = {"x": _X, "y": y.astype(float)}
    return with_rows(name, name, model, data, rows, priors=normals | priors)


def _rate(draws: Draws) -> np.ndarray:
    return np.exp(np.minimum(draws["w"][:, None] * _X + draws["b"][:, None], 50.0))


def _negative_binomial(draws: Draws) -> Any:
    size = draws["size"][:, None]
    return stats.nbinom(size, size / (size + _rate(draws)))


_POISSON = np.random.default_rng(5).poisson(np.exp(0.7 * _X + 1))
_OVERDISPERSED = np.random.default_rng(6).negative_binomial(2, 2 / (2 + np.exp(0.7 * _X + 1.5)))
_LINE = np.random.default_rng(7).normal(1.0 * _X + 0.5, 0.4) + 6.0 * (np.arange(20) % 7 == 3)
_GRADES = np.digitize(np.random.default_rng(8).logistic(1.5 * _X), (-1.0, 1.0))


def _ordinal(draws: Draws) -> Classes:
    eta = draws["w"][:, None] * _X
    low, high = (expit(c[:, None] - eta) for c in (draws["first"], draws["first"] + draws["gap"]))
    with np.errstate(divide="ignore"):
        return Classes(np.log(np.stack([low, high - low, 1 - high], -1)))


_FLOWERS = np.column_stack([np.ones(30), correlated(9, 30, 2, 0.5)])
_KINDS = (_FLOWERS @ np.array([[0, 0.5, -0.5], [1, -1, 0], [0, 1, -1]])).argmax(1)
_SPARSE = correlated(10, 25, 6, 0.0)
_SPARSE_Y = 2.0 * _SPARSE[:, 0] + np.random.default_rng(11).normal(0, 1, 25)
_WAVE_X = np.linspace(0.0, 5.0, 6)
_WAVE = np.random.default_rng(12).normal(np.sin(2.0 * _WAVE_X), 0.5)
_TRUE = np.random.default_rng(13).normal(0, 1, 12)
_BLURRED = np.random.default_rng(14).normal(_TRUE, 0.5)
_ON_TRUE = np.random.default_rng(15).normal(0.5 + 1.2 * _TRUE, 0.5)


def _marginal(draws: Draws) -> np.ndarray:
    """Log joint of a, b and the data of `measurement`, the latent of each row integrated out."""
    a, b = draws["a"][:, None], draws["b"][:, None]
    first = stats.norm(0, np.sqrt(1.25)).logpdf(_BLURRED)
    slope, spread = b / 1.25, np.sqrt(b**2 + 0.25 - b**2 / 1.25)
    second = stats.norm(a + slope * _BLURRED, spread).logpdf(_ON_TRUE)
    prior = stats.norm(0, 2).logpdf(draws["a"]) + stats.norm(0, 2).logpdf(draws["b"])
    return prior + (first + second).sum(1)


def _measured() -> Known:
    """A grid over a and b, and x given them.

    Chains can be stuck in a mode of hardly any mass, b = -5.6, where x shrinks to zero.
    """
    real = Axis(-np.inf, np.inf)
    nodes = on_grid(_marginal, {"a": real, "b": real})
    draws = resampled(nodes, 40_000)
    a, b = draws["a"][:, None], draws["b"][:, None]
    precision = 1 + 4 + 4 * b**2
    mean = 4 * (_BLURRED + b * (_ON_TRUE - a)) / precision
    x = mean + np.random.default_rng(0).standard_normal(mean.shape) / np.sqrt(precision)
    order = np.random.default_rng(1).permutation(len(x))  # the grid's own has the first a alone
    return Known(
        {"a": draws["a"][order], "b": draws["b"][order], "x": x[order]}, nodes.log_evidence
    )


def _known_noise(n: int, k: int, rho: float, noise: float) -> Case:
    """The zoo's own linear model with its noise given."""
    x = correlated(n, n, k, rho)
    y = x @ np.linspace(-1, 1, k) + np.random.default_rng(n).normal(0, noise, n)

    def exact() -> Known:
        known = gaussian(np.column_stack([x, np.ones(n)]), y, np.eye(k + 1), noise)
        w = known.draws["w"]
        return known._replace(draws={"w": w[:, :k], "b": w[:, k]})

    return Case(
        name=f"linear n={n} k={k} rho={rho}",
        family="linear",
        kind="zoo",
        model="linear",
        data={"x": x, "y": y},
        options={"noise": noise, "standardise": False},
        observed=y,
        rows=lambda d: stats.norm(linear(d, x), noise),
        exact=exact,
        methods=(*RICH, "exact"),
    )


CASES = [
    _known_noise(20, 3, 0.5, 0.5),
    _known_noise(15, 8, 0.95, 1.0),
    _unknown_noise(6, 1, 0.0),
    _unknown_noise(40, 1, 0.0),
    _unknown_noise(8, 4, 0.9),
    *(_logistic(40, 2, rho) for rho in (0.0, 0.5, 0.9, 0.98)),
    _logistic(60, 6, 0.9),
    _apart("separable n=6", np.array([-2.0, -1.2, -0.5, 0.4, 1.1, 2.3])),
    _apart("separable n=2", np.array([-1.0, 1.0])),
    _counts("poisson regression", poisson_regression, lambda d: stats.poisson(_rate(d)), _POISSON),
    _counts(
        "negative binomial",
        negative_binomial,
        _negative_binomial,
        _OVERDISPERSED,
        size=stats.expon(scale=5),
    ),
    with_rows(
        "robust regression",
        "robust regression",
        robust,
        {"x": _X, "y": _LINE},
        lambda d: stats.t(2, d["w"][:, None] * _X + d["b"][:, None], d["sigma"][:, None]),
        priors={"w": stats.norm(0, 3), "b": stats.norm(0, 3), "sigma": stats.halfnorm(scale=2)},
    ),
    with_rows(
        "ordinal",
        "ordinal",
        ordinal,
        {"x": _X, "y": _GRADES},
        _ordinal,
        priors={"w": stats.norm(0, 2), "first": stats.norm(0, 3), "gap": stats.lognorm(1.0)},
    ),
    with_rows(
        "softmax",
        "softmax",
        classes,
        {"x": _FLOWERS, "y": _KINDS},
        lambda d: Classes(log_softmax(np.einsum("nk,skc->snc", _FLOWERS, d["w"]), axis=-1)),
        methods=RICH,
    ),
    with_rows(
        "horseshoe",
        "horseshoe",
        horseshoe,
        {"x": _SPARSE, "y": _SPARSE_Y},
        lambda d: stats.norm(d["w"] @ _SPARSE.T, 1.0),
        heavy=("tau", "scale"),
        long={"draws": 8000},
        methods=("nuts", "laplace", "svi:normal", "svi:mvn", "svi:maf", "map"),
    ),
    with_rows(
        "sinusoid",
        "sinusoid",
        sinusoid,
        {"x": _WAVE_X, "y": _WAVE},
        lambda d: stats.norm(np.sin(d["frequency"][:, None] * _WAVE_X), 0.5),
        priors={"frequency": stats.uniform(0.1, 5.9)},
        methods=("nuts", "laplace", "svi:normal", "map", "mle"),
    ),
    with_rows(
        "measurement error",
        "measurement error",
        measurement,
        {"seen": _BLURRED, "y": _ON_TRUE},
        lambda d: stats.norm(d["a"][:, None] + d["b"][:, None] * d["x"], 0.5),
        exact=_measured,
        loo=False,
        batches=False,
        methods=("nuts", "laplace", "svi:normal", "svi:mvn", "svi:structured", "map"),
    ),
]
