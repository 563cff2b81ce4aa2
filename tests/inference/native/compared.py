"""Operations in C compared with torch's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from inference.native.parts import in_c
from inference.program.record import record

Functions = Mapping[str, Callable[..., Tensor]]
# Zeros, small and large numbers, and what is none.
ODD = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1e-320, 1e-30, 30.0, -30.0, 750.0, -750.0, 1e300]
ODD += [float("inf"), -float("inf"), float("nan")]


def agree(functions: Functions, *inputs: Tensor, within: float) -> None:
    """Each function gives in C what torch gives, to a relative and absolute error."""

    def all_of(*inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(function(*inputs) for function in functions.values())

    native = in_c(record(all_of, inputs), inputs).whole
    assert native is not None
    for name, ours, theirs in zip(functions, native(*inputs), all_of(*inputs), strict=True):
        same = {"rtol": within, "atol": within, "equal_nan": True}
        torch.testing.assert_close(ours, theirs, **same, msg=lambda m, n=name: f"{n}: {m}")


def matrix(laid: str) -> Tensor:
    """A matrix (3, 4) whose `rows` or `columns` lie one element after another."""
    torch.manual_seed(0)
    return torch.randn(3, 4) if laid == "rows" else torch.randn(4, 3).T


def gradient(function: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    """The gradient of the sum of a function's elements."""

    def slope(x: Tensor) -> Tensor:
        at = x.detach().requires_grad_()
        value = function(at).sum() + 0 * at.sum()  # some are flat
        return torch.autograd.grad(value, at, materialize_grads=True)[0]

    return slope
