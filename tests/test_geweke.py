"""The joint distribution of parameters and data is kept by the sampler (Geweke 2004).

If theta ~ p(theta), y ~ p(y | theta), and a chain for p(theta | y) starts at theta, every one of
its draws theta' has that posterior given y: (theta', y) is distributed as (theta, y). Geweke's
test alternates the two for one long run. A sampler that adapts is no fixed transition to alternate
with, so here are many short runs instead, each from a fresh (theta, y): warm-up, a few draws, and
the means over runs of g(theta', y) - g(theta, y), for moments g up to the second, products with
the data and the log likelihood. Runs are independent, so their standard errors need no correction
for autocorrelation, and the pairing makes them small.

The whole chain is looked at: prior, likelihood, transforms and their Jacobians, the recorded
graph, warm-up and sampler; no posterior need be known. 200 runs see draws of the scale that are
20 % off (|z| about 6; 10 % off about 3, in the slow test's 1000 runs 7), a Jacobian
of the wrong sign (10), draws for other data (5). They do not see draws that are too narrow about
the right mean, unless much: for those there is calibration, and the exact posteriors.

J. Geweke (2004), Getting it right: joint distribution tests of posterior simulators, JASA 99.
"""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import problem_from

from inference.methods.chains import Monitor
from inference.methods.nutpie_chain import NutpieChain
from inference.methods.prior import sample
from inference.program.graphs import compiled
from inference.program.program import Program

X = torch.tensor([3.0, -3.0], dtype=torch.float64)
RUNS = 200
BOUND = 4.5  # two-sided 7e-6 for each of 13 quantities


def line(y):
    """A positive scale and a slope in (0, 1): two transforms, two Jacobians."""
    sigma = pyro.sample("sigma", dist.Gamma(4.0, 4.0))
    slope = pyro.sample("slope", dist.Beta(3.0, 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(slope * X, sigma), obs=y)


def wide(y):
    """The same with a scale that is twice too large."""
    sigma = pyro.sample("sigma", dist.Gamma(4.0, 4.0))
    slope = pyro.sample("slope", dist.Beta(3.0, 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(slope * X, 2 * sigma), obs=y)


def program_of(model):
    return Program(problem_from(model, {"y": torch.zeros(len(X))}))


def from_the_model(runs):
    """theta (runs, 1, 2) and y (runs, 5)."""
    drawn = sample(program_of(line), 0, runs)
    return torch.stack([drawn["sigma"], drawn["slope"]], -1)[:, None], drawn["y"]


def by_nuts(model, theta, y, *, warmup=30, draws=5):
    """theta' (runs, draws, 2) given each y, from chains that start at theta.

    The graph is recorded once: the data are an argument of it, and change in place.
    """
    program = program_of(model)
    data = program.problem.tensors["y"]
    points = [(program.start(),), (program.start(),)]
    density = compiled(program.density_and_gradient, points, live=[data])
    starts = torch.stack([theta[:, 0, 0].log(), theta[:, 0, 1].logit()], -1)
    settings = {"target_accept": 0.7, "maxdepth": 8}
    kept = []
    for run, start in enumerate(starts):
        data.copy_(y[run])
        chain = NutpieChain(
            density, (start,), run, draws, warmup, lowrank=False, settings=settings
        )
        kept.append(chain(0, Monitor(1))["u"])
    u = torch.as_tensor(np.stack(kept))
    return torch.stack([u[..., 0].exp(), u[..., 1].sigmoid()], -1)


def moments(theta, y):
    """g(theta, y) averaged over the draws of a run: (runs, 13)."""
    sigma, slope = theta.unbind(-1)
    y = y[:, None]  # (runs, 1, 5)
    log_likelihood = dist.Normal(slope[..., None] * X, sigma[..., None]).log_prob(y).sum(-1)
    alone = [sigma, slope, sigma.log(), slope.logit(), sigma**2, slope**2, sigma * slope]
    spread, along = (y**2).mean(-1), (X * y).mean(-1)
    crossed = [sigma * spread, sigma * along, slope * spread, slope * along, sigma * slope * along]
    return torch.stack([*alone, *crossed, log_likelihood], -1).mean(1)


def z_scores(theta, theta_new, y):
    """Mean over runs of g(theta', y) - g(theta, y), in standard errors: (13,)."""
    away = moments(theta_new, y) - moments(theta, y)
    return away.mean(0) / (away.std(0) / len(away) ** 0.5)


@pytest.fixture(scope="module")
def simulated():
    """theta, theta' of the zoo's NUTS, y."""
    from inference.core import machine

    with machine.numbers():
        theta, y = from_the_model(RUNS)
        return theta, by_nuts(line, theta, y), y


def test_nuts_keeps_the_joint_distribution(simulated):
    theta, new, y = simulated
    z = z_scores(theta, new, y)
    assert z.isfinite().all()
    assert z.abs().max() < BOUND, z
    moved = (new[:, -1] - theta[:, 0]).abs().mean(0) / theta[:, 0].std(0)
    assert (moved > 0.3).all(), "chains that stay where they start would pass"


@pytest.mark.slow
def test_nuts_keeps_the_joint_distribution_more_closely():
    theta, y = from_the_model(1000)
    z = z_scores(theta, by_nuts(line, theta, y, warmup=100, draws=10), y)
    assert z.abs().max() < BOUND, z


def test_a_wrong_sign_of_the_jacobian_is_seen(monkeypatch):
    right = Program._log_density

    def wrong(self, parts, jacobian, prior):
        return 2 * right(self, parts, False, prior) - right(self, parts, True, prior)

    monkeypatch.setattr(Program, "_log_density", wrong)
    theta, y = from_the_model(80)
    assert z_scores(theta, by_nuts(line, theta, y), y).abs().max() > BOUND


def test_a_wrong_scale_is_seen():
    theta, y = from_the_model(60)
    assert z_scores(theta, by_nuts(wide, theta, y), y).abs().max() > BOUND


def test_draws_that_are_off_or_of_other_data_are_seen(simulated):
    theta, new, y = simulated
    assert z_scores(theta, new * torch.tensor([1.2, 1.0]), y).abs().max() > BOUND
    of_other_data = new.roll(1, 0)
    assert z_scores(theta, of_other_data, y).abs().max() > BOUND
    prior_for_posterior = theta.roll(1, 0)
    assert z_scores(theta, prior_for_posterior, y).abs().max() > BOUND
