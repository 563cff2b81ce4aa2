"""What a run takes is known before it begins, whatever the method."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import problem_from

import inference
import zoo
from inference.program import memory
from inference.program.program import Program
from models.contract import Refused


def groups(y):
    """A thousand means, what they are doubled, and one observation of each."""
    with pyro.plate("row", 1000):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.deterministic("double", 2 * mean)
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


DATA = {"y": torch.zeros(1000)}
# Draws take 16 bytes a number, a Hessian 48: method to its settings and what it takes, bytes.
TAKES = {
    "nuts": ({"chains": 2, "draws": 50}, 2 * 50 * 2000 * 16),
    "laplace": ({"draws": 100}, 1000**2 * 48),
    "map": ({}, 1000**2 * 48),
    "mle": ({}, 1000**2 * 48),
    "prior": ({"draws": 100}, 100 * 3000 * 16),
    "svi": ({"draws": 100}, 100 * 2000 * 16),
}


@pytest.mark.parametrize("method", TAKES)
def test_more_than_there_may_be_is_refused_with_the_number(method, monkeypatch):
    settings, size = TAKES[method]
    monkeypatch.setattr(memory, "_MOST_BYTES", 0.99 * size)
    with pytest.raises(Refused, match=f"{size / 1e9:.3g} GB, more than"):
        zoo.run(groups, method=method, data=DATA, **settings)


def test_as_much_as_there_may_be_is_not_refused(monkeypatch):
    settings, size = TAKES["prior"]
    monkeypatch.setattr(memory, "_MOST_BYTES", size)
    assert (
        zoo.run(groups, method="prior", data=DATA, **settings).idata["prior"].sizes["draw"] == 100
    )


def test_closed_forms_are_drawn_from_in_the_same_bounds(monkeypatch):
    monkeypatch.setattr(memory, "_MOST_BYTES", 1000)
    with pytest.raises(Refused, match=r"4,000 draws of 1 numbers take 6\.4e-05 GB"):
        zoo.run("coin", method="exact", data="HHT")


def test_priors_of_many_rows_keep_the_latents_of_all_draws_and_some_rows(monkeypatch):
    monkeypatch.setattr("inference.results.groups.GROUP_ELEMENTS", 12_000)
    idata = zoo.run(groups, method="svi", data=DATA, steps=200, draws=100).idata
    assert idata["prior"].sizes["draw"] == 100
    assert idata["prior_predictive"].sizes["draw"] == 4  # of 3,000 scalars each
    mean, double = idata["prior"]["mean"].values, idata["prior"]["double"].values
    assert (double == 2 * mean).all() and 0.99 < mean.std() < 1.01
    with_rows = (idata["prior_predictive"]["y"].values - mean[:, :4]).std()
    assert 0.95 < with_rows < 1.05  # each beside its own latents


@pytest.mark.parametrize("guide", ["mvn", "structured", "maf"])
def test_a_full_covariance_is_refused_before_it_is_made(guide):
    def wide():
        pyro.sample("w", dist.Normal(torch.zeros(100_000), 1.0).to_event(1))

    if guide == "maf":
        pytest.importorskip("zuko")
    with pytest.raises(Refused, match=r"the covariance of 100,000 latents takes .* GB"):
        inference.guide(guide)(Program(problem_from(wide)))
