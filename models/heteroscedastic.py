"""Predicting distributions: a network whose outputs are the mean and the sigma of each row.

Lecture B: instead of a number the network gives a distribution, and sigma says how certain it is.
With weights that are uncertain too there are two kinds of not knowing: aleatoric, sigma(x), which
more rows make better known and no smaller, and epistemic, the networks' disagreement about m(x),
which is wide where there are no data and shrinks as there are more (law of total variance:
Var y = E sigma^2 + Var m).

    w_l  ~ prior of scale prior_scale / sqrt(inputs of layer l),  layers l = 1..L
    b_l  ~ Normal(0, prior_scale)
    m_i, r_i = net_w(x_i)                                     two outputs for each row
    y_i  ~ Normal(m_i, sigma_min + log(1 + exp(r_i))),  i = 1..n

Data:   x, shape (n, k), and y, shape (n,), real, standardised; default `simulate` (500 rows of one
        feature: x uniform on [-4, -1] and [1, 4], nothing in between, y of mean `true_mean`,
        sin(x), and sd `true_sigma`, 0.1 + 0.05 (x + 4); 1,000 more rows are the test set),
        `diabetes`, or a file of columns with `--target`, a fifth of it held out.
Priors: with a scale of 1 / sqrt(inputs) the outputs of a layer are as large as its inputs.
        `laplace`, `scale_mixture` and `log_uniform` as in `bnn`.
Exact:  nothing. The weights are not identified (units can be swapped), so runs are judged on the
        means and standard deviations that they predict.
Known failure: without a least sigma the likelihood is unbounded (a network through one row, whose
        sigma tends to 0), so that `sigma_min` (in the target's standard units) bounds it: an MLE
        is what it lets it be, and `mle` with more weights than rows sits at that bound. Mean
        field is too sure of itself in the gap, and underfits where weights are many for the rows:
        with 100 rows and 16 hidden units it finds little more than the prior. NUTS diverges in
        1 to 2 % of its draws (3 hidden units, tanh), for which its verdict fails; what it predicts
        is as good as that of the others.

References: Nix and Weigend (1994), Estimating the mean and variance of the target probability
distribution; Kendall and Gal (2017), What uncertainties do we need in Bayesian deep learning for
computer vision?, arXiv:1703.04977; Depeweg et al. (2018), arXiv:1710.07283 (the decomposition).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyro
import pyro.distributions as dist
import scipy
import torch
from pyro.nn import PyroModule
from torch import Tensor
from torch.nn.functional import softplus

from .contract import BadSetting, Data, Entry, Inference, Results, View
from .contract.figures import BLUE, ORANGE, RED, SKY, captioned, panels
from .data.columns import simulated_rng
from .data.tabular import Builtin, diabetes, tabular
from .parts.networks import Activation, Prior, bayesian, integers, network, refuses, start

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HELD_OUT = 1000  # rows of the simulated test set
_POINTS = 150  # of the line along which predictions are drawn
_90 = 1.6448536269514722  # the central 90 % of a normal, in sds


class Heteroscedastic(PyroModule):
    """The model: a plain network of torch with two outputs, its weights given priors."""

    def __init__(
        self,
        data: Data,
        *,
        hidden: str = "16",
        activation: Activation = "softplus",
        prior: Prior = "normal",
        prior_scale: Annotated[float, "> 0"] = 2.0,
        sigma_min: Annotated[float, "> 0"] = 1e-3,
    ):
        super().__init__()
        sizes = [data.tensors["x"].shape[1], *integers("hidden", hidden), 2]
        self.net = bayesian(network(sizes, activation), prior, prior_scale)
        self.sigma_min = sigma_min

    def forward(self, x: Tensor, y: Tensor) -> None:
        loc, raw = self.net(x).unbind(-1)  # (n,) each
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(loc, self.sigma_min + softplus(raw)), obs=y)


def true_mean(x: np.ndarray) -> np.ndarray:
    """The mean of the simulated data, in the user's units."""
    return np.sin(x)


