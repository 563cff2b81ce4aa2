"""Bayesian network classifier: a distribution over weights is an ensemble of networks.

The lectures' centre. A network of a few layers gives the logits of the classes; its weights have
priors, and what is learned is their posterior, by a dozen approximations that are all guides of
this one model: mean field, dropout, sparse weights, Laplace, or NUTS where the network is small.
The posterior predictive averages the networks; one sample, or the mean weights, is what it
costs less to be without. The slide of lecture A that sums up leaves x out: the likelihood is
p(y_n | x_n, w).

    w_l  ~ prior of scale prior_scale / sqrt(inputs of layer l),  layers l = 1..L
    b_l  ~ Normal(0, prior_scale)
    y_i  ~ Categorical(softmax(net_w(x_i))),  i = 1..n

Data:   x, shape (n, k), pixels in [0, 1] or features, and y, shape (n,), classes 0..C-1; default
        `digits` (1,797 images of 64 pixels), `moons`, `mnist`, `fashion-mnist`, or a file of
        columns with `--target`; all have a test set; `--set n=1000` takes part of the training
        images, `labels=random` spoils them, `outside=` adds rows of another kind.
Priors: with a scale of 1 / sqrt(inputs) the outputs of a layer are as large as its inputs.
        `laplace` and `scale_mixture` prefer small weights, `log_uniform` (1/|w|, improper, for the
        guide `sparse` alone; biases stay normal) prefers none.
Exact:  nothing. The weights are not identified (units can be swapped), so runs are judged on the
        probabilities that they predict.
Known failure: NUTS takes 1.6 minutes on `moons`, and is not for images. There (16 units) the
        others predict otherwise, in total variation: `map` by 0.014, `local` 0.022, `laplace`
        0.035, `mle` 0.039, dropout 0.063; its noise is 0.001. With few images and a wide prior
        mean field and Laplace are less sure than they should be (`notebooks/bnn.ipynb`).

References: Neal (1996), Bayesian Learning for Neural Networks; Blundell et al. (2015), Weight
uncertainty in neural networks, arXiv:1505.05424; Gal and Ghahramani (2016), Dropout as a Bayesian
approximation, arXiv:1506.02142; Molchanov, Ashukha and Vetrov (2017), Variational dropout
sparsifies deep neural networks, arXiv:1701.05369.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor

from .contract import Data, Entry, Inference, Results, View
from .contract.figures import RED, captioned, panels
from .data.classified import classified
from .data.images import Images, as_images
from .parts import networks
from .parts.networks import Activation, Prior, bayesian, integers, network

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Classifier(PyroModule):
    """The model: a plain network of torch, its weights given priors."""

    def __init__(
        self,
        data: Data,
        *,
        hidden: str = "50",
        activation: Activation = "tanh",
        prior: Prior = "normal",
        prior_scale: Annotated[float, "> 0"] = 4.0,
    ):
        super().__init__()
        classes = len(data.coords["class"])
        sizes = [data.tensors["x"].shape[1], *integers("hidden", hidden), classes]
        self.net = bayesian(network(sizes, activation), prior, prior_scale)

    def forward(self, x: Tensor, y: Tensor) -> None:
        logits = self.net(x)  # (n, classes)
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)


def unsure(view: View) -> Figure | None:
    """The test images of the largest entropy, of which the network is least sure.

    Above each the two likeliest classes (red: wrong), below what it is. A good network is unsure
    of what a reader is unsure of.
    """
    data, size = view.data, view.data.scaling
    if not isinstance(size, Images) or "held_out" not in view.groups:
        return None
    chance, truth = (view.groups["held_out"][name] for name in ("probability", "label"))
    entropy = -(chance * np.log(np.maximum(chance, 1e-30))).sum(1)
    least = np.argsort(-entropy)[:_SHOWN]
    figure, axes = panels(_SHOWN, height=0.62, gap=0.06, above=0.35)
    images, names = as_images(data.test["x"][least.copy()], size), data.coords["class"]
    for ax, row, image in zip(axes, least, images):
        ax.imshow(image, cmap="Greys", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        first, second = np.argsort(-chance[row])[:2]
        guesses = [f"{names[k]} {chance[row, k]:.0%}" for k in (first, second)]
        ax.set_title("\n".join(guesses), fontsize=6.5, color=RED if first != truth[row] else "k")
        ax.set_xlabel(f"is {names[truth[row]]}", fontsize=6.5)
    return captioned(figure, unsure.__doc__)


_SHOWN = 10  # images

ENTRY = Entry(
    model=Classifier,
    data=classified,
    identified=False,
    inference=Inference(
        first="svi:local",
        start=networks.start,
        refuses=networks.refuses,
        settings={
            # A third of the usual draws: predictions are judged, which are nearly independent.
            "nuts": {"warmup": 300, "draws": 300},
            # Three times the rate brings the ELBO where three times the steps would.
            "svi": {**networks.FALLING, "lr": 3e-3, "draws": 100},
            "svi:sparse": {"lr": 1e-3, "steps": 30_000},
            "laplace": {**networks.BATCHES, "draws": 100},
            "map": networks.BATCHES,
            "mle": networks.BATCHES,
        },
    ),
    results=Results(figures={"unsure": unsure}),
)
