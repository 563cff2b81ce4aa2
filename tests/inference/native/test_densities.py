"""The densities of Pyro's distributions are compiled wholly, and their gradients.

Left out are those whose code asks for values as it goes: of a mixture of scales, with missing
numbers, sine-skewed, stable, Wishart.
"""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pytest
import torch
from compared import agree
from densities import CONSTRAINTS, COUNTED, MATRICES, SMOOTH, TRANSFORMS, Made, constrained, value
from torch import Tensor

# Distributions that have no batches of this kind.
SINGLE = {
    "MixtureOfDiagNormals",
    "MixtureOfDiagNormalsSharedCovariance",
    "OMTMultivariateNormal",
    "GaussianHMM",
}


def flat(*parts: Tensor) -> Tensor:
    return torch.cat([part.detach().flatten() for part in parts])


def slopes(total: Tensor, *at: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(total, at, allow_unused=True, materialize_grads=True)


def density(made: Made, drawn: Tensor, smooth: bool) -> Callable[..., Tensor]:
    """Log density and gradient, in the value too if it varies: a function of a, b and 1."""

    def function(a: Tensor, b: Tensor, one: Tensor) -> Tensor:
        x = drawn * one if smooth else drawn
        a, b, x = (t.detach().requires_grad_(t.is_floating_point()) for t in (a, b, x))
        log = made(a, b).log_prob(x)
        return flat(log, *slopes(log.sum() + 0 * a.sum(), *((a, b, x) if smooth else (a, b))))

    return function


@pytest.mark.parametrize("name", [*SMOOTH, *COUNTED])
def test_density(name):
    compare(name, (3,), (3,))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SMOOTH, *COUNTED])
@pytest.mark.parametrize("shapes", [((2, 3), (3,)), ((1, 3), (4, 3))], ids=str)
def test_density_of_a_batch(name, shapes):
    if name not in SINGLE:
        compare(name, *shapes)


def compare(name: str, *shapes: tuple[int, ...]) -> None:
    """A density and its gradient at a point, and at one further from zero."""
    torch.manual_seed(0)
    a, b = (torch.randn(shape) / 2 for shape in shapes)
    made, smooth = (SMOOTH | COUNTED)[name], name in SMOOTH
    with pyro.validation_enabled(False):
        function = {name: density(made, value(made(a, b)), smooth)}
        agree(function, a, b, torch.tensor(1.0), within=1e-9)
        agree(function, 2 * a, b - 1, torch.tensor(1.0), within=1e-8)


@pytest.mark.parametrize("shape", [(3,), (2, 3)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_constraints(shape, scale):
    torch.manual_seed(0)

    def volume(name: str) -> Callable[[Tensor], Tensor]:
        def function(x: Tensor) -> Tensor:
            x = x.expand(3, *x.shape).movedim(0, -2) if name in MATRICES else x
            x = x.detach().requires_grad_()
            y, log = constrained(name)(x)
            return flat(y, log, *slopes(y.square().sum() + log.sum() + 0 * x.sum(), x))

        return function

    functions = {name: volume(name) for name in CONSTRAINTS}
    agree(functions, scale * torch.randn(shape), within=1e-9)


def test_transforms():
    torch.manual_seed(0)

    def volume(made: Callable) -> Callable[..., Tensor]:
        def function(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
            a, b, x = (t.detach().requires_grad_() for t in (a, b, x))
            transform = made(a, b)
            y = transform(x)
            log = transform.log_abs_det_jacobian(x, y)
            return flat(y, log, *slopes(y.square().sum() + log.sum() + 0 * x.sum(), a, b, x))

        return function

    functions = {name: volume(made) for name, made in TRANSFORMS.items()}
    agree(functions, *torch.randn(3, 3), within=1e-10)
