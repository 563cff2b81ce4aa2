"""Effect handlers: fitted parameters reach modules, batches weigh their rows."""

from __future__ import annotations

from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import Y, problem_from, regression
from pyro import poutine
from pyro.nn import PyroModule
from scipy import stats
from torch import nn

from inference.program.handlers import Batch, Weighted, run, start_value, sum_of_factors
from inference.program.program import Program
from models.contract import Rows


class _Decoder(PyroModule):
    """A model of Pyro's own kind with a layer of torch's."""

    def __init__(self, layer):
        super().__init__()
        self.layer = PyroModule[nn.Linear](1, 1)
        self.layer.load_state_dict(layer.state_dict())

    def forward(self, y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(self.layer(z.reshape(1)), 1.0), obs=y)


@pytest.mark.parametrize("kind", ["pyro.module", "PyroModule"])
def test_fitted_parameters_reach_the_modules_of_a_model(kind):
    """Pyro's statements name a module's parameters, but the module looks at its own tensors."""
    layer = nn.Linear(1, 1).double()

    def model(y):
        net = pyro.module("layer", layer)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(net(z.reshape(1)), 1.0), obs=y)

    mark, made = (".", _Decoder(layer).double()) if kind == "PyroModule" else ("$$$", model)
    params = {f"layer{mark}weight": torch.tensor([[2.0]]), f"layer{mark}bias": torch.tensor([0.5])}
    problem = replace(problem_from(model, {"y": Y}), model=made, params=params)
    found = Program(problem).log_joint({"z": torch.tensor(0.3)}).item()
    truth = stats.norm.logpdf(0.3) + stats.norm.logpdf(Y.numpy(), 2 * 0.3 + 0.5).sum()
    assert found == pytest.approx(truth, rel=1e-10)


def test_a_batch_weighs_what_lies_in_its_rows_and_nothing_else():
    problem = replace(problem_from(regression, {"y": Y}), rows=Rows("row", ("y",)))
    values = {"mu": torch.tensor(0.3), "sigma": torch.tensor(1.2)}
    batch = Batch.of(problem, {"y": Y[:2]})
    trace = run(problem.model, batch.tensors, poutine.condition(data=values), Weighted(batch))
    weighed = trace.log_prob_sum().item()
    likelihood = stats.norm.logpdf(Y[:2].numpy(), 0.3, 1.2).sum() * len(Y) / 2
    prior = stats.norm.logpdf(0.3, 0, 2) + stats.halfnorm.logpdf(1.2, scale=1.5)
    assert weighed == pytest.approx(prior + likelihood, rel=1e-10)
    plain = run(problem.model, batch.tensors, poutine.condition(data=values))
    assert sum_of_factors(plain, batch).item() == pytest.approx(weighed, rel=1e-12)


def test_starts_are_reproducible_and_wider_where_asked():
    site = {"name": "x", "fn": dist.LogNormal(0.0, 1.0).expand([1000])}
    torch.manual_seed(0)
    usual = start_value(site).log()
    torch.manual_seed(0)
    torch.testing.assert_close(start_value(site, width=3.0).log(), 3 * usual)
    assert usual.abs().max() < 2
