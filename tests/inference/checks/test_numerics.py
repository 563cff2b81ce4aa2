"""What is told from a model's numbers: density, gradient, graph, guide, prior predictions."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import Y, regression

from inference.checks import numerics
from inference.checks.model_view import ModelView
from inference.core.problem import Problem
from inference.program.program import Program


def found(check, model, guide=None, **tensors) -> list:
    with pyro.get_param_store().scope(), torch.random.fork_rng():
        torch.manual_seed(0)
        return list(check(ModelView(Problem(model=model, tensors=tensors), 0, guide)))


def normal(y, change=lambda mu: mu):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(change(mu), 1.0), obs=y)


CHECKS = (numerics.density, numerics.gradient, numerics.likelihood, numerics.traced)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_nothing_is_found_in_a_sound_model(check):
    assert found(check, regression, y=Y) == []


def test_a_density_that_is_not_finite_names_its_site():
    def model(y):
        normal(y, lambda mu: mu.log())

    (check,) = found(numerics.density, model, y=Y)
    assert check.ok is False
    assert check.what.startswith("the log density is nan at ") and "by the site y" in check.what


def test_an_edge_that_the_data_set_is_a_note():
    def model(y):
        top = pyro.sample("top", dist.Exponential(0.1))
        wide = pyro.sample("wide", dist.Exponential(1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Uniform(-2.0, top * wide), obs=y)

    (check,) = found(numerics.density, model, y=Y)
    assert check.ok is None and "the log density is -inf at" in check.what
    assert found(numerics.likelihood, model, y=Y) == []


def test_an_infinite_gradient_at_a_finite_density():
    def model(y):
        normal(y, lambda mu: (0 * mu).sqrt())

    (check,) = found(numerics.density, model, y=Y)
    assert "the gradient of the log density in mu is nan at 40 of 40 points" in check.what


def test_random_numbers_that_are_no_site():
    def model(y):
        normal(y, lambda mu: mu + torch.randn(()))

    (check,) = found(numerics.density, model, y=Y)
    assert check.what.startswith("the log density is another each time at the same values")


@pytest.mark.parametrize(
    "change",
    [
        lambda mu: mu.detach(),
        lambda mu: mu.item(),
        lambda mu: torch.as_tensor(np.exp(mu.detach().numpy())),
        lambda mu: 1.01 * mu - 0.01 * mu.detach(),  # a hundredth of the slope
    ],
)
def test_a_gradient_that_is_cut_off(change):
    def model(y):
        normal(y, change)

    (check,) = found(numerics.gradient, model, y=Y)
    slope, numeric = (float(word) for word in check.what.replace(",", "").split() if _number(word))
    assert slope != pytest.approx(numeric, rel=1e-3)
    assert "in mu" in check.what


def _number(word: str) -> bool:
    try:
        return np.isfinite(float(word)) and "." in word
    except ValueError:
        return False


def test_kinks_do_not_look_like_wrong_gradients():
    def model(y):
        w = pyro.sample("w", dist.Laplace(0.0, 1.0).expand([40]).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(w.relu().sum(), 1.0), obs=y)

    assert found(numerics.gradient, model, y=Y) == []


def test_a_log_likelihood_that_does_not_add_up(monkeypatch):
    right = Program.log_likelihood

    def planted(self, values):
        return {name: 1.01 * part for name, part in right(self, values).items()}

    monkeypatch.setattr(Program, "log_likelihood", planted)
    (check,) = found(numerics.likelihood, normal, y=Y)
    words = check.what.replace(",", "").split()
    ours, whole = (float(word) for word in words if _number(word))
    assert check.ok is False and ours == pytest.approx(1.01 * whole, rel=1e-4)


def test_the_likelihood_is_held_against_the_joint_with_labels_of_rows_and_of_chains():
    def mixture(y):
        low = pyro.sample("low", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            label = pyro.sample("label", dist.Bernoulli(0.3))
            pyro.sample("y", dist.Normal(low + label, 1.0), obs=y)

    def chain(y):
        p = pyro.sample("p", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
        x = 0
        for i in pyro.markov(range(3)):
            x = pyro.sample(f"x_{i}", dist.Categorical(p[x]))
            pyro.sample(f"y_{i}", dist.Normal(x.to(y.dtype), 1.0), obs=y[i])

    def labels_alone(y):
        label = pyro.sample("label", dist.Bernoulli(0.3))
        pyro.sample("y", dist.Normal(label, 1.0).expand([len(y)]).to_event(1), obs=y)

    assert found(numerics.likelihood, labels_alone, y=Y) == []
    assert found(numerics.likelihood, mixture, y=Y) == []
    assert found(numerics.likelihood, chain, y=Y) == []
    assert found(numerics.traced, chain, y=Y) == []


def own(y, *, sigma=None, shape=()):
    loc = pyro.param("loc", torch.zeros(shape))
    pyro.sample("mu", dist.Normal(loc, 1.0).to_event(len(shape)))
    pyro.sample("sigma", sigma or dist.HalfNormal(1.0))


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (lambda y: own(y, sigma=dist.Normal(-5.0, 1.0)), "draws sigma outside the support of its"),
        (lambda y: own(y, shape=(2,)), "the guide's site 'mu' has shape (2,), the model's ()"),
        (lambda y: (own(y), pyro.sample("tau", dist.Beta(1.0, 1.0))), "site 'tau' is not in the"),
        (lambda y: y @ torch.ones(7), "the guide cannot run (RuntimeError: "),
    ],
)
def test_a_guide_that_is_not_of_the_model(guide, message):
    (check,) = found(numerics.guide, regression, guide, y=Y)
    assert message in check.what and "test_numerics.py, line " in check.what
    assert found(numerics.guide, regression, own, y=Y) == []
    assert found(numerics.guide, regression, "mvn", y=Y) == []


def test_the_data_lie_beside_what_the_prior_predicts():
    (check,) = found(numerics.predictive, normal, y=Y)
    assert check.ok and check.what.startswith("y: mean 0.5 (prior 95 %: -")
    # The mean of three rows has variance 1 + 1/3: 95 % of it lie within 1.96 sqrt(4/3) = 2.263.
    low, high = check.what.partition("95 %: ")[2].partition(")")[0].split(" to ")
    assert float(low) == pytest.approx(-2.263, abs=0.25)
    assert float(high) == pytest.approx(2.263, abs=0.25)


def test_data_far_from_all_that_the_prior_predicts_are_a_note():
    (check,) = found(numerics.predictive, normal, y=1000 + Y)
    assert check.ok is None
    assert "in none of 1000 draws is the mean so far out; rescale the data" in check.what
    (check,) = found(numerics.predictive, normal, y=1000 * (Y - Y.mean()))
    assert "in none of 1000 draws is the sd so far out" in check.what
