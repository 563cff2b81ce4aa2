"""The residual network of latent depth: posterior, objectives, guides, exits, simulated steps."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pyro
import pytest
import torch
from conftest import problem_of
from pyro import poutine

import zoo
from inference.core.problem import Fit
from inference.methods.guides import resolve
from inference.networks.weights import Points
from inference.program.handlers import Batch, Weighted
from inference.program.program import Program
from inference.results.groups import draws_alone
from models import resnet
from models.contract import Data, Refused, View
from models.data.classified import classified
from models.data.images import Images
from models.parts import depths
from models.parts.residual import Residual, once

SMALL = {"n": 40, "layers": 3, "width": 4}
LAYERS = SMALL["layers"]


def weights(problem, seed=0):
    """Weights of the model, scores far enough apart to tell depths from each other."""
    torch.manual_seed(seed)
    return {s.name: torch.randn(s.shape) * 0.7 for s in Program(problem).of("latent")}


def dense(x, w, name):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def network(problem, values, depth):
    """Log probabilities of the classes after so many blocks, as NumPy has it."""
    w = {name.removeprefix("net."): value.numpy() for name, value in values.items()}
    h = problem.tensors["x"].numpy() @ w["stem.weight"].T + w["stem.bias"]
    for i in range(depth):
        inner = np.maximum(h, 0) @ w[f"blocks.{i}.inner.weight"].T + w[f"blocks.{i}.inner.bias"]
        h = (
            h
            + np.maximum(inner, 0) @ w[f"blocks.{i}.outer.weight"].T
            + w[f"blocks.{i}.outer.bias"]
        )
    scores = np.maximum(h, 0) @ w["heads.0.weight"].T + w["heads.0.bias"]
    scores = scores - scores.max(1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(1, keepdims=True))


def log_terms(problem, values, ratio=0.7, layers=LAYERS):
    """log p(z) p(y | x, z), (layers + 1, n), one forward pass for each depth."""
    p = ratio ** np.arange(layers + 1)
    y = problem.tensors["y"].numpy()
    rows = [network(problem, values, k)[np.arange(len(y)), y] for k in range(layers + 1)]
    return np.stack(rows) + np.log(p / p.sum())[:, None]


def test_the_depth_is_summed_out_as_by_brute_force():
    problem = problem_of("resnet", "moons", **SMALL)
    values, program = weights(problem), Program(problem)
    found = program.log_likelihood(values)["y"]
    truth = np.log(np.exp(log_terms(problem, values)).sum(0))
    np.testing.assert_allclose(found, truth, rtol=1e-10)


def test_the_posterior_of_the_depth_is_bayes_rule(monkeypatch):
    problem = problem_of("resnet", "moons", **SMALL)
    values = weights(problem)
    data = classified("moons", n=SMALL["n"])
    draws = {name: value.numpy()[None] for name, value in values.items()}
    options = {**SMALL, "heads": "shared", "ratio": 0.7, "cost": None, "depth": "latent"}
    view = View(data=data, draws=draws, guide="enumerated", options=options)
    net = resnet.trained(view)
    logs = log_terms(problem, values)
    truth = np.exp(logs)
    np.testing.assert_allclose(net.posterior, truth / truth.sum(0), atol=1e-6)
    np.testing.assert_allclose(net.posterior.sum(0), 1, atol=1e-12)
    monkeypatch.setattr(depths, "_ROWS", 7)  # some rows at once
    again = resnet.trained(view)
    torch.testing.assert_close(again.posterior, net.posterior)
    x, _ = net.rows(data.tensors)
    torch.testing.assert_close(
        again.chances(x)[0].log()[:, :, 0], net.net(x)[1].log_softmax(-1)[..., 0]
    )
    of_all = resnet.trained(replace(view, guide="same_marginal")).posterior
    log_z = np.log(0.7 ** np.arange(LAYERS + 1) / (0.7 ** np.arange(LAYERS + 1)).sum())
    together = np.exp((logs - log_z[:, None]).sum(1) + log_z)
    np.testing.assert_allclose(of_all[:, 0], together / together.sum(), atol=1e-6)
    assert (of_all == of_all[:, :1]).all()
    # Summed over y, p(y, z | x) is the prior of z, whatever x is: the slide's draw. So is the
    # average of p(z | x, y) over the labels that the network itself predicts.
    chances, _ = net.chances(x)
    joint = net.log_prior.exp()[:, None, None] * chances
    averaged = (joint / joint.sum(0) * joint.sum(0)).sum(-1)
    for of_depth in (joint.sum(-1), averaged):
        torch.testing.assert_close(of_depth, net.log_prior.exp()[:, None].expand_as(of_depth))
    assert net.posterior.std(1).max() > 0.05


# -- what q is trained by ----------------------------------------------------------------------


def terms(rows=30):
    """log q(z | x), log p(z), log p(y | x, z) of some rows, (L + 1, rows); of q its log odds."""
    torch.manual_seed(1)
    logits = torch.randn(LAYERS, rows)
    log_z = resnet.prior_of(LAYERS, 0.6, None)[:, None].expand(-1, rows)
    return logits, log_z, -3 * torch.rand(LAYERS + 1, rows)


def by_hand(share):
    """q(z) from the chances of stopping (L, n), as the products are written."""
    left, found = np.ones(share.shape[1]), []
    for s in [*share, np.ones(share.shape[1])]:
        found.append(left * s)
        left = left * (1 - s)
    return np.stack(found)


def test_objectives_of_rows_against_numpy(monkeypatch):
    data, (logits, log_z, log_y) = classified("moons", n=30), terms()
    q = by_hand(1 / (1 + np.exp(-logits.numpy())))
    kl = (q * (np.log(q) - log_z.numpy())).sum()
    told = (q * log_y.numpy()).sum()
    log_q = resnet.halting(logits)
    assert float(resnet.Enumerated(data).of_rows(log_q, log_z, log_y)) == pytest.approx(told - kl)
    ponder = float(resnet.Ponder(data).of_rows(log_q, log_z, log_y))
    assert ponder == pytest.approx(told - 0.01 * kl)
    uniform = torch.rand(logits.shape)
    monkeypatch.setattr(torch, "rand_like", lambda like: uniform)
    noisy = (logits + uniform.log() - (1 - uniform).log()).numpy()
    relaxed = by_hand(1 / (1 + np.exp(-noisy / (2 / 3))))
    found = float(resnet.Concrete(data).of_rows(log_q, log_z, log_y))
    assert found == pytest.approx((relaxed * log_y.numpy()).sum() - kl)
    assert found != pytest.approx(told - kl)


def test_the_baseline_of_reinforce_lessens_its_noise_and_leaves_its_mean():
    data, (logits, log_z, log_y) = classified("moons", n=30), terms()

    def slope(value):
        at = logits.clone().requires_grad_()
        return torch.autograd.grad(value(resnet.halting(at)), at)[0]

    def bare(log_q):
        z = torch.distributions.Categorical(logits=log_q.detach().T).sample()[None]
        at, gain = log_q.gather(0, z)[0], (log_y + log_z - log_q.detach()).gather(0, z)[0]
        return (at * gain).sum()

    reinforce = resnet.Reinforce(data)
    exact = slope(lambda log_q: resnet.Enumerated(data).of_rows(log_q, log_z, log_y))
    ours = torch.stack([slope(lambda q: reinforce.of_rows(q, log_z, log_y)) for _ in range(1000)])
    plain = torch.stack([slope(bare) for _ in range(1000)])
    error = ours.std(0) / 1000**0.5
    assert ((ours.mean(0) - exact).abs() < 4.5 * error).all()
    assert ours.var(0).sum() < 0.5 * plain.var(0).sum()


def test_a_cost_is_the_log_of_the_ratio():
    p = resnet.prior_of(LAYERS, 0.7, 0.5).exp()
    np.testing.assert_allclose(p[1:] / p[:-1], np.exp(-0.5))
    np.testing.assert_allclose(p.sum(), 1)
    with pytest.raises(Refused, match="ratio and cost both"):
        zoo.run("resnet", data="moons", **SMALL, cost=0.5, ratio=0.5)


def test_large_images_have_blocks_of_convolutions():
    image = Images(height=28, width=28, classes=10)
    x, classes = torch.zeros(2, 784), tuple(map(str, range(10)))
    data = Data(tensors={"x": x}, coords={"class": classes}, scaling=image, source="made")
    net = resnet.network(data, 2, 3, "each")
    assert net.image == (28, 28) and len(net.heads) == 3 and net.begin(x).shape == (2, 3, 7, 7)
    small = replace(
        data, tensors={"x": torch.zeros(2, 64)}, scaling=Images(height=8, width=8, classes=10)
    )
    assert resnet.network(small, 2, 3, "shared").image is None


def objective_of(problem, guide, draws=1, seed=0, batch=None):
    """Estimates of the objective of an own guide at its start, and the weights there."""
    chosen = resolve(guide, Program(problem))
    tensors = (
        problem.tensors if batch is None else {k: v[:batch] for k, v in problem.tensors.items()}
    )
    part = Batch.of(problem, tensors)
    with pyro.get_param_store().scope(), torch.no_grad():
        torch.manual_seed(seed)
        poutine.trace(chosen.guide).get_trace(**tensors)
        store = pyro.get_param_store()
        values = {k.removesuffix(".loc"): v for k, v in store.items() if k.endswith(".loc")}
        model, guide = Weighted(part)(problem.model), Weighted(part)(chosen.guide)
        found = [float(chosen.objective(model, guide, tensors)) for _ in range(draws)]
    return np.array(found), {k: v.detach() for k, v in values.items()}


def test_guide_and_model_share_a_pass_of_the_network(monkeypatch):
    passes, passed = [], Residual._passed
    monkeypatch.setattr(Residual, "_passed", lambda net, x: passes.append(1) or passed(net, x))
    problem = problem_of("resnet", "moons", **SMALL)
    found, counts = [], []
    for together in (once, nullcontext):
        monkeypatch.setattr(resnet, "once", together)
        for draws in (1, 11):
            passes.clear()
            found.append(objective_of(problem, "enumerated", draws=draws)[0][0])
            counts.append(len(passes))
    assert counts[1] - counts[0] == 10 and counts[3] - counts[2] == 20
    assert len(set(found)) == 1
    # Other weights, or other rows, are another pass.
    net = Residual(2, 2, layers=1, width=3)
    with once(), torch.no_grad():
        x = torch.randn(5, 2)
        first, _ = net(x)
        assert net(x)[0] is first and net(x.clone())[0] is not first
        other = {"stem.bias": net.stem.bias + 1}
        assert not torch.equal(torch.func.functional_call(net, other, (x,))[0], first)


def log_prior(problem, values):
    return sum(float(s.fn.log_prob(values[s.name]).sum()) for s in Program(problem).of("latent"))


def test_the_elbo_against_numpy_and_below_the_marginal_likelihood():
    problem = problem_of("resnet", "moons", **SMALL)
    (elbo,), values = objective_of(problem, "enumerated")
    terms = log_terms(problem, values)
    prior = resnet.prior_of(LAYERS, 0.7, None).exp().numpy()[:, None]
    of_rows = (prior * (terms - np.log(prior))).sum()  # q begins as the prior
    assert elbo == pytest.approx(of_rows + log_prior(problem, values), rel=1e-6)
    (marginal,), _ = objective_of(problem, "marginal")
    truth = np.log(np.exp(terms).sum(0)).sum() + log_prior(problem, values)
    assert marginal == pytest.approx(truth, rel=1e-6)
    assert elbo < marginal


def test_one_depth_for_all_rows_against_numpy():
    problem = problem_of("resnet", "moons", **SMALL)
    prior = resnet.prior_of(LAYERS, 0.7, None).numpy()
    (elbo,), values = objective_of(problem, "same")
    # Of each depth: log p(z) once, and log p(y | x, z) of all rows.
    of_all = log_terms(problem, values).sum(1) - (SMALL["n"] - 1) * prior
    rest = log_prior(problem, values)
    assert elbo == pytest.approx((np.exp(prior) * (of_all - prior)).sum() + rest, rel=1e-6)
    (marginal,), _ = objective_of(problem, "same_marginal")
    assert marginal == pytest.approx(np.logaddexp.reduce(of_all) + rest, rel=1e-6)
    assert elbo < marginal
    parts = [objective_of(problem, "same_marginal", batch=10)[0] for _ in range(2)]
    assert parts[0] == parts[1] != marginal


def test_no_q_brings_the_elbo_above_the_marginal_likelihood_and_the_exact_one_there():
    problem = problem_of("resnet", "moons", **SMALL)
    terms = torch.as_tensor(log_terms(problem, weights(problem)))
    log_z = resnet.prior_of(LAYERS, 0.7, None)[:, None].expand_as(terms)
    log_y, data = terms - log_z, classified("moons", n=SMALL["n"])
    marginal = float(resnet.Marginal(data).of_rows(terms, log_z, log_y))
    elbo = resnet.Enumerated(data).of_rows
    for seed in range(20):
        torch.manual_seed(seed)
        assert float(elbo((3 * torch.randn_like(terms)).log_softmax(0), log_z, log_y)) < marginal
    exact = terms - terms.logsumexp(0)
    assert float(elbo(exact, log_z, log_y)) == pytest.approx(marginal, rel=1e-10)


def test_a_batch_stands_for_all_rows():
    problem = problem_of("resnet", "moons", **SMALL)
    (whole,), values = objective_of(problem, "enumerated")
    (part,), _ = objective_of(problem, "enumerated", batch=10)
    rest = log_prior(problem, values)
    of_part = log_terms(problem.first(10), values)
    prior = resnet.prior_of(LAYERS, 0.7, None).exp().numpy()[:, None]
    assert part == pytest.approx(4 * (prior * (of_part - np.log(prior))).sum() + rest, rel=1e-6)
    assert whole != part


def test_reinforce_estimates_the_elbo():
    problem = problem_of("resnet", "moons", **SMALL)
    (truth,), _ = objective_of(problem, "enumerated")
    found, _ = objective_of(problem, "reinforce", draws=400)
    assert abs(found.mean() - truth) < 4 * found.std(ddof=1) / 20
    assert found.std() > 0


def test_map_sums_the_depth_out():
    problem = problem_of("resnet", "moons", **SMALL)
    program, values = Program(problem), weights(problem)
    points = Points(program, program.start_of)
    found = float(points.score(problem.model, problem.tensors, values))
    assert found == pytest.approx(float(program.log_joint(values, Batch(problem.tensors))))
    terms = log_terms(problem, values)
    assert found == pytest.approx(
        np.log(np.exp(terms).sum(0)).sum() + log_prior(problem, values), rel=1e-8
    )


def test_layers_that_no_float32_can_price_leave_every_row_at_the_stem():
    run = zoo.run("resnet", data="moons", **SMALL, steps=30, cost=1000)
    assert run.metrics["depth_train"] == 0 and run.metrics["depth_used"] == 1
    assert run.metrics["layers[sample]"] == run.metrics["layers[joint_mode]"] == 0


def test_one_class_is_learned_but_by_mle():
    rng = np.random.default_rng(0)
    table = {"a": rng.normal(size=20), "b": rng.normal(size=20), "kind": ["cat"] * 20}
    run = zoo.run("resnet", data=table, target="kind", layers=2, width=4, steps=30)
    assert run.metrics["accuracy"] == 1 and run.metrics["log_score[sure]"] == 0
    with pytest.raises(Refused, match="one class only"):
        zoo.run("resnet", method="mle", data=table, target="kind", layers=2, width=4)


def test_rows_that_are_all_at_one_depth_are_told():
    run = zoo.run("resnet", data="moons", **SMALL, steps=30, ratio=0.001)
    assert 1 <= run.metrics["depth_used"] < 1.1
    (finding,) = [f for f in run.verdict.findings if "one depth" in f.what]
    assert finding.level == "warn" and "(a mean of 0.0" in finding.what
    spread = zoo.run("resnet", data="moons", **SMALL, steps=30, ratio=1.0)
    assert 3.5 < spread.metrics["depth_used"] <= 4
    assert not any("one depth" in f.what for f in spread.verdict.findings)


@pytest.mark.parametrize("guide", list(resnet.ENTRY.inference.guides))
def test_every_guide_trains_and_its_exits_are_told(guide):
    run = zoo.run("resnet", data="moons", guide=guide, **SMALL, steps=30, batch_size=20)
    told = {k[9:-1] for k in run.metrics if k.startswith("accuracy[")}
    of_each = "enumerated", "reinforce", "concrete"
    by_q = {"average_q", "sample", "quantile", "mode"} if "marginal" not in guide else set()
    of_all = {"average_posterior"} if guide in ("same", "same_marginal") else set()
    gain = {"gain"} if guide in of_each else set()
    assert told == {"average", "joint_mode", "sure"} | by_q | of_all | gain
    doubts = [f.what for f in run.verdict.findings if "one for all rows" in f.what]
    assert len(doubts) == len(of_all)
    assert run.idata["posterior"].sizes["draw"] == 1
    stem, block, head = 2 * 4, 2 * 4 * 4, 4 * 2  # multiply-adds
    whole = stem + LAYERS * block
    looked = (whole + (LAYERS + 1) * head) / (whole + head)
    assert run.metrics["work[average]"] == pytest.approx(looked)
    if by_q:
        assert run.metrics["work[quantile]"] <= run.metrics["work[average_q]"]
    assert run.metrics["accuracy[average]"] == pytest.approx(run.metrics["accuracy"])


def test_the_guide_and_its_exits_read_the_same_q():
    run = zoo.run("resnet", data="moons", **SMALL, steps=30)
    found = resnet.of_run(run)
    x, _ = found.rows(run.data.test)
    store = {k: torch.as_tensor(v).to(x) for k, v in run.params.items()}
    weights = {k[4:-4]: v for k, v in store.items() if k.startswith("net.")}
    assert store["stop.weight"].abs().max() > 0.01
    with pyro.get_param_store().scope(), torch.no_grad():
        for name in ("stop.weight", "stop.bias"):
            pyro.param(name, store[name])
        of_guide = resnet.Halting(run.data, layers=LAYERS, width=SMALL["width"]).log_q(x, weights)
        # The same by hand: features, the chances of the two classes in order, their entropy.
        features, scores = found.net(x)
    p = scores.softmax(-1).sort(-1, descending=True).values
    signs = torch.cat([features, p, -(p * p.log()).sum(-1, keepdim=True)], -1)[:-1]
    share = torch.sigmoid(
        (signs * store["stop.weight"][:, None]).sum(-1) + run.params["stop.bias"][:, None]
    )
    left = torch.cat([torch.ones(1, len(x)), (1 - share).cumprod(0)])
    truth = left * torch.cat([share, torch.ones(1, len(x))])
    torch.testing.assert_close(of_guide.exp().to(truth), truth)
    torch.testing.assert_close(found.chances(x)[1].to(truth), truth)


def test_a_known_depth_is_the_ordinary_network():
    problem = problem_of("resnet", "moons", depth="all", **SMALL)
    values, y = weights(problem), problem.tensors["y"].numpy()
    found = Program(problem).log_likelihood(values)["y"]
    truth = network(problem, values, LAYERS)[np.arange(len(y)), y]
    np.testing.assert_allclose(found, truth, rtol=1e-10)
    run = zoo.run("resnet", data="moons", method="map", depth="all", **SMALL, steps=20)
    assert "accuracy" in run.metrics and "work[average]" not in run.metrics
    with pytest.raises(Refused, match="with depth=all z is known"):
        zoo.run("resnet", data="moons", depth="all", **SMALL)


def test_without_q_the_joint_mode_and_the_average_are_left():
    run = zoo.run("resnet", data="moons", method="map", **SMALL, steps=30)
    told = {k[9:-1] for k in run.metrics if k.startswith("accuracy[")}
    assert told == {"average", "joint_mode", "sure"}


def test_steps_of_the_tent_are_what_they_are_said_to_be():
    data = classified("tent", n=500)
    x, y = data.tensors["x"].numpy(), data.tensors["y"].numpy()
    u, steps = (x[:, :3] + 1) / 2, x[:, 3:].argmax(1)
    assert (steps == data.scaling.train).all() and set(steps) == {0, 1, 2, 3}
    for row in range(500):
        end = u[row]
        for _ in range(steps[row]):
            end = np.where(end < 0.5, 2 * end, 2 - 2 * end)
        assert y[row] == sum(2**i for i in range(3) if end[i] > 0.5)
    more = classified("tent", n=600)
    assert torch.equal(data.test["x"], more.test["x"])
    few = classified("tent", n=3)  # labels are what they are, whichever occur
    assert few.coords["class"] == data.coords["class"] == tuple("01234567")
    assert torch.equal(few.test["y"], data.test["y"]) and few.tensors["y"].shape == (3,)


def test_the_kept_draws_of_weights_and_depths_are_the_same_ones():
    problem = problem_of("resnet", "moons", **SMALL)
    program = Program(problem)
    of_weights = {s.name: torch.randn(240, *s.shape) for s in program.of("latent")}
    values = {k: v.unflatten(0, (2, 120)) for k, v in program.complete(of_weights).items()}
    posterior = draws_alone(program, Fit(draws=values, kind="chains"))["posterior"]
    assert posterior.sizes["draw"] == 40  # every third: some 100 of all chains
    for name, value in posterior.data_vars.items():
        assert np.array_equal(value, values[name][:, ::3])
    assert posterior["depth"].dtype == int


@pytest.mark.slow
def test_nuts_recovers_the_depth_that_enumeration_gives():
    """Given each draw of the weights, the depth of a row is a draw of p(z | x, y)."""
    asked = {"n": 60, "layers": 2, "width": 3}
    run = zoo.run(
        "resnet", method="nuts", data="moons", **asked, warmup=200, draws=200, progress=False
    )
    posterior = run.idata["posterior"].stack(sample=("chain", "draw"))
    depth = posterior["depth"].transpose("sample", ...).values
    values = {
        name: posterior[name].transpose("sample", ...).values
        for name in posterior.data_vars
        if name.startswith("net.")
    }
    problem = problem_of("resnet", "moons", **asked)
    truth = np.zeros((asked["layers"] + 1, asked["n"]))
    for draw in range(len(depth)):
        of_draw = {name: torch.as_tensor(value[draw]) for name, value in values.items()}
        terms = np.exp(log_terms(problem, of_draw, layers=asked["layers"]))
        truth += terms / terms.sum(0) / len(depth)
    found = np.stack([(depth == layer).mean(0) for layer in range(asked["layers"] + 1)])
    error = np.sqrt(truth * (1 - truth) / len(depth))  # given the weights, draws are independent
    assert (abs(found - truth) < 5 * error + 1e-9).all()
    assert ((found - truth) ** 2).sum() < 1.3 * (error**2).sum()
