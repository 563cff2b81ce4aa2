"""First derivatives of functions of a vector: by autograd, by differences, or known already."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def value_and_grad(function: Callable[[Tensor], Tensor], u: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient of a scalar function at `u`, both detached."""
    u = u.detach().requires_grad_()
    value = function(u)
    (gradient,) = torch.autograd.grad(value, u)
    return value.detach(), gradient


def difference(
    function: Callable[[Tensor], Tensor], u: Tensor, way: Tensor, slope: float, error: float
) -> float:
    """The central difference of a function at `u` along `way`, of the first step that agrees.

    A kink within a step (an absolute value, a rectifier) spoils the larger ones, rounding the
    smallest; both errors together are least at about the cube root of the rounding unit.

    Args:
        function: of `u` (d,), a scalar.
        u: where.
        way: a direction (d,).
        slope: the derivative that it should equal.
        error: by which it may differ.
    """
    numeric, usual = math.nan, 1.65 * torch.finfo(u.dtype).eps ** (1 / 3)
    for step in (usual, 10 * usual, usual / 10):
        with torch.no_grad():
            rise = function(u + step * way) - function(u - step * way)
        numeric = float(rise) / (2 * step)
        if abs(numeric - slope) <= error:
            break
    return numeric


class Differentiable(torch.autograd.Function):
    """A value whose gradient is already known, as autograd sees it."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, pair: Callable) -> Tensor:
        value, gradient = pair(u)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None
