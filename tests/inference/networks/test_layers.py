"""Layers found by watching a model run, and noise put in where their weights are used."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from conftest import NETWORK_GUIDES, perceptron, problem_from, problem_of
from pyro import poutine

from inference.methods import training
from inference.methods.ascent import AscentSettings
from inference.methods.guides import resolve
from inference.methods.training import gradient_of, store
from inference.networks import layers as _layers
from inference.networks.layers import Call, Layer, Layers, layers
from inference.program.graphs import Recorded
from inference.program.handlers import run
from inference.program.program import Program
from inference.results import predictive
from models.contract import Refused

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(6, 2)
Y = torch.tensor([0, 1, 1, 0, 1, 0])
DATA = {"x": X, "y": Y}


def normals(name, *shape):
    return pyro.sample(name, dist.Normal(torch.zeros(shape), 1.0).to_event(len(shape)))


def observed(logits, y):
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Categorical(logits=logits), obs=y)


def products(x, y):
    observed(perceptron(x, normals("w0", 2, 3), normals("b0", 3), normals("w1", 3, 2)), y)


def convolution(x, y):
    images = x.reshape(6, 1, 2)
    kernel, bias = normals("kernel", 3, 1, 2), normals("bias", 3)
    hidden = torch.tanh(F.conv1d(images, kernel, bias)).flatten(1)  # (6, 3)
    observed(F.linear(hidden, normals("w", 2, 3), bias=normals("b", 2)), y)


def of(model, data=DATA):
    return layers(Program(problem_from(model, data)))


def test_the_layers_of_modules_have_their_biases_and_the_order_of_the_network():
    found = layers(Program(problem_of("bnn", "moons", hidden="4,3")))
    assert found == [Layer(f"net.{i}.weight", f"net.{i}.bias", 1) for i in (0, 2, 4)]
    assert found[0].sites == ["net.0.weight", "net.0.bias"]


def test_products_and_convolutions_are_layers_too():
    # What is added to a product is no bias that a product knows.
    assert of(products) == [Layer("w0", None, 0), Layer("w1", None, 0)]
    assert of(products)[0].sites == ["w0"]
    assert of(convolution) == [Layer("kernel", "bias", 1), Layer("w", "b", 1)]


@pytest.mark.parametrize("product", [torch.matmul, torch.Tensor.matmul])
def test_a_product_may_be_written_as_a_function(product):
    assert of(lambda x, y: observed(product(x, normals("w", 2, 2)), y)) == [Layer("w", None, 0)]


def test_a_model_without_layers_and_a_weight_used_twice_are_refused():
    with pytest.raises(Refused, match="passes no latent to a linear layer"):
        of(lambda x, y: observed(x * normals("w", 2), y))

    def tied(x, y):
        w = normals("w", 2, 2)
        observed(torch.tanh(x @ w) @ w, y)

    with pytest.raises(Refused, match="w is used by several layers; use the guide normal"):
        of(tied)


def test_looking_for_layers_changes_no_parameter_and_leaves_no_gradient():
    problem = problem_of("bnn", "moons", hidden="3")
    program = Program(problem)
    before = [site.value.clone() for site in program.of("latent")]
    layers(program)
    assert all(torch.equal(s.value, b) for s, b in zip(program.of("latent"), before))
    assert not any(site.value.requires_grad for site in program.of("latent"))


# -- noise -------------------------------------------------------------------------------------


def outputs(model, values, weights, use):
    """The logits of a model at values, with a function in the place of some layers."""
    with Layers({name: values[name] for name in weights}, use):
        trace = run(model, DATA, poutine.condition(data=values))
    return trace.nodes["y"]["fn"].logits


def values_of(model):
    torch.manual_seed(1)
    sites = Program(problem_from(model, DATA)).of("latent")
    return {site.name: torch.randn(site.shape) for site in sites}


@pytest.mark.parametrize("model", [products, convolution])
def test_the_same_call_gives_the_same_output(model):
    values = values_of(model)
    plain = outputs(model, values, [], None)
    names = [layer.weight for layer in of(model)]
    same = outputs(model, values, names, lambda _, call: call(call.x, call.weight, call.bias))
    torch.testing.assert_close(same, plain, rtol=0, atol=0)


@pytest.mark.parametrize(("model", "name"), [(products, "w1"), (convolution, "kernel")])
def test_only_the_given_weights_are_replaced(model, name):
    values, seen = values_of(model), []

    def double(name, call):
        assert isinstance(call, Call)
        seen.append(name)
        return call(call.x, 2 * call.weight, call.bias)

    doubled = outputs(model, values | {name: 2 * values[name]}, [], None)
    torch.testing.assert_close(outputs(model, values, [name], double), doubled)
    assert seen == [name]
    # A weight of the same numbers that is another tensor is left as it is.
    with Layers({name: values[name].clone()}, double):
        trace = run(model, DATA, poutine.condition(data=values))
    plain = outputs(model, values, [], None)
    torch.testing.assert_close(trace.nodes["y"]["fn"].logits, plain)
    assert seen == [name]


def test_noise_is_vectorised():
    values = values_of(products)

    def one(shift):
        def use(_, call):
            return call(call.x, call.weight, call.bias) + shift

        return outputs(products, values, ["w0"], use)

    shifts = torch.tensor([0.0, 0.5, -1.0])
    several = torch.func.vmap(one)(shifts)
    torch.testing.assert_close(several, torch.stack([one(shift) for shift in shifts]))


# -- in a step ---------------------------------------------------------------------------------

GUIDES = [*NETWORK_GUIDES, "dropout:learned", "dropconnect:learned"]


def gradient_by(guide, particles, how):
    prior = "log_uniform" if guide == "sparse" else "normal"
    program = Program(problem_of("bnn", "moons", hidden="4", prior=prior))
    problem = program.problem
    settings = AscentSettings(steps=1, particles=particles, batch_size=20, compile=how)
    rows = [[problem.tensors[key][i : i + 20] for key in ("x", "y")] for i in (0, 40)]
    torch.manual_seed(0)
    with store():
        gradient, _ = gradient_of(program, resolve(guide, program), settings, rows)
        torch.manual_seed(1)
        return gradient, gradient(*rows[0])


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("guide", GUIDES)
def test_a_recorded_step_is_the_one_that_runs(guide, particles):
    recorded, ours = gradient_by(guide, particles, "traced")
    assert isinstance(recorded, Recorded)
    plain, theirs = gradient_by(guide, particles, "plain")
    assert not isinstance(plain, Recorded)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert ours[1].norm() > 0


@pytest.mark.parametrize("guide", GUIDES)
def test_particles_are_vectorised(guide, monkeypatch):
    called = []
    vmap = torch.func.vmap
    monkeypatch.setattr(torch.func, "vmap", lambda *a, **k: called.append(1) or vmap(*a, **k))
    monkeypatch.setattr(training, "NOT_VECTORISED", ())  # no falling back to a loop
    gradient_by(guide, 3, "plain")
    assert called


def test_units_that_are_not_in_use_are_left_out_and_predictions_stay():
    problem = problem_of("bnn", "moons", hidden="6,5", activation="relu")
    program = Program(problem)
    torch.manual_seed(0)
    draws = {site.name: torch.randn(3, *site.shape) for site in program.of("latent")}
    draws["net.2.weight"][:, 1:4] = 0  # units of which nothing comes in
    draws["net.2.weight"][:, :, 2:] = 0  # inputs of which nothing is made
    kept = _layers.in_use(program, draws)
    assert {k: (u.tolist(), i.tolist()) for k, (u, i) in kept.items()} == {
        "net.2.weight": ([0, 4], [0, 1])
    }
    for i in range(3):
        values = {name: value[i] for name, value in draws.items()}
        whole = predictive.class_probabilities(program, values)
        part = predictive.class_probabilities(program, values, kept)
        torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-12)
    # All draws at once too.
    found = predictive.classes(program, draws).draws
    assert found[1] == pytest.approx(
        predictive.class_probabilities(program, {k: v[1] for k, v in draws.items()}).numpy()
    )
