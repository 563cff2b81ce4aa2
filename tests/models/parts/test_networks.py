"""Networks: their layers, priors by fan-in, and what is refused."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn

from models.contract import Data, View
from models.parts import networks
from models.parts.networks import Decoder, learned


class Net(PyroModule):
    def __init__(self, sizes, activation, prior="normal"):
        super().__init__()
        self.net = networks.bayesian(networks.network(sizes, activation), prior, 2.0)

    def forward(self, x):
        return self.net(x)


def test_priors_have_the_scale_of_their_inputs():
    model = Net([16, 4, 1], "relu")
    nodes = poutine.trace(model).get_trace(torch.zeros(2, 16)).nodes
    for layer, inputs in ((0, 16), (2, 4)):
        for part, scale in (("weight", 2 / inputs**0.5), ("bias", 2.0)):
            node = nodes[f"net.{layer}.{part}"]
            expected = dist.Normal(0.0, scale).log_prob(node["value"]).sum()
            torch.testing.assert_close(node["fn"].log_prob(node["value"]), expected)


def test_a_prior_of_each_name_has_its_standard_deviation():
    for name, sd in (("normal", 0.5), ("laplace", 0.5), ("scale_mixture", 0.5 * 0.505**0.5)):
        torch.manual_seed(1)
        drawn = networks._prior(name, 0.5).expand([200_000]).sample()
        assert drawn.std().item() == pytest.approx(sd, rel=0.02), name


def test_a_network_has_activations_between_its_layers_alone():
    net = networks.network([3, 5, 2], "softplus")
    assert [type(layer) for layer in net] == [nn.Linear, nn.Softplus, nn.Linear]


def test_what_has_no_answer_is_refused():
    for method in ("map", "mle", "laplace", "nuts", "prior"):
        assert "infinite at zero" in networks.refuses(method, {"prior": "log_uniform"}, None)
    assert networks.refuses("svi", {"prior": "log_uniform"}, None) is None
    assert "second derivative" in networks.refuses("laplace", {"prior": "laplace"}, None)
    assert networks.refuses("nuts", {"prior": "laplace"}, None) is None


def test_one_class_has_no_maximum_of_the_likelihood():
    for y, refused in ([0, 0, 0], True), ([0, 1, 0], False):
        data = Data(tensors={"y": torch.tensor(y)}, source="made")
        assert (
            "one class" in (networks.refuses("mle", {"prior": "normal"}, data) or "")
        ) is refused
        assert networks.refuses("map", {"prior": "normal"}, data) is None


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
