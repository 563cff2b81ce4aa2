"""What decoders have in common: where pixels begin, codes from the prior, what a run learned."""

import numpy as np
import pyro
import pytest
import torch

from models.contract import Data, View
from models.parts.decoders import Decoder, learned

IMAGES = torch.as_tensor(np.random.default_rng(0).random((50, 6)))
DATA = Data(tensors={"x": IMAGES.clone()}, source="test")
DATA.tensors["x"][:, 0] = 1.0  # its log odds would be infinite


def test_pixels_begin_at_those_of_the_mean_image():
    decoder = Decoder(DATA, 2, "4,3")
    assert decoder.hidden == [4, 3]
    chances = decoder.pixels(torch.zeros(5, 4)).sigmoid().detach()
    assert chances.shape == (5, 6)
    torch.testing.assert_close(chances[0, 1:], IMAGES[:, 1:].mean(0))
    assert float(chances[0, 0]) == pytest.approx(0.99)


def test_codes_are_standard_normal():
    pyro.set_rng_seed(0)
    codes = Decoder(DATA, 3, "4").code(torch.zeros(1, 6)).expand(1, 3)
    assert codes.shape == (1, 3)
    trace = pyro.poutine.trace(Decoder(DATA, 3, "4").code).get_trace(torch.zeros(1, 6))
    assert trace.nodes["z"]["fn"].base_dist.mean.eq(0).all()
    assert trace.nodes["z"]["fn"].base_dist.stddev.eq(1).all()


def test_networks_have_what_was_learned_and_no_gradient():
    params = {"decoder.x.weight": np.full((6, 4), 0.5), "decoder.x.bias": np.arange(6.0)}
    with learned(View(data=DATA, draws={}, params=params)):
        logits = Decoder(DATA, 2, "4").pixels(torch.ones(1, 4))
    assert not logits.requires_grad
    torch.testing.assert_close(logits[0], 2 + torch.arange(6.0))
