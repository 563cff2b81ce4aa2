"""The data of the benchmark, and what is judged on the posterior draws of each library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

CHAINS, DRAWS = 4, 1000
HERE = Path(__file__).resolve().parent
# Models that the zoo has none of: users' files, which are given their rows in a file.
FILES = {
    "schools": HERE.parent / "user" / "eight_schools.py",
    "radon": HERE / "radon.py",
    "network": HERE / "network.py",
}
# The sites that are judged: all latents.
SITES = {
    "coin": ("pi",),
    "linear": ("w", "b", "sigma"),
    "logistic": ("w", "b"),
    "schools": ("mu", "tau", "eta"),
    "radon": ("mu", "tau", "alpha", "beta", "sigma"),
}
COUNTIES, HOMES = 85, 919


def _coin() -> dict[str, np.ndarray]:
    return {"x": np.ones(2)}


def _linear() -> dict[str, np.ndarray]:
    from sklearn.datasets import load_diabetes

    table = load_diabetes(scaled=False)
    return {"x": _standard(table.data), "y": _standard(table.target)}


def _logistic() -> dict[str, np.ndarray]:
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    return {"x": _standard(table.data), "y": table.target}


def _schools() -> dict[str, np.ndarray]:
    """Effects of coaching in eight schools, and their standard errors (Rubin 1981)."""
    effects = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    return {"y": effects, "sigma": np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])}


def _radon() -> dict[str, np.ndarray]:
    """Log radon simulated with about the sizes and effects of the homes of Minnesota.

    A home in each county, and the others by chances of which a few counties have most.
    """
    rng = np.random.default_rng(0)
    chances = rng.dirichlet(np.full(COUNTIES, 0.7))
    others = rng.choice(COUNTIES, HOMES - COUNTIES, p=chances)
    group = np.concatenate([np.arange(COUNTIES), others])
    floor = (rng.random(HOMES) < 0.17).astype(float)
    alpha = rng.normal(1.3, 0.35, COUNTIES)
    return {"floor": floor, "group": group, "y": rng.normal(alpha[group] - 0.7 * floor, 0.75)}


def _network() -> dict[str, np.ndarray]:
    from sklearn.datasets import make_moons

    x, y = make_moons(200, noise=0.2, random_state=0)
    return {"x": x, "y": y}


def _standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean(0)) / values.std(0)


ROWS = {
    "coin": _coin,
    "linear": _linear,
    "logistic": _logistic,
    "schools": _schools,
    "radon": _radon,
    "network": _network,
}


def rows(name: str, folder: Path | None = None) -> dict[str, np.ndarray]:
    """The rows of a problem, the same for all libraries, standardised.

    Args:
        name: the problem.
        folder: where the rows of `FILES` lie, which are read instead of made.
    """
    if folder is None or name not in FILES:
        return ROWS[name]()
    with np.load(folder / f"{name}.npz") as file:
        return dict(file)


def judged(name: str, draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The quantities whose R-hat and ESS count: the parameters, or predictive probabilities.

    Args:
        name: the problem.
        draws: site to draws (chain, draw, *shape).
    """
    if name != "network":
        return {site: draws[site] for site in SITES[name]}
    hidden = rows(name)["x"]
    for i in range(3):
        hidden = hidden @ draws[f"w{i}"] + draws[f"b{i}"][:, :, None, :]
        hidden = np.tanh(hidden) if i < 2 else hidden
    odds = hidden[..., 1] - hidden[..., 0]
    return {"probability": 1 / (1 + np.exp(-odds))}  # (chain, draw, row)


def verdict(name: str, draws: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Smallest bulk ESS and largest R-hat over all that is judged."""
    import arviz as az

    dataset = az.convert_to_dataset(judged(name, draws))
    ess, r_hat = az.ess(dataset), az.rhat(dataset)
    return {
        "ess": min(float(ess[v].min()) for v in ess.data_vars),
        "r_hat": max(float(r_hat[v].max()) for v in r_hat.data_vars),
    }
