"""From a model's entry and its data to a problem, a result, a prediction."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from models.contract import Refused


def silent(y):
    pyro.sample("w", dist.Normal(0.0, 1.0))


def test_a_model_that_observes_nothing_is_refused_with_its_line():
    with pytest.raises(Refused, match=r"observes nothing, test_execute\.py, line \d+; give"):
        zoo.run(silent, method="map", data={"y": [1.0]})


def test_a_distribution_whose_density_fails_is_named_with_its_line():
    class Slip(dist.TorchDistribution):
        arg_constraints = {}  # noqa: RUF012

        def log_prob(self, value):
            return -((value - self.mu) ** 2)

    def folded(y):
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        folds = [torch.distributions.transforms.AbsTransform()]
        pyro.sample("y", dist.TransformedDistribution(dist.Normal(0.0, scale), folds), obs=y)

    def slipped(y):
        pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.sample("y", Slip(), obs=y)

    with pytest.raises(Refused, match=r"of y has no density \(NotImpl.*\), test_execute.py, line"):
        zoo.run(folded, data={"y": 1.0})
    with pytest.raises(Refused, match=r"Slip of y has no density \(Attr.*'mu'\), test_execute.py"):
        zoo.run(slipped, data={"y": 1.0})
