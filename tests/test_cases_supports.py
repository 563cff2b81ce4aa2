"""Supports that depend on latents, guides inside of them, guides given as objects, angles."""

from __future__ import annotations

import math

import cases
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import QUIET, problem_from
from pyro.infer.autoguide import (
    AutoDiagonalNormal,
    AutoGuideList,
    AutoLaplaceApproximation,
    AutoNormal,
)
from pyro.nn import PyroModule
from scipy import stats
from torch import nn
from torch.distributions import transforms

import zoo
from inference.methods.draws import draw
from inference.methods.guides import resolve
from inference.methods.laplace import laplace
from inference.methods.svi import svi
from inference.program.handlers import run
from inference.program.program import Program
from inference.program.sampling import over_draws
from models.contract import Fault, Refused

FEW = {"steps": 60, "draws": 20}


def posterior(log_density, points):
    """Mean and sd on a grid."""
    weights = np.exp(log_density - log_density.max())
    weights /= weights.sum()
    mean = (weights * points).sum()
    return mean, np.sqrt((weights * (points - mean) ** 2).sum())


# -- data at the end of a support --------------------------------------------------------------


def test_a_uniform_with_a_latent_end_has_its_conjugate_posterior():
    done = cases.run_case("uniform_bound_start")
    cases.check_mean(done, "top", 94 / 9, 9.4 * math.sqrt(10 / 81 / 8))
    assert done.verdict.status == "pass"


def test_its_mode_is_the_largest_observation_and_a_guide_reaches_no_further():
    done = cases.run_case("uniform_bound_start", "map")
    assert float(done.idata["posterior"]["top"].squeeze()) == pytest.approx(9.4, rel=1e-6)
    fit = cases.run_case("uniform_bound_start", "svi", draws=1000)
    assert float(fit.idata["posterior"]["top"].min()) >= 9.4
    # Evidence: the integral of 2 top^-3 top^-8 from 9.4.
    evidence = math.log(2 / 10) - 10 * math.log(9.4)
    assert evidence - 0.3 < fit.metrics["elbo"] < evidence + 0.01


def test_check_has_no_cross_on_it():
    folder = cases.HERE / "uniform_bound_start"
    assert zoo.check(folder / "model.py", data=str(folder / "d.json")).ok


def groups(y, group):
    with pyro.plate("group", 4):
        top = pyro.sample("top", dist.Pareto(1.0, 2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Uniform(0.0, top[group]), obs=y)


def test_each_group_has_an_end_of_its_own():
    rng = np.random.default_rng(0)
    group = np.arange(4).repeat(5)
    y = rng.uniform(0, 10.0 ** np.arange(4)[group])
    done = zoo.run(groups, data={"y": y, "group": group}, seed=1, draws=1000)
    for i in range(4):
        scale, shape = max(1.0, y[group == i].max()), 7
        sd = scale * math.sqrt(shape / (shape - 1) ** 2 / (shape - 2))
        cases.check_mean(done, f"top[{i}]", scale * shape / (shape - 1), sd)


def onset(y):
    shift = pyro.sample("shift", dist.Normal(0.0, 10.0))
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    later = dist.TransformedDistribution(
        dist.Exponential(rate), [transforms.AffineTransform(shift, 1.0)]
    )
    with pyro.plate("row", len(y)):
        pyro.sample("y", later, obs=y)


def waited(y):
    shift = pyro.sample("shift", dist.Normal(0.0, 10.0))
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Exponential(rate), obs=y - shift)


@pytest.mark.slow
@pytest.mark.parametrize("model", [onset, waited])
def test_a_shift_stays_below_the_first_observation(model):
    """Torch's exponential grows below zero, where it has no density."""
    y = np.array([3.1, 3.4, 4.0, 3.2, 3.9])
    done = zoo.run(model, data={"y": y}, seed=1)
    shift, rate = np.meshgrid(np.linspace(-3, 3.1, 3001), np.linspace(1e-3, 15, 1500))
    logp = stats.norm.logpdf(shift, 0, 10) + stats.gamma.logpdf(rate, 2)
    logp += 5 * np.log(rate) - rate * (y.sum() - 5 * shift)
    cases.check_mean(done, "shift", *posterior(logp, shift))
    cases.check_mean(done, "rate", *posterior(logp, rate))


