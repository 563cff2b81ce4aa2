"""Discrete latents: summed out and recovered, held against brute force over their values."""

from __future__ import annotations

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import problem_from
from pyro.infer import config_enumerate
from scipy import special, stats

from inference.program import discrete
from inference.program.program import Program
from models.contract import Refused

Y = torch.tensor([-1.2, 0.3, 4.0, 3.1], dtype=torch.float64)
LOCS = np.array([-1.0, 3.0])


def mixture(y):
    weight = pyro.sample("weight", dist.Beta(2.0, 2.0))
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        label = pyro.sample("label", dist.Bernoulli(weight))
        pyro.sample("y", dist.Normal(torch.tensor(LOCS)[label.long()] + shift, 1.0), obs=y)


def by_hand(weight: float, shift: float) -> np.ndarray:
    """log p(label, y | weight, shift), (2, rows)."""
    prior = np.log([[1 - weight], [weight]])
    return prior + stats.norm.logpdf(Y.numpy(), LOCS[:, None] + shift, 1)


VALUES = {
    name: torch.tensor(value, dtype=torch.float64)
    for name, value in {"weight": 0.3, "shift": 0.2}.items()
}


def test_labels_are_summed_out_of_joint_and_rows():
    program = Program(problem_from(mixture, {"y": Y}))
    rows = special.logsumexp(by_hand(0.3, 0.2), axis=0)
    prior = stats.beta.logpdf(0.3, 2, 2) + stats.norm.logpdf(0.2)
    assert program.log_joint(VALUES).item() == pytest.approx(rows.sum() + prior, rel=1e-12)
    found = program.log_likelihood({**VALUES, "label": torch.zeros(4)})["y"]
    np.testing.assert_allclose(found, rows, rtol=1e-12)


def test_chances_of_what_is_observed_sum_labels_out():
    """Two coins, of which each row has one; against Bayes' rule by hand, at both outcomes."""

    def coins(x, y):
        chance = pyro.sample("chance", dist.Beta(2.0, 2.0).expand([2]).to_event(1))
        with pyro.plate("row", len(y)):
            coin = pyro.sample("coin", dist.Bernoulli(x))
            pyro.sample("y", dist.Bernoulli(chance[coin.long()]), obs=y)

    x = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    program = Program(problem_from(coins, {"x": x, "y": torch.tensor([0.0, 1.0, 1.0])}))
    values = {"chance": torch.tensor([0.2, 0.7], dtype=torch.float64)}
    found = program.log_chances(values, torch.tensor([0.0, 1.0])).exp()
    heads = 0.2 * (1 - x) + 0.7 * x
    torch.testing.assert_close(found, torch.stack([1 - heads, heads]))
    seen = program.log_likelihood(values)["y"].exp()
    torch.testing.assert_close(seen, torch.stack([1 - heads[0], heads[1], heads[2]]))


def test_labels_are_recovered_with_their_exact_probabilities():
    program = Program(problem_from(mixture, {"y": Y}))
    torch.manual_seed(0)
    n = 20_000
    draws = {name: value.expand(n) for name, value in VALUES.items()}
    labels = program.complete(draws)["label"]
    joint = by_hand(0.3, 0.2)
    exact = np.exp(joint[1] - special.logsumexp(joint, axis=0))
    error = 5 * np.sqrt(exact * (1 - exact) / n) + 1e-4
    assert labels.shape == (n, 4)
    assert (np.abs(labels.mean(0).numpy() - exact) < error).all()


def test_an_infinite_discrete_latent_is_refused():
    def model(y):
        k = pyro.sample("k", dist.Poisson(3.0))
        pyro.sample("y", dist.Normal(k, 1.0), obs=y)

    with pytest.raises(Refused, match="k ~ Poisson has no finite list of values"):
        problem_from(model, {"y": torch.tensor(1.0)})


def test_tables_are_only_built_while_they_are_small():
    program = Program(problem_from(mixture, {"y": Y}))
    assert program.summed.parallel.tabular
    assert discrete.cells_of(program.of("discrete")) == 2 ** len(Y)


def test_a_point_estimate_recovers_a_global_label_and_repeats_itself():
    import zoo

    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        z = pyro.sample("z", dist.Bernoulli(0.5))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(m + 10 * z, 1.0), obs=y)

    y = {"y": [12.0, 12.5, 13.0]}
    runs = [zoo.run(model, method="map", data=y, seed=seed) for seed in (0, 0, 1)]
    likelihoods = [run.idata["log_likelihood"]["y"].values.sum() for run in runs]
    assert likelihoods == pytest.approx([likelihoods[0]] * 3)
    predicted = runs[0].idata["posterior_predictive"]["y"].values.mean()
    assert predicted == pytest.approx(11.9, abs=0.2)


def test_labels_of_groups_are_kept_and_those_of_rows_drawn_anew_in_predictions():
    def model(y):
        with pyro.plate("group", 2, dim=-2):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            with pyro.plate("row", y.shape[-1], dim=-1):
                pyro.sample("y", dist.Normal(10 * z, 1.0), obs=y)

    y = torch.tensor([[0.0, 0.5, -0.5], [10.0, 9.5, 10.5]])
    program = Program(problem_from(model, {"y": y}))
    kept = {"z": torch.tensor([[0.0], [1.0]])}
    predicted = torch.stack([program.predictive(kept)["y"] for _ in range(50)])
    assert predicted.mean((0, 2)).tolist() == pytest.approx([0, 10], abs=0.6)


