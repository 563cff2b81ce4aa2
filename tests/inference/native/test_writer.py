"""What torch gives for examples tells views, layouts, and what has no form in C."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from inference.native.formulas import Unknown
from inference.native.writer import Writer, is_view, run_once
from inference.program.record import record


def graph_of(function, *inputs):
    return record(function, inputs)


def node_of(graph: fx.GraphModule, name: str) -> fx.Node:
    return next(node for node in graph.graph.nodes if name in str(node.target))


def test_views_are_told_from_copies():
    x = torch.randn(3, 4)
    graph = graph_of(lambda x: (x.T.exp() + x.split(2, 1)[1].sum(),), x)
    values, unknown = run_once(graph, [x])
    assert not unknown
    views = [str(node.target) for node in graph.graph.nodes if is_view(node, values)]
    assert "permute" in views[0] and any("split" in view for view in views)
    assert not is_view(node_of(graph, "exp"), values)
    assert values[node_of(graph, "exp")].is_contiguous()


def test_inputs_that_share_memory_now_may_not_later():
    flat = torch.randn(6)
    a, b = flat[:3], flat[3:]
    values, _ = run_once(graph_of(lambda a, b: (a + b,), a, b), [a, b])
    first, second = list(values.values())[:2]
    assert first.untyped_storage().data_ptr() != second.untyped_storage().data_ptr()


def test_random_draws_and_odd_types_have_no_form():
    x = torch.randn(3)
    graph = graph_of(lambda x: (x + torch.randn(3), x.half()), x)
    _, unknown = run_once(graph, [x])
    assert sorted(str(node.target) for node in unknown) == [
        "aten._to_copy.default",
        "aten.randn.default",
    ]
    with pytest.raises(Unknown, match="complex"):
        Writer({}).give(torch.zeros(2, dtype=torch.complex64))
