"""A distribution on activations: a network with noise inside, whose size it learns.

Lecture B: between dense 1 and dense 2 stands a normal distribution whose mean and sigma depend on
the row, and noise that is drawn apart from them (the reparameterisation trick) lets gradients
through. The network's weights are plain parameters; the activations a are what is random, so that
p(y | x) = E_a p(y | dense2(a)). Its logarithm is out of reach. What the lecture trains is a lower
bound, by Jensen's inequality (the slide writes E_a dense2(a), and calls it equal),

    E_a log p(y | dense2(a))  <=  E log mean_k p(y | dense2(a_k))  <=  log E_a p(y | dense2(a)),

with one sample: noise can only lose by it, nothing pays for its size (there is no KL divergence),
and sigma is driven to 0. The bound of many samples (in the middle) forgives samples that miss if
others hit, which slows its death: on `moons` of noise 0.4 the noise left after 4,000 steps tells
0.0003 nats on the label by one sample, 0.004 by 10 and 0.03 by 50 (`mutual_information`).

    h_i   = tanh(dense1(x_i)),  several layers if `hidden` names several
    a_ij  ~ Normal(mu_j(h_i), sigma_j(h_i)),  j = 1..width     mu linear, sigma softplus of linear
    y_i   ~ Categorical(softmax(dense2(a_i))),  i = 1..n

Data:   x, shape (n, k), pixels in [0, 1] or features, and y, shape (n,), classes 0..C-1; default
        `digits` (1,797 images of 64 pixels), and all that `bnn` takes; all have a test set.
Priors: of a, given x, with parameters theta that `svi` fits; sigma begins at 1, and is at least
        1e-6. The guides draw a from it too (q = p): `one` is trained by the bound of one sample,
        `many` by that of `k`, `none` has no noise (sigma stays at 1e-6).
Exact:  nothing. Runs are judged on the probabilities that they predict, with a drawn anew for the
        rows held out.
Known failure: by `one` the noise dies out, and the network is the one of `none`. What says that a
        row is uncertain is then the softmax alone. Where all training rows are fitted (`digits`)
        it dies by many samples too. `sigma` alone misleads: units that dense 2 ignores keep it.

References: Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114 (the
trick); Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519
(the bound); Tang and Salakhutdinov (2013), Learning stochastic feedforward neural networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import log
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor

from .contract import Data, Entry, Guide, Inference, Results, View
from .contract.figures import BLUE, GREY, RED, SKY, captioned, panels
from .data.classified import classified
from .parts.networks import FALLING, dense, integers, tanh_layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEAST, _START = 1e-6, 1.0  # sigma
_RAW_START = log(np.expm1(_START))  # whose softplus it is
_RAW_NONE = -40.0  # whose softplus, and slope, is nothing


class StochasticLayer(PyroModule):
    """The model: a network with plain parameters, and normal activations in one layer."""

    def __init__(
        self,
        data: Data,
        *,
        hidden: str = "50",
        width: Annotated[int, ">= 1"] = 10,
        k: Annotated[int, ">= 2"] = 10,
    ):
        super().__init__()
        self.classes = len(data.coords["class"])
        self.hidden, self.width = hidden, width

    def forward(self, x: Tensor, y: Tensor) -> None:
        loc, scale = encoded(x, self.hidden, self.width)
        with pyro.plate("row", len(y)):
            # The units of a layer act together: one event.
            a = pyro.sample("a", dist.Normal(loc, scale).to_event(1))  # (n, width)
            logits = dense("dense2", a, self.classes)
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)


def encoded(x: Tensor, hidden: str, width: int) -> tuple[Tensor, Tensor]:
    """Mean and sigma of the activations of each row, (n, width) each."""
    x = tanh_layers("dense1", x, integers("hidden", hidden))
    raw = dense("scale", x, width, bias=_RAW_START)
    return dense("loc", x, width), _LEAST + F.softplus(raw)


def one(x: Tensor, y: Tensor, *, hidden: str = "50", width: int = 10) -> None:
    """Activations as the model itself draws them."""
    loc, scale = encoded(x, hidden, width)
    with pyro.plate("row", len(y)):
        pyro.sample("a", dist.Normal(loc, scale).to_event(1))


def many(x: Tensor, y: Tensor, *, hidden: str = "50", width: int = 10) -> None:
    """The same; what it is trained by is another bound."""
    one(x, y, hidden=hidden, width=width)


def none(x: Tensor, y: Tensor, *, hidden: str = "50", width: int = 10) -> None:
    """The same with a sigma that is nothing, and has no gradient to become anything."""
    pyro.param("scale.bias", lambda: torch.full((width,), _RAW_NONE))
    one(x, y, hidden=hidden, width=width)


def one_sample_bound(model: Callable, guide: Callable, tensors: Mapping[str, Any]) -> Tensor:
    """Sum over rows of log p(y | a), a from the guide: the ELBO, as q(a) and p(a) cancel."""
    return many_sample_bound(model, guide, tensors, k=1)


def many_sample_bound(
    model: Callable, guide: Callable, tensors: Mapping[str, Any], *, k: int = 10
) -> Tensor:
    """Sum over rows of log mean_k p(y | a_k): Burda et al. (2016), eq. 8, with q(a) = p(a)."""
    scale = 1.0

    def log_likelihood(_: Tensor) -> Tensor:
        nonlocal scale
        drawn = poutine.trace(guide).get_trace(**tensors)
        trace = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(**tensors)
        label = trace.nodes["y"]
        scale = label["scale"]
        return label["fn"].log_prob(label["value"])  # (n,)

    each = torch.func.vmap(log_likelihood, randomness="different")(torch.arange(k))  # (k, n)
    return scale * (each.logsumexp(0) - log(k)).sum()


def _spreads(draws: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Sigma of each row and unit, (n, width), and each unit's sd of mu over the rows, (width,).

    Both from draws (draws, n, width), the mean's own noise taken off the latter.
    """
    a = draws["a"]
    sigma = a.std(0, ddof=1)
    between = a.mean(0).var(0) - (sigma**2).mean(0) / len(a)
    return sigma, np.sqrt(between.clip(min=0))


