"""Cases: parameters of rows that are drawn alike, with no covariates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
from scipy import stats
from scipy.special import gammaln
from verdict_case import Case, Classes, Draws, Mixture, log_density, log_prior, yes_or_no
from verdict_known import Known

ONE = ("nuts", "laplace", "svi:normal", "map", "mle")


def alike(name: str, family: str, model: Callable, y: Any, rows: Callable, **more: Any) -> Case:
    """A case whose one data key is `y`, of rows without covariates."""
    y = np.asarray(y, dtype=float)
    kind = more.pop("kind", "location")
    return Case(
        name=name,
        family=family,
        kind=kind,
        model=model,
        data={"y": y},
        observed=y,
        rows=rows,
        **more,
    )


def column(draws: Draws, name: str) -> np.ndarray:
    """The draws of a scalar site as (S, 1), to go with rows."""
    return draws[name][:, None]


def drawn(seed: int, n: int, loc: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """Normal data."""
    return np.random.default_rng(seed).normal(loc, scale, n)


def normal_mean(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def normal(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(5.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, sigma), obs=y)


def gamma(y):
    shape = pyro.sample("shape", dist.Gamma(2.0, 0.5))
    rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Gamma(shape, rate), obs=y)


def beta(y):
    a = pyro.sample("a", dist.LogNormal(0.0, 1.5))
    b = pyro.sample("b", dist.LogNormal(0.0, 1.5))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Beta(a, b), obs=y)


def weibull(y, left):
    shape = pyro.sample("shape", dist.LogNormal(0.0, 1.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Weibull(scale, shape), obs=y)
    with pyro.plate("censored", len(left)):
        survival = pyro.deterministic("survival", (-((left / scale) ** shape)).exp())
        pyro.sample("alive", dist.Bernoulli(survival), obs=left.new_ones(len(left)))


def binomial(y):
    pi = pyro.sample("pi", dist.Beta(1.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Binomial(5.0, pi), obs=y)


def poisson(y):
    rate = pyro.sample("rate", dist.Gamma(2.0, 0.1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def zero_inflated(y):
    gate = pyro.sample("gate", dist.Beta(1.0, 1.0))
    rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.ZeroInflatedPoisson(rate, gate=gate), obs=y)


def categories(y):
    p = pyro.sample("p", dist.Dirichlet(y.new_ones(4).double()))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Categorical(p), obs=y)


def uniform_bound(y):
    theta = pyro.sample("theta", dist.Gamma(2.0, 0.5))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Uniform(0.0, theta), obs=y)


def direction(y):
    mu = pyro.sample("mu", dist.VonMises(0.0, 0.1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.VonMises(mu, 2.0), obs=y)


def small_scale(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, (1.0 + tau**2) ** 0.5), obs=y)


def _normals(n: int) -> Case:
    return alike(
        f"normal n={n}",
        "normal",
        normal,
        drawn(n, n, 1.0, 2.0),
        lambda d: stats.norm(column(d, "mu"), column(d, "sigma")),
        priors={"mu": stats.norm(0, 5), "sigma": stats.halfnorm(scale=5)},
    )


def _means(name: str, y: np.ndarray, **more: Any) -> Case:
    return alike(
        name,
        "normal mean",
        normal_mean,
        y,
        lambda d: stats.norm(column(d, "mu"), 1.0),
        priors={"mu": stats.norm(0, 2)},
        methods=ONE,
        **more,
    )


def _gammas(n: int) -> Case:
    return alike(
        f"gamma n={n}",
        "gamma",
        gamma,
        np.random.default_rng(1).gamma(3.0, 0.5, n),
        lambda d: stats.gamma(column(d, "shape"), scale=1 / column(d, "rate")),
        priors={"shape": stats.gamma(2, scale=2), "rate": stats.gamma(2, scale=2)},
    )


_LEFT = np.array([2.0, 2.0, 2.0, 2.0])
_SEEN = np.minimum(1.5 * np.random.default_rng(2).weibull(1.3, 8), 1.95)


def _weibull_joint(draws: Draws) -> np.ndarray:
    survivals = -((_LEFT / column(draws, "scale")) ** column(draws, "shape"))
    seen = log_density(CENSORED.rows(draws), _SEEN)
    return log_prior(CENSORED, draws) + seen.sum(-1) + survivals.sum(-1)


CENSORED = Case(
    name="weibull censored",
    family="weibull",
    kind="location",
    model=weibull,
    data={"y": _SEEN, "left": _LEFT},
    observed=_SEEN,
    rows=lambda d: stats.weibull_min(column(d, "shape"), scale=column(d, "scale")),
    priors={"shape": stats.lognorm(1.0), "scale": stats.lognorm(2.0)},
    log_joint=_weibull_joint,
    loo=False,
    batches=False,
)


def _zero_inflated(draws: Draws) -> Mixture:
    gate, rate = column(draws, "gate"), column(draws, "rate")
    weights = np.log(np.stack([gate, 1 - gate], -1))
    return Mixture(weights, stats.poisson(np.stack([0 * rate, rate], -1)), discrete=True)


_LABELS = np.repeat(np.arange(4), (9, 4, 1, 0))


def _categories() -> Known:
    """Dirichlet posterior; evidence and leave-one-out by its normalising constants."""
    alpha, counts = np.ones(4), np.bincount(_LABELS, minlength=4)
    after, n = alpha + counts, counts.sum()
    draws = np.random.default_rng(0).dirichlet(after, size=40_000)
    evidence = (
        gammaln(alpha.sum()) - gammaln(after.sum()) + (gammaln(after) - gammaln(alpha)).sum()
    )
    loo = np.log((after[_LABELS] - 1) / (alpha.sum() + n - 1)).sum()
    return Known({"p": draws}, float(evidence), float(loo))


def coin(name: str, flips: str, options: Mapping[str, Any], **more: Any) -> Case:
    """The coin of the zoo."""
    prior = stats.beta(options.get("alpha", 1.0), options.get("beta", 1.0))
    with_logit = lambda pi: np.log(pi) - np.log1p(-pi)  # noqa: E731
    return Case(
        name=name,
        family="coin",
        kind="zoo",
        model="coin",
        data=flips,
        options=options,
        observed=np.array([float(flip == "H") for flip in flips]),
        rows=lambda d: yes_or_no(np.repeat(with_logit(column(d, "pi")), len(flips), 1)),
        priors={"pi": prior},
        methods=(*ONE, "svi:own", "exact"),
        **more,
    )


def _zeros(name: str, y: float) -> Case:
    return alike(
        name,
        "zero of five",
        binomial,
        [y],
        lambda d: stats.binom(5, column(d, "pi")),
        priors={"pi": stats.beta(1, 1)},
        methods=ONE,
        batches=False,
    )


CASES = [
    coin("coin HH", "HH", {}),
    coin("coin HHT", "HHT", {}),
    coin("coin 3 of 20", "HHH" + 17 * "T", {}),
    coin("coin conflict", 12 * "T", {"alpha": 40.0, "beta": 2.0}, contrary=True),
    coin("coin horseshoe prior", "HH", {"alpha": 0.5, "beta": 0.5}),
    _means("normal mean n=5", drawn(0, 5, 1.0)),
    _means("normal mean conflict", drawn(1, 3, 12.0), contrary=True),
    *(_normals(n) for n in (3, 10, 50)),
    *(_gammas(n) for n in (5, 40)),
    alike(
        "beta n=20",
        "beta",
        beta,
        np.random.default_rng(3).beta(0.7, 2.0, 20),
        lambda d: stats.beta(column(d, "a"), column(d, "b")),
        priors={"a": stats.lognorm(1.5), "b": stats.lognorm(1.5)},
    ),
    CENSORED,
    _zeros("zero of five", 0.0),
    alike(
        "poisson rate",
        "poisson rate",
        poisson,
        [3, 7, 4, 5],
        lambda d: stats.poisson(column(d, "rate")),
        priors={"rate": stats.gamma(2, scale=10)},
        methods=ONE,
    ),
    alike(
        "zero-inflated poisson",
        "zero-inflated poisson",
        zero_inflated,
        [0, 0, 0, 0, 2, 0, 1, 3, 0, 0, 4, 0],
        _zero_inflated,
        priors={"gate": stats.beta(1, 1), "rate": stats.gamma(2, scale=2)},
    ),
    Case(
        name="categories",
        family="categories",
        kind="location",
        model=categories,
        data={"y": _LABELS},
        observed=_LABELS,
        rows=lambda d: Classes(np.log(d["p"])[:, None].repeat(len(_LABELS), 1)),
        exact=_categories,
    ),
    alike(
        "uniform bound",
        "uniform bound",
        uniform_bound,
        [0.8, 2.9, 1.7, 3.4, 2.2],
        lambda d: stats.uniform(0, column(d, "theta")),
        priors={"theta": stats.gamma(2, scale=2)},
        kind="tails",
        methods=ONE,
    ),
    alike(
        "direction",
        "direction",
        direction,
        [0.3, -0.4, 1.1, 0.2],
        lambda d: stats.vonmises(2.0, loc=column(d, "mu")),
        priors={"mu": stats.vonmises(0.1)},
        supports={"mu": (-np.pi, np.pi)},
        methods=ONE,
    ),
    *(
        alike(
            f"small scale n={n}",
            "small scale",
            small_scale,
            drawn(4, n, 2.0, 0.6),
            lambda d: stats.norm(column(d, "mu"), np.sqrt(1 + column(d, "tau") ** 2)),
            priors={"mu": stats.norm(0, 5), "tau": stats.halfnorm()},
            kind="tails",
        )
        for n in (6, 30)
    ),
]
