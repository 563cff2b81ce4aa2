"""The semi-supervised autoencoder: its bound by NumPy, its labels, what it learns."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import problem_of
from pyro import poutine
from scipy import signal, special, stats

import zoo
from inference.methods.ascent import AscentSettings
from inference.methods.guides import resolve
from inference.methods.training import batches, gradient_of, store
from inference.program.program import Program
from inference.program.sampling import over_draws
from models import load, ssvae
from models.contract import BadInput, BadSetting, Refused

SMALL = {"n": 40, "labels": 20, "latent": 2, "hidden": "8"}
OPTIONS = {"latent": 2, "hidden": "8"}


def parameters(seed=0):
    """Of decoder, encoder and classifier: 64 pixels, 8 hidden units, 10 classes."""
    rng = np.random.default_rng(seed)
    shapes = {"decoder.0": (8, 2), "decoder.x": (64, 8), "encoder.0": (8, 64)}
    shapes |= {"encoder.loc": (2, 8), "encoder.scale": (2, 8)}
    shapes |= {"classifier.0": (8, 64), "classifier.y": (10, 8)}
    params = {f"{part}.label": rng.normal(size=(10, 8)) for part in ("decoder", "encoder")}
    for name, shape in shapes.items():
        params[f"{name}.weight"] = rng.normal(size=shape) / shape[1] ** 0.5
        params[f"{name}.bias"] = rng.normal(size=shape[0])
    return params


P = parameters()


def layer(x, name):
    return x @ P[f"{name}.weight"].T + P[f"{name}.bias"]


def log_guess(x):
    return special.log_softmax(layer(np.tanh(layer(x, "classifier.0")), "classifier.y"), axis=1)


def log_p_of_pixels(x, z, label):
    h = np.tanh(layer(z, "decoder.0") + P["decoder.label"][label])
    logits = layer(h, "decoder.x")
    return (x * logits + special.log_expit(-logits)).sum(-1)


def bound_of_pairs(x, z, label):
    """L(x, y) by row at styles z (n, 2) under labels (n,)."""
    h = np.tanh(layer(x, "encoder.0") + P["encoder.label"][label])
    loc, scale = layer(h, "encoder.loc"), np.exp(layer(h, "encoder.scale"))
    log_q = stats.norm.logpdf(z, loc, scale).sum(-1)
    return log_p_of_pixels(x, z, label) + stats.norm.logpdf(z).sum(-1) - log_q - np.log(10)


def tensors():
    return {name: torch.as_tensor(value) for name, value in P.items()}


@pytest.fixture
def parts():
    """Data, model and guide with the parameters above."""
    data = load("ssvae").data(n=40, labels=20, binarise="static")
    model, guide = ssvae.SSVAE(data, **OPTIONS), ssvae.Encoder(data, **OPTIONS)
    learned = poutine.substitute(data=tensors())
    with learned:
        yield data, model, guide


def test_the_joint_density_sums_over_labels_that_are_not_known():
    problem = problem_of("ssvae", **SMALL)
    program = Program(replace(problem, params=tensors()))
    x, y = problem.tensors["x"].numpy(), problem.tensors["y"].numpy()
    z = np.random.default_rng(1).normal(size=(3, 40, 2))
    by_label = np.stack([log_p_of_pixels(x, z, np.full(40, label)) for label in range(10)], -1)
    known = by_label[:, np.arange(40), y]
    each = np.where(y < 0, special.logsumexp(by_label, axis=-1) - np.log(10), known)
    truth = each.sum(1) + stats.norm.logpdf(z).sum((1, 2))
    found = over_draws(program.log_joint, {"z": torch.as_tensor(z)})
    np.testing.assert_allclose(found, truth, rtol=1e-9)


def test_the_convolutions_against_scipy():
    data = load("ssvae").data(n=3, labels=3, binarise="static")
    encoder = ssvae.Encoder(data, **OPTIONS, classifier="conv", dropout=0.5)
    rng = np.random.default_rng(4)
    shapes = {"conv.0.weight": (8, 1, 5, 5), "conv.1.weight": (16, 8, 5, 5), "0.weight": (8, 64)}
    shapes |= {"conv.0.bias": (8,), "conv.1.bias": (16,), "0.bias": (8,)}
    shapes |= {"y.weight": (10, 8), "y.bias": (10,)}
    params = {f"classifier.{k}": rng.normal(size=s) / s[-1] for k, s in shapes.items()}
    x = data.tensors["x"].double()
    with poutine.substitute(data={k: torch.as_tensor(v) for k, v in params.items()}):
        in_training = encoder.guessed(x)
        found = encoder.eval().guessed(x)
        torch.testing.assert_close(found, encoder.guessed(x))  # nothing is dropped now
    assert not torch.allclose(in_training, found)
    h = x.numpy().reshape(3, 1, 8, 8)
    for i in (0, 1):
        kernels, bias = (params[f"classifier.conv.{i}.{part}"] for part in ("weight", "bias"))
        full = [
            [sum(signal.correlate2d(c, k, "same") for c, k in zip(row, each)) for each in kernels]
            for row in h
        ]
        h = np.maximum(np.array(full)[..., ::2, ::2] + bias[:, None, None], 0)
    h = np.tanh(h.reshape(3, -1) @ params["classifier.0.weight"].T + params["classifier.0.bias"])
    truth = h @ params["classifier.y.weight"].T + params["classifier.y.bias"]
    np.testing.assert_allclose(found, truth, rtol=1e-9)


def test_the_bound_against_numpy(parts):
    """At given styles: known labels, unknown ones summed by the classifier's guesses."""
    data, model, guide = parts
    rng = np.random.default_rng(2)
    x, y = data.tensors["x"].double(), data.tensors["y"]
    z = rng.normal(size=(10, 40, 2))
    given = poutine.condition(guide, data={"z": torch.as_tensor(z)})
    with torch.no_grad():
        found = ssvae._unlabelled(model, given, 10, x, y)
    log_q = log_guess(x.numpy())
    pairs = np.stack([bound_of_pairs(x.numpy(), z[k], np.full(40, k)) for k in range(10)], 1)
    each = (np.exp(log_q) * (pairs - log_q)).sum(1)
    np.testing.assert_allclose(found, each[y.numpy() < 0].sum(), rtol=1e-9)
    known = data.tensors["y"] >= 0
    given = poutine.condition(guide, data={"z": torch.as_tensor(z[0][known])})
    with torch.no_grad():
        score, bound = ssvae._by_row(model, given, x[known], y[known])
    truth = bound_of_pairs(x[known].numpy(), z[0][known], y[known].numpy())
    np.testing.assert_allclose(bound, truth, rtol=1e-9)
    np.testing.assert_allclose(score, log_q[known], rtol=1e-9)


