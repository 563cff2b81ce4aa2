"""Cases: models of the zoo with tables of their own, and networks, judged on what they predict."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
from scipy import stats
from verdict_case import Case, Classes, Draws, yes_or_no
from verdict_known import Known
from verdict_regression import linear

RICH = ("nuts", "laplace", "svi:normal", "svi:mvn", "svi:lowrank", "map")


def _pair(name: str, rho: float, y: float | None, methods: tuple[str, ...]) -> Case:
    """The zoo's normal pair, both latent or one of them given."""

    def exact() -> Known:
        rng = np.random.default_rng(0)
        if y is not None:
            return Known({"x": rng.normal(rho * y, (1 - rho**2) ** 0.5, 40_000)}, evidence)
        both = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], size=40_000)
        return Known({"x": both[:, 0], "y": both[:, 1]})

    evidence = None if y is None else float(stats.norm.logpdf(y))
    return Case(
        name=name,
        family="gaussian",
        kind="zoo",
        model="gaussian",
        data=None if y is None else f"y={y}",
        options={"rho": rho},
        exact=exact,
        methods=methods,
        batches=False,
    )


def diabetes(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([x.shape[-1]]).to_event(1))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ w + b, sigma), obs=y)


def cancer(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 2.5).expand([x.shape[-1]]).to_event(1))
    b = pyro.sample("b", dist.Normal(0.0, 10.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=x @ w + b), obs=y)


def _standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean(0)) / values.std(0)


def _same(draws: Draws) -> Draws:
    return draws


def _diabetes() -> Case:
    from sklearn.datasets import load_diabetes

    table = load_diabetes(scaled=False)
    x, y = _standard(table.data), _standard(table.target)
    return Case(
        name="linear diabetes",
        family="linear",
        kind="zoo",
        model="linear",
        data={"x": x, "y": y},
        options={"standardise": False},
        observed=y,
        rows=lambda d: stats.norm(linear(d, x), d["sigma"][:, None]),
        twin=(diabetes, _same),
        methods=RICH,
    )


def _cancer() -> Case:
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    x, y = _standard(table.data), table.target.astype(float)
    return Case(
        name="logistic cancer",
        family="logistic",
        kind="zoo",
        model="logistic",
        data={"x": x, "y": y},
        options={"standardise": False},
        observed=y,
        rows=lambda d: yes_or_no(linear(d, x)),
        twin=(cancer, _same),
        methods=RICH,
    )


def _of_classes(draws: Draws) -> Classes:
    """Predictive probabilities (S, rows, classes but the last) as classes."""
    first = draws["probability"]
    whole = np.concatenate([first, 1 - first.sum(-1, keepdims=True)], axis=-1)
    return Classes(np.log(np.clip(whole, 1e-12, 1.0)))


NETWORK = Case(
    name="network",
    family="network",
    kind="zoo",
    model="bnn",
    data="moons",
    options={"hidden": "3", "n": 40, "prior_scale": 1.0},
    group="predictions",
    judged=(),
    observed=np.zeros(200),
    rows=_of_classes,
    loo=False,
    proper=False,
    long={"draws": 1500, "warmup": 500},
    methods=("nuts", "laplace", "svi:local", "svi:dropout", "map"),
)

CASES = [
    _pair("gaussian y=1.5", 0.9, 1.5, ("nuts", "laplace", "svi:normal", "map", "exact")),
    _pair("gaussian rho=0.9", 0.9, None, ("nuts", "laplace", "svi:normal", "svi:mvn", "map")),
    _pair("gaussian rho=0.99", 0.99, None, ("nuts", "laplace", "svi:normal", "svi:mvn", "map")),
    _diabetes(),
    _cancer(),
    NETWORK,
]