def test_a_binomial_with_an_unknown_total_is_summed_over_those_that_are_large_enough():
    prior = torch.full((12,), 1 / 12)

    def model(y):
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        total = pyro.sample("total", dist.Categorical(prior))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Binomial(total.to(p.dtype), p), obs=y)

    y = torch.tensor([4.0, 6.0, 5.0])
    program = Program(problem_from(model, {"y": y}))
    found = program.log_joint({"p": torch.tensor(0.6)}).item()
    by_hand = [stats.binom.pmf(y.numpy(), n, 0.6).prod() / 12 for n in range(12)]
    expected = math.log(sum(by_hand)) + stats.beta.logpdf(0.6, 2, 2)
    assert found == pytest.approx(expected, rel=1e-8)


def test_observations_that_nothing_allows_are_named():
    def model(y):
        top = pyro.sample("top", dist.Uniform(0.0, 5.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Uniform(0.0, top), obs=y)

    data = {"y": torch.tensor([1.0, -2.0, 3.0])}
    with pytest.raises(Refused, match=r"y is -2 in row 2, outside .* Uniform, .*py, line \d+"):
        Program(problem_from(model, data)).start()


def product(y):
    a = pyro.sample("a", dist.LogNormal(0.0, 1.0))
    b = pyro.sample("b", dist.LogNormal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Uniform(0.0, a * b), obs=y)


def test_a_start_is_searched_where_random_ones_have_no_density():
    problem = problem_from(product, {"y": torch.tensor([2e5, 3e5])})
    u = Program(problem).start()
    assert u.sum().exp() > 3e5


def test_a_guide_that_reaches_over_an_edge_is_refused_for_that_reason():
    problem = problem_from(product, {"y": torch.tensor([2.0, 3.0])})
    with pytest.raises(Refused, match=r"y is .* outside .* Uniform, .*: its ELBO is minus inf"):
        svi(Program(problem), seed=0, context=QUIET, **FEW)


def test_steps_over_an_edge_are_no_divergences():
    def model(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.factor("above", torch.where(a > 0.5, 0.0, -math.inf))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(a, 2.0), obs=y)

    y = np.array([1.3, 4.2, 9.4])
    done = zoo.run(model, data={"y": y}, seed=1)
    precision = 1 + 3 / 4
    a, sd = y.sum() / 4 / precision, precision**-0.5
    truth = stats.truncnorm((0.5 - a) / sd, np.inf, a, sd)
    cases.check_mean(done, "a", truth.mean(), truth.std())
    assert done.verdict.status == "pass"
    assert any(
        "met an edge" in reason and "site above" in reason for reason in done.verdict.reasons
    )


# -- priors that move --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_prior_whose_end_is_a_latent_is_followed_far_from_the_start():
    done = cases.run_case("dependent_support_far", draws=2000)
    cases.check_mean(done, "mu", 9.124, 0.577)
    cases.check_mean(done, "top", 15.90, 6.31)


@pytest.mark.parametrize("guide", ["normal", pytest.param("maf", marks=pytest.mark.slow)])
def test_a_guide_moves_with_the_support(guide):
    done = cases.run_case("dependent_support_far", "svi", guide=guide)
    draws = done.idata["posterior"]
    assert (draws["mu"] < draws["top"]).all() and draws["mu"].max() > 6.6
    assert done.metrics["elbo"] < -6.123 + 0.01
    assert abs(done.summary().loc["mu", "mean"] - 9.124) < 0.1
    if guide == "maf":
        assert done.metrics["elbo"] > -6.123 - 0.05
        assert done.summary().loc["top", "mean"] == pytest.approx(15.9, abs=0.5)


def moving():
    top = pyro.sample("top", dist.Uniform(1.0, 2.0))
    with pyro.plate("row", 3):
        pyro.sample("inside", dist.Uniform(0.0, top))


@pytest.mark.parametrize("guide", ["normal", "mvn", "lowrank:1", "structured", "maf", "nsf"])
def test_the_density_of_a_moving_guide_is_that_of_its_draws(guide):
    """The normal of u, less the slopes at u: by hand for mean field, else through the inverse."""
    program = Program(problem_from(moving))
    torch.manual_seed(0)
    chosen = resolve(guide, program).guide
    run(chosen, {})  # makes its parameters
    values, log_q = draw(program, chosen, 20)
    top, inside = values["top"], values["inside"]
    u = torch.cat([torch.logit(top - 1)[:, None], torch.logit(inside / top[:, None])], 1)
    slopes = (top - 1).log() + (2 - top).log()
    slopes = slopes + (inside * (1 - inside / top[:, None])).log().sum(1)
    if guide == "normal":
        loc = torch.cat([chosen.locs.top[None], chosen.locs.inside])
        log_u = dist.Normal(loc, 0.1).log_prob(u).sum(1)
    else:
        density = chosen.get_posterior()
        log_u = over_draws(lambda one: density.log_prob(one["u"]), {"u": u})
    torch.testing.assert_close(log_q, (log_u - slopes).detach(), rtol=1e-6, atol=1e-6)


def test_a_guide_may_begin_at_a_mode_in_a_moving_support():
    short = {"begin": "map", "steps": 1, "lr": 1e-6, "draws": 2}
    fit = svi(Program(problem_from(moving)), seed=0, context=QUIET, **short)
    # Uniform in all: the unconstrained density has its mode at the logit's, in the middle.
    torch.testing.assert_close(
        fit.params["AutoNormal.locs.inside"], torch.zeros(3), atol=1e-4, rtol=0
    )


def test_a_prior_that_torch_says_is_everywhere_stays_above_its_shift():
    def model(y):
        later = dist.TransformedDistribution(
            dist.Exponential(1.0), [transforms.AffineTransform(2.0, 1.0)]
        )
        x = pyro.sample("x", later)
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)

    done = zoo.run(model, data={"y": 2.2}, seed=1)
    x = np.linspace(2, 12, 20001)
    cases.check_mean(done, "x", *posterior(stats.norm.logpdf(2.2, x) - x, x))
    fit = svi(Program(problem_from(model, {"y": torch.tensor(2.2)})), seed=0, context=QUIET, **FEW)
    assert (fit.draws["x"] > 2).all()


