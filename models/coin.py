"""Coin toss: is the coin fair?

Lecture B flips a coin twice, sees heads both times, and asks for P(heads). The smallest model in
which everything of Bayes' workflow has a closed form; it shows how over-confident the point
estimates are on little data (maximum likelihood is sure of heads after two flips) and how the
posterior sharpens with every flip (lectures A and B).

    pi  ~ Beta(alpha, beta)                    probability of heads
    x_i ~ Bernoulli(pi),  i = 1..n             1 = heads, 0 = tails

Data:   x, shape (n,), 0 or 1. `--data HHTHTT`, a file with one column of 0/1 or H/T, or
        `--data simulate --set n=100 heads=0.7`. No flips at all (`--data ""`) is the prior.
Priors: alpha = beta = 1 is the uniform prior of the lectures.
Exact:  pi | x ~ Beta(alpha + heads, beta + tails); P(next is heads) is its mean;
        log evidence of the sequence = log B(alpha + heads, beta + tails) - log B(alpha, beta).
Known failure: MLE and MAP lie on the border when all flips agree; with alpha or beta below 1 the
        posterior density itself can be unbounded there, and MAP does not exist.

References: Gelman et al. (2013), Bayesian Data Analysis, 3rd ed., section 2.1 and 2.4.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyro
import pyro.distributions as dist
import scipy
import torch
from pyro.distributions import constraints

from .contract import BadInput, Data, Entry, Exact, Guide, Inference, Results, Rows, View
from .contract.figures import BLUE, captioned, panels
from .data.columns import column, name_of, simulated_rng

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def model(x, *, alpha: Annotated[float, "> 0"] = 1.0, beta: Annotated[float, "> 0"] = 1.0):
    pi = pyro.sample("pi", dist.Beta(alpha, beta))
    with pyro.plate("flip", len(x)):
        pyro.sample("x", dist.Bernoulli(pi), obs=x)


def guide(x):
    """The family that holds the posterior: a Beta with free concentrations."""
    concentration1 = pyro.param("concentration1", torch.tensor(2.0), constraints.positive)
    concentration0 = pyro.param("concentration0", torch.tensor(2.0), constraints.positive)
    pyro.sample("pi", dist.Beta(concentration1, concentration0))


def data(
    source: Any = None,
    *,
    n: Annotated[int, ">= 0"] = 20,
    heads: Annotated[float, ">= 0", "<= 1"] = 0.5,
    data_seed: Annotated[int, ">= 0"] = 0,
    target: str | None = None,
) -> Data:
    """Flips from a string of H and T, a file column, or a simulation.

    Args:
        source: `HHTHTT`, a file with a column of flips, a mapping with one, or `simulate`; default
            the lecture's `HH`.
        n: number of simulated flips.
        heads: their probability of heads.
        data_seed: seed of the simulation.
        target: name of the column to take from a file of several.

    Raises:
        BadInput: a flip is neither heads nor tails.
    """
    source = "HH" if source is None else source
    if isinstance(source, Path):
        source = str(source)
    if source == "simulate":
        flips = simulated_rng(data_seed).random(n) < heads
        source = f"simulate n={n} heads={heads:g} data_seed={data_seed}"
    elif isinstance(source, str) and set(source.upper()) <= {"H", "T"}:
        flips = [letter == "H" for letter in source.upper()]
    else:
        flips = _zeros_and_ones(column(source, target, hint=_HINT))
    x = torch.as_tensor(np.asarray(flips, dtype=float))
    return Data(tensors={"x": x}, rows=Rows("flip", ("x",)), source=name_of(source) or "no flips")


_HINT = "a string of H and T such as HHTHTT, a file (.csv, .json, .npz), or `simulate`"


def _zeros_and_ones(values: np.ndarray) -> np.ndarray:
    letters = {"H": 1.0, "T": 0.0, "HEADS": 1.0, "TAILS": 0.0, "TRUE": 1.0, "FALSE": 0.0}
    flips = np.empty(len(values))
    for row, value in enumerate(values):
        flip = letters.get(str(value).strip().upper(), value)
        if flip not in (0, 1, "0", "1"):
            raise BadInput(
                f"a coin flip is 0 or 1 (or H or T), row {row + 1} is {value}; correct the data"
            )
        flips[row] = float(flip)
    return flips


def exact(data: Data, *, alpha: float, beta: float) -> Exact:
    """Conjugate posterior (lecture A, "Coin Tossing"); evidence of the *sequence* of flips."""
    x = np.asarray(data.tensors["x"])
    a, b = alpha + x.sum(), beta + len(x) - x.sum()
    posterior = scipy.stats.beta(a, b)
    return Exact(
        sample=lambda n, rng: {"pi": posterior.rvs(n, random_state=rng)},
        marginals={"pi": posterior},
        log_evidence=float(scipy.special.betaln(a, b) - scipy.special.betaln(alpha, beta)),
        predictive={"x": scipy.stats.bernoulli(a / (a + b))},
    )


def metrics(view: View) -> dict[str, float]:
    """Posterior predictive probability that the next flip is heads: the mean of pi."""
    next_flip = view.exact.predictive["x"] if view.exact else view.draws["pi"]
    return {"p_heads": float(next_flip.mean())}


def updating(view: View) -> Figure:
    """Exact posterior after more and more flips (darker): each flip sharpens it."""
    x, alpha, beta = np.asarray(view.data.tensors["x"]), *map(view.options.get, ("alpha", "beta"))
    # At most a dozen curves stay readable: all of a short sequence, then evenly in log n.
    counts = np.unique(np.geomspace(1, len(x) + 1, min(len(x) + 1, 12)).round().astype(int)) - 1
    grid = torch.linspace(0, 1, 801, dtype=torch.float64)[1:-1]
    figure, (axes,) = panels(height=3.4)
    for i, n in enumerate(counts):
        heads = float(x[:n].sum())
        density = dist.Beta(alpha + heads, beta + n - heads).log_prob(grid).exp()
        shade = 1 - 0.85 * (len(counts) - 1 - i) / max(len(counts) - 1, 1)
        label = f"after {n} ({heads:.0f} heads)" if n else "prior"
        axes.plot(grid, density, color=BLUE, alpha=shade, label=label)
    axes.set(xlabel="pi = P(heads)", ylabel="posterior density", xlim=(0, 1))
    axes.set_ylim(0, axes.get_ylim()[1])  # with the margin above the highest curve
    axes.legend(frameon=False, fontsize=7.5)
    return captioned(figure, updating.__doc__)


def refuses(method: str, options: dict, data: Data) -> str | None:
    if method == "mle" and data.n == 0:
        return "nothing is observed, so there is no likelihood to maximise; give some flips"
    return None


ENTRY = Entry(
    model=model,
    data=data,
    exact=exact,
    inference=Inference(guides={"own": Guide(guide)}, refuses=refuses),
    results=Results(metrics=metrics, figures={"updating": updating}),
)
