"""Networks: their layers, priors by fan-in, and what is refused."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import problem_from
from pyro import poutine
from pyro.nn import PyroModule
from scipy import integrate, stats
from torch import nn

from inference.program.program import Program
from models.contract import Data, View
from models.parts import networks
from models.parts.networks import Decoder, LogUniform, ScaleMixture, learned


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


AT = torch.tensor([-3.0, -0.2, -1e-4, 0.0, 1e-3, 0.7, 8.0], dtype=torch.float64)


@pytest.mark.parametrize(("wide", "narrow", "share"), [(1.0, 0.1, 0.5), (2.0, 1e-3, 0.2)])
def test_the_mixture_is_scipys_and_integrates_to_one(wide, narrow, share):
    fn = ScaleMixture(wide, narrow, share)
    density = share * stats.norm.pdf(AT, 0, wide) + (1 - share) * stats.norm.pdf(AT, 0, narrow)
    np.testing.assert_allclose(fn.log_prob(AT), np.log(density), rtol=1e-12)

    def at(w):
        return fn.log_prob(torch.tensor(w)).exp().item()

    total = sum(
        integrate.quad(at, *part, limit=200)[0] for part in [(0, 10 * narrow), (10 * narrow, 20)]
    )
    assert 2 * total == pytest.approx(1, abs=1e-7)


def test_draws_of_the_mixture_have_its_moments_and_shape():
    torch.manual_seed(0)
    fn = ScaleMixture(2.0, 0.2, 0.3).expand((3, 2)).to_event(2)
    assert fn.batch_shape == () and fn.event_shape == (3, 2)
    drawn = fn.sample((20_000,))
    assert drawn.shape == (20_000, 3, 2) and fn.log_prob(drawn).shape == (20_000,)
    variance = 0.3 * 4 + 0.7 * 0.04
    fourth = 3 * (0.3 * 16 + 0.7 * 0.0016)
    count = drawn.numel()
    assert drawn.mean().item() == pytest.approx(0, abs=4 * (variance / count) ** 0.5)
    error = ((fourth - variance**2) / count) ** 0.5
    assert (drawn**2).mean().item() == pytest.approx(variance, abs=4 * error)
    # Beyond what the narrow one reaches there is the wide one alone.
    share = (drawn.abs() > 1.2).double().mean().item()
    assert share == pytest.approx(0.3 * 2 * stats.norm.sf(0.6), abs=0.01)
    assert drawn.flatten(1).T.corrcoef().fill_diagonal_(0).abs().max() < 0.04


def test_the_mixtures_density_has_finite_slopes_far_out():
    at = AT.clone().requires_grad_()
    ScaleMixture(1.0, 1e-4).log_prob(at).sum().backward()
    expected = [3.0, 0.2, 1e-4 / 1e-8, 0.0, None, -0.7, -8.0]
    for found, value in zip(at.grad.tolist(), expected):
        assert value is None or found == pytest.approx(value, rel=1e-3)


def test_the_log_uniform_density_is_one_over_the_weight():
    fn = LogUniform()
    found = fn.log_prob(torch.tensor([0.5, -2.0, 1.0])).exp()
    assert found.tolist() == pytest.approx([2.0, 0.5, 1.0])
    # No scale is preferred: as much between 1 and 2 as between 100 and 200.
    mass = [
        integrate.quad(lambda w: fn.log_prob(torch.tensor(w)).exp().item(), a, 2 * a)[0]
        for a in (1.0, 100.0)
    ]
    assert mass == pytest.approx([np.log(2)] * 2)


def test_the_log_uniform_prior_expands_and_is_known_to_be_improper():
    fn = LogUniform().expand((4, 3)).to_event(2)
    assert fn.event_shape == (4, 3) and fn.batch_shape == ()
    value = torch.full((4, 3), 0.5)
    assert fn.log_prob(value).item() == pytest.approx(12 * np.log(2))

    def model():
        pyro.sample("w", fn)
        pyro.sample("b", dist.Normal(0.0, 1.0))

    assert Program(problem_from(model)).improper() == ["w"]
    with pytest.raises(NotImplementedError):
        fn.sample()
