"""The total variation of two predictive distributions, where it is known."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import problem_from
from scipy import stats

from inference.checks.agreement import total_variation
from inference.core.seeds import seeded
from inference.program.program import Program

ROWS = torch.zeros(120)


def program(family):
    def model(y):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", family(loc), obs=y)

    return Program(problem_from(model, {"y": ROWS}))


def apart(family, one, other):
    with seeded(0, 0):
        found = total_variation(program(family), {"loc": one}, {"loc": other})
    return None if found is None else found.surely


def test_of_two_coins_it_is_the_difference_of_their_chances():
    found = apart(lambda p: dist.Bernoulli(p.sigmoid()), torch.zeros(1), torch.ones(4))
    assert found == pytest.approx(1 / (1 + np.exp(-1)) - 0.5, abs=1e-6)


def test_of_normals_it_is_that_of_the_closed_form():
    found = apart(lambda m: dist.Normal(m, 1.0), torch.zeros(1), torch.full((4,), 0.7))
    assert found == pytest.approx(2 * stats.norm.cdf(0.35) - 1, abs=0.03)


def test_of_counts_it_is_half_the_sum_of_the_differences():
    found = apart(lambda m: dist.Poisson(m.exp()), torch.zeros(1), torch.full((4,), 0.6))
    k = np.arange(40)
    gaps = stats.poisson.pmf(k, 1.0) - stats.poisson.pmf(k, np.exp(0.6))
    assert found == pytest.approx(0.5 * np.abs(gaps).sum(), abs=0.03)


def test_two_samples_of_one_posterior_predict_alike():
    rng = torch.Generator().manual_seed(0)
    one, other = (torch.randn(1000, generator=rng) for _ in range(2))
    for family in (lambda m: dist.Normal(m, 1.0), lambda m: dist.Bernoulli(m.sigmoid())):
        assert abs(apart(family, one, other)) < 0.012


def test_a_point_has_no_noise_of_its_own_and_misses_the_spread():
    rng = torch.Generator().manual_seed(1)
    spread = torch.randn(2000, generator=rng)
    found = apart(lambda m: dist.Normal(m, 1.0), torch.zeros(1), spread)
    # N(0, 1) beside N(0, 2): densities cross at x^2 = 2 log 2 x 2 / (2 - 1).
    at = np.sqrt(2 * np.log(2))
    expected = 2 * (stats.norm.cdf(at) - stats.norm.cdf(at, scale=np.sqrt(2)))
    assert found == pytest.approx(expected, abs=0.03)


def test_observations_that_cannot_be_drawn_have_none():
    class Bare(dist.Normal):
        def sample(self, *_):
            raise NotImplementedError

        rsample = sample

    assert apart(lambda m: Bare(m, 1.0), torch.zeros(1), torch.zeros(5)) is None


def test_what_was_censored_is_left_out():
    def model(y, left):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(loc, 1.0), obs=y)
        with pyro.plate("censored", len(left)):
            alive = dist.Bernoulli(probs=(loc - left).sigmoid())
            pyro.sample("alive", alive, obs=left.new_ones(len(left)))

    whole = Program(problem_from(model, {"y": ROWS, "left": torch.tensor([1.0, 2.0])}))
    with seeded(0, 0):
        found = total_variation(whole, {"loc": torch.zeros(1)}, {"loc": torch.full((4,), 0.7)})
    assert found.surely == pytest.approx(2 * stats.norm.cdf(0.35) - 1, abs=0.03)


def test_rows_that_alternate_are_not_all_of_one_kind():
    def model(y, pair, treated):
        effect = pyro.sample("effect", dist.Normal(torch.zeros(150), 1.0).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(treated * effect[pair], 1.0), obs=y)

    rows = torch.arange(300)  # every second is treated
    data = {"y": torch.zeros(300), "pair": rows // 2, "treated": (rows % 2).double()}
    program = Program(problem_from(model, data))
    one, other = {"effect": torch.zeros(1, 150)}, {"effect": torch.full((1, 150), 1.0)}
    # Half of the rows are two normals apart by one sd.
    expected = 0.5 * (2 * dist.Normal(0.0, 1.0).cdf(torch.tensor(0.5)) - 1).item()
    with seeded(0, 0):
        assert total_variation(program, one, other).seen == pytest.approx(expected, abs=0.04)
