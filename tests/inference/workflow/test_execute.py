"""From a model's entry and its data to a problem, a result, a prediction."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import Y, regression

import zoo
from inference.workflow import execute
from models.contract import Refused, UsageError


def silent(y):
    pyro.sample("w", dist.Normal(0.0, 1.0))


def test_a_model_that_observes_nothing_is_refused_with_its_line():
    with pytest.raises(Refused, match=r"observes nothing, test_execute\.py, line \d+; give"):
        zoo.run(silent, method="map", data={"y": [1.0]})


def test_a_prediction_needs_what_it_does_not_predict():
    run = zoo.run("linear", method="map")
    model = partial(run.entry.model, **run.record["options"])
    found = execute.Result(run.record, run.idata, run.verdict, run.params)
    with pytest.raises(Refused, match="predicting needs x"):
        execute.predict(model, run.record, found, {}, 1)
    x = torch.zeros(3, 10)
    assert len(execute.predict(model, run.record, found, {"x": x}, 1)) == 3
    empty = zoo.run("gaussian", method="map")
    with pytest.raises(UsageError, match="nothing to predict"):
        empty.predict()


def test_new_rows_as_many_as_are_asked_for():
    run = zoo.run(regression, method="laplace", data={"y": Y}, draws=50)
    assert len(run.predict(rows=4)) == 4


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