def true_sigma(x: np.ndarray) -> np.ndarray:
    """The standard deviation of the simulated data, in the user's units; they have |x| <= 4."""
    return 0.1 + 0.05 * (x + 4)


def data(
    source: Any = None,
    *,
    target: str | None = None,
    features: str | None = None,
    standardise: bool = True,
    split: Annotated[float | None, "> 0", "< 1"] = None,
    n: Annotated[int, ">= 2"] = 500,
    data_seed: Annotated[int, ">= 0"] = 0,
) -> Data:
    """A simulated table of stated truth, the diabetes table, or a file; with a test set.

    Args:
        source: `simulate`, `diabetes`, a file of columns, or a mapping of them.
        target: name of the target column.
        features: names of the feature columns, separated by commas.
        standardise: to mean 0 and sd 1.
        split: share of the rows held out as test set, a fifth if None; the simulated have 1,000.
        n: rows of the simulated table; fewer are always among more.
        data_seed: seed of simulation and split.

    Raises:
        Fault: whatever is wrong with the table. BadSetting: a split of the simulated table.
    """
    if split is not None and source in (None, "simulate"):
        raise BadSetting(f"simulate has a test set of its own, yet split={split:g}; leave it out")
    builtin = {"simulate": lambda: _simulated(n, data_seed), "diabetes": diabetes}
    chosen = {"target": target, "features": features, "standardise": standardise}
    split = split or 0.2
    table = tabular(
        source, builtin=builtin, classes=False, split=split, data_seed=data_seed, **chosen
    )
    # Weights have no original scale, so the table's note on the way back to it does not hold.
    notes = [note.partition(" (posterior_original")[0] for note in table.notes]
    notes.append("sigma is bounded from below (sigma_min): a likelihood without has no maximum")
    x, y = (table.tensors[key].numpy() for key in ("x", "y"))
    plane = {"x": _line(x, y)}
    return replace(table, plane=plane, notes=tuple(notes), dims={"x": ("feature",)})


def _simulated(n: int, data_seed: int) -> Builtin:
    """Rows to learn from, and those held out, each from generators of their own."""
    rngs = iter(simulated_rng(data_seed).spawn(4))

    def drawn(size: int) -> dict[str, np.ndarray]:
        along = next(rngs).uniform(-3, 3, size=size)
        x = along + np.sign(along)
        return {"x": x, "y": true_mean(x) + true_sigma(x) * next(rngs).normal(size=size)}

    source = f"simulate n={n} data_seed={data_seed}, {_HELD_OUT} rows held out"
    return Builtin(columns=drawn(n), test=drawn(_HELD_OUT), target="y", source=source)


def _line(x: np.ndarray, y: np.ndarray) -> torch.Tensor:
    """Points (150, k) along the feature that goes with the target most, the others at their means.

    They reach beyond the data by a quarter of their range on either side.
    """
    with np.errstate(invalid="ignore"):  # a constant feature
        j = int(np.nanargmax(np.abs(np.corrcoef(x.T, y)[-1, :-1])))
    reach = np.ptp(x[:, j]) / 4
    along = np.linspace(x[:, j].min() - reach, x[:, j].max() + reach, _POINTS)
    return torch.as_tensor(np.where(np.arange(x.shape[1]) == j, along[:, None], x.mean(0)))


def metrics(view: View) -> dict[str, float]:
    """`sigma_error`, of simulated data: how far sigma(x) is off, relative to it.

    The mean over the held-out rows, which lie where the data do, of the root of the aleatoric
    variance.
    """
    if not _is_simulated(view.data):
        return {}
    sigma = np.sqrt(view.groups["held_out_numbers"]["aleatoric"])
    truth = true_sigma(_users(view.data, np.asarray(view.data.test["x"]))[:, 0])
    return {"sigma_error": float(np.mean(np.abs(sigma / truth - 1)))}


