"""Row keys: found by what their slices reach, not by their length."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import problem_from
from torch import nn

from inference.program import row_keys
from inference.program.program import Program

N = 12
_DRAWN = torch.Generator().manual_seed(0)
Y, X = torch.randn(2, N, generator=_DRAWN, dtype=torch.float64)
MATRIX = torch.randn(N, N, generator=_DRAWN, dtype=torch.float64)
GROUP, ORDER = torch.randint(4, (N,), generator=_DRAWN), torch.randperm(N, generator=_DRAWN)


def normal(name, value, loc=0.0):
    return pyro.sample(name, dist.Normal(loc, 1.0), obs=value)


def latent(name):
    return pyro.sample(name, dist.Normal(0.0, 1.0))


def two_plates(y, x, before, after):
    with pyro.plate("row", len(y)):
        normal("y", y, latent("a") * x)
    with pyro.plate("other", len(before)):
        normal("before", before, latent("b"))
        normal("after", after, latent("c"))


def lookup(table, group, y):
    a = latent("a")
    with pyro.plate("row", len(y)):
        normal("y", y, a * table[group])


def lookup_of_itself(table, order, y):
    """Each row looks up its own entry, so that the table is changed as the rows are."""
    a = latent("a")
    with pyro.plate("row", len(y)):
        normal("y", y, a * table[order])


def permuted(y, order):
    a = latent("a")
    with pyro.plate("row", len(order)):
        normal("y", y[order], a)


def constant(y, trials):
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Binomial(trials, p), obs=y)


def two_observed(y, x):
    with pyro.plate("row", len(y)):
        normal("y", y, latent("z"))
        normal("x", x, latent("v"))


def labelled(y):
    with pyro.plate("row", len(y)):
        label = pyro.sample("label", dist.Bernoulli(0.3))
        normal("y", y, label)


def outer_rows(x, matrix):
    a = latent("a")
    with pyro.plate("item", N, dim=-1), pyro.plate("person", len(matrix), dim=-2):
        normal("matrix", matrix, a * x[:, None])


def groups_of_rows(matrix):
    """The rows lie in groups: batches are of groups, each with a latent of its own."""
    with pyro.plate("group", len(matrix), dim=-2):
        a = latent("a")
        with pyro.plate("row", 5, dim=-1):
            normal("matrix", matrix, a)


LAYER = nn.Linear(1, 1).double()


def own_parameters(x, y):
    net = pyro.module("net", LAYER)
    a = latent("a")
    with pyro.plate("row", len(y)):
        normal("y", y, net(x[:, None])[:, 0] + a + pyro.param("b", lambda: torch.rand(())))


COUNT = torch.poisson(torch.full((N,), 3.0, dtype=torch.float64), generator=_DRAWN)


@pytest.mark.parametrize(
    ("model", "data", "rows"),
    [
        (two_plates, {"y": Y, "x": X, "before": X + 1, "after": Y + 1}, ("row", ("y", "x"))),
        (lookup, {"table": X, "group": GROUP, "y": Y}, ("row", ("group", "y"))),
        (
            lookup_of_itself,
            {"table": X, "order": torch.arange(N), "y": Y},
            ("row", ("order", "y")),
        ),
        (permuted, {"y": Y, "order": ORDER}, ("row", ("order",))),
        (constant, {"y": COUNT, "trials": torch.full((N,), 20)}, ("row", ("y", "trials"))),
        (two_observed, {"y": Y, "x": X}, ("row", ("y", "x"))),
        (labelled, {"y": Y}, ("row", ("y",))),
        (outer_rows, {"x": X, "matrix": MATRIX}, ("person", ("x", "matrix"))),
        (groups_of_rows, {"matrix": MATRIX[:, :5]}, ("group", ("matrix",))),
        (own_parameters, {"x": X, "y": Y}, ("row", ("x", "y"))),
        (labelled, {"y": Y[:1]}, ("row", ("y",))),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_keys_of_the_rows(model, data, rows):
    assert problem_from(model, data).rows == rows
    assert sorted(pyro.get_param_store()) == []


def mean_in_the_prior(y):
    a = pyro.sample("a", dist.Normal(y.mean(), 1.0))
    with pyro.plate("row", len(y)):
        normal("y", y, a)


def twice(y):
    with pyro.plate("row", len(y)):
        normal("y", y, latent("a"))
    with pyro.plate("other", len(y)):
        normal("again", y)


def lagged(y):
    a = latent("a")
    with pyro.plate("row", len(y)):
        normal("y", y, a * torch.cat([torch.zeros(1), y[:-1]]))


def of_a_fixed_size(y):
    a = latent("a")
    with pyro.plate("row", N):
        normal("y", y, a)


@pytest.mark.parametrize("model", [mean_in_the_prior, twice, lagged, of_a_fixed_size])
def test_keys_that_cannot_be_cut_still_name_the_rows(model):
    """Labels and predictions go by them; that no batch is taken is `batching`'s to see."""
    problem = problem_from(model, {"y": Y})
    assert problem.rows == ("row", ("y",))
    observed = Program(problem).of("observed")
    (plate,) = {p for site in observed for p in site.plates if p.name == "row"}
    with row_keys.aside():
        assert row_keys._Experiment(Program(problem)).keys(plate) == ()


def test_many_rows_are_run_once_more_and_no_random_number_is_used():
    seen = []

    def model(y):
        seen.append(len(y))
        with pyro.plate("row", len(y)):
            normal("y", y, latent("z"))

    program = Program(problem_from(model, {"y": torch.zeros(10_000)}))
    seen.clear()
    torch.manual_seed(0)
    row_keys.find(program)
    assert seen == [10_000, 64]
    found = torch.rand(())
    torch.manual_seed(0)
    assert found == torch.rand(())
