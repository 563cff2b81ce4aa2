"""What the networks share: layers with and without priors, decoders of images."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from math import prod, sqrt
from typing import Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.nn import PyroModule, PyroSample
from pyro.nn.module import to_pyro_module_
from torch import Tensor, nn

from ..contract import BadSetting, Data, View
from .distributions import LogUniform, ScaleMixture

Activation = Literal["tanh", "relu", "softplus"]
Prior = Literal["normal", "laplace", "scale_mixture", "log_uniform"]

# Settings of a fit by batches of rows, and of a guide whose rate falls to zero.
BATCHES = {"steps": 10_000, "batch_size": 100, "lr": 1e-3}
FALLING = {**BATCHES, "schedule": "linear", "particles": 1}

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "softplus": nn.Softplus}


def integers(name: str, text: str) -> list[int]:
    """Positive whole numbers separated by commas, `300,100`; none in an empty text.

    Args:
        name: of the option that has the text, for messages.
        text: the numbers.

    Raises:
        BadSetting: something else.
    """
    try:
        numbers = [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        numbers = [0]
    if any(number < 1 for number in numbers):
        raise BadSetting(f"{name}={text} must be whole numbers above 0, such as 300,100")
    return numbers


def network(sizes: list[int], activation: Activation) -> nn.Sequential:
    """Linear layers of these sizes, inputs first, with an activation between any two."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def bayesian(net: nn.Module, prior: Prior, prior_scale: float) -> nn.Module:
    """The network with priors in the place of its weights, those of a layer one event.

    Weights have the scale prior_scale / sqrt(inputs of a unit), biases prior_scale.
    """
    to_pyro_module_(net)
    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            shape = layer.weight.shape
            scale = prior_scale / sqrt(prod(shape[1:]))
            # The weights of a layer act together: one event.
            weights = _prior(prior, scale).expand(shape).to_event(len(shape))
            biases = dist.Normal(0.0, prior_scale).expand(layer.bias.shape).to_event(1)
            layer.weight, layer.bias = PyroSample(weights), PyroSample(biases)
    return net


def dense(
    name: str, x: Tensor, outputs: int, bias: float | Tensor = 0.0, gain: float = 1.0
) -> Tensor:
    """A layer whose weights and biases are parameters of Pyro's, without priors.

    The weights begin as those of the zoo's other networks do (see `start`).

    Args:
        name: `weight` and `bias` are named after it.
        x: inputs (..., inputs).
        outputs: number of outputs.
        bias: where the biases begin, one number or (outputs,).
        gain: a factor of the weights that the layer begins with.
    """
    inputs = x.shape[-1]
    weight = pyro.param(f"{name}.weight", lambda: gain * start(name, (outputs, inputs)))
    begin = torch.as_tensor(bias, dtype=x.dtype)
    return F.linear(x, weight, pyro.param(f"{name}.bias", lambda: begin.expand(outputs).clone()))


def convolution(name: str, x: Tensor, channels: int) -> Tensor:
    """As `dense`, a 5 x 5 convolution that halves images (n, inputs, height, width)."""
    weight = pyro.param(f"{name}.weight", lambda: start(name, (channels, x.shape[1], 5, 5)))
    bias = pyro.param(f"{name}.bias", lambda: torch.zeros(channels))
    return F.conv2d(x, weight, bias, stride=2, padding=2)


def tanh_layers(name: str, x: Tensor, sizes: list[int]) -> Tensor:
    """Hidden layers of these sizes, each a `dense` one and a tanh."""
    for i, size in enumerate(sizes):
        x = torch.tanh(dense(f"{name}.{i}", x, size))
    return x


def _prior(name: Prior, scale: float) -> Any:
    """A prior of that standard deviation; of the wide half of the mixture, whose other is 1/10."""
    return {
        "normal": lambda: dist.Normal(0.0, scale),
        "laplace": lambda: dist.Laplace(0.0, scale / sqrt(2)),
        "scale_mixture": lambda: ScaleMixture(scale, scale / 10),
        "log_uniform": LogUniform,
    }[name]()


def start(name: str, shape: tuple[int, ...]) -> Tensor:
    """Weights that keep the size of a layer's inputs, normal of sd 1 / sqrt(inputs); no biases."""
    return torch.zeros(shape) if len(shape) < 2 else torch.randn(shape) / sqrt(prod(shape[1:]))


# -- decoders: networks from a code to an image ------------------------------------------------

# Chances of pixels with which a decoder begins are the mean image's, not 0 or 1.
_LEAST = 0.01


class Decoder(PyroModule):
    """A model whose code is standard normal, and whose pixels are read off hidden units.

    Args:
        data: images `x` (n, pixels) from 0 to 1.
        latent: numbers of a code.
        hidden: units of the hidden layers from the image to the code, such as `100,100`; the
            decoder has them the other way round.

    Attributes:
        latent: as above.
        hidden: as above, as numbers.
        begin: log odds of the mean image's pixels (pixels,), the biases that pixels begin with.
    """

    def __init__(self, data: Data, latent: int, hidden: str):
        super().__init__()
        self.latent, self.hidden = latent, integers("hidden", hidden)
        self.begin = torch.as_tensor(data.tensors["x"]).mean(0).clamp(_LEAST, 1 - _LEAST).logit()

    def code(self, x: Tensor) -> Tensor:
        """The codes `z` (n, latent) of images (n, pixels), drawn from their prior."""
        zeros = torch.zeros(self.latent, device=x.device)
        return pyro.sample("z", dist.Normal(zeros, 1.0).to_event(1))

    def pixels(self, units: Tensor) -> Tensor:
        """Log odds of the pixels (..., pixels) from the last hidden units (..., width)."""
        return dense("decoder.x", units, len(self.begin), bias=self.begin.to(units))


@contextmanager
def learned(view: View) -> Iterator[None]:
    """Within it the networks of a run have what it learned, and nothing has a gradient."""
    dtype = getattr(torch, view.data.dtype)
    params = {name: torch.as_tensor(value).to(dtype) for name, value in view.params.items()}
    with torch.no_grad(), poutine.substitute(data=params):
        yield


# -- what has no answer ------------------------------------------------------------------------


def one_class(method: str, data: Data) -> str | None:
    """Why the likelihood of these labels has no maximiser, or None."""
    if method == "mle" and len(np.unique(data.tensors["y"])) < 2:
        return "there is one class only, so no weights are the best; get two, or use map"
    return None


def refuses(method: str, options: Mapping[str, Any], data: Data) -> str | None:
    """The improper prior has no posterior, a Laplace prior no second derivative at zero."""
    if options["prior"] == "log_uniform" and method != "svi":
        return (
            "the log-uniform prior is infinite at zero weights, and so is the posterior; use "
            "--guide sparse, or prior=normal"
        )
    if method == "laplace" and options["prior"] == "laplace":
        return "a Laplace prior has no second derivative at zero; use prior=normal, map or nuts"
    return one_class(method, data)
