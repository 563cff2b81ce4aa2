"""Fits to simulated data: a pure function of seed and number, recorded once, resumed, stopped."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import Y, problem_from, problem_of, regression
from scipy import stats

import inference.program.graphs
from inference.checks import simulated
from inference.checks.simulated import Simulated
from inference.core.problem import Finding, Fit
from inference.methods.nuts import nuts
from inference.methods.svi import svi
from inference.program.program import Program
from models.contract import Refused

FEW = {"chains": 2, "draws": 60, "warmup": 30}
SHORT = {"steps": 60, "window": 10, "draws": 50}


def prior_draws(program, *, seed, context, draws=200):
    """A method that ignores the data."""
    torch.manual_seed(seed)
    drawn = [program.prior() for _ in range(draws)]
    names = [site.name for site in program.of("latent", "discrete")]
    return Fit(
        draws={k: torch.stack([one[k] for one in drawn])[None] for k in names},
        kind="independent",
    )


# -- one fit ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "settings"), [(nuts, FEW), (svi, SHORT)])
def test_a_fit_is_that_of_a_fresh_recording(method, settings, monkeypatch):
    recorded, compiled = [], inference.program.graphs.compiled

    def counted(*arguments, **options):
        recorded.append(1)
        return compiled(*arguments, **options)

    monkeypatch.setattr(inference.program.graphs, "compiled", counted)
    problem = problem_from(regression, {"y": Y})
    study = Simulated(Program(problem), method, settings, 1)
    several = [study.fit(i) for i in (0, 1, 2)]
    assert len(recorded) == 1
    alone = Simulated(Program(problem), method, settings, 1).fit(2)
    assert len(recorded) == 2
    for name in ("rank", "findings", "status"):
        assert several[2][name] == alone[name]
    assert several[2]["error"] == pytest.approx(alone["error"], rel=1e-10)
    assert several[1]["error"] != pytest.approx(alone["error"], rel=0.01)


def test_a_fit_is_plain_and_ranks_every_quantity():
    fit = Simulated(Program(problem_from(regression, {"y": Y})), prior_draws, {}, 0).fit(4)
    assert json.loads(json.dumps(fit)) == fit and fit["i"] == 4
    assert list(fit["rank"]) == ["mu", "sigma", "log likelihood", "mean of new y"]
    assert list(fit["error"]) == ["mu", "sigma"] and fit["draws"] == 200
    assert all(0 <= rank <= 200 for rank in fit["rank"].values())


def test_the_data_are_those_of_the_prior_and_the_design_is_kept():
    seen = []

    def look(program, *, seed, context):
        assert context.apart is False and context.graphs.live[0] is program.problem.tensors["y"]
        given = program.problem.tensors.items()
        seen.append({k: torch.as_tensor(v).clone() for k, v in given})
        raise Refused("seen")

    problem = problem_of("linear", "simulate", noise=0.5)
    study = Simulated(Program(problem), look, {}, 0)
    fits = [study.fit(i) for i in range(300)]
    assert {fit["missing"] for fit in fits} == {"refused"}
    assert all(torch.equal(one["x"], problem.tensors["x"]) for one in seen)
    y = torch.stack([one["y"] for one in seen])  # (300, n)
    theory = problem.tensors["x"][:, 0] ** 2 + 1 + 0.25
    assert (y.var(0) / theory).mean().item() == pytest.approx(1, abs=0.25)
    assert not torch.equal(seen[0]["y"], seen[1]["y"])
    assert torch.equal(problem.tensors["y"], problem_of("linear", "simulate").tensors["y"])


def test_what_goes_wrong_is_a_missing_fit_with_its_reason():
    def broken(program, *, seed, context):
        raise ZeroDivisionError("no luck\nat all")

    def endless(program, *, seed, context):
        return Fit(draws={"mu": Y[None] / 0, "sigma": Y[None]}, kind="independent")

    program = Program(problem_from(regression, {"y": Y}))
    assert Simulated(program, broken, {}, 0).fit(0)["reason"] == "ZeroDivisionError: no luck"
    fit = Simulated(program, endless, {}, 0).fit(0)
    assert fit["missing"] == "failed" and fit["reason"] == "draws of mu are not finite"


def test_a_fit_keeps_its_own_verdict():
    def doubtful(program, **given):
        fit = prior_draws(program, **given)
        fit.findings.append(Finding("fail", "this is the prior", "take another"))
        return fit

    fit = Simulated(Program(problem_from(regression, {"y": Y})), doubtful, {}, 0).fit(0)
    assert fit["status"] == "fail" and fit["findings"] == [["fail", "this is the prior"]]


def test_latent_labels_are_ranked_too():
    def mixture(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        with pyro.plate("row", len(y)):
            label = pyro.sample("label", dist.Bernoulli(0.3))
            pyro.sample("y", dist.Normal(mu + 4 * label, 1.0), obs=y)

    study = Simulated(Program(problem_from(mixture, {"y": Y})), nuts, FEW, 0)
    fit = study.fit(0)
    labels = ["label[0]", "label[1]", "label[2]"]
    assert list(fit["rank"]) == ["mu", *labels, "log likelihood", "mean of new y"]


# -- ranks ------------------------------------------------------------------------------------


def test_the_rank_counts_the_draws_below():
    rng = np.random.default_rng(0)
    assert simulated.rank(np.array([0.5, 0.1, 0.7, 0.4]), rng) == 2
    assert simulated.rank(np.array([-np.inf, 0.1]), rng) == 0


def test_among_equals_the_rank_is_uniform():
    rng = np.random.default_rng(0)
    rounded = np.array([0.3, 0.1 + 0.2, 0.3, 0.3, 0.1, 0.9])
    counts = np.bincount([simulated.rank(rounded, rng) for _ in range(4000)], minlength=6)
    assert counts[0] == counts[5] == 0
    assert stats.chisquare(counts[1:5]).pvalue > 0.001


def test_draws_are_taken_from_all_over_the_chains():
    some = simulated.spread_out({"u": torch.arange(1000)}, 99)["u"]
    assert len(some) == 99 and set(some.diff().tolist()) == {10, 11}
    assert len(simulated.spread_out({"u": torch.arange(50)}, 99)["u"]) == 50


# -- refusals ---------------------------------------------------------------------------------


def read_twice(y):
    mu = pyro.sample("mu", dist.Normal(y.mean(), 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def with_parameter(y):
    shift = pyro.param("shift", torch.tensor(0.0))
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu + shift, 1.0), obs=y)


def with_factor(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    pyro.factor("likelihood", -((y - mu) ** 2).sum())


def without_latents(y):
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def in_parts(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    pyro.sample("first", dist.Normal(mu, 1.0), obs=y[0])
    pyro.sample("second", dist.Normal(mu, 1.0), obs=y[1])


def improper(y):
    mu = pyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (read_twice, "reads y also where it does not observe it"),
        (with_parameter, r"own parameters \(shift\)"),
        (with_factor, "pyro.factor"),
        (without_latents, "no latents"),
        (in_parts, "'first' is observed, but is no data key"),
        (improper, "the prior of mu is improper"),
    ],
)
def test_models_without_a_joint_to_draw_from_are_refused(model, words):
    with pytest.raises(Refused, match=words):
        Simulated(Program(problem_from(model, {"y": Y})), prior_draws, {}, 0)


# -- many fits --------------------------------------------------------------------------------


def one(i):
    return {"i": i, "rank": {"pi": i}}


def test_fits_that_were_made_are_not_made_again():
    kept = []
    found = {1: {"i": 1, "rank": {"pi": 7}}, 9: {"i": 9, "rank": {"pi": 9}}}
    fits, stopped = simulated.run(one, 4, earlier=found, keep=kept.append)
    assert [fit["i"] for fit in fits] == [0, 1, 2, 3] and fits[1]["rank"]["pi"] == 7
    assert [fit["i"] for fit in kept] == [0, 2, 3] and stopped == 0


def test_a_signal_ends_the_study_with_what_is_there():
    def interrupted(i):
        if i == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return one(i)

    fits, stopped = simulated.run(interrupted, 10)
    assert [fit["i"] for fit in fits] == [0, 1, 2, 3] and stopped == signal.SIGINT


def test_a_fit_that_a_signal_cuts_short_is_dropped():
    fits, stopped = simulated.run(lambda i: signal.SIGTERM if i == 2 else one(i), 10)
    assert [fit["i"] for fit in fits] == [0, 1] and stopped == signal.SIGTERM


def test_a_signal_inside_a_fit_drops_it():
    def cut(program, *, seed, context):
        return Fit(draws={}, kind="chains", status="interrupted", signal=15)

    program = Program(problem_from(regression, {"y": Y}))
    assert Simulated(program, cut, {}, 0).fit(0) == signal.SIGTERM


def test_a_study_of_which_nothing_comes_ends_early():
    fits, _ = simulated.run(lambda i: {"i": i, "missing": "refused", "reason": "no"}, 500)
    assert len(fits) == simulated._HOPELESS
