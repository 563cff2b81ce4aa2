"""The log probability of bits: torch's own values and slopes, by fewer operations."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F

from inference.program.bits import Bits
from inference.program.record import record


def example(dtype, n=2000):
    torch.manual_seed(0)
    logits = (torch.randn(n, dtype=dtype) * 20).requires_grad_()
    return logits, (torch.rand(n) > 0.5).to(dtype)


def log_prob(logits, bits):
    return torch.func.vmap(lambda odds, b: dist.Bernoulli(logits=odds).log_prob(b))(logits, bits)


def value_and_slope(logits, bits, weights):
    value = (weights * log_prob(logits, bits)).sum()
    return value, torch.autograd.grad(value, logits)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_slopes_are_those_of_torch(dtype):
    logits, bits = example(dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    weights = torch.linspace(-1, 1, len(bits), dtype=dtype)
    own = value_and_slope(logits, bits, weights)
    with Bits():
        ours = value_and_slope(logits, bits, weights)
    assert torch.allclose(ours[0], own[0], rtol=tolerance)
    assert torch.allclose(ours[1], own[1], atol=tolerance)


def test_log_odds_of_any_size():
    logits = torch.tensor([-1000.0, -90.0, 0.0, 90.0, 1000.0]).repeat(500)
    for bit in (0.0, 1.0):
        bits = torch.full_like(logits, bit)
        with Bits():
            ours = log_prob(logits, bits)
        assert torch.allclose(ours, dist.Bernoulli(logits=logits).log_prob(bits), atol=1e-5)


def operations(logits, bits):
    def density(bits):
        with Bits():
            batched = torch.func.vmap(lambda b: dist.Bernoulli(logits=logits).log_prob(b).sum())
            return (batched(bits),)

    nodes = record(density, [bits], live=[logits]).graph.nodes
    return [node for node in nodes if node.op == "call_function"]


def test_batched_by_vmap_they_stay_few():
    logits = torch.randn(10)
    assert len(operations(logits, (torch.rand(4, 10) > 0.5).float())) < 8


def test_what_is_not_asked_for_is_left_alone():
    logits, bits = example(torch.float64)
    mean = F.binary_cross_entropy_with_logits(logits, bits)
    weighted = F.binary_cross_entropy_with_logits(logits, bits, weight=bits, reduction="none")
    with Bits():
        assert mean == F.binary_cross_entropy_with_logits(logits, bits)
        again = F.binary_cross_entropy_with_logits(logits, bits, weight=bits, reduction="none")
    assert torch.equal(again, weighted)
