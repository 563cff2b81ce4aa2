"""Cases of which no result was known when the rules were made, the last one included."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import stats
from scipy.special import log_ndtr, ndtri
from verdict_case import Case, yes_or_no
from verdict_location import ONE, alike, column, drawn
from verdict_regression import RICH, with_rows


def waiting(y):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Exponential(rate), obs=y)


def failures(y):
    chance = pyro.sample("chance", dist.Beta(1.0, 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Geometric(chance), obs=y)


def student(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
    sigma = pyro.sample("sigma", dist.HalfCauchy(1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.StudentT(4.0, mu, sigma), obs=y)


def dose(x, n, y):
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    b = pyro.sample("b", dist.Normal(10.0, 10.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Binomial(n, logits=a + b * x), obs=y)


def incomes(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    sigma = pyro.sample("sigma", dist.Exponential(1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.LogNormal(mu, sigma), obs=y)


def variance(y):
    v = pyro.sample("v", dist.InverseGamma(2.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(0.0, v.sqrt()), obs=y)


def groups(second, y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    delta = pyro.sample("delta", dist.Normal(0.0, 2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu + delta * second, sigma), obs=y)


def pointed(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Laplace(mu, 1.0), obs=y)


def floods(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 5.0))
    scale = pyro.sample("scale", dist.Gamma(2.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Gumbel(loc, scale), obs=y)


def probit(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 2.0))
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(y)):
        chance = (0.5 * (1 + torch.erf((w * x + b) / 2**0.5))).clamp(1e-9, 1 - 1e-9)
        pyro.sample("y", dist.Bernoulli(chance), obs=y)


def decay(x, y):
    top = pyro.sample("top", dist.LogNormal(1.0, 1.0))
    rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(top * (-rate * x).exp(), 0.3), obs=y)


def powers(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 2.0))
    v = pyro.sample("v", dist.Normal(0.0, 2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(w * x + v * x**2, sigma), obs=y)


def shared(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(a + b, 0.5), obs=y)


_RNG = np.random.default_rng(100)
_DOSES, _ANIMALS = np.array([-0.86, -0.3, -0.05, 0.73]), np.array([5.0, 5.0, 5.0, 5.0])
_DIED = np.array([0.0, 1.0, 3.0, 5.0])
_SECOND = np.array([0.0] * 5 + [1.0] * 7)
_HEIGHTS = _RNG.normal(1.0 + 1.5 * _SECOND, 1.2)
_TIMES = np.linspace(0.2, 3.0, 8)
_CURVE = _RNG.normal(4.0 * np.exp(-1.1 * _TIMES), 0.3)
_AT = np.linspace(0.0, 2.0, 9)
_BENT = _RNG.normal(0.5 * _AT + 0.7 * _AT**2, 0.5)
_DOSE = np.linspace(-2, 2, 18)
_DONE = (_RNG.random(18) < stats.norm.cdf(1.2 * _DOSE - 0.4)).astype(float)


def _probit_odds(draws: dict) -> np.ndarray:
    eta = draws["w"][:, None] * _DOSE + draws["b"][:, None]
    eta = np.clip(eta, ndtri(1e-9), -ndtri(1e-9))
    return log_ndtr(eta) - log_ndtr(-eta)


CASES: list[Case] = [
    alike(
        "waiting times",
        "waiting",
        waiting,
        _RNG.exponential(0.4, 6),
        lambda d: stats.expon(scale=1 / column(d, "rate")),
        priors={"rate": stats.gamma(2)},
        methods=ONE,
    ),
    alike(
        "failures",
        "failures",
        failures,
        np.array([0.0, 3.0, 1.0, 0.0, 7.0]),
        lambda d: stats.geom(column(d, "chance"), loc=-1),
        priors={"chance": stats.beta(1, 3)},
        methods=ONE,
    ),
    alike(
        "student n=8",
        "student",
        student,
        drawn(101, 8, 1.0, 1.5),
        lambda d: stats.t(4, column(d, "mu"), column(d, "sigma")),
        priors={"mu": stats.norm(0, 3), "sigma": stats.halfcauchy()},
        methods=RICH,
    ),
    Case(
        name="doses",
        family="doses",
        kind="regression",
        model=dose,
        data={"x": _DOSES, "n": _ANIMALS, "y": _DIED},
        observed=_DIED,
        rows=lambda d: stats.binom(
            _ANIMALS, 1 / (1 + np.exp(-(d["a"][:, None] + d["b"][:, None] * _DOSES)))
        ),
        priors={"a": stats.norm(0, 2), "b": stats.norm(10, 10)},
        methods=RICH,
        batches=False,
    ),
    alike(
        "incomes",
        "incomes",
        incomes,
        np.exp(drawn(102, 7, 1.0, 0.8)),
        lambda d: stats.lognorm(column(d, "sigma"), scale=np.exp(column(d, "mu"))),
        priors={"mu": stats.norm(0, 2), "sigma": stats.expon()},
        methods=RICH,
    ),
    alike(
        "variance n=4",
        "variance",
        variance,
        drawn(103, 4, 0.0, 1.3),
        lambda d: stats.norm(0, np.sqrt(column(d, "v"))),
        priors={"v": stats.invgamma(2)},
        heavy=("v",),
        methods=ONE,
    ),
    with_rows(
        "two groups",
        "groups",
        groups,
        {"second": _SECOND, "y": _HEIGHTS},
        lambda d: stats.norm(
            d["mu"][:, None] + d["delta"][:, None] * _SECOND, d["sigma"][:, None]
        ),
        priors={
            "mu": stats.norm(0, 5),
            "delta": stats.norm(0, 2),
            "sigma": stats.halfnorm(scale=3),
        },
        methods=RICH,
    ),
    alike(
        "pointed",
        "pointed",
        pointed,
        drawn(104, 5, 0.5, 1.4),
        lambda d: stats.laplace(column(d, "mu"), 1.0),
        priors={"mu": stats.norm(0, 2)},
        methods=ONE,
    ),
    alike(
        "floods",
        "floods",
        floods,
        np.random.default_rng(105).gumbel(3.0, 1.5, 9),
        lambda d: stats.gumbel_r(column(d, "loc"), column(d, "scale")),
        priors={"loc": stats.norm(0, 5), "scale": stats.gamma(2)},
        methods=RICH,
    ),
    with_rows(
        "probit",
        "probit",
        probit,
        {"x": _DOSE, "y": _DONE},
        lambda d: yes_or_no(_probit_odds(d)),
        priors={"w": stats.norm(0, 2), "b": stats.norm(0, 2)},
        methods=RICH,
    ),
    with_rows(
        "decay",
        "decay",
        decay,
        {"x": _TIMES, "y": _CURVE},
        lambda d: stats.norm(d["top"][:, None] * np.exp(-d["rate"][:, None] * _TIMES), 0.3),
        priors={"top": stats.lognorm(1, scale=np.e), "rate": stats.lognorm(1)},
        methods=RICH,
    ),
    with_rows(
        "powers",
        "powers",
        powers,
        {"x": _AT, "y": _BENT},
        lambda d: stats.norm(
            d["w"][:, None] * _AT + d["v"][:, None] * _AT**2, d["sigma"][:, None]
        ),
        priors={"w": stats.norm(0, 2), "v": stats.norm(0, 2), "sigma": stats.halfnorm()},
        methods=RICH,
    ),
    alike(
        "shared",
        "shared",
        shared,
        drawn(106, 3, 1.0, 0.5),
        lambda d: stats.norm(column(d, "a") + column(d, "b"), 0.5),
        priors={"a": stats.norm(), "b": stats.norm()},
        methods=RICH,
    ),
]
