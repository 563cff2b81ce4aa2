"""What would not fit into memory is refused before it is begun, with the number."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import problem_from

from inference import guides, memory
from inference._problem import Refused
from inference.program import Program


def of(size):
    """A program with so many latents, and one deterministic number."""

    def model():
        w = pyro.sample("w", dist.Normal(torch.zeros(size), 1.0).to_event(1))
        pyro.deterministic("mean", w.mean())

    return Program(problem_from(model))


@pytest.mark.parametrize(("draws", "fits"), [(2_450_000, True), (2_510_000, False)])
def test_draws_are_counted_with_their_copy(draws, fits):
    program = of(99)  # 100 numbers of 8 bytes, twice, of 4e9
    if fits:
        memory.check(program, draws)
        return
    with pytest.raises(Refused, match=r"2,510,000 draws of 100 numbers take 4.02 GB, more than 4"):
        memory.check(program, draws)


def test_a_hessian_is_counted_by_its_square():
    memory.check(of(9_000), hessian=True)
    with pytest.raises(Refused, match=r"the Hessian of 9,200 latents takes 4.06 GB"):
        memory.check(of(9_200), hessian=True)


@pytest.mark.parametrize("guide", ["mvn", "structured", "maf"])
def test_a_full_covariance_is_refused_before_it_is_made(guide):
    if guide == "maf":
        pytest.importorskip("zuko")
    with pytest.raises(Refused, match=r"the covariance of 100,000 latents takes .* GB"):
        guides.GUIDES[guide](of(100_000))
