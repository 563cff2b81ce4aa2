"""What torch tells of its operations, and of the memory of tensors."""

from __future__ import annotations

import operator

import torch

from inference.native.aten import address, is_random, plain, tensors

aten = torch.ops.aten


def test_tensors_are_found_in_lists_and_views_share_an_address():
    x = torch.arange(6.0)
    assert [t.shape for t in tensors(([x, 2], {"a": x[:2]}))] == [(6,), (2,)]
    assert address(x) == address(x[2:]) != address(x.clone())


def test_random_operations_and_plain_ones_are_told():
    assert is_random(aten.randn.default) and is_random(aten.bernoulli_.float)
    assert not is_random(aten.exp.default) and not is_random(operator.getitem)
    assert plain(aten.squeeze_.dim) is aten.squeeze.dim
    assert plain(aten.exp.default) is aten.exp.default