def test_what_is_climbed_is_the_sum_of_both_and_the_score(parts):
    data, model, guide = parts
    rows = {"x": data.tensors["x"].double(), "y": data.tensors["y"]}
    mean = []
    for alpha in (0.0, 0.5):
        aim = ssvae.Bound(data, alpha=alpha)
        torch.manual_seed(0)
        with torch.no_grad():
            mean.append(aim(model, guide, rows))
    known = rows["y"] >= 0
    score = log_guess(rows["x"][known].numpy())[np.arange(20), rows["y"][known]].mean()
    assert mean[1] - mean[0] == pytest.approx(0.5 * 40 * score, rel=1e-9)
    with torch.no_grad():
        assert ssvae.Known(data)(model, guide, rows) == pytest.approx(40 * score, rel=1e-9)


def test_labels_are_known_for_as_many_of_each_class():
    entry = load("ssvae")
    first, again, other = (entry.data(labels=50, data_seed=seed) for seed in (0, 0, 1))
    known = first.tensors["y"] >= 0
    assert torch.equal(first.tensors["y"], again.tensors["y"])
    assert not torch.equal(first.tensors["y"], other.tensors["y"])
    assert torch.bincount(first.tensors["y"][known]).tolist() == [5] * 10
    shown = first.scaling.labels
    assert (first.tensors["y"][known].numpy() == shown[known]).all()
    assert (first.test["y"] == -1).all()
    whole = entry.data(n=30, labels=30).tensors["y"]
    assert (whole >= 0).all()
    rows = first.redrawn.draw({k: v[:5] for k, v in first.redrawn.tensors.items()})
    assert torch.equal(rows["y"], first.tensors["y"][:5])


