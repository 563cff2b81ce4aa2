"""Cases: several modes, heavy tails, curved and strongly correlated posteriors."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import stats
from verdict_case import Case, Draws, Mixture, yes_or_no
from verdict_known import Known, gaussian
from verdict_location import ONE, alike, column, drawn

FLOWS = ("nuts", "laplace", "svi:normal", "svi:mvn", "svi:maf", "map", "mle")


def cauchy_pair(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Cauchy(mu, 1.0), obs=y)


def square(y):
    theta = pyro.sample("theta", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(theta**2, 0.5), obs=y)


def tilted_square(y):
    theta = pyro.sample("theta", dist.Normal(0.5, 1.5))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(theta**2, 0.5), obs=y)


def product(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(a * b, 0.3), obs=y)


def scales(y):
    a = pyro.sample("a", dist.LogNormal(0.0, 1.0))
    b = pyro.sample("b", dist.LogNormal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(0.0, a * b), obs=y)


def two_normals(y):
    locs = pyro.sample("locs", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    with pyro.plate("row", len(y)):
        label = pyro.sample("label", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(locs[label.long()], 1.0), obs=y)


def ordered_normals(y):
    weight = pyro.sample("weight", dist.Beta(2.0, 2.0))
    low = pyro.sample("low", dist.Normal(0.0, 5.0))
    gap = pyro.sample("gap", dist.HalfNormal(5.0))
    locs = torch.stack([low, low + gap], -1)
    with pyro.plate("row", len(y)):
        label = pyro.sample("label", dist.Bernoulli(weight), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(locs[label.long()], 1.0), obs=y)


def conflict(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.StudentT(3.0, mu, 0.5), obs=y)


def banana(y):
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(a + b**2, 0.5), obs=y)


def weak_datum(y):
    mu = pyro.sample("mu", dist.Cauchy(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=mu), obs=y)


def scale_of_one(y):
    tau = pyro.sample("tau", dist.HalfCauchy(1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(0.0, tau), obs=y)


def neighbours(y):
    k = len(y)
    covariance = 100.0 * (0.01 * torch.eye(k) + 0.99)
    w = pyro.sample("w", dist.MultivariateNormal(torch.zeros(k), covariance))
    with pyro.plate("row", k):
        pyro.sample("y", dist.Normal(w, 5.0), obs=y)


def _neighbours(k: int) -> Case:
    y = drawn(k, k, 3.0, 5.0)
    prior = 100.0 * (0.01 * np.eye(k) + 0.99)

    def exact() -> Known:
        return gaussian(np.eye(k), y, prior, 5.0)

    rich = ("nuts", "laplace", "svi:normal", "svi:mvn", "svi:lowrank", "map")
    return alike(
        f"correlated d={k}",
        "correlated",
        neighbours,
        y,
        lambda d: stats.norm(d["w"], 5.0),
        exact=exact,
        kind="tails",
        methods=rich if k > 2 else FLOWS,
        batches=False,
    )


def _halves(draws: Draws) -> Mixture:
    parts = stats.norm(draws["locs"][:, None, :], 1.0)
    return Mixture(np.full((1, 1, 2), np.log(0.5)), parts)


def _ordered(draws: Draws) -> Mixture:
    weight, low = column(draws, "weight"), column(draws, "low")
    locs = np.stack([low, low + column(draws, "gap")], -1)
    return Mixture(np.log(np.stack([1 - weight, weight], -1)), stats.norm(locs, 1.0))


_NORMAL = stats.norm(0, 1)
_TWO = np.concatenate([drawn(20, 8, -2.0), drawn(21, 12, 2.0)])
_CLOSE = np.concatenate([drawn(22, 10, -0.7), drawn(23, 10, 0.7)])

CASES = [
    *(
        alike(
            f"Cauchy pair {reach:g}",
            "Cauchy pair",
            cauchy_pair,
            [-reach, reach],
            lambda d: stats.cauchy(column(d, "mu"), 1.0),
            kind="several modes",
            priors={"mu": stats.norm(0, 10)},
            methods=ONE,
        )
        for reach in (1.5, 6.0)
    ),
    alike(
        "square equal",
        "square",
        square,
        drawn(3, 6, 4.0, 0.5),
        lambda d: stats.norm(column(d, "theta") ** 2, 0.5),
        kind="several modes",
        priors={"theta": stats.norm(0, 2)},
        methods=ONE,
    ),
    alike(
        "square unequal",
        "square",
        tilted_square,
        drawn(3, 3, 1.5, 0.5),
        lambda d: stats.norm(column(d, "theta") ** 2, 0.5),
        kind="several modes",
        priors={"theta": stats.norm(0.5, 1.5)},
        methods=ONE,
    ),
    alike(
        "product",
        "product",
        product,
        drawn(24, 5, 0.8, 0.3),
        lambda d: stats.norm(column(d, "a") * column(d, "b"), 0.3),
        kind="several modes",
        priors={"a": _NORMAL, "b": _NORMAL},
        methods=FLOWS,
    ),
    alike(
        "two normals",
        "two normals",
        two_normals,
        _TWO,
        _halves,
        kind="several modes",
        priors={"locs": [stats.norm(0, 5)] * 2},
    ),
    alike(
        "two normals close",
        "two normals",
        two_normals,
        _CLOSE,
        _halves,
        kind="several modes",
        priors={"locs": [stats.norm(0, 5)] * 2},
    ),
    alike(
        "ordered normals",
        "ordered normals",
        ordered_normals,
        _TWO,
        _ordered,
        kind="several modes",
        priors={
            "weight": stats.beta(2, 2),
            "low": stats.norm(0, 5),
            "gap": stats.halfnorm(scale=5),
        },
    ),
    alike(
        "t in conflict",
        "t in conflict",
        conflict,
        [6.0, 6.3],
        lambda d: stats.t(3, column(d, "mu"), 0.5),
        kind="tails",
        priors={"mu": _NORMAL},
        methods=ONE,
        contrary=True,
    ),
    alike(
        "banana",
        "banana",
        banana,
        drawn(25, 10, 1.0, 0.5),
        lambda d: stats.norm(column(d, "a") + column(d, "b") ** 2, 0.5),
        kind="tails",
        priors={"a": stats.norm(0, 2), "b": _NORMAL},
        methods=FLOWS,
    ),
    alike(
        "scales",
        "scales",
        scales,
        drawn(26, 6, 0.0, 3.0),
        lambda d: stats.norm(0, column(d, "a") * column(d, "b")),
        kind="tails",
        priors={"a": stats.lognorm(1.0), "b": stats.lognorm(1.0)},
        methods=FLOWS,
    ),
    alike(
        "weak datum",
        "weak datum",
        weak_datum,
        [1.0],
        lambda d: yes_or_no(column(d, "mu")),
        kind="tails",
        priors={"mu": stats.cauchy(0, 1)},
        heavy=("mu",),
        methods=ONE,
        batches=False,
    ),
    alike(
        "scale of one",
        "scale of one",
        scale_of_one,
        [1.0],
        lambda d: stats.norm(0, column(d, "tau")),
        kind="tails",
        priors={"tau": stats.halfcauchy(0, 1)},
        heavy=("tau",),
        methods=ONE,
        batches=False,
    ),
    *(_neighbours(k) for k in (2, 10, 50)),
]
