"""Recorded operations: what is folded, what is left out, what cannot be repeated."""

from __future__ import annotations

import pickle

import pytest
import torch

from inference.program.graphs import compiled
from inference.program.record import Unrecordable, record

U = torch.tensor([0.3, -0.7, 1.1])


def operations(module):
    """The names of a graph's operations."""
    return [node.target.__name__ for node in module.graph.nodes if node.op == "call_function"]


def test_what_no_input_reaches_is_folded_and_what_does_nothing_is_dropped():
    data = torch.arange(3.0)

    def function(u):
        scaled = u * (data.exp().sum() / data.exp().sum())  # times one
        shifted = scaled + torch.zeros_like(u)  # plus zero
        _ = u.cos()  # used by no one
        return (shifted.detach().view(3) + u.sin(),)

    module = record(function, [U])
    assert operations(module) == ["sin.default", "add.Tensor"]
    for u in (U, 5 * U):
        torch.testing.assert_close(module(u), function(u), rtol=0, atol=0)


def test_nothing_is_folded_through_what_is_written_to():
    def function(u):
        total = torch.zeros(3)
        view = total[1:]
        total.add_(u)  # a folded `total` would grow from call to call
        return (total * 1.0 + torch.cat([torch.zeros(1), view]),)

    module = record(function, [U])
    for u in (U, 2 * U, U):
        torch.testing.assert_close(module(u), function(u), rtol=0, atol=0)


def test_data_that_are_changed_in_place_cannot_be_recorded():
    counter = torch.zeros(3)

    def function(u):
        counter.add_(1)
        return (u * counter,)

    with pytest.raises(Unrecordable, match="in place"):
        record(function, [U])


def test_draws_that_nobody_uses_are_drawn():
    def function(u):
        (2 * torch.rand(5)).sum()
        torch.bernoulli(u.sigmoid())
        return (u + torch.rand(()), torch.rand(2))

    run = compiled(function, [(U,)])
    assert run is not function
    torch.manual_seed(3)
    ours = run(U)
    torch.manual_seed(3)
    torch.testing.assert_close(ours, function(U), rtol=0, atol=0)
    again = pickle.loads(pickle.dumps(run))
    assert len(again(U)) == 2


def test_a_folded_operation_may_be_repeated():
    def function(u):
        return (u + torch.zeros_like(u).cos() + torch.zeros_like(u).sin(),)

    module = record(function, [U])
    torch.testing.assert_close(module(2 * U), function(2 * U), rtol=0, atol=0)


def test_what_is_equal_only_for_now_is_not_dropped():
    def function(u):
        total = u.clone()
        kept = total * 1
        total.add_(1)
        return (kept + total, torch.add(torch.zeros(3), u, alpha=2), u.expand(2, 3) + 0.0)

    module = record(function, [U])
    torch.testing.assert_close(module(2 * U), function(2 * U), rtol=0, atol=0)
    assert module(U)[2].is_contiguous()


def test_a_view_made_in_place_is_a_view():
    def function(u):
        return ((u[None] * 2).squeeze_(0).unsqueeze_(1).t_() + 1,)

    graph = record(function, [U])
    names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert {"aten.squeeze.dim", "aten.unsqueeze.default", "aten.t.default"} <= set(names)
    run = compiled(function, [(U,)])
    torch.testing.assert_close(run(U), function(U), rtol=0, atol=0)