def test_labels_that_cannot_be_had_are_told():
    entry = load("ssvae")
    with pytest.raises(BadSetting, match="labels=50, but there are 40 images"):
        entry.data(n=40, labels=50)
    with pytest.raises(BadSetting, match="pixels are binary"):
        entry.data(binarise="none")
    with pytest.raises(BadInput, match="the images have no labels"):
        entry.data({"x": np.zeros((20, 4, 4))})


@pytest.mark.parametrize("guide", ["own", "supervised"])
def test_a_run_tells_how_well_labels_are_guessed(guide, tmp_path):
    done = zoo.run("ssvae", guide=guide, **SMALL, steps=150, draws=20, rows=10, out=tmp_path)
    assert 0 < done.metrics["accuracy"] < 1
    assert done.metrics["log_score"] < 0
    assert done.idata["posterior"]["z"].shape == (1, 20, 10, 2)
    assert "khat" not in done.metrics
    assert (done.path / "figures" / "analogies.png").is_file()
    y = done.data.tensors["y"][:10]
    label = done.idata["posterior"]["label"].values[0]
    assert (label[:, y >= 0] == y[y >= 0].numpy()).all()
    with pytest.raises(Refused, match="not every latent of this model belongs to a row"):
        done.evidence(particles=10)


def test_a_step_that_sees_some_of_the_labels_is_recorded():
    problem, sizes = problem_of("ssvae", **SMALL | {"n": 200, "labels": 150}), []
    program = Program(problem)
    chosen = resolve("own", program)
    with store(), warnings.catch_warnings():
        warnings.simplefilter("error")  # that it runs untraced
        settings = AscentSettings(steps=1, batch_size=20)
        parts = batches(problem, 20)
        gradient, _ = gradient_of(program, chosen, settings, [next(parts), next(parts)])
        for _ in range(4):
            _, slope = gradient(*next(parts))
            sizes.append(float(slope.norm()))
    assert len(set(sizes)) == 4 and np.isfinite(sizes).all()


@pytest.mark.slow
def test_images_without_labels_help():
    """On digits with 50 labels, well beyond the 2 points that 360 test images leave open."""
    asked = {"labels": 50, "steps": 6000, "hidden": "100"}
    with_them = zoo.run("ssvae", **asked).metrics["accuracy"]
    alone = zoo.run("ssvae", guide="supervised", **asked).metrics["accuracy"]
    assert with_them > alone + 0.04


def test_a_decoder_is_taken_as_it_is(tmp_path):
    done = zoo.run("ssvae", **SMALL, alpha=1.0, steps=50, draws=20, rows=10, out=tmp_path)
    more = zoo.run("ssvae", method="map", init=done, out=tmp_path)
    assert torch.equal(
        torch.as_tensor(more.params["decoder.label"]),
        torch.as_tensor(done.params["decoder.label"]),
    )


def test_particles_do_not_change_what_is_trained():
    problem = problem_of("ssvae", **SMALL, binarise="static")
    values = {}
    for particles in (1, 4):
        torch.manual_seed(0)  # parameters are made at random
        with store():
            program = Program(problem)
            chosen = resolve("own", program)
            settings = AscentSettings(steps=10, particles=particles)
            gradient, _ = gradient_of(program, chosen, settings, [[], []])
            values[particles] = torch.stack([gradient()[0] for _ in range(200)])
    error = (values[1].var() / 200 + values[4].var() / 200).sqrt()
    assert abs(values[1].mean() - values[4].mean()) < 5 * error