def metrics(view: View) -> dict[str, float]:
    """`sigma`, the mean over training rows and units, and `sigma_relative`, to the spread of mu.

    The layers around can scale the activations as they like: the ratio says how much noise it is.
    """
    sigma, between = _spreads(view.draws)
    ratio = sigma.mean() / max(between.mean(), np.finfo(float).tiny)
    return {"sigma": float(sigma.mean()), "sigma_relative": float(ratio)}


def noise(view: View) -> Figure:
    """How large the noise has become: sigma of all rows and units, and beside each unit's mu."""
    sigma, between = _spreads(view.draws)
    figure, (left, right) = panels(2, gap=0.65)
    logs = np.log10(sigma.clip(min=_LEAST))
    low, high = min(logs.min(), -1.0) - 0.1, max(logs.max(), 0.0) + 0.2
    left.hist(logs.ravel(), bins=np.linspace(low, high, 60), color=SKY)
    left.axvline(np.log10(_START), color=RED, ls="--", label="sigma at the start")
    left.axvline(np.log10(sigma.mean()), color=BLUE, label="mean sigma")
    left.set(xlabel="log10 sigma", ylabel="rows x units")
    order, width = np.argsort(-between), len(between)
    units = np.arange(1, width + 1)
    right.bar(units - 0.2, between[order], width=0.4, color=GREY, label="sd of mu over rows")
    right.bar(units + 0.2, sigma.mean(0)[order], width=0.4, color=SKY, label="sigma")
    right.set(xlabel="unit, by the spread of mu", ylabel="spread of a")
    right.legend(frameon=False, fontsize=7.5)
    caption = (
        f"The noise of the activations, {sigma.mean():.2g} in the mean, which is "
        f"{sigma.mean() / max(between.mean(), _LEAST):.2g} of the spread of their means over the "
        "rows: the bound of one sample drives it to 0, but in units that nothing depends on."
    )
    return captioned(figure, caption, left)


ENTRY = Entry(
    model=StochasticLayer,
    data=classified,
    identified=False,
    has_parameters=True,
    inference=Inference(
        guides={
            "one": Guide(one, one_sample_bound),
            "many": Guide(many, many_sample_bound),
            "none": Guide(none, one_sample_bound),
        },
        first="svi:one",
        settings={"svi": {**FALLING, "draws": 100}},
    ),
    results=Results(metrics=metrics, figures={"noise": noise}),
)
