"""The Gauss-Newton matrix against Jacobians by brute force, the precision of priors."""

from __future__ import annotations

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from conftest import problem_from, problem_of

from inference.networks import curvature
from inference.networks.curvature import gauss_newton, prior_precision
from inference.program.program import Program
from models.contract import Refused

RNG = np.random.default_rng(0)
N = 7
X = torch.as_tensor(RNG.normal(size=(N, 2)))
Y = torch.as_tensor(RNG.normal(size=N))
LABELS = torch.as_tensor(RNG.integers(0, 3, N))
SHAPES = {"c": (3,), "w": (4, 2), "b": (4,), "v": (4, 3)}


def outputs(x, c, w, b, v):
    """One layer by `linear`, one by a product with its biases beside it."""
    return torch.tanh(F.linear(x, w, b)) @ v + c


def classes(x, y):
    """The biases of the last layer, outside of it, come first."""
    values = [
        pyro.sample(k, dist.Normal(0.0, 1.0).expand(s).to_event()) for k, s in SHAPES.items()
    ]
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Categorical(logits=outputs(x, *values)), obs=y)


def measured(x, y):
    """Location and log scale out of the network."""
    values = [
        pyro.sample(k, dist.Normal(0.0, 1.0).expand(s).to_event()) for k, s in SHAPES.items()
    ]
    f = outputs(x, *values)
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(f[:, 0], f[:, 1].exp()), obs=y)


def tied(x, y):
    """A weight in two layers, once transposed."""
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2, 2]).to_event(2))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=F.linear(torch.tanh(x @ w.T), w)[:, 0]), obs=y)


def brute_force(f, at, information):
    """Sum over rows of J^T F J; f of a dictionary, (n, k), the information (n, k, k)."""
    sizes = [value.numel() for value in at.values()]

    def of_flat(flat):
        parts = zip(at.items(), flat.split(sizes))
        return f({name: part.view(value.shape) for (name, value), part in parts})

    flat = torch.cat([value.flatten() for value in at.values()])
    jacobian = torch.autograd.functional.jacobian(of_flat, flat)
    return torch.einsum("nia,nij,njb->ab", jacobian, information, jacobian)


def weights(program):
    torch.manual_seed(0)
    return program.constrain(program.start())


def of_logits(logits):
    p = logits.softmax(-1)
    return torch.stack([row.diag() - row.outer(row) for row in p])


@pytest.fixture
def program():
    return Program(problem_from(classes, {"x": X, "y": LABELS}))


def test_classes_by_brute_force(program):
    at = weights(program)

    def f(values):
        return outputs(X, **values)

    expected = brute_force(f, at, of_logits(f(at)))
    np.testing.assert_allclose(gauss_newton(program, at, list(at)), expected, atol=1e-12)


def test_a_scale_of_each_row_by_brute_force():
    program = Program(problem_from(measured, {"x": X, "y": Y}))
    at = weights(program)

    def f(values):
        return outputs(X, **values)[:, :2]

    information = torch.stack(
        [torch.diag(torch.stack([(-2 * s).exp(), torch.tensor(2.0)])) for s in f(at)[:, 1]]
    )
    expected = brute_force(f, at, information)
    np.testing.assert_allclose(gauss_newton(program, at, list(at)), expected, atol=1e-12)


def test_a_weight_in_two_places_by_brute_force():
    program = Program(problem_from(tied, {"x": X, "y": (Y > 0).double()}))
    at = weights(program)

    def f(values):
        return F.linear(torch.tanh(X @ values["w"].T), values["w"])[:, :1]

    p = f(at).sigmoid()
    expected = brute_force(f, at, (p * (1 - p))[..., None])
    np.testing.assert_allclose(gauss_newton(program, at, ["w"]), expected, atol=1e-12)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("names", [["w", "b", "v"], ["v", "b", "w"], ["v"], ["b", "w"]])
def test_dense_layers_give_the_blocks_of_the_whole(program, names, diagonal, monkeypatch):
    at = weights(program)
    whole = gauss_newton(program, at, list(at))
    places, start = {}, 0
    for name, value in at.items():
        places[name] = torch.arange(start, start + value.numel())
        start += value.numel()
    index = torch.cat([places[name] for name in names])
    block = whole[index][:, index]
    monkeypatch.setattr(curvature, "_jacobian", partial(_few_alone, curvature._jacobian))
    found = gauss_newton(program, at, names, diagonal=diagonal)
    np.testing.assert_allclose(found, block.diagonal() if diagonal else block, atol=1e-12)


def _few_alone(function, program, at, names, rows):
    """The Jacobian weight by weight, of no more rows than the two ways are compared on."""
    assert len(rows["x"]) == 2
    return function(program, at, names, rows)


def test_rows_are_taken_some_at_a_time(program, monkeypatch):
    at = weights(program)
    whole = {names: gauss_newton(program, at, names) for names in (tuple(at), ("w", "b"))}
    monkeypatch.setattr(curvature, "_MOST_ELEMENTS", 150)
    for names, expected in whole.items():
        np.testing.assert_allclose(gauss_newton(program, at, names), expected, atol=1e-12)


def test_the_modules_of_torch_are_dense_layers(monkeypatch):
    program = Program(problem_of("bnn", "moons", hidden="4,3"))
    at = weights(program)
    with monkeypatch.context() as patched:
        patched.setattr(curvature, "_dense", lambda *_: [])
        expected = gauss_newton(program, at, list(at))
    monkeypatch.setattr(curvature, "_jacobian", partial(_few_alone, curvature._jacobian))
    np.testing.assert_allclose(gauss_newton(program, at, list(at)), expected, atol=1e-11)


def test_the_priors_precision():
    def model(y):
        w = pyro.sample("w", dist.Normal(1.0, torch.tensor([0.5, 2.0])).to_event(1))
        s = pyro.sample("s", dist.StudentT(3.0, 0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(w[0] + s, 1.0), obs=y)

    program = Program(problem_from(model, {"y": Y}))
    at = {"w": torch.tensor([3.0, 4.0]), "s": torch.tensor(0.5)}
    student = 4 * (3 - 0.25) / (3 + 0.25) ** 2  # of (nu + 1) / 2 log(1 + s^2 / nu)
    found = prior_precision(program, at, ["w", "s"])
    np.testing.assert_allclose(found, [4.0, 0.25, student], rtol=1e-12)
    np.testing.assert_allclose(prior_precision(program, at, ["s"]), [student], rtol=1e-12)
    with pytest.raises(Refused, match="not log-concave at 1 of 3"):
        prior_precision(program, at | {"s": torch.tensor(2.0)}, ["w", "s"])


def test_priors_that_lean_on_each_other_are_refused():
    def model(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(a, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(b, 1.0), obs=y)

    program = Program(problem_from(model, {"y": Y}))
    with pytest.raises(Refused, match="depend on each other"):
        prior_precision(program, {"a": torch.tensor(0.1), "b": torch.tensor(0.3)}, ["a", "b"])
