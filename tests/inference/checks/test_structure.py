"""What is told from how a model is written, and what is rightly left alone."""

from __future__ import annotations

import re
from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import Y
from pyro import poutine
from pyro.nn import PyroModule, PyroSample

from inference.checks import structure
from inference.checks.model_view import ModelView
from inference.core.problem import Problem


def found(check, model, **tensors) -> list[str]:
    """What a check says, failed checks marked x, without file and line."""
    with pyro.get_param_store().scope():
        view = ModelView(Problem(model=model, tensors=tensors), 0, None)
        lines = [
            ("x " if line.ok is False else "- ") + line.what.partition(", test_structure.py")[0]
            for line in check(view)
        ]
    return lines


def rows(y, *, loc=0.0, extra=None):
    """Rows around a latent mean; `extra` wraps the observed site."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)), extra or nullcontext():
        pyro.sample("y", dist.Normal(mu + loc, 1.0), obs=y)


CHECKS = (structure.runs, structure.structure, structure.shapes, structure.plates, structure.once)
CHECKS += (structure.parameters, structure.support, structure.priors, structure.observed)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_nothing_is_found_in_a_sound_model(check):
    assert found(check, rows, y=Y) == []


def test_sites_that_come_and_go_and_shapes_that_change():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        if mu > 0:
            pyro.sample("extra", dist.Normal(0.0, 1.0))
        n = 2 if mu > 0 else 3
        pyro.sample("w", dist.Normal(0.0, 1.0).expand([n]).to_event(1))
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    shape, extra = sorted(found(structure.structure, model, y=1.0), reverse=True)
    assert shape == "x w has shape (2,) or (3,), as other latents will"
    assert re.fullmatch(r"x the site extra is there in 1?\d of 20 draws from the prior", extra)


def test_latents_side_by_side_in_no_plate():
    def model(x, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    assert found(structure.plates, model, x=torch.ones(3, 2), y=Y) == [
        "x the 2 values of w lie in no plate"
    ]


def test_one_of_two_dimensions_in_no_plate():
    def model(y):
        with pyro.plate("row", y.shape[1]):
            pyro.sample("y", dist.Normal(torch.zeros(y.shape), 1.0), obs=y)

    assert found(structure.plates, model, y=torch.ones(4, 3)) == [
        "x y has 4 values side by side that lie in no plate"
    ]


def test_a_plate_that_takes_rows_at_random():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y), subsample_size=2) as i:
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y[i])

    assert found(structure.plates, model, y=Y) == [
        "x the plate row takes 2 of 3 rows at random, so no two densities agree"
    ]


def test_columns_in_the_distribution_too():
    def model(x, y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(w * x, 1.0), obs=y)

    x = torch.ones(3, 1)
    (line,) = found(structure.shapes, model, x=x, y=x)
    assert line.startswith("x y has shape (3, 1), its distribution Normal has (3, 3)")
    assert found(structure.plates, model, x=x, y=x) == found(structure.once, model, x=x, y=x) == []


def test_a_matrix_of_rows_made_one_event():
    def model(y):
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(torch.zeros(3, 2), 1.0).to_event(2), obs=y)

    (line,) = found(structure.once, model, y=torch.ones(3, 2))
    assert line.startswith("x each row of y is counted 3 times: .to_event(2) makes")


def test_data_repeated_by_expand_and_by_a_second_site():
    def expanded(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)), pyro.plate("copy", 4):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y.expand(4, 3))

    def twice(y, masks=(True, True)):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            for name, mask in zip("ab", masks):
                with nullcontext() if mask is True else poutine.mask(mask=mask):
                    pyro.sample(name, dist.Normal(mu, 1.0), obs=y)

    def hurdle(y):
        twice(y, (y > 0, y <= 0))

    assert found(structure.once, expanded, y=Y) == ["x the 3 values of y are observed as 12"]
    (line,) = found(structure.once, twice, y=Y)
    assert line == "x y is observed by two sites, a and b, and so counts twice"
    assert found(structure.once, hurdle, y=Y) == []


def test_a_weight_is_a_note():
    def model(y):
        rows(y, extra=poutine.scale(scale=0.5))

    assert found(structure.once, model, y=Y) == ["- y counts 0.5 times, by poutine.scale"]


def test_parameters_of_distributions_that_are_no_site():
    def model(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.factor("more", dist.Normal(0.0, a).log_prob(torch.tensor(1.0)))
        rows(y)

    (line,) = found(structure.parameters, model, y=Y)
    assert "Expected parameter scale" in line and "Normal(loc: 0.0, scale: -" in line


def test_a_parameter_that_keeps_the_model_from_running_is_its_cause():
    def model(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Bernoulli(a))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    (line,) = found(structure.runs, model, y=Y)
    assert line.startswith("x the model cannot run, probs of z ~ Bernoulli is ")


def test_a_label_outside_its_support_in_every_draw():
    def model(y):
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Bernoulli(p), obs=y)

    assert found(structure.support, model, y=torch.tensor([0, 2, 1])) == [
        "x y is 2 in row 2, outside the support of Bernoulli"
    ]


class Net(PyroModule):
    """A line of which only the slope has a prior."""

    def __init__(self):
        super().__init__()
        self.line = PyroModule[torch.nn.Linear](1, 1)
        self.line.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 1]).to_event(2))

    def forward(self, y):
        rows(y, loc=self.line(y[:, None])[:, 0])


def test_parameters_left_in_a_module():
    net, plain = Net().double(), torch.nn.Linear(1, 1).double()

    def partly(y):
        net(y)

    def unseen(y):
        rows(y, loc=plain(y[:, None])[:, 0])

    (line,) = found(structure.priors, partly, y=Y)
    assert line == "x no prior for line.bias (nn.Parameter): only svi can fit it"
    (line,) = found(structure.priors, unseen, y=Y)
    assert line == "x no prior for plain.weight, plain.bias (nn.Parameter), and no method fits it"
    plain.requires_grad_(False)
    assert found(structure.priors, unseen, y=Y) == []


def test_parameters_that_the_models_own_guide_fits_are_no_mistake():
    def model(y):
        sigma = pyro.param("sigma", torch.tensor(1.0), constraint=dist.constraints.positive)
        rows(y, loc=pyro.sample("shift", dist.Normal(0.0, sigma)))

    with pyro.get_param_store().scope():
        made = Problem(model=model, tensors={"y": Y}, guides={"own": model})
        (line,) = structure.priors(ModelView(made, 0, None))
    assert line.ok is None and "sigma without priors, fitted by svi" in line.what


def test_a_discrete_latent_without_end():
    def model(y):
        k = pyro.sample("k", dist.Poisson(3.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(k, 1.0), obs=y)

    (line,) = found(structure.discrete, model, y=Y)
    assert line.startswith("x the discrete latent k ~ Poisson has no finite list of values")
    assert found(structure.discrete, rows, y=Y) == ["- no discrete latents"]


def test_a_factor_beside_an_observed_site_is_a_note_and_nothing_observed_a_cross():
    def beside(y):
        pyro.factor("more", torch.tensor(1.0))
        rows(y)

    def nothing(y):
        pyro.sample("mu", dist.Normal(0.0, 1.0))

    assert found(structure.observed, beside, y=Y) == [
        "- the factor more is in the density, not in log_likelihood"
    ]
    assert found(structure.observed, nothing, y=Y) == ["x the model observes nothing"]
