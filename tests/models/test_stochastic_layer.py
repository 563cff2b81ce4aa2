"""Noise inside a network: densities and bounds by NumPy, what is drawn anew, how it dies out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import special, stats

import zoo
from inference.core.problem import Fit
from inference.methods.draws import draw_one
from inference.program import prepare
from inference.program.handlers import Batch, Weighted, run
from inference.program.program import Program
from inference.program.sampling import Sampling, over_draws
from inference.results import predictive, scores
from models import stochastic_layer
from models.contract import Refused, View

OPTIONS = {"hidden": "4", "width": 3, "k": 5}
NOISY = {"data": "moons", "noise": 0.4, "n": 200, "hidden": "10", "width": 4, "steps": 1000}


def problem(n=40):
    """A small network on two moons, its parameters given."""
    data = stochastic_layer.ENTRY.data("moons", n=n)
    made = prepare.program_of(stochastic_layer.ENTRY, OPTIONS, data).problem
    return replace(made, params=parameters())


def parameters():
    shapes = {"dense1.0": (4, 2), "loc": (3, 4), "scale": (3, 4), "dense2": (2, 3)}
    rng, params = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        params[f"{name}.weight"] = torch.as_tensor(rng.normal(size=shape))
        params[f"{name}.bias"] = torch.as_tensor(rng.normal(size=shape[0]))
    return params


def encoded(x):
    """Mean and sigma of the activations by hand, (n, 3) each."""
    p = {name: value.numpy() for name, value in parameters().items()}
    h = np.tanh(x @ p["dense1.0.weight"].T + p["dense1.0.bias"])
    raw = h @ p["scale.weight"].T + p["scale.bias"]
    return h @ p["loc.weight"].T + p["loc.bias"], 1e-6 + np.log1p(np.exp(raw))


def log_chances(a, y):
    """log p(y | a) by hand, (..., n)."""
    p = {name: value.numpy() for name, value in parameters().items()}
    logits = a @ p["dense2.weight"].T + p["dense2.bias"]
    each = special.log_softmax(logits, axis=-1)
    return np.where(y == 1, each[..., 1], each[..., 0])


def test_log_joint_against_numpy():
    made = problem()
    x, y = made.tensors["x"].numpy(), made.tensors["y"].numpy()
    a = np.random.default_rng(1).normal(size=(4, 40, 3))
    loc, scale = encoded(x)
    expected = stats.norm.logpdf(a, loc, scale).sum((1, 2)) + log_chances(a, y).sum(1)
    found = over_draws(Program(made).log_joint, {"a": torch.as_tensor(a)})
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def bound(k, batch=None, repeats=1, seed=0):
    """The mean of so many estimates of the bound of k samples, as svi computes it."""
    made = problem()
    batch = batch or Batch(made.tensors)
    program = Program(made)
    torch.manual_seed(seed)
    with pyro.get_param_store().scope():
        for name, value in made.params.items():
            pyro.param(name, value)
        model = Weighted(batch)(program.model)
        guide = Sampling()(Weighted(batch)(made.guides["many"]))
        several = [
            stochastic_layer.many_sample_bound(model, guide, batch.tensors, k=k).item()
            for _ in range(repeats)
        ]
    return np.mean(several)


def truth():
    """The sum over rows of log E p(y | dense2(a)), and of E log p, from 200,000 draws."""
    made, rng = problem(), np.random.default_rng(3)
    loc, scale = encoded(made.tensors["x"].numpy())
    each = log_chances(loc + scale * rng.normal(size=(50_000, 40, 3)), made.tensors["y"].numpy())
    return (special.logsumexp(each, axis=0) - np.log(len(each))).sum(), each.mean(0).sum()


def test_the_bounds_are_in_their_order_and_right_at_both_ends():
    likelihood, single = truth()
    few, some, many = (bound(k, repeats=n) for k, n in ((1, 400), (5, 200), (2000, 2)))
    assert few == pytest.approx(single, abs=5)
    assert few < some - 10 and some < many - 5
    assert many == pytest.approx(likelihood, abs=0.3)


def test_a_batch_stands_for_all_rows():
    made = problem()
    half = {**made.tensors, "x": made.tensors["x"][::2], "y": made.tensors["y"][::2]}
    rest = {**made.tensors, "x": made.tensors["x"][1::2], "y": made.tensors["y"][1::2]}
    parts = [bound(500, Batch(part, "row", 2.0), repeats=4) for part in (half, rest)]
    assert np.mean(parts) == pytest.approx(bound(500, repeats=4), abs=0.5)


def test_the_bound_of_one_sample_is_the_elbo():
    made = problem()
    program = Program(made)
    with pyro.get_param_store().scope():
        for name, value in made.params.items():
            pyro.param(name, value)
        torch.manual_seed(4)
        values, log_q = draw_one(program, made.guides["one"], Batch(made.tensors))
        elbo = program.log_joint(values) - log_q

        def same(x, y):
            with pyro.plate("row", len(y)):
                pyro.sample("a", dist.Delta(values["a"], event_dim=1))

        found = stochastic_layer.one_sample_bound(program.model, same, made.tensors)
    assert found.item() == pytest.approx(elbo.item(), rel=1e-10)


def test_rows_held_out_get_activations_of_their_own():
    made = problem()
    drawn = torch.as_tensor(np.random.default_rng(5).normal(size=(1, 1000, 40, 3)))
    found = scores.scored(Program(made), Fit(draws={"a": drawn}, kind="independent"))
    x, y = made.test["x"].numpy(), made.test["y"].numpy()
    loc, scale = encoded(x)
    rng = np.random.default_rng(6)
    each = [log_chances(loc + scale * rng.normal(size=loc.shape), y) for _ in range(1000)]
    expected = special.logsumexp(each, axis=0) - np.log(1000)
    assert found.metrics["log_score"] == pytest.approx(expected.mean(), abs=1e-2)
    assert found.metrics["log_score_single"] == pytest.approx(np.mean(each), abs=0.03)
    assert found.metrics["log_score_single"] < found.metrics["log_score"]
    assert "accuracy_mean_weights" not in found.metrics
    again = scores.scored(Program(made), Fit(draws={"a": drawn}, kind="independent"))
    assert again.metrics == found.metrics


def test_latents_of_other_than_rows_are_kept_for_other_rows():
    program = Program(problem())
    draws = {"a": torch.zeros(7, 40, 3), "w": torch.zeros(7)}
    assert predictive.of_other_rows(program, draws).keys() == {"w"}
    (left,) = predictive.of_other_rows(program, {"a": draws["a"]}).values()
    assert left.shape == (7,)


@pytest.mark.parametrize(("guide", "low", "high"), [("one", 0.8, 1.2), ("none", 0, 1e-5)])
def test_the_noise_begins_as_stated(guide, low, high):
    made = replace(problem(), params={})
    with pyro.get_param_store().scope():
        torch.manual_seed(0)
        trace = run(made.guides[guide], made.tensors)
        scale = trace.nodes["a"]["fn"].base_dist.scale
    assert low <= scale.mean().item() <= high


def test_sigma_is_read_from_the_draws():
    rng = np.random.default_rng(7)
    loc = rng.normal(size=(50, 3)) * np.array([2.0, 1.0, 0.5])
    a = loc + 0.3 * rng.normal(size=(400, 50, 3))
    view = View(data=stochastic_layer.ENTRY.data("moons", n=50), draws={"a": a})
    metrics = stochastic_layer.metrics(view)
    assert metrics["sigma"] == pytest.approx(0.3, rel=0.01)
    assert metrics["sigma_relative"] == pytest.approx(0.3 / loc.std(0).mean(), rel=0.02)
    figure = stochastic_layer.noise(view)
    heights = [bar.get_height() for bar in figure.axes[1].patches]
    np.testing.assert_allclose(heights[:3], sorted(loc.std(0), reverse=True), rtol=0.02)
    np.testing.assert_allclose(heights[3:], 0.3, rtol=0.05)


@pytest.mark.parametrize("method", ["mle", "map", "laplace", "nuts", "prior"])
def test_only_svi_fits_parameters(method):
    with pytest.raises(Refused, match="parameters of its own"):
        zoo.run("stochastic_layer", method=method, data="moons")


def test_a_run_predicts_and_is_repeated_by_its_seed():
    short = {"data": "moons", "n": 100, "steps": 200, "draws": 20, "hidden": "5", "width": 2}
    first, again = (zoo.run("stochastic_layer", guide="many", seed=1, **short) for _ in range(2))
    assert first.metrics == again.metrics
    other = zoo.run("stochastic_layer", guide="many", seed=2, **short)
    assert other.metrics["log_score"] != first.metrics["log_score"]
    assert first.idata["posterior"]["a"].shape == (1, 20, 100, 2)
    table = first.predict({"x": np.zeros((3, 2))})
    assert len(table) == 3 and table["probability"].between(0.5, 1).all()
    assert table.equals(first.predict({"x": np.zeros((3, 2))}))


def test_one_sample_kills_the_noise_and_many_let_it_live():
    """Seen in the labels: the noise of units which dense 2 ignores costs nothing, and stays."""
    fits = {g: zoo.run("stochastic_layer", guide=g, **NOISY) for g in ("one", "none")}
    fits["many"] = zoo.run("stochastic_layer", guide="many", k=20, **NOISY)
    told = {guide: fit.metrics["mutual_information"] for guide, fit in fits.items()}
    assert told["none"] < 1e-6 < told["one"] < 0.3 * told["many"]
    lost = {g: f.metrics["log_score"] - f.metrics["log_score_single"] for g, f in fits.items()}
    assert lost["one"] < 0.3 * lost["many"]
    assert fits["none"].metrics["sigma"] < 1e-5 < fits["one"].metrics["sigma"]
