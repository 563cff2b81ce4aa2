"""Random functions and their gradients give in C what torch gives: broadcasts, views, sums."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from inference.native.formulas import Unknown
from inference.native.parts import in_c
from inference.program.record import record


def changed(x: Tensor, change: Callable[[Tensor], object]) -> Tensor:
    """A copy, changed in place."""
    copy = x.clone()
    change(copy)
    return copy


def remainder(x: Tensor, step: float = 1.0) -> Tensor:
    """What is left of a division; of large numbers it would be rounding error."""
    return x.clamp(-99, 99) % step


def definite(x: Tensor) -> Tensor:
    """A well-conditioned symmetric matrix of the products of rows."""
    rows = F.normalize(x, dim=-1)
    return rows @ rows.mT + 2 * torch.eye(len(x))


# Arrays above this size are not worked on further, and those above the other not made larger.
MOST, SMALL = 5000, 400

ALONE = [
    *(torch.exp, torch.sin, torch.cos, torch.tanh, torch.sigmoid, torch.relu, torch.neg),
    *(torch.abs, torch.square, torch.erf, torch.atan, torch.expm1, torch.sign),
    *(F.softplus, F.logsigmoid, F.gelu, F.silu, F.elu, F.leaky_relu, F.hardtanh, remainder),
    *(torch.special.log_ndtr, torch.special.i0e, torch.special.i1e),
    lambda x: x**3,
    lambda x: (x.abs() + 0.1).log(),
    lambda x: (x.abs() + 0.1).sqrt(),
    lambda x: torch.log1p(x * x),
    lambda x: torch.lgamma(x.abs() + 0.3),
    lambda x: torch.digamma(x.abs() + 0.3),
    lambda x: torch.polygamma(2, x.abs() + 0.3),
    lambda x: torch.special.erfinv(x.tanh() * 0.9),
    lambda x: remainder(x, 1.7),
    lambda x: torch.nan_to_num(x, 0.5),
    lambda x: F.huber_loss(x, torch.zeros_like(x), reduction="none"),
    lambda x: changed(x, lambda y: y[..., :1].mul_(2) if y.ndim else y.add_(1)),
    lambda x: changed(x, lambda y: y.__setitem__(y > 0.5, 0.3)) if x.ndim else x,
    lambda x: x.clamp(-99, 99).to(torch.int64).remainder(3) * x,
    lambda x: x.clamp(-1, 1),
    lambda x: torch.where(x > 0, x, x * 2),
    lambda x: x.masked_fill(x < 0, 0.5),
    lambda x: x * 2.5 + 1,
    lambda x: 1 - x,
    lambda x: 1 / (1 + x * x),
    lambda x: x.clone().mul_(2).add_(x),
]
TOGETHER = [
    *(torch.add, torch.sub, torch.mul, torch.maximum, torch.minimum, torch.atan2),
    torch.logaddexp,
    *(torch.fmax, torch.copysign),
    lambda a, b: torch.lerp(a, b + 0 * a, 0.3),
    lambda a, b: a / (b * b + 1),
    lambda a, b: torch.where(a > b, a, b * 2),
    lambda a, b: torch.special.xlogy(a.abs(), b.abs() + 0.1),
    lambda a, b: F.binary_cross_entropy_with_logits(a + 0 * b, b + 0 * a, reduction="none"),
]
# Of arrays that have dimensions.
ALONG = [
    lambda x: x.sum(-1),
    lambda x: x.sum(0),
    torch.sum,
    lambda x: x.mean(0, keepdim=True),
    lambda x: x.logsumexp(-1),
    lambda x: x.logsumexp(0, keepdim=True),
    lambda x: x.amax(-1),
    lambda x: x.amin(0),
    lambda x: x.cumsum(-1),
    lambda x: x.tanh().cumprod(0),
    lambda x: x.tanh().prod(-1),
    lambda x: x.logcumsumexp(-1),
    lambda x: x.max(0).values,
    lambda x: x.min(-1, keepdim=True).values,
    lambda x: x.cummax(0).values,
    lambda x: x * x.argmax(0),
    lambda x: x.var(0) if len(x) > 1 else x,
    lambda x: x.std(-1, correction=0) + 1 if x.shape[-1] > 1 else x,
    lambda x: torch.linalg.vector_norm(x, dim=-1),
    lambda x: F.layer_norm(x, x.shape[-1:]) if x.shape[-1] > 2 else x,
    lambda x: F.pad(x, (1, 0)) if x.numel() < SMALL else x,
    lambda x: x.roll(1, 0),
    lambda x: x.diff(dim=0) if len(x) > 2 else x,
    lambda x: x[torch.arange(len(x)) % 3 != 1],
    lambda x: x.unfold(0, 2, 1) if len(x) > 2 and x.ndim < 3 and x.numel() < SMALL else x,
    lambda x: x.diagonal() if x.ndim == 2 else x,
    lambda x: torch.diag_embed(x) if x.ndim < 3 and x.numel() * x.shape[-1] < SMALL else x,
    lambda x: x.repeat(2, *[1] * (x.ndim - 1)) if x.numel() < SMALL else x,
    lambda x: x.T.contiguous().T[..., ::2] if x.ndim == 2 else x,
    lambda x: definite(x).logdet() if x.ndim == 2 and max(x.shape) < 6 else x,
    lambda x: torch.linalg.solve(definite(x), x) if x.ndim == 2 and max(x.shape) < 6 else x,
    lambda x: x.flip(0),
    lambda x: F.log_softmax(x, -1),
    lambda x: F.softmax(x, 0),
    lambda x: x.permute(*reversed(range(x.ndim))),
    lambda x: x.unsqueeze(-1) if x.ndim < 3 else x,
    torch.flatten,
    lambda x: x.reshape(-1, 1),
    lambda x: x[1:] if len(x) > 2 else x,
    lambda x: x[..., 0],
    lambda x: x[::2],
    lambda x: x.unbind(0)[0],
    lambda x: x.index_select(0, torch.tensor([0, 0])),
    lambda x: x[torch.tensor([0, -1])],
    lambda x: x.gather(0, torch.zeros_like(x, dtype=torch.long)),
    lambda x: x.tril() if x.ndim >= 2 else x,
    lambda x: torch.cat([x, x], 0) if x.numel() < SMALL else x,
    lambda x: torch.stack([x, x * 2], -1) if x.ndim < 3 and x.numel() < SMALL else x,
    lambda x: x.expand(3, *x.shape) if x.ndim < 3 and x.numel() < SMALL else x,
]


def product(a: Tensor, b: Tensor) -> Tensor:
    """A product of the two as matrices, whichever way they fit."""
    a = a if a.ndim == 2 else a.reshape(-1, 1)
    b = b if b.ndim == 2 else b.reshape(1, -1)
    if a.shape[1] == b.shape[0] and len(a) * b.shape[1] < MOST:
        return a @ b
    if len(a) == len(b) and a.shape[1] * b.shape[1] < MOST:
        return a.T @ b
    return a.sum() * b.sum()


def steps(chance: random.Random) -> list[tuple[Callable, bool, float, float]]:
    """Operations, each with whether it takes two values, and which of those there are."""
    kinds = chance.choices([ALONE, TOGETHER, ALONG, [product]], [3, 2, 2, 1], k=14)
    return [
        (
            chance.choice(kind),
            kind in (TOGETHER, [product]),
            chance.random(),
            chance.random(),
        )
        for kind in kinds
    ]


def values(plan: list, known: list[Tensor]) -> list[Tensor]:
    """What the operations of a plan give, of what is known and of each other."""
    known = list(known)
    for operation, takes_two, first, second in plan:
        x, y = known[int(first * len(known))], known[int(second * len(known))]
        if x.numel() > MOST or (operation in ALONG and not x.ndim):
            continue
        try:
            known.append(operation(x, y) if takes_two else operation(x))
        except RuntimeError:  # shapes that do not fit
            continue
    return known


def random_function(seed: int) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
    """Value, gradients and the last two arrays of a random composition of operations."""
    plan, large = steps(random.Random(seed)), 700 * (seed % 3 == 0) + 3
    generator = torch.Generator().manual_seed(seed)
    shapes = [(5,), (5, 3), (large,), (), (3, 1)]
    constants = [torch.randn(shape, generator=generator) for shape in shapes]

    def function(u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        u, v = u.detach().requires_grad_(), v.detach().requires_grad_()
        known = [u, v.reshape(4, 3), u[:3], *constants]
        made = values(plan, known)
        total = sum(x.sum() for x in made[len(known) :]) + 0 * (u.sum() + v.sum())
        slopes = torch.autograd.grad(total, [u, v], materialize_grads=True)
        return total.detach(), *slopes, made[-1].detach() + 0, made[-2].detach() + 0

    return function


def compare(seed: int) -> bool:
    """Whether a random function could be compiled wholly; it gives what torch gives."""
    function = random_function(seed)
    torch.manual_seed(seed)
    u, v = torch.randn(5), torch.randn(12)
    try:
        native = in_c(record(function, (u, v)), (u, v)).whole
    except Unknown:
        return False
    if native is None:
        return False
    for scale in (1.0, -2.0, 30.0):
        for ours, theirs in zip(native(u * scale, v), function(u * scale, v), strict=True):
            finite = theirs[theirs.isfinite()].abs()
            most = 1 + float(finite.max()) if finite.numel() else 1.0
            agree = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9 * most)
            agree(ours, theirs, equal_nan=True, msg=lambda m: f"seed {seed}: {m}")
    return True


@pytest.mark.parametrize("seed", range(40))
def test_a_random_graph(seed):
    assert compare(seed)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_many_random_graphs(block):
    compiled = [compare(seed) for seed in range(50 * block, 50 * (block + 1))]
    assert all(compiled)
