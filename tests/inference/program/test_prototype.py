"""What the first runs of a model tell: what moves, what was not seen, and bounds."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import check_mean, run_case
from conftest import problem_from
from pyro import poutine
from scipy import stats

import zoo
from inference.program.program import Program
from inference.program.prototype import Prototype, limits


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


# -- under a mask ------------------------------------------------------------------------------


Y = torch.tensor([1.0, 2.0, 0.0, 3.0, 0.0, 2.5], dtype=torch.float64)
SEEN = torch.tensor([True, True, False, True, False, True])


def noisy(y, seen):
    """Of unknown noise, whose mode with the missing values as latents would be another."""
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(mu, sigma), obs=y, obs_mask=seen)


def covariate(x, y, seen):
    """A covariate that is missing in some rows."""
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    with pyro.plate("n", len(y)):
        x = pyro.sample("x", dist.Normal(0.0, 1.0), obs=x, obs_mask=seen)
        pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


def coins(y, seen):
    chance = pyro.sample("chance", dist.Beta(2.0, 2.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Bernoulli(chance), obs=y, obs_mask=seen)


def test_the_density_is_that_of_what_was_seen():
    program = Program(problem_from(noisy, {"y": Y, "seen": SEEN}))
    assert list(program.layout) == ["mu", "sigma"]
    assert [site.name for site in program.of("unseen")] == ["y_unobserved"]
    found = program.log_joint({"mu": torch.tensor(0.7), "sigma": torch.tensor(1.5)}).item()
    seen = stats.norm.logpdf(Y[SEEN], 0.7, 1.5).sum()
    prior = stats.norm.logpdf(0.7, 0, 10) + stats.halfnorm.logpdf(1.5, scale=2)
    assert found == pytest.approx(seen + prior, rel=1e-12)


def test_missing_outcomes_are_drawn_afterwards():
    program = Program(problem_from(noisy, {"y": Y, "seen": SEEN}))
    torch.manual_seed(0)
    n = 20_000
    draws = program.complete({"mu": torch.full((n,), 0.7), "sigma": torch.full((n,), 1.5)})
    assert draws["y"].shape == (n, 6)
    assert (draws["y"][:, SEEN] == Y[SEEN]).all()
    missing = draws["y"][:, ~SEEN].numpy()
    assert np.abs(missing.mean(0) - 0.7).max() < 5 * 1.5 / np.sqrt(n)
    assert np.abs(missing.std(0) - 1.5).max() < 5 * 1.5 / np.sqrt(2 * n)


def test_missing_labels_leave_the_evidence_alone():
    """A Bernoulli that is not seen has two values and no density: they must not count as two."""
    y = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    program = Program(problem_from(coins, {"y": y, "seen": SEEN}))
    found = program.log_joint({"chance": torch.tensor(0.3)}).item()
    seen = stats.bernoulli.logpmf(y[SEEN].numpy(), 0.3).sum()
    assert found == pytest.approx(seen + stats.beta.logpdf(0.3, 2, 2), rel=1e-12)


def test_a_missing_covariate_is_a_latent_like_others():
    """Its seen entries, which nothing looks at, have their prior: slope against quadrature."""
    x = torch.tensor([0.5, -1.0, 0.0, 2.0, 0.0, 1.5], dtype=torch.float64)
    run = zoo.run(covariate, data={"x": x, "y": Y, "seen": SEEN}, draws=2000)
    assert run.verdict.status != "fail", run.verdict.reasons
    grid = np.linspace(-8, 8, 4001)
    log = stats.norm.logpdf(grid, 0, 2)
    # The missing covariate integrated out: y ~ N(0, 1 + slope^2).
    log += stats.norm.logpdf(Y[SEEN].numpy()[:, None], grid * x[SEEN].numpy()[:, None]).sum(0)
    log += stats.norm.logpdf(Y[~SEEN].numpy()[:, None], 0, np.sqrt(1 + grid**2)).sum(0)
    weight = np.exp(log - log.max())
    mean = np.average(grid, weights=weight)
    check_mean(run, "slope", mean, np.sqrt(np.average((grid - mean) ** 2, weights=weight)))


def test_flat_priors_by_a_mask_stay_flat():
    def flat(y):
        with pyro.poutine.mask(mask=False):
            mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    program = Program(problem_from(flat, {"y": Y}))
    found = program.log_joint({"mu": torch.tensor(3.0)}).item()
    assert found == pytest.approx(stats.norm.logpdf(Y, 3.0).sum(), rel=1e-12)
    assert program.improper() == ["mu"]


def test_case_obs_mask():
    check_mean(run_case("obs_mask"), "mu", 2.1197, 0.4994)
    assert run_case("obs_mask", "map").summary()["mean"]["mu"] == pytest.approx(2.1197, abs=1e-3)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_covariate_that_matters_at_some_slopes_alone_is_a_latent(sign):
    def model(x, y, seen):
        slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
        with pyro.plate("n", len(y)):
            x = pyro.sample("x", dist.Normal(0.0, 1.0), obs=x, obs_mask=seen)
            pyro.sample("y", dist.Normal(torch.relu(sign * slope - 1.5) * x, 1.0), obs=y)

    program = Program(problem_from(model, {"x": Y, "y": Y, "seen": SEEN}))
    assert "x_unobserved" in program.layout


def test_a_covariate_that_a_rare_label_switches_on_is_a_latent():
    def model(x, y, seen):
        on = pyro.sample("on", dist.Bernoulli(0.01))
        with pyro.plate("n", len(y)):
            x = pyro.sample("x", dist.Normal(0.0, 1.0), obs=x, obs_mask=seen)
            pyro.sample("y", dist.Normal(on * x, 1.0), obs=y)

    program = Program(problem_from(model, {"x": Y, "y": Y, "seen": SEEN}))
    x = torch.linspace(-1, 1, 6, dtype=torch.float64)
    full = np.where(SEEN, Y, x)
    priors = stats.norm.logpdf(Y[SEEN]).sum() + stats.norm.logpdf(x).sum()
    parts = [
        np.log(p) + stats.norm.logpdf(Y, on * full).sum() for on, p in enumerate((0.99, 0.01))
    ]
    found = program.log_joint({"x_unobserved": x}).item()
    assert found == pytest.approx(priors + np.logaddexp(*parts), rel=1e-10)


def test_a_chain_of_labels_that_ends_before_the_data_do():
    """Sequences of several lengths; labels after the end of all of them are drawn afterwards."""
    steps, lengths = np.array([[0.8, 0.2], [0.3, 0.7]]), torch.tensor([2, 13, 9, 5, 5, 7, 1])
    y = torch.linspace(-1, 3, 105, dtype=torch.float64).reshape(7, 15)

    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        z = torch.tensor(0)
        with pyro.plate("n", len(y)):
            for t in pyro.markov(range(15)):
                with poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z_{t}", dist.Categorical(torch.as_tensor(steps)[z]))
                    pyro.sample(f"y_{t}", dist.Normal(mu + z, 1.0), obs=y[:, t])

    program = Program(problem_from(model, {"y": y}))
    expected = stats.norm.logpdf(0.5)
    for row, length in zip(y.numpy(), lengths):
        chance = np.array([1.0, 0.0])
        for value in row[:length]:
            chance = chance @ steps * stats.norm.pdf(value, [0.5, 1.5])
        expected += np.log(chance.sum())
    assert not program.summed.joint and not program.summed.parallel.tabular
    found = program.log_joint({"mu": torch.tensor(0.5)}).item()
    assert found == pytest.approx(expected, rel=1e-10)


# -- bounds ------------------------------------------------------------------------------------


INF = float("inf")
TOPS = torch.tensor([1.3, 4.2, 9.4], dtype=torch.float64)
POINTS = torch.tensor([[0.5, 1.0], [2.0, -1.5], [7.0, 4.0]], dtype=torch.float64)
STARTS = [{"a": a, "b": b} for a, b in POINTS]


@pytest.mark.parametrize(
    ("slack", "expected"),
    [
        (lambda v: v["a"] - TOPS, {"a": (9.4, INF)}),
        (lambda v: torch.cat([v["a"] + 5 - TOPS, TOPS - v["a"] + 5]), {"a": (4.4, 6.3)}),
        (lambda v: v["b"].exp() - TOPS, {"b": (2.2407096892759584, INF)}),
        (lambda v: v["a"] * v["b"] - TOPS, {}),  # of two latents
        (lambda v: v["a"] + v["b"] - TOPS, {}),
        (lambda v: v["a"] ** 2 - TOPS, {}),  # two ends, and values beyond both
        (lambda v: TOPS, {}),
    ],
)
def test_bounds_on_one_latent_are_found_and_others_left(slack, expected):
    found = limits(slack, STARTS)
    assert found.keys() == expected.keys()
    for name, ends in expected.items():
        assert [end.item() for end in found[name]] == pytest.approx(ends, rel=1e-9)


def test_an_element_without_rows_has_no_bound():
    group = torch.tensor([0, 2, 2])
    starts = [{"top": torch.rand(3, dtype=torch.float64) + k} for k in range(3)]
    low, high = limits(lambda v: v["top"][group] - TOPS, starts)["top"]
    assert low.tolist() == [pytest.approx(1.3), -INF, pytest.approx(9.4)]
    assert high.tolist() == [INF] * 3


def uniform(y):
    top = pyro.sample("top", dist.Pareto(1.0, 2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Uniform(0.0, top), obs=y)


def test_bounds_are_those_of_the_data_also_where_these_are_replaced_in_place():
    problem = problem_from(uniform, {"y": TOPS.clone()})
    assert Program(problem).bounds["top"][0].item() == pytest.approx(9.4)
    problem.tensors["y"].copy_(TOPS / 2)
    assert Program(problem).bounds["top"][0].item() == pytest.approx(4.7)


def test_a_bound_leaves_the_density_as_it_is():
    program = Program(problem_from(uniform, {"y": TOPS}))
    u = torch.tensor([0.3], dtype=torch.float64)
    top = program.constrain(u)["top"]
    assert top.item() == pytest.approx(9.4 + torch.tensor(0.3).exp().item(), rel=1e-6)
    # Pareto: 2 / top^3; three observations: top^-3; and dx/du = exp(u).
    expected = (2 * top**-6).log().item() + 0.3
    assert program.log_density(u).item() == pytest.approx(expected, rel=1e-8)
    assert program.log_joint({"top": torch.tensor(9.3)}).item() == -INF
