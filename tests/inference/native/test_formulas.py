"""Numbers and formulas in C."""

from __future__ import annotations

import math

import pytest
import torch

from inference.native.formulas import apply, literal
from inference.native.loops import Step, Steps


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (0.1, torch.float64, "(double)0.1"),
        (2, torch.float32, "(float)2.0"),
        (True, torch.bool, "1"),
        (-3, torch.int64, "-3"),
        (math.inf, torch.float64, "(__builtin_inf())"),
        (-math.inf, torch.float64, "(-__builtin_inf())"),
        (math.nan, torch.float64, '__builtin_nan("")'),
    ],
)
def test_a_number_in_c(value, dtype, text):
    assert literal(value, dtype) == text


def test_a_formula_of_an_array_and_a_number():
    steps = Steps()
    x, out = (steps.new(torch.float32, (3,)) for _ in range(2))
    apply(steps, out, "exp@@({0}) + {1}", x, 0.5)
    (step,) = steps.steps
    assert isinstance(step, Step)
    assert step.body(lambda _: ["i"]) == "t1[i] = (expf(t0[i]) + (float)0.5);"
