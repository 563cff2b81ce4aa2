"""What the first runs of a model tell of its sites."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import problem_from

from inference.program.program import Program
from inference.program.prototype import Prototype


def test_a_model_may_differentiate_something_itself():
    def slope(y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        at = torch.tensor(2.0, requires_grad=True)
        (slope,) = torch.autograd.grad(at**2, at, create_graph=True)
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(w * slope, 1.0), obs=y)

    program = Program(problem_from(slope, {"y": torch.zeros(3)}))
    assert program.size == 1 and not program.sites["y"].value.requires_grad


def test_sites_that_move_are_told_by_what_moves_them():
    def model(y):
        top = pyro.sample("top", dist.LogNormal(0.0, 1.0))
        label = pyro.sample("label", dist.Bernoulli(0.5))
        pyro.sample("below", dist.Uniform(0.0, top))
        pyro.sample("either", dist.Uniform(0.0, 1.0 + label))
        pyro.sample("still", dist.Uniform(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Uniform(0.0, top), obs=y)

    prototype = Prototype(model, {"y": torch.tensor([0.5, 2.0])}, None)
    assert prototype.moving == {"below": "latents", "y": "latents", "either": "labels"}
    low, high = prototype.bounds()["top"]
    assert (low.item(), high.item()) == (pytest.approx(2.0), np.inf)
    assert not prototype.params and not prototype.has_factor and not prototype.masked
