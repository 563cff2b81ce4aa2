"""Models that generate images from a code by a decoder, a network with parameters of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor

from ..contract import Data, View
from .networks import dense, integers

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
