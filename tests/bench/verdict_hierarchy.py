"""Cases: groups, series and processes: latents that depend on latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import stats
from scipy.special import expit, logsumexp
from verdict_case import Case, Draws, log_prior, yes_or_no
from verdict_location import drawn

MANY = ("nuts", "laplace", "svi:normal", "svi:mvn", "svi:structured", "map")


def case(name: str, family: str, kind: Any, model: Callable, data: dict, **more: Any) -> Case:
    """A case without batches, of the usual guides."""
    more = {"methods": MANY, "batches": False} | more
    return Case(name=name, family=family, kind=kind, model=model, data=data, **more)


def schools(y, sigma):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * eta)
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def schools_centred(y, sigma):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def intercepts(group, y):
    mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
    tau = pyro.sample("tau", dist.HalfNormal(2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    with pyro.plate("school", 8):
        a = pyro.sample("a", dist.Normal(mu, tau))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(a[group], sigma), obs=y)


def funnel(y):
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    with pyro.plate("row", len(y)):
        x = pyro.sample("x", dist.Normal(0.0, (v / 2).exp()))
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)


def funnel_non_centred(y):
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        x = pyro.deterministic("x", z * (v / 2).exp())
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)


def rats(y, n):
    mean = pyro.sample("mean", dist.Beta(1.0, 1.0))
    size = pyro.sample("size", dist.LogNormal(2.0, 1.0))
    with pyro.plate("litter", len(y)):
        p = pyro.sample("p", dist.Beta(mean * size, (1 - mean) * size))
        pyro.sample("y", dist.Binomial(n, p), obs=y)


def items(y):
    with pyro.plate("item", y.shape[1]):
        difficulty = pyro.sample("difficulty", dist.Normal(0.0, 1.5))
    with pyro.plate("person", y.shape[0]):
        ability = pyro.sample("ability", dist.Normal(0.0, 1.0))
        logits = ability[:, None] - difficulty
        pyro.sample("y", dist.Bernoulli(logits=logits).to_event(1), obs=y)


def autoregression(before, y):
    c = pyro.sample("c", dist.Normal(0.0, 2.0))
    phi = pyro.sample("phi", dist.Normal(0.0, 1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(c + phi * before, sigma), obs=y)


def level(y):
    start = pyro.sample("start", dist.Normal(0.0, 3.0))
    drift = pyro.sample("drift", dist.HalfNormal(1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        mu = pyro.deterministic("mu", start + drift * z.cumsum(-1))
        pyro.sample("y", dist.Normal(mu, sigma), obs=y)


def process(x, y):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    length = pyro.sample("length", dist.LogNormal(0.0, 1.0))
    distance = (x[:, None] - x) / length
    covariance = scale**2 * (-0.5 * distance**2).exp() + 0.09 * torch.eye(len(x))
    pyro.sample("y", dist.MultivariateNormal(x.new_zeros(len(x)), covariance), obs=y)


def change(y):
    early = pyro.sample("early", dist.Gamma(1.0, 0.2))
    late = pyro.sample("late", dist.Gamma(1.0, 0.2))
    day = torch.arange(len(y))
    even = y.new_ones(len(y))
    tau = pyro.sample("tau", dist.Categorical(even), infer={"enumerate": "parallel"})
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Poisson(torch.where(day < tau, early, late)), obs=y)


def hidden(y):
    locs = pyro.sample("locs", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).to_event(1))
    stay = y.new_tensor([[0.8, 0.2], [0.2, 0.8]])
    state = 0
    for t in pyro.markov(range(len(y))):
        chances = stay[state]
        state = pyro.sample(
            f"state_{t}", dist.Categorical(chances), infer={"enumerate": "parallel"}
        )
        pyro.sample(f"y_{t}", dist.Normal(locs[state], 0.7), obs=y[t])


_EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
_ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
_SCHOOLS = {"y": _EFFECTS, "sigma": _ERRORS}


def _of_schools(draws: Draws) -> Any:
    return stats.norm(draws["theta"], _ERRORS)


_GROUP = np.repeat(np.arange(8), 3)
_GROUPED = drawn(31, 24, 1.0, 1.0) + drawn(30, 8, 0.0, 0.5)[_GROUP]
_FUNNEL = np.array([0.4, -1.3, 0.2, 2.1, -0.3, 0.8])
_LITTERS = np.array([0.0, 0.0, 1.0, 2.0, 1.0, 5.0, 3.0, 0.0, 2.0, 4.0])
_SIZES = np.array([20.0, 19.0, 18.0, 20.0, 10.0, 20.0, 19.0, 17.0, 20.0, 14.0])
_ANSWERS = (
    np.random.default_rng(32).random((20, 8))
    < expit(drawn(33, 20)[:, None] - np.linspace(-1.5, 1.5, 8))
).astype(float)


def _series() -> np.ndarray:
    noise, found = drawn(34, 30, 0.0, 0.5), [0.0]
    for step in noise:
        found.append(0.3 + 0.8 * found[-1] + step)
    return np.array(found)


_SERIES = _series()
_WALK = drawn(35, 15, 0.0, 0.4).cumsum() + drawn(36, 15, 1.0, 0.5)
_AT = np.linspace(-2.0, 2.0, 12)
_CURVE = np.sin(1.5 * _AT) + drawn(37, 12, 0.0, 0.3)
_ACCIDENTS = np.random.default_rng(38).poisson(np.where(np.arange(20) < 9, 4.0, 1.5)).astype(float)
_STATES = drawn(39, 12, 0.0, 0.7) + np.repeat([-1.2, 1.0, -1.2], 4)


def _process(draws: Draws) -> np.ndarray:
    """Log joint of the Gaussian process, its function integrated out."""
    distance = (_AT[:, None] - _AT) / draws["length"][:, None, None]
    covariance = draws["scale"][:, None, None] ** 2 * np.exp(-0.5 * distance**2)
    covariance = np.nan_to_num(covariance, posinf=1e300) + 0.09 * np.eye(len(_AT))
    found = np.full(len(covariance), -np.inf)
    sound = np.isfinite(covariance).all((1, 2)) & (draws["scale"] < 1e4)
    root = np.linalg.cholesky(covariance[sound])
    z = np.linalg.solve(root, np.broadcast_to(_CURVE[:, None], (*root.shape[:2], 1)))[..., 0]
    log_det = np.log(np.diagonal(root, axis1=1, axis2=2)).sum(1)
    found[sound] = -0.5 * (z**2).sum(1) - log_det - 0.5 * len(_AT) * np.log(2 * np.pi)
    return found + log_prior(PROCESS, draws)


def _change(draws: Draws) -> np.ndarray:
    """Log joint with the day of the change summed out."""
    early, late = (
        stats.poisson(draws[name][:, None]).logpmf(_ACCIDENTS) for name in ("early", "late")
    )
    days = [early[:, :day].sum(1) + late[:, day:].sum(1) for day in range(len(_ACCIDENTS))]
    return logsumexp(days, axis=0) - np.log(len(days)) + log_prior(CHANGE, draws)


def _hidden(draws: Draws) -> np.ndarray:
    """Log joint by the forward algorithm."""
    log_stay = np.log(np.array([[0.8, 0.2], [0.2, 0.8]]))
    emitted = stats.norm(draws["locs"][:, None, :], 0.7).logpdf(_STATES[:, None])
    forward = log_stay[0] + emitted[:, 0]
    for t in range(1, len(_STATES)):
        forward = logsumexp(forward[:, :, None] + log_stay, axis=1) + emitted[:, t]
    return logsumexp(forward, axis=1) + log_prior(HIDDEN, draws)


_LOG_NORMAL = stats.lognorm(1.0)
PROCESS = case(
    "Gaussian process",
    "Gaussian process",
    "series",
    process,
    {"x": _AT, "y": _CURVE},
    priors={"scale": _LOG_NORMAL, "length": _LOG_NORMAL},
    log_joint=_process,
    methods=("nuts", "laplace", "svi:normal", "svi:mvn", "map", "mle"),
)
CHANGE = case(
    "change point",
    "change point",
    "series",
    change,
    {"y": _ACCIDENTS},
    priors={"early": stats.gamma(1, scale=5), "late": stats.gamma(1, scale=5)},
    log_joint=_change,
    methods=("nuts", "laplace", "svi:normal", "svi:mvn", "map", "mle"),
)
HIDDEN = case(
    "hidden Markov",
    "hidden Markov",
    "series",
    hidden,
    {"y": _STATES},
    priors={"locs": [stats.norm(-1, 1), stats.norm(1, 1)]},
    log_joint=_hidden,
    methods=("nuts", "laplace", "svi:normal", "svi:mvn", "map"),
)


def _without(*names: str) -> Callable[[Draws], Draws]:
    """Draws without some sites, which the other writing of the model has not."""
    return lambda draws: {k: v for k, v in draws.items() if k not in names}


CASES = [
    case(
        "schools",
        "schools",
        "hierarchy",
        schools,
        _SCHOOLS,
        observed=_EFFECTS,
        rows=_of_schools,
        heavy=("tau",),
    ),
    case(
        "schools centred",
        "schools",
        "hierarchy",
        schools_centred,
        _SCHOOLS,
        observed=_EFFECTS,
        rows=_of_schools,
        twin=(schools, _without("eta")),
        heavy=("tau",),
    ),
    case(
        "intercepts",
        "intercepts",
        "hierarchy",
        intercepts,
        {"group": _GROUP, "y": _GROUPED},
        observed=_GROUPED,
        rows=lambda d: stats.norm(d["a"][:, _GROUP], d["sigma"][:, None]),
    ),
    case(
        "funnel",
        "funnel",
        "hierarchy",
        funnel,
        {"y": _FUNNEL},
        observed=_FUNNEL,
        rows=lambda d: stats.norm(d["x"], 1.0),
        twin=(funnel_non_centred, _without("z")),
    ),
    case(
        "funnel non-centred",
        "funnel",
        "hierarchy",
        funnel_non_centred,
        {"y": _FUNNEL},
        observed=_FUNNEL,
        rows=lambda d: stats.norm(d["x"], 1.0),
    ),
    case(
        "rats",
        "rats",
        "hierarchy",
        rats,
        {"y": _LITTERS, "n": _SIZES},
        observed=_LITTERS,
        rows=lambda d: stats.binom(_SIZES, d["p"]),
    ),
    case(
        "items",
        "items",
        "hierarchy",
        items,
        {"y": _ANSWERS},
        observed=_ANSWERS.ravel(),
        rows=lambda d: yes_or_no(
            (d["ability"][:, :, None] - d["difficulty"][:, None]).reshape(len(d["ability"]), -1)
        ),
        loo=False,
        together=True,
    ),
    case(
        "autoregression",
        "autoregression",
        "series",
        autoregression,
        {"before": _SERIES[:-1], "y": _SERIES[1:]},
        observed=_SERIES[1:],
        rows=lambda d: stats.norm(
            d["c"][:, None] + d["phi"][:, None] * _SERIES[:-1], d["sigma"][:, None]
        ),
        priors={"c": stats.norm(0, 2), "phi": stats.norm(0, 1), "sigma": stats.halfnorm(scale=2)},
        methods=("nuts", "laplace", "svi:normal", "svi:mvn", "map", "mle"),
        batches=True,
    ),
    case(
        "level",
        "level",
        "series",
        level,
        {"y": _WALK},
        observed=_WALK,
        rows=lambda d: stats.norm(d["mu"], d["sigma"][:, None]),
    ),
    PROCESS,
    CHANGE,
    HIDDEN,
]