def test_a_mixture_may_be_a_prior():
    def model(y):
        parts = dist.Normal(torch.tensor([-3.0, 3.0]), 1.0)
        x = pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(torch.ones(2) / 2), parts))
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)

    done = zoo.run(model, data={"y": 2.0}, seed=1)
    x = np.linspace(-9, 9, 20001)
    prior = np.logaddexp(stats.norm.logpdf(x, -3), stats.norm.logpdf(x, 3))
    cases.check_mean(done, "x", *posterior(prior + stats.norm.logpdf(2.0, x), x))


def test_a_support_that_moves_with_a_label_is_refused():
    def model(y):
        label = pyro.sample("label", dist.Bernoulli(0.5))
        x = pyro.sample("x", dist.Uniform(0.0, 1 + label))
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)

    with pytest.raises(Refused, match="the support of x depends on a discrete latent"):
        problem_from(model, {"y": torch.tensor(0.5)})


# -- guides of the user's own ------------------------------------------------------------------


def waiting(y):
    rate = pyro.sample("rate", dist.Exponential(1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def test_a_guide_that_draws_outside_of_a_prior_is_refused_with_its_line():
    def guide(y):
        loc = pyro.param("loc", torch.tensor(0.5))
        pyro.sample("rate", dist.Normal(loc, 1.0))

    problem = problem_from(waiting, {"y": torch.tensor([0.0, 1.0])})
    with pytest.raises(Refused, match=r"draws rate outside .* line \d+; give it .* Exponential"):
        svi(Program(problem), seed=0, context=QUIET, guide=guide, **FEW)


def test_a_guide_that_shrinks_over_the_bound_is_seen_in_the_end():
    def guide(y):
        loc = pyro.param("loc", torch.tensor(8.0))
        scale = pyro.param("scale", torch.tensor(0.3), constraint=dist.constraints.positive)
        pyro.sample("rate", dist.Normal(loc, scale))

    problem = problem_from(waiting, {"y": torch.tensor([0.0, 0.0])})
    with pytest.raises((Refused, Fault), match="draws rate outside"):
        svi(Program(problem), seed=0, context=QUIET, guide=guide, steps=600, draws=200)


def local(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def several(model):
    guide = AutoGuideList(model)
    guide.append(AutoNormal(pyro.poutine.block(model, expose=["mu"])))
    guide.append(AutoDiagonalNormal(pyro.poutine.block(model, expose=["z"])))
    return guide


@pytest.mark.parametrize("made", [AutoNormal, several])
def test_a_guide_object_learns_nothing_that_stays(made):
    guide = made(local)
    first, again = (fitted(local, guide, [1.0, 2.0, 3.0]) for _ in range(2))
    assert first.params.keys() == again.params.keys()
    for name, value in first.draws.items():
        assert torch.equal(value, again.draws[name])
    assert guide.prototype_trace is None and guide.model is not None
    assert fitted(local, guide, [1.0, 2.0, 3.0, 4.0, 8.0]).draws["z"].shape[-1] == 5


def fitted(model, guide, y):
    problem = problem_from(model, {"y": torch.tensor(y)})
    return svi(Program(problem), seed=1, context=QUIET, guide=guide, **FEW)


def test_a_guide_trained_by_pyro_itself_begins_anew():
    guide = AutoNormal(local)
    fresh = fitted(local, guide, [1.0, 2.0, 3.0])
    pyro.clear_param_store()
    steps = pyro.infer.SVI(local, guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
    for _ in range(3):
        steps.step(torch.tensor([1.0, 2.0]))
    learned = guide.locs.mu.item()
    assert torch.equal(fitted(local, guide, [1.0, 2.0, 3.0]).draws["mu"], fresh.draws["mu"])
    assert guide.locs.mu.item() == learned


class Encoder(PyroModule):
    """A guide with a network of its own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 2).double()

    def forward(self, y):
        pyro.module("encoder", self)
        loc, log_scale = self.layer(y.mean()[None, None]).unbind(-1)
        pyro.sample("mu", dist.Normal(loc[0], log_scale[0].exp()))


NET = nn.Linear(1, 1).double()


def with_a_network(y):
    pyro.module("net", NET)
    pyro.sample("mu", dist.Normal(NET(y.mean()[None])[0], 0.5))


def pooled(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


@pytest.mark.parametrize("guide", [Encoder(), with_a_network], ids=["module", "function"])
def test_networks_of_a_guide_are_as_before_after_a_run(guide):
    module = NET if guide is with_a_network else guide
    before = {name: value.clone() for name, value in module.state_dict().items()}
    first, again = (fitted(pooled, guide, [1.0, 2.0, 3.0]) for _ in range(2))
    assert torch.equal(first.draws["mu"], again.draws["mu"])
    assert module.training
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
        learned = [v for k, v in first.params.items() if k.endswith(name)]
        assert learned and not torch.equal(learned[0], value)


DECODER = nn.Linear(1, 1).double()


def decoded(y):
    pyro.module("decoder", DECODER)
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(DECODER(z[:, None])[:, 0], 0.5), obs=y)


def test_a_models_network_is_as_before_and_its_fit_is_kept_apart():
    before = DECODER.weight.item()
    y = [1.0, 2.0, 3.0, 5.0]
    runs = [zoo.run(decoded, method="svi", data={"y": y}, seed=1, **FEW) for _ in range(2)]
    assert DECODER.weight.item() == before
    learned = [run.params["decoder$$$bias"].item() for run in runs]
    assert learned[0] == learned[1] != DECODER.bias.item()
    fitted = problem_from(decoded, {"y": torch.tensor(y)})
    object.__setattr__(fitted, "params", runs[0].params)
    z = torch.zeros(4, dtype=torch.float64)
    found = Program(fitted).log_joint({"z": z}).item()
    expected = stats.norm.logpdf(np.array(y), learned[0], 0.5).sum() + 4 * stats.norm.logpdf(0)
    assert found == pytest.approx(expected, rel=1e-8)


def test_steps_that_vary_are_separate_runs():
    folder = cases.HERE / "notebook_autoguide"
    asked = {"data": str(folder / "d.json"), "draws": 100}
    table = zoo.compare(folder / "model.py", methods="svi:own", vary={"steps": [5, 50]}, **asked)
    for steps, one in zip((5, 50), table.runs.values()):
        alone = cases.run_case("notebook_autoguide", "svi", guide="own", steps=steps, draws=100)
        np.testing.assert_array_equal(alone.idata["posterior"]["mu"], one.idata["posterior"]["mu"])


def test_the_guide_of_a_file_fits_other_data_anew():
    done = cases.run_case("notebook_autoguide", "svi", guide="own")
    assert done.summary().loc["mu", "mean"] == pytest.approx(1.97, abs=0.05)


@pytest.mark.slow
def test_the_guide_of_a_file_fits_five_rows():
    path = cases.HERE / "notebook_autoguide" / "model.py"
    done = zoo.run(path, method="svi", guide="own", data={"y": [1.0, 2.0, 3.0, 4.0, 8.0]})
    assert done.summary().loc["mu", "mean"] == pytest.approx(3.543, abs=0.05)


def test_pyros_laplace_guide_is_laplaces_approximation():
    problem = problem_from(pooled, {"y": torch.tensor([1.0, 2.0])})
    guide = AutoLaplaceApproximation(pooled)
    fit = svi(Program(problem), seed=0, context=QUIET, guide=guide, draws=50)
    expected = laplace(Program(problem), seed=0, context=QUIET, draws=50)
    assert torch.equal(fit.draws["mu"], expected.draws["mu"])
    assert "AutoLaplaceApproximation" in fit.findings[0].what
    done = zoo.run(
        local, method="svi", guide=AutoLaplaceApproximation(local), data={"y": [1.0, 2.0]}
    )
    assert done.summary().loc["mu", "sd"] == pytest.approx((1 / 25 + 1) ** -0.5, rel=0.1)


# -- angles ------------------------------------------------------------------------------------


def test_an_angle_opposite_zero_has_its_direction():
    def model(y):
        phi = pyro.sample("phi", dist.VonMises(0.0, 0.5))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.VonMises(phi, 4.0), obs=y)

    y = np.array([3.0, -3.1, 2.9, -2.8])
    done = zoo.run(model, data={"y": y}, seed=1)
    phi = np.linspace(0, 2 * np.pi, 20001)
    logp = 0.5 * np.cos(phi) + 4 * np.cos(y[:, None] - phi).sum(0)
    mean, sd = posterior(logp, phi)
    row = done.summary().loc["phi"]
    assert row["ess_bulk"] > 400 and row["r_hat"] < 1.01
    away = (row["mean"] - mean + np.pi) % (2 * np.pi) - np.pi
    assert abs(away) < 5 * row["mcse_mean"] and abs(row["sd"] - sd) < 5 * row["mcse_sd"]
    assert any("phi is an angle" in reason for reason in done.verdict.reasons)
