"""Graphs that are compiled in part: torch does the rest, in the right order."""

from __future__ import annotations

import pickle

import pytest
import torch
import torch.nn.functional as F

from inference.native.formulas import Unknown
from inference.native.parts import in_c
from inference.program.graphs import faster
from inference.program.record import record

X = torch.linspace(-2, 2, 12, dtype=torch.float64).view(3, 4)


def compiled(function, *inputs):
    found = in_c(record(function, inputs), inputs)
    if found.whole is not None:
        return found, found.whole
    return found, lambda *arguments: found.graph(*arguments, *found.functions)


def same(function, *inputs):
    """The compiled graph, which gives what the function gives with the same random numbers."""
    found, run = compiled(function, *inputs)
    for seed in range(3):
        torch.manual_seed(seed)
        expected = function(*inputs)
        torch.manual_seed(seed)
        for ours, theirs in zip(run(*inputs), expected, strict=False):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    return found


def test_all_of_it_is_one_function():
    found = same(lambda x: ((x.T.exp() @ x).sum(0), x * 2, x.T), X)
    assert found.whole is not None and found.by_torch == []


def test_one_array_may_be_given_several_times():
    found = same(lambda x: ((y := x.exp()), y + 0, y), X)
    assert found.whole is not None and len(found.whole(X)) == 3


def test_what_has_no_form_lies_between_two_functions():
    found = same(lambda x: (x.exp().sort().values.log() + x,), X)
    assert len(found.functions) == 2 and found.by_torch == ["aten.sort.default"]


def test_random_numbers_are_torchs_and_in_their_order():
    def drawn(x):
        noise = torch.randn_like(x)
        z = x + noise.exp()
        mask = torch.bernoulli(z.sigmoid())
        unused = torch.rand(3)  # noqa: F841
        return (z * mask + torch.empty_like(x).normal_(), (z * torch.rand(3, 1)).sum())

    found = same(drawn, X)
    assert found.by_torch == [] and len(found.functions) == 2


def test_draws_before_all_else_leave_one_function():
    found = same(lambda x: ((x.exp() * torch.randn_like(x)).tanh() * (torch.rand(4) < 0.5),), X)
    assert len(found.functions) == 1


def test_views_cross_from_one_side_to_the_other():
    def crossing(x):
        turned = x.exp().T
        first, second = turned.sort(0).values.split(2, 0)
        return (turned[1:].sort(1).values + first[0, 0], second.T @ second, turned)

    same(crossing, X)


def test_memory_that_torch_fills_torch_makes():
    found = same(lambda x: (torch.zeros(3, 4).bernoulli_(0.5).mul_(2) * x.exp(),), X)
    assert len(found.functions) == 1


def test_a_change_in_place_between_the_two_is_left_to_torch():
    def changed(x):
        y = x.exp()
        before = y.sort().values
        y.add_(1)
        return (before + y,)

    same(lambda x: (x.exp().sort().values.add_(x.exp()),), X)
    with pytest.raises(Unknown, match="changed in place"):
        compiled(changed, X)
    torch.testing.assert_close(faster(changed, [(X,)])(X), changed(X))


def test_nothing_to_compile():
    with pytest.raises(Unknown):
        compiled(lambda x: (x.sort().values,), X)


def test_convolutions_and_their_gradients():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 1, 8, 8), torch.randn(3, 1, 3, 3)

    def gradient(x, weight):
        weight = weight.detach().requires_grad_()
        value = F.softplus(F.conv2d(x, weight, padding=1)).square().sum()
        return value.detach(), *torch.autograd.grad(value, [weight])

    found = same(gradient, x, weight)
    assert any("convolution" in name for name in found.by_torch)


def test_it_can_be_sent_to_another_process():
    run = faster(lambda x: (x.exp().sort().values.log() * 2,), [(X,)])
    assert run.is_native
    torch.testing.assert_close(pickle.loads(pickle.dumps(run))(X), run(X))
