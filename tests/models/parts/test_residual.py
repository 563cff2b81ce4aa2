"""Residual networks that can be left early: depths, halting and exits against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from models.parts.residual import Residual, geometric, halting, halting_logits, leave, signs

N, LAYERS = 200, 5
X = torch.randn(N, 144, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def network(heads="shared", image=None):
    torch.manual_seed(0)
    net = Residual(144, 3, layers=LAYERS, width=6, image=image, heads=heads)
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):  # large scores, for sure and unsure rows
            nn.init.normal_(module.weight, std=1.5 * module.weight[0].numel() ** -0.5)
    return net.double()


def one_depth(net, x, depth):
    """The scores of one depth by a forward pass of its own, blocks past it left out."""
    h = net.begin(x)
    for block in net.blocks[:depth]:
        h = h + block(h)
    h = torch.relu(h)
    if net.image is not None:  # 3 x 3, the middle ones are of both halves
        halves = [h[..., i : i + 2, j : j + 2].mean((2, 3)) for i in (0, 1) for j in (0, 1)]
        h = torch.stack(halves, -1).flatten(1)
    return net.heads[min(depth, len(net.heads) - 1)](h)


def stop(layer, signs):
    return signs[:, 0] - 0.5 + 0.1 * layer - signs[:, -1]


def stops(net, x):
    """Log odds of stopping after each layer but the last, (L, n)."""
    features, scores = net(x)
    p = scores.softmax(-1)
    first = p.sort(-1, descending=True).values[..., :2]
    told = torch.cat([features, first, torch.special.entr(p).sum(-1, keepdim=True)], -1)
    torch.testing.assert_close(signs(features, scores), told)
    return torch.stack([stop(layer, told[layer]) for layer in range(LAYERS)])


def q(net, x):
    """q(z = l), (n, L + 1), by the products as they are written."""
    share = [torch.sigmoid(logits) for logits in stops(net, x)]
    left, found = torch.ones(len(x), dtype=torch.float64), []
    for s in [*share, 1.0]:
        found.append(left * s)
        left = left * (1 - s)
    return torch.stack(found, 1).detach()


@pytest.mark.parametrize("image", [None, (12, 12)])
@pytest.mark.parametrize("heads", ["shared", "each"])
def test_all_depths_in_one_pass(heads, image):
    net = network(heads, image)
    features, scores = net(X)
    assert features.shape == (LAYERS + 1, N, 6 if image is None else 24) and scores.shape == (
        LAYERS + 1,
        N,
        3,
    )
    for depth in range(LAYERS + 1):
        torch.testing.assert_close(scores[depth], one_depth(net, X, depth))


def test_the_prior_is_geometric_and_sums_to_one():
    p = geometric(4, -np.log(0.3)).exp()
    assert p.sum() == pytest.approx(1)
    np.testing.assert_allclose(p[1:] / p[:-1], 0.3, rtol=1e-6)
    np.testing.assert_allclose(geometric(4, 0.0).exp(), 0.2)
    np.testing.assert_allclose(geometric(4, 1e3), -1e3 * np.arange(5))


def test_halting_is_stick_breaking():
    net = network()
    logits = stops(net, X)
    log_q = halting(logits)
    torch.testing.assert_close(log_q.exp().T.detach(), q(net, X))
    torch.testing.assert_close(halting_logits(log_q), logits)


def run(net, rule, **options):
    log_prior = geometric(LAYERS, -np.log(0.8))
    with torch.no_grad():
        return leave(net, X, rule, log_prior=log_prior, stop=stop, **options)


def assert_scores_are_those_of_their_depth(net, found):
    for depth in range(LAYERS + 1):
        at = found.depth == depth
        torch.testing.assert_close(found.logits[at], one_depth(net, X[at], depth).detach())


def test_images_of_no_whole_number_of_patches_are_filled_up():
    net = Residual(110, 3, layers=2, width=6, image=(10, 11))
    x = torch.zeros(1, 1, 12, 12)
    x[..., :10, :11] = torch.randn(10, 11)
    assert net.begin(x[..., :10, :11].flatten(1)).shape == (1, 6, 3, 3)
    torch.testing.assert_close(net.begin(x[..., :10, :11].flatten(1)), net.stem(x))


@pytest.mark.parametrize("image", [None, (12, 12)])
@pytest.mark.parametrize("heads", ["shared", "each"])
def test_the_joint_mode_is_that_of_brute_force(heads, image):
    net = network(heads, image)
    found = run(net, "joint_mode")
    _, scores = net(X)
    log_p = scores.log_softmax(-1) + geometric(LAYERS, -np.log(0.8))[:, None, None]
    best = log_p.permute(1, 0, 2).flatten(1).argmax(1)
    assert (found.depth == best // 3).all()
    assert (found.logits.argmax(1) == best % 3).all()
    assert_scores_are_those_of_their_depth(net, found)
    assert (found.layers >= found.depth).all()
    assert 0 < found.layers.double().mean() < LAYERS  # some stop early


@pytest.mark.parametrize("heads", ["shared", "each"])
def test_a_sure_exit_is_the_first_depth_that_is_sure_by_the_ratio(heads):
    net = network(heads)
    found = run(net, "sure")
    chances = net(X)[1].softmax(-1).amax(-1)
    chances[-1] = 1.0
    assert (found.depth == (chances >= 0.8).double().argmax(0)).all()
    assert (found.layers == found.depth).all()
    assert_scores_are_those_of_their_depth(net, found)
    assert 0 < found.layers.double().mean() < LAYERS


def test_the_mode_of_q_is_that_of_brute_force():
    net = network()
    found, of_q = run(net, "mode"), q(net, X)
    assert (found.depth == of_q.argmax(1)).all()
    behind = of_q.cumsum(1)
    first = (of_q.cummax(1).values >= 1 - behind + 1e-12).double().argmax(1)
    assert (found.layers == first).all()
    assert_scores_are_those_of_their_depth(net, found)


def test_the_quantile_is_the_first_depth_with_half_of_q_behind_it():
    net = network()
    found, of_q = run(net, "quantile"), q(net, X)
    assert (found.depth == (of_q.cumsum(1) >= 0.5).double().argmax(1)).all()
    assert (found.layers == found.depth).all()
    assert_scores_are_those_of_their_depth(net, found)


def test_it_goes_on_while_q_expects_more_than_a_layer_costs():
    """By the best q of a row, the log mean gain of what follows is what its log odds lack."""
    net, prior = network(), geometric(LAYERS, -np.log(0.8)).exp()
    found = run(net, "gain")
    of_prior = torch.stack([prior[k] / prior[k + 1 :].sum() for k in range(LAYERS)]).log()
    gain = of_prior[:, None] - stops(net, X)
    ends = torch.cat([gain <= -np.log(0.8), torch.ones(1, N, dtype=torch.bool)])
    assert (found.depth == ends.double().argmax(0)).all()
    assert (found.layers == found.depth).all()
    assert_scores_are_those_of_their_depth(net, found)
    assert 0 < found.layers.double().mean() < LAYERS
    # That it is the gain: of any log p(y | x, l), and the q that they and the prior make.
    log_y = torch.randn(LAYERS + 1, N, dtype=torch.float64, generator=torch.Generator())
    logits = halting_logits((log_y + prior.log()[:, None]).log_softmax(0))
    for k in range(LAYERS):
        after = prior[k + 1 :] / prior[k + 1 :].sum()
        mean = (after[:, None] * (log_y[k + 1 :] - log_y[k]).exp()).sum(0).log()
        torch.testing.assert_close(of_prior[k] - logits[k], mean)


def test_samples_are_from_q():
    net, of_q = network(), q(network(), X)
    rng, counts = torch.Generator().manual_seed(2), torch.zeros(N, LAYERS + 1)
    for _ in range(200):
        found = run(net, "sample", generator=rng)
        counts[torch.arange(N), found.depth] += 1
    error = (of_q * (1 - of_q) / 200 / N).sum(0).sqrt() / N**0.5
    away = ((counts / 200 - of_q).mean(0) / (error + 1e-9)).abs()
    assert away.max() < 4
    assert_scores_are_those_of_their_depth(net, found)


def test_blocks_past_the_exit_are_not_executed():
    net, seen = network(), []
    for block in net.blocks:
        block.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    found = run(net, "joint_mode")
    assert sum(seen) == found.layers.sum()
    assert seen == sorted(seen, reverse=True) and seen[0] < N


def test_multiply_adds_are_counted():
    assert network().multiply_adds(X) == (144 * 6, 2 * 6 * 6, 6 * 3)
    stem, block, head = network(image=(12, 12)).multiply_adds(X)
    assert (stem, block, head) == (16 * 6 * 9, 2 * 9 * 6 * 6 * 9, 24 * 3)
