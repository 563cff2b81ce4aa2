"""Which guide it is, and where it begins."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import QUIET, problem_from, problem_of
from pyro.distributions import constraints

from inference.methods.svi import svi
from inference.program.program import Program
from models.contract import BadSetting


def test_where_a_guide_begins_is_a_matter_of_the_seed_alone():
    def begun(seed):
        problem = problem_of("bnn", "moons", hidden="3")
        short = {"guide": "local", "steps": 1, "lr": 1e-9, "draws": 2}
        return svi(Program(problem), seed=seed, context=QUIET, **short).params["net.0.weight.loc"]

    first = begun(0)
    torch.manual_seed(99)
    assert torch.equal(begun(0), first)
    assert not torch.equal(begun(1), first)


@pytest.mark.parametrize("guide", ["normal", "mvn", "lowrank:1", "structured", "maf", "nsf"])
def test_a_guide_begins_at_the_mode_of_the_unconstrained_density(guide):
    # Beta(3, 1) in the logit has its mode at 3/4; so small a step does not leave it.
    short = {"begin": "map", "steps": 1, "lr": 1e-6, "draws": 2}
    fit = svi(Program(problem_of("coin")), seed=0, context=QUIET, guide=guide, **short)
    (loc,) = (value for name, value in fit.params.items() if name.endswith((".loc", ".locs.pi")))
    assert torch.sigmoid(loc).item() == pytest.approx(0.75, abs=1e-5)


def test_no_mode_to_begin_at_is_a_note_and_a_guide_of_ones_own_begins_as_written():
    def flat(y):
        w = pyro.sample("w", dist.ImproperUniform(constraints.real, (), (2,)))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=w.sum()), obs=y)

    problem = problem_from(flat, {"y": torch.ones(3)})
    fit = svi(Program(problem), seed=0, context=QUIET, begin="map", steps=1, draws=2)
    assert "no mode to begin at" in fit.findings[0].what
    assert fit.findings[0].level == "note"
    with pytest.raises(BadSetting, match="others begin as written"):
        svi(Program(problem_of("coin")), seed=0, context=QUIET, guide="own", begin="map")


def test_the_mode_to_begin_at_may_lie_on_a_kink():
    def sparse(y):
        w = pyro.sample("w", dist.Laplace(0.0, 1.0).expand([2]).to_event(1))
        pyro.sample("y", dist.Normal(w, 1.0).to_event(1), obs=y)

    # Soft thresholding: y moved towards zero by 1, the small one all the way.
    problem = problem_from(sparse, {"y": torch.tensor([3.0, 0.5])})
    short = {"begin": "map", "steps": 1, "lr": 1e-6, "draws": 2}
    fit = svi(Program(problem), seed=0, context=QUIET, guide="mvn", **short)
    (loc,) = (value for name, value in fit.params.items() if name.endswith(".loc"))
    assert loc.tolist() == pytest.approx([2.0, 0.0], abs=1e-5)
