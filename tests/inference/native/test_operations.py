"""Torch's operations are found in the table, those in place as the plain ones."""

from __future__ import annotations

import pytest
import torch
from compared import agree, matrix

from inference.native.formulas import Unknown
from inference.native.operations import operation

aten = torch.ops.aten


def test_one_in_place_is_the_plain_one():
    agree({"change": lambda x: (x * 1).masked_fill_(x > 0, 2.0).add_(x)}, matrix("rows"), within=0)


def test_what_has_no_form_is_named():
    with pytest.raises(Unknown, match=r"aten\.sort"):
        operation(aten.sort.default)
