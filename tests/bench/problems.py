"""The data of the benchmark, and what is judged on the posterior draws of each library."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

CHAINS, DRAWS = 4, 1000


def rows(name: str) -> dict[str, np.ndarray]:
    """The rows of a problem, the same for all libraries, standardised."""
    from sklearn import datasets

    if name == "coin":
        return {"x": np.ones(2)}
    if name == "network":
        x, y = datasets.make_moons(200, noise=0.2, random_state=0)
        return {"x": x, "y": y}
    if name == "linear":
        table = datasets.load_diabetes(scaled=False)
        return {"x": _standard(table.data), "y": _standard(table.target)}
    table = datasets.load_breast_cancer()
    return {"x": _standard(table.data), "y": table.target}


def _standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean(0)) / values.std(0)


def judged(name: str, draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The quantities whose R-hat and ESS count: the parameters, or predictive probabilities.

    Args:
        name: the problem.
        draws: site to draws (chain, draw, *shape).
    """
    if name != "network":
        return dict(draws)
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