# -- side by side ------------------------------------------------------------------------------


def chain(y):
    stay = pyro.sample("stay", dist.Beta(1.0, 1.0))
    state = torch.tensor(0.0)
    for t in pyro.markov(range(len(y))):
        state = pyro.sample(f"state_{t}", dist.Bernoulli(stay * state + (1 - stay) * (1 - state)))
        pyro.sample(f"y_{t}", dist.Normal(2 * state, 1.0), obs=y[t])


def test_two_labels_a_row_and_two_observed_sites_are_scored_together():
    def model(y, count):
        weight = pyro.sample("weight", dist.Beta(1.0, 1.0))
        with pyro.plate("row", len(y)):
            a = pyro.sample("a", dist.Bernoulli(weight))
            b = pyro.sample("b", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
            pyro.sample("y", dist.Normal(a + b, 1.0), obs=y)
            pyro.sample("count", dist.Poisson(1.0 + b), obs=count)

    count = torch.tensor([0.0, 1.0, 4.0, 2.0])
    program = Program(problem_from(model, {"y": Y, "count": count}))
    expected = np.zeros(4)
    for a, b in itertools.product(range(2), range(3)):
        expected += (
            [0.6, 0.4][a]
            * [0.2, 0.3, 0.5][b]
            * stats.norm.pdf(Y.numpy(), a + b, 1)
            * stats.poisson.pmf(count.numpy(), 1 + b)
        )
    values = {"weight": torch.tensor(0.4), "a": torch.zeros(4), "b": torch.zeros(4)}
    found = program.log_likelihood(values)
    assert list(found) == ["y+count"]
    np.testing.assert_allclose(found["y+count"], np.log(expected), rtol=1e-12)
    labels = program.complete({"weight": torch.full((3,), 0.4)})
    assert labels["a"].shape == labels["b"].shape == (3, 4)


def test_one_label_for_all_rows_is_summed_over_the_product():
    def model(y):
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        which = pyro.sample("which", dist.Categorical(torch.tensor([0.1, 0.9])))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(which * 2.0, scale), obs=y)

    program = Program(problem_from(model, {"y": Y}))
    likelihood = stats.norm.logpdf(Y.numpy(), [[0.0], [2.0]], 1.5).sum(axis=1)
    expected = special.logsumexp(likelihood + np.log([0.1, 0.9]))
    expected += stats.halfnorm.logpdf(1.5)
    values = {"scale": torch.tensor(1.5)}
    assert program.log_joint(values).item() == pytest.approx(expected, rel=1e-12)
    # Given its drawn value the rows are independent again.
    found = program.log_likelihood({**values, "which": torch.tensor(1)})["y"]
    np.testing.assert_allclose(found, stats.norm.logpdf(Y.numpy(), 2.0, 1.5), rtol=1e-12)


def test_a_chain_of_states_equals_the_sum_over_all_paths():
    program = Program(problem_from(config_enumerate(chain), {"y": Y}))
    expected = []
    for path in itertools.product((0, 1), repeat=4):
        steps = zip((0, *path), path)
        prior = sum(np.log(0.8 if (a == 1) == (b == 1) else 0.2) for a, b in steps)
        expected.append(prior + stats.norm.logpdf(Y.numpy(), 2 * np.array(path), 1).sum())
    found = program.log_joint({"stay": torch.tensor(0.8)}).item()
    # stay * s + (1 - stay)(1 - s) is the chance of a 1: 0.8 after 1, and 0.2 after 0.
    assert found == pytest.approx(special.logsumexp(expected), rel=1e-10)
    torch.manual_seed(0)
    states = program.complete({"stay": torch.tensor([0.8, 0.8])})
    assert states["state_3"].shape == (2,)


def test_a_long_chain_is_contracted_by_pyro_and_agrees_with_the_forward_algorithm():
    y = torch.linspace(-1, 3, 15, dtype=torch.float64)
    program = Program(problem_from(chain, {"y": y}))
    assert not program.summed.parallel.tabular
    forward = np.array([1.0, 0.0])
    for value in y.numpy():
        forward = np.array([[0.8, 0.2], [0.2, 0.8]]).T @ forward
        forward = forward * stats.norm.pdf(value, [0.0, 2.0], 1)
    stay = torch.tensor(0.8)
    assert program.log_joint({"stay": stay}).item() == pytest.approx(np.log(forward.sum()))
    torch.manual_seed(0)
    assert program.complete({"stay": stay.expand(3)})["state_14"].shape == (3,)


def test_rows_of_another_plate_are_not_added_to_those_of_the_labels():
    def model(y, v):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("y", dist.Normal(m + z, 1.0), obs=y)
        with pyro.plate("other", len(v)):
            pyro.sample("v", dist.Normal(m, 1.0), obs=v)

    program = Program(problem_from(model, {"y": Y, "v": Y.flip(0)}))
    values = {"m": torch.tensor(0.5), "z": torch.tensor([0.0, 1.0, 0.0, 1.0])}
    found = program.log_likelihood(values)
    expected = stats.norm.logpdf(Y.numpy(), 0.5 + values["z"].numpy(), 1)
    np.testing.assert_allclose(found["y"], expected, rtol=1e-12)
    np.testing.assert_allclose(found["v"], stats.norm.logpdf(Y.flip(0).numpy(), 0.5, 1))
