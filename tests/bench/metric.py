"""Which mass matrix and how much warm-up bring most effective draws, on 26 posteriors.

    python tests/bench/metric.py [NAME ...]

Prints, for each posterior, smallest bulk ESS and gradients of both mass matrices after 400 steps
of warm-up, and of the low-rank one after 200 and 800. Seconds are the processor's: a machine that
is busy changes them little.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

import arviz as az  # noqa: E402
import numpy as np  # noqa: E402
import pyro  # noqa: E402
import pyro.distributions as dist  # noqa: E402
import torch  # noqa: E402

from inference.core import machine  # noqa: E402
from inference.core.problem import Context, Problem  # noqa: E402
from inference.methods.nuts import nuts  # noqa: E402
from inference.program.prepare import ready  # noqa: E402

Model = Callable[..., None]


def normal(size: int, spread: float, turned: bool) -> Model:
    """A normal density whose scales spread over powers of ten, along the axes or turned."""
    rng = np.random.default_rng(size)
    turn = np.linalg.qr(rng.normal(size=(size, size)))[0] if turned else np.eye(size)
    scales = np.logspace(0, spread, size)
    covariance = torch.tensor(turn @ np.diag(scales**2) @ turn.T)

    def model() -> None:
        pyro.sample("x", dist.MultivariateNormal(torch.zeros(size), covariance))

    return model


def regression(family: str, rows: int, columns: int, correlation: float) -> Model:
    """A regression on columns that go together, weights of scale 1."""
    rng = np.random.default_rng(columns)
    x = rng.normal(size=(rows, columns)) + correlation * rng.normal(size=(rows, 1))
    x = torch.tensor((x - x.mean(0)) / x.std(0))
    predicted = x @ torch.tensor(rng.normal(size=columns)) / columns**0.5
    torch.manual_seed(columns)
    families = {
        "normal": lambda m: dist.Normal(m, 0.5),
        "logistic": lambda m: dist.Bernoulli(logits=m),
        "poisson": lambda m: dist.Poisson(m.clamp(max=5).exp()),
        "student": lambda m: dist.StudentT(4.0, m, 0.5),
    }
    y = families[family](predicted).sample()

    def model() -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([columns]).to_event(1))
        with pyro.plate("row", rows):
            pyro.sample("y", families[family](x @ w), obs=y)

    return model


def groups(count: int, each: int, centred: bool) -> Model:
    """Means of groups around a common one."""
    rng = np.random.default_rng(count)
    group = torch.tensor(np.repeat(np.arange(count), each))
    y = torch.tensor(rng.normal(size=count)[group] + rng.normal(size=count * each))

    def model() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfNormal(2.0))
        with pyro.plate("group", count):
            if centred:
                alpha = pyro.sample("alpha", dist.Normal(mu, tau))
            else:
                alpha = mu + tau * pyro.sample("z", dist.Normal(0.0, 1.0))
        sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(alpha[group], sigma), obs=y)

    return model


def answers(people: int, items: int) -> Model:
    """Item response: ability of people, difficulty and discrimination of items."""
    rng = np.random.default_rng(items)
    logits = rng.normal(size=(people, 1)) - rng.normal(size=items)
    y = torch.tensor((rng.random((people, items)) < 1 / (1 + np.exp(-logits))).astype(float))

    def model() -> None:
        ability = pyro.sample("ability", dist.Normal(0.0, 1.0).expand([people]).to_event(1))
        difficulty = pyro.sample("difficulty", dist.Normal(0.0, 2.0).expand([items]).to_event(1))
        slope = pyro.sample("slope", dist.LogNormal(0.0, 0.5).expand([items]).to_event(1))
        logits = slope * (ability[:, None] - difficulty)
        pyro.sample("y", dist.Bernoulli(logits=logits).to_event(2), obs=y)

    return model


def walk(steps: int) -> Model:
    """A random walk that is seen with noise."""
    rng = np.random.default_rng(steps)
    y = torch.tensor(np.cumsum(0.3 * rng.normal(size=steps)) + 0.5 * rng.normal(size=steps))

    def model() -> None:
        drift = pyro.sample("drift", dist.HalfNormal(1.0))
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([steps]).to_event(1))
        pyro.sample("y", dist.Normal(drift * z.cumsum(0), 0.5).to_event(1), obs=y)

    return model


def process(points: int) -> Model:
    """A Gaussian process whose scale is known, counts at its points."""
    at = torch.linspace(0, 1, points)
    kernel = torch.exp(-0.5 * (at[:, None] - at) ** 2 / 0.1**2) + 1e-6 * torch.eye(points)
    factor = torch.linalg.cholesky(kernel)
    torch.manual_seed(points)
    y = dist.Poisson((factor @ torch.randn(points)).exp()).sample()

    def model() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([points]).to_event(1))
        pyro.sample("y", dist.Poisson((factor @ z).exp()).to_event(1), obs=y)

    return model


POSTERIORS: dict[str, Callable[[], Model]] = {
    **{f"normal {n}, axes": lambda n=n: normal(n, 2, False) for n in (10, 50, 200)},
    **{f"normal {n}, turned": lambda n=n: normal(n, 1.5, True) for n in (10, 30, 60, 100)},
    **{
        f"{f} 300 x {d}, r {r}": lambda f=f, d=d, r=r: regression(f, 300, d, r)
        for f, d, r in (
            ("normal", 10, 3.0), ("normal", 60, 1.0), ("normal", 150, 1.0), ("logistic", 20, 1.0),
            ("logistic", 60, 3.0), ("logistic", 120, 0.0), ("poisson", 40, 1.0),
            ("student", 80, 1.0),
        )
    },
    **{
        f"groups {n} x {m}, centred": lambda n=n, m=m: groups(n, m, True)
        for n, m in ((40, 10), (85, 10), (200, 5))
    },
    **{
        f"groups {n} x {m}, not centred": lambda n=n, m=m: groups(n, m, False)
        for n, m in ((8, 5), (85, 3))
    },
    "answers 100 x 20": lambda: answers(100, 20),
    "answers 300 x 30": lambda: answers(300, 30),
    "walk 50": lambda: walk(50),
    "walk 200": lambda: walk(200),
    "process 40": lambda: process(40),
    "process 100": lambda: process(100),
}  # fmt: skip


def of_program(program, **settings) -> tuple[float, float, float]:
    """Smallest bulk ESS, gradients, and CPU seconds of a fit, compiled before."""
    began = time.process_time()
    fit = nuts(program, seed=1, context=Context(), **settings)
    taken = time.process_time() - began
    draws = {k: v.numpy() for k, v in fit.draws.items() if k in program.layout}
    ess = az.ess(az.convert_to_dataset(draws))
    return (
        min(float(ess[name].min()) for name in ess.data_vars),
        float(fit.stats["n_steps"].sum()),
        taken,
    )


def table(names: list[str]) -> None:
    """A line for each posterior, as it comes."""
    choices = {
        "diagonal": {"metric": "diagonal"},
        "lowrank": {"metric": "lowrank"},
        "lowrank, 200": {"metric": "lowrank", "warmup": 200},
        "lowrank, 800": {"metric": "lowrank", "warmup": 800},
    }
    print("| posterior | d |" + "".join(f" {c}: ESS/s (ESS, 1000 gradients) |" for c in choices))
    print("|---|---|" + "---|" * len(choices))
    for name in names:
        with machine.numbers("float64"), torch.random.fork_rng():
            problem = Problem(model=POSTERIORS[name](), tensors={})
            program = ready(problem, dtype=torch.float64, checked=False)
            nuts(program, seed=0, context=Context(), draws=10, warmup=10)  # compiles
            cells = []
            for settings in choices.values():
                ess, gradients, taken = of_program(program, **settings)
                cells.append(f" {ess / taken:.0f} ({ess:.0f}, {gradients / 1e3:.0f}) |")
        print(f"| {name} | {program.size} |{''.join(cells)}", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    table(sys.argv[1:] or list(POSTERIORS))
