"""Point estimates of weights by ascent: where they are known, in closed form."""

from __future__ import annotations

from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import QUIET, problem_from

from inference.methods.ascent import AscentSettings
from inference.networks.points import estimate
from inference.program.program import Program

X = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64)[:, None] ** torch.arange(2)  # (n, 2)
Y = X @ torch.tensor([0.5, -2.0], dtype=torch.float64) + 0.1 * torch.cos(9 * X[:, 1])


def one_layer(x, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 0.5).to_event(1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


@pytest.mark.parametrize("prior", [False, True])
def test_a_layer_without_hidden_units_ends_at_ridge_or_least_squares(prior):
    problem = replace(problem_from(one_layer, {"x": X, "y": Y}), identified=False)
    settings = AscentSettings(4000, lr=0.05, schedule="linear")
    fit = estimate(Program(problem), settings, 0, QUIET, prior=prior)
    penalty = 4.0 * torch.eye(2, dtype=X.dtype) if prior else 0.0  # 1 / 0.5^2
    known = torch.linalg.solve(X.T @ X + penalty, X.T @ Y)
    assert torch.allclose(fit.params["w"], known, atol=1e-4)
    assert fit.kind == "point" and fit.draws["w"].shape == (1, 1, 2)