def _is_simulated(data: Data) -> bool:
    return data.source.startswith("simulate ")


def _users(data: Data, x: np.ndarray) -> np.ndarray:
    return data.scaling.x_loc + data.scaling.x_scale * x


def bands(view: View) -> Figure | None:
    """Where new rows will lie along the feature that goes with the target most, and why.

    90 % intervals in the user's units, in the gap and beyond the data too; the other features are
    held at their means. None for a run of the prior.
    """
    if "line" not in view.groups:
        return None
    data, line, units = view.data, view.groups["line"], view.data.scaling
    j = int(np.ptp(line["x"], axis=0).argmax())
    at = _users(data, line["x"])[:, j]
    locs, sigmas = units.y_loc + units.y_scale * line["mean"], units.y_scale * line["sd"]
    low, high = (mixture_quantile(p, locs, sigmas) for p in (0.05, 0.95))
    mean, noise = locs.mean(0), _90 * np.sqrt((sigmas**2).mean(0))
    figure, (ax,) = panels(height=3.8)
    ax.fill_between(at, low, high, color=SKY, alpha=0.35, lw=0, label="new rows, 90 %")
    ax.plot(at, mean - noise, color=BLUE, lw=0.9, label="noise alone, 90 %")
    ax.plot(at, mean + noise, color=BLUE, lw=0.9)
    x, y = (np.asarray(data.tensors[key], dtype=float) for key in ("x", "y"))
    rows = _users(data, x)[:, j], units.y_loc + units.y_scale * y
    ax.plot(*rows, ".", color=RED, ms=3, alpha=0.6, label="data")
    ax.plot(at, mean, color=BLUE, lw=1.8, label="mean")
    if _is_simulated(data):
        inside = at[np.abs(at) <= 4]
        ends = _90 * true_sigma(inside)
        ax.plot(inside, true_mean(inside), "--", color=ORANGE, lw=1.4, label="truth, 90 %")
        for end in (true_mean(inside) - ends, true_mean(inside) + ends):
            ax.plot(inside, end, "--", color=ORANGE, lw=1)
    middle, reach = (rows[1].max() + rows[1].min()) / 2, max(np.ptp(rows[1]), 1e-12)
    ax.set(xlim=(at[0], at[-1]), ylim=(middle - 0.9 * reach, middle + 0.9 * reach))
    ax.set(xlabel=data.coords["feature"][j], ylabel="target, user's units")
    others = ", the other features at their means" if x.shape[1] > 1 else ""
    sure = (
        "the rest of the band is doubt about the mean, and should widen where no data are: if it "
        "does not, the approximation is too sure"
    )
    sure = sure if len(locs) > 1 else "a point estimate has no doubt about the mean"
    caption = (
        f"This run's predictions{others}: nine in ten new rows should lie in the band. The noise, "
        f"which more data would not lessen, is between the thin lines; {sure}."
    )
    return captioned(figure, caption, ax)


def mixture_quantile(p: float, locs: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """The quantile (rows,) of equal mixtures of normals, locs and sigmas (draws, rows)."""
    sides = locs + scipy.special.ndtri(p) * sigmas
    low, high = sides.min(0), sides.max(0)
    for _ in range(60):  # bisection, to the last bit
        middle = (low + high) / 2
        below = scipy.special.ndtr((middle - locs) / sigmas).mean(0) < p
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


_TRAINING = {"steps": 10_000, "lr": 1e-2}

ENTRY = Entry(
    model=Heteroscedastic,
    data=data,
    identified=False,
    inference=Inference(
        first="svi:local",
        start=start,
        refuses=refuses,
        settings={
            "svi": {**_TRAINING, "schedule": "linear", "particles": 1, "draws": 400},
            "laplace": {**_TRAINING, "draws": 400},
            "map": _TRAINING,
            "mle": _TRAINING,
        },
    ),
    results=Results(metrics=metrics, figures={"bands": bands}),
)
