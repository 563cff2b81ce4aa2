"""The Bayesian network: its joint against NumPy, options, data, every guide and its verdict."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import QUIET, problem_of
from scipy import special, stats

import inference
import models
import zoo
from inference.program.program import Program
from models import bnn
from models.contract import BadSetting, Refused
from models.parts.networks import start

MOONS = {"model": "bnn", "data": "moons", "hidden": "8"}
SHORT = {"steps": 10, "draws": 5}


# -- the model ---------------------------------------------------------------------------------

ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "softplus": lambda x: np.logaddexp(x, 0),
}


def log_mixture(w, scale):
    both = stats.norm.logpdf(w, 0, scale), stats.norm.logpdf(w, 0, scale / 10)
    return np.logaddexp(*both) + np.log(0.5)


LOG_PRIORS = {
    "normal": lambda w, scale: stats.norm.logpdf(w, 0, scale),
    "laplace": lambda w, scale: stats.laplace.logpdf(w, 0, scale / np.sqrt(2)),
    "scale_mixture": log_mixture,
    "log_uniform": lambda w, scale: -np.log(abs(w)),
}


def values_of(program, seed=0):
    rng = np.random.default_rng(seed)
    return {site.name: rng.normal(size=site.shape) for site in program.of("latent")}


def numpy_joint(values, x, y, activation, prior, scale):
    """Log joint of the network, layer by layer."""
    total, hidden = 0.0, x
    layers = sorted({name.rpartition(".")[0] for name in values})
    for i, layer in enumerate(layers):
        w, b = values[f"{layer}.weight"], values[f"{layer}.bias"]
        total += LOG_PRIORS[prior](w, scale / np.sqrt(w.shape[1])).sum()
        total += stats.norm.logpdf(b, 0, scale).sum()
        hidden = hidden @ w.T + b
        hidden = ACTIVATIONS[activation](hidden) if i + 1 < len(layers) else hidden
    return total + special.log_softmax(hidden, 1)[np.arange(len(y)), y].sum()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("prior", LOG_PRIORS)
def test_the_joint_is_that_of_an_independent_network(prior, activation):
    options = {"activation": activation, "prior": prior, "prior_scale": 1.3}
    program = Program(problem_of("bnn", "moons", hidden="5,4", **options))
    values = values_of(program)
    data = (program.problem.tensors[key].numpy() for key in ("x", "y"))
    expected = numpy_joint(values, *data, activation, prior, 1.3)
    found = program.log_joint({name: torch.as_tensor(value) for name, value in values.items()})
    assert found.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("hidden", "shapes"),
    [("", [(2, 2)]), ("7", [(7, 2), (2, 7)]), ("6, 3", [(6, 2), (3, 6), (2, 3)])],
)
def test_the_layers_are_those_that_hidden_names(hidden, shapes):
    sites = Program(problem_of("bnn", "moons", hidden=hidden)).of("latent")
    assert [site.shape for site in sites if site.name.endswith("weight")] == shapes
    assert [site.shape for site in sites if site.name.endswith("bias")] == [s[:1] for s in shapes]
    assert all(site.plates == () for site in sites)


@pytest.mark.parametrize("hidden", ["0", "5,x", "-3", "2.5"])
def test_a_wrong_hidden_is_told(hidden):
    with pytest.raises(BadSetting, match=rf"hidden={hidden} must be whole numbers above 0"):
        problem_of("bnn", "moons", hidden=hidden)


@pytest.mark.parametrize("prior", ["normal", "laplace"])
def test_a_prior_has_the_standard_deviation_of_its_layer(prior):
    program = Program(problem_of("bnn", "moons", hidden="16", prior=prior, prior_scale=3.0))
    for site in program.of("latent"):
        scale = 3.0 / site.shape[1] ** 0.5 if len(site.shape) == 2 else 3.0
        assert site.base.stddev.mean().item() == pytest.approx(scale)


def test_a_start_keeps_the_size_of_a_layers_inputs_and_has_no_biases():
    torch.manual_seed(0)
    weight = start("net.0.weight", (300, 64))
    assert weight.shape == (300, 64)
    assert weight.std().item() == pytest.approx(1 / 8, rel=0.02)
    assert torch.equal(start("net.0.bias", (300,)), torch.zeros(300))
    x = torch.randn(50, 64)
    assert (x @ weight.T).std().item() == pytest.approx(1, rel=0.05)


# -- data --------------------------------------------------------------------------------------


def test_the_default_is_digits_with_a_test_set():
    data = bnn.ENTRY.data()
    assert data.tensors.keys() == {"x", "y"} == data.test.keys()
    assert (len(data.tensors["y"]), len(data.test["y"])) == (1437, 360)
    assert data.tensors["x"].shape == (1437, 64)
    assert data.tensors["y"].dtype == torch.int64
    assert len(data.coords["class"]) == 10
    sites = Program(problem_of("bnn")).of("latent")
    assert sum(site.value.numel() for site in sites) == 64 * 50 + 50 + 50 * 10 + 10


def test_options_of_the_data_reach_it():
    spoiled = bnn.ENTRY.data(n=100, labels="random")
    assert len(spoiled.tensors["y"]) == 100
    true = bnn.ENTRY.data(n=100)
    assert (spoiled.tensors["y"] != true.tensors["y"]).sum() > 70
    assert torch.equal(spoiled.tensors["x"], true.tensors["x"])
    assert bnn.ENTRY.data("moons", outside="far").beside["far"]["x"].shape == (360, 2)
    columns = {"a": [0.0, 1.0, 2.0, 3.0] * 5, "kind": ["u", "v"] * 10}
    table = bnn.ENTRY.data(columns, target="kind", split=0.25)
    assert (len(table.tensors["y"]), len(table.test["y"])) == (15, 5)


# -- methods -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["nuts", "map", "mle", "laplace"])
def test_the_log_uniform_prior_is_for_the_guide_sparse(method):
    with pytest.raises(Refused, match="the posterior; use --guide sparse, or prior=normal"):
        zoo.run(**MOONS, method=method, prior="log_uniform")


def test_sparse_needs_the_log_uniform_prior_and_laplace_a_second_derivative():
    with pytest.raises(Refused, match="set prior=log_uniform"):
        zoo.run(**MOONS, guide="sparse", **SHORT)
    with pytest.raises(Refused, match="no second derivative at zero"):
        zoo.run(**MOONS, method="laplace", prior="laplace")


RUNS = {
    "map": {"method": "map", "steps": 10},
    "mle": {"method": "mle", "steps": 10},
    "normal": {"guide": "normal", **SHORT},
    "local": {"guide": "local", **SHORT},
    "lastlayer": {"guide": "lastlayer", **SHORT},
    "dropout": {"guide": "dropout:0.1", **SHORT},
    "dropconnect": {"guide": "dropconnect:learned", **SHORT},
    "sparse": {"guide": "sparse", "prior": "log_uniform", **SHORT},
    "ensemble": {"guide": "ensemble:3", **SHORT},
}


@pytest.mark.parametrize("name", RUNS)
def test_ten_steps_run_and_fail_for_being_too_few(name):
    run = zoo.run(**MOONS, **RUNS[name])
    assert run.verdict.status == "fail"
    assert "10 steps are too few to train by" in str(run.verdict.findings[0])
    draws = {"map": 1, "mle": 1, "ensemble": 3}.get(name, 5)
    assert run.idata["posterior"].sizes["draw"] == draws
    assert run.idata["predictions"]["probability"].shape == (1, draws, 200, 1)
    assert run.idata["objective"]["value"].shape == (10,)
    assert 0.3 < run.metrics["accuracy"] <= 1
    # Point masses have no density, and so no ELBO.
    density = name in ("normal", "local", "lastlayer")
    assert ("elbo" in run.metrics) == density
    if name == "sparse":
        assert run.metrics["weights"] == 2 * 8 + 8 * 2
        assert {"net.0.weight.index", "net.2.weight.index"} <= run.params.keys()


@pytest.mark.parametrize("guide", ["local", "ensemble:2", "dropout"])
def test_the_seed_alone_decides(guide):
    method = inference.method("svi")

    def draws(seed):
        problem = problem_of("bnn", "moons", hidden="3")
        settings = {"guide": guide, "batch_size": 50, "particles": 1, **SHORT}
        return method(Program(problem), seed=seed, context=QUIET, **settings).draws

    first, other = draws(3), draws(4)
    torch.manual_seed(1)  # what the caller did with its own random numbers is nothing to it
    again = draws(3)
    for site, value in first.items():
        assert torch.equal(value, again[site])
        assert not torch.equal(value, other[site])


@pytest.mark.parametrize("method", ["map", "mle"])
def test_the_seed_alone_decides_a_point(method):
    def point(seed):
        program = Program(problem_of("bnn", "moons", hidden="3"))
        return inference.method(method)(program, seed=seed, context=QUIET, steps=5).draws

    first = point(3)
    torch.manual_seed(1)
    again, other = point(3), point(4)
    assert all(torch.equal(value, again[site]) for site, value in first.items())
    assert not torch.equal(first["net.0.weight"], other["net.0.weight"])


def test_mle_fits_the_rows_better_than_map_and_map_has_the_smaller_weights():
    found = {}
    for method in ("map", "mle"):
        run = zoo.run(**MOONS, method=method, steps=600, lr=0.02)
        weights = run.idata["posterior"]
        likelihood = float(run.idata["log_likelihood"]["y"].sum())
        found[method] = likelihood, sum(float((w**2).sum()) for w in weights.data_vars.values())
    assert found["mle"][0] > found["map"][0]
    assert found["mle"][1] > found["map"][1]


def test_a_rate_far_too_large_is_named_as_the_cause():
    run = zoo.run(**MOONS, guide="local", lr=10.0, steps=1000, draws=5)
    assert run.verdict.status == "fail"
    assert any("learning rate of 10 is too large" in f.what for f in run.verdict.findings)


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [
        {"guide": "local"},
        {"guide": "dropout"},
        {"guide": "ensemble"},
        {"guide": "sparse", "prior": "log_uniform"},
        {"method": "map"},
    ],
    ids=lambda asked: asked.get("guide", "map"),
)
def test_the_defaults_pass_on_the_moons_and_predict_them(asked):
    run = zoo.run("bnn", data="moons", **asked)
    assert run.verdict.status == "pass"
    assert run.metrics["accuracy"] > 0.86  # logistic regression: 0.85 and below
    assert run.metrics["log_score"] > -0.32


def test_it_is_not_identified_and_nothing_of_it_is_exact():
    assert models.load("bnn").identified is False
    assert not models.has_exact("bnn")
