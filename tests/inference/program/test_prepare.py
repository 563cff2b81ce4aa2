"""Problems made ready: dtypes, rows, and data that are refused."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import Y, problem_from, regression

import models
from inference.program.prepare import program_of
from inference.program.program import Program
from models.contract import Refused


def test_integers_stay_and_become_floats_where_the_distribution_wants_them():
    def model(y, group, count, k):
        assert isinstance(k, int)
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0).expand([k]).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mu[group], 1.0), obs=y)
            pyro.sample("count", dist.Poisson(3.0), obs=count)

    group = torch.tensor([0, 1, 1])
    data = {"y": torch.tensor([1, 2, 3]), "group": group, "count": torch.tensor([1, 2, 3]), "k": 2}
    tensors = problem_from(model, data).tensors
    assert tensors["group"].dtype == torch.int64
    assert tensors["y"].dtype == tensors["count"].dtype == torch.float64


def test_an_integer_matrix_is_made_float_where_the_model_cannot_use_it():
    def model(x, y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    problem = problem_from(model, {"x": torch.tensor([[1, 2], [3, 4], [5, 6]]), "y": Y})
    assert problem.tensors["x"].dtype == torch.float64
    assert problem.rows == ("row", ("x", "y"))


def bernoulli(y):
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Bernoulli(p), obs=y)


def without_rows(y):
    pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "y", "message"),
    [
        (bernoulli, [0.0, 2.0, 1.0], "y is 2 in row 2, outside the support of Bernoulli"),
        (regression, [[1.0], [2.0], [3.0]], r"shape \(3, 1\).*silently wrong"),
        (without_rows, [1.0, 2.0, 3.0], r'write it inside `with pyro.plate\("row", 3\):`'),
        (lambda y: pyro.sample("z", dist.Poisson(3.0)) and None, [1.0], "cannot be summed out"),
        (lambda y: y @ torch.ones(7), [1.0], r"cannot run on these data.*y \(1,\)"),
    ],
)
def test_data_that_would_be_silently_wrong_are_refused(model, y, message):
    with pytest.raises(Refused, match=message):
        problem_from(model, {"y": torch.tensor(y)})


def test_whole_numbers_become_floats_only_where_needed():
    def model(x, g, y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        a = pyro.sample("a", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(a[g] + x @ w, 1.0), obs=y)

    data = {"x": torch.tensor([[1, 2], [3, 4], [5, 6]]), "g": torch.tensor([0, 2, 1]), "y": Y}
    tensors = problem_from(model, data).tensors
    assert tensors["x"].dtype == torch.float64
    assert tensors["g"].dtype == torch.int64


@pytest.mark.parametrize("y", [1.5, 2])
def test_a_single_observed_number_will_do(y):
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    assert Program(problem_from(model, {"y": y})).sites["y"].value.item() == y


def test_what_is_not_given_or_has_no_rows_is_latent():
    coin, gaussian = models.load("coin"), models.load("gaussian")
    none = program_of(coin, {"alpha": 1.0, "beta": 1.0}, coin.data("")).problem
    assert none.latent_keys == ("x",) and none.tensors["x"].shape == (1,)
    half = program_of(gaussian, {"rho": 0.5}, gaussian.data("y=1.5")).problem
    assert half.latent_keys == ("x",) and float(half.tensors["y"]) == 1.5
    whole = program_of(coin, {"alpha": 1.0, "beta": 1.0}, coin.data("HT")).problem
    assert whole.latent_keys == () and whole.rows == ("flip", ("x",)) and whole.n == 2
