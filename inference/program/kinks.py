"""Kinks of a density: where a model takes |r|, the larger of two numbers, or a branch on a sign.

Each is an absolute value of some residual r(u): max(a, b) = (a + b + |a - b|) / 2. With the signs
of all residuals fixed, the density is smooth: the abs-normal form of Griewank and Walther (2016,
doi:10.1080/10556788.2016.1189549). `Kinks` gives these smooth pieces, and smoothed versions of the
whole. Pyro's Laplace densities are seen by the same means as a `relu` of the user's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..core import user_code
from . import bits

Density = Callable[[Tensor], Tensor]

# Libraries whose own absolute values guard against overflow or cancel; and those whose do not.
_LIBRARIES = ("torch.", "pyro.", "inference.")
_KINKED = ("torch.distributions.laplace", "pyro.distributions.asymmetriclaplace")
# Where a bound is compared with the value: an edge if it moves and the value is what was observed.
_EDGED = "torch.distributions.uniform"
# What stands between the caller and the operation.
_BETWEEN = ("torch.overrides", "torch.nn.", "torch.functional", "torch._tensor")
_BETWEEN = (*_BETWEEN, bits.__name__, __name__)
# Share of the width over which an edge is smoothed.
_STEEP = 0.01
# Residuals of an operation at which a jump of the density is looked for, and steps to reach one.
_MOST_LOOKED_AT, _MOST_TO_ZERO = 3, 8
# Random signs from which typical slopes are estimated.
_MOST_SIGNS = 16
# Numbers of which the largest is taken by comparing pairs.
_MOST_COMPARED = 64


class _Tape(TorchFunctionMode):
    """Keeps every residual of a run, flat and in order, with the line of the user's it is on."""

    def __init__(self):
        super().__init__()
        self.residuals: list[Tensor] = []
        self.places: list[str | None] = []
        self.size = 0
        self._parts: dict[int, slice] = {}
        self.compared: set[int] = set()  # residuals of which it is asked whether r > 0
        self._answers: dict[int, _Answer] = {}

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        rule = _RULES.get(function)
        if rule is not None and (self._knows(args) or (_varies(args) and _counts(args))):
            found = rule(self, *args, **(kwargs or {}))
            if found is not NotImplemented:
                return found
        return function(*args, **(kwargs or {}))

    def _knows(self, args: tuple) -> bool:
        """Whether one of them is an answer that was given before."""
        return any(self.asked(arg) is not None for arg in args)

    def part(self, r: Tensor) -> slice:
        """Where a residual stands among all, noted if it is new."""
        if id(r) not in self._parts:
            self._parts[id(r)] = slice(self.size, self.size + r.numel())
            self.size += r.numel()
            self.residuals.append(r)  # also kept alive, so that its id is unique
            self.places.append(user_code.here())
        return self._parts[id(r)]

    def absolute(self, r: Tensor) -> Tensor:
        """|r|, as this run takes it."""
        self.part(r)
        return r.abs()

    def share(self, r: Tensor) -> Tensor:
        """How much of a branch r > 0 is taken: none or all, unless this run smooths it."""
        self.part(r)
        return (r > 0).to(r)

    def answer(self, r: Tensor, above: bool) -> Tensor:
        """Whether r > 0, or r < 0; kept, so that what is made of the answer finds r again."""
        found = self.share(r) > 0.5 if above else self.share(r) < 0.5
        self.compared.add(id(r))
        self._answers[id(found)] = _Answer(found, r, above)
        return found

    def asked(self, answer: Any) -> _Answer | None:
        """What was asked; None of what is no answer."""
        return self._answers.get(id(answer))

    def branch(self, asked: _Answer) -> Tensor:
        """How much of the first branch is taken by an answer."""
        share = self.share(asked.residual)
        return share if asked.above else 1 - share

    def number(self, asked: _Answer) -> Tensor:
        """An answer as a number."""
        return self.branch(asked)

    def flat(self) -> Tensor:
        """All residuals, (m,)."""
        return torch.cat([r.flatten() for r in self.residuals])


class _Piece(_Tape):
    """The smooth piece on which the residuals have the given signs (m,)."""

    def __init__(self, signs: Tensor):
        super().__init__()
        self.signs = signs

    def absolute(self, r: Tensor) -> Tensor:
        return self.signs[self.part(r)].view_as(r) * r

    def share(self, r: Tensor) -> Tensor:
        return (self.signs[self.part(r)].view_as(r) > 0).to(r)


class _Smooth(_Tape):
    """|r| is sqrt(r^2 + width^2), a branch the weighted mean of its two ends; widths (m,).

    An answer as a number is nearly one where r > 0, and falls as exp(r / width) below: the
    logarithm of a density that is zero there becomes a penalty. It is steep from the beginning,
    lest the whole ascent go where there is no density.
    """

    def __init__(self, width: Tensor):
        super().__init__()
        self.width = width

    def absolute(self, r: Tensor) -> Tensor:
        return (r.square() + self.width[self.part(r)].view_as(r).square()).sqrt()

    def share(self, r: Tensor) -> Tensor:
        return (1 + r / self.absolute(r)) / 2

    def number(self, asked: _Answer) -> Tensor:
        r = asked.residual if asked.above else -asked.residual
        width = _STEEP * self.width[self.part(asked.residual)].view_as(r)
        return ((r - (r.square() + width.square()).sqrt()) / (2 * width)).exp()


class _Answer(NamedTuple):
    """An answer to r > 0, or to r < 0; kept alive, so that its id is unique."""

    answer: Tensor
    residual: Tensor
    above: bool


def _blend(answer: Tensor, share: Tensor, one: Any, other: Any) -> Tensor:
    """The mean of two branches where both are finite; the chosen one elsewhere."""
    one, other = torch.as_tensor(one), torch.as_tensor(other)
    finite = one.isfinite() & other.isfinite()
    mean = share * torch.where(finite, one, 0.0) + (1 - share) * torch.where(finite, other, 0.0)
    return torch.where(finite, mean, torch.where(answer, one, other))


def _varies(args: tuple) -> bool:
    return any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)


def _counts(args: tuple) -> bool:
    """Whether the kink is the user's, or one of the libraries' that is of interest."""
    frame = sys._getframe(2)
    while frame is not None and _name(frame).startswith(_BETWEEN):
        frame = frame.f_back
    name = "" if frame is None else _name(frame)
    if name == _EDGED:
        return args[0].requires_grad and not args[1].requires_grad
    return name in _KINKED or not name.startswith(_LIBRARIES)


def _name(frame: Any) -> str:
    return frame.f_globals.get("__name__", "")


# -- the operations that have kinks --------------------------------------------------------------


def _absolute(tape: _Tape, x: Tensor) -> Tensor:
    return tape.absolute(x)


def _relu(tape: _Tape, x: Tensor, inplace: bool = False) -> Tensor:
    return NotImplemented if inplace else (x + tape.absolute(x)) / 2


def _larger(tape: _Tape, x: Tensor, other: Any) -> Tensor:
    return (x + other + tape.absolute(x - other)) / 2


def _smaller(tape: _Tape, x: Tensor, other: Any) -> Tensor:
    return (x + other - tape.absolute(x - other)) / 2


def _clamp(tape: _Tape, x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    x = x if min is None else _larger(tape, x, min)
    return x if max is None else _smaller(tape, x, max)


def _largest(tape: _Tape, x: Tensor, *more: Any, pick: Callable = _larger, **kwargs: Any) -> Any:
    """Of two tensors, or of all elements."""
    if len(more) == 1 and isinstance(more[0], Tensor):
        return pick(tape, x, more[0])
    if more or kwargs or x.numel() > _MOST_COMPARED:
        return NotImplemented
    first, *others = x.flatten()
    for element in others:
        first = pick(tape, first, element)
    return first


def _compared(tape: _Tape, x: Any, other: Any, *, above: bool) -> Tensor:
    """x > other, or x < other: equality has no measure."""
    r = x if isinstance(other, int | float) and other == 0 else x - other
    return tape.answer(r, above)


def _where(tape: _Tape, answer: Tensor, *branches: Any) -> Any:
    asked = tape.asked(answer)
    if asked is None or len(branches) != 2:
        return NotImplemented
    return _blend(answer, tape.branch(asked), *branches)


def _where_of(tape: _Tape, one: Tensor, answer: Tensor, other: Any) -> Any:
    """`one.where(answer, other)`."""
    return _where(tape, answer, one, other)


def _number(tape: _Tape, answer: Tensor, *how: Any, cast: Callable, **kwargs: Any) -> Any:
    """An answer as a number, such as `answer.double()`."""
    asked = tape.asked(answer)
    return NotImplemented if asked is None else cast(tape.number(asked), *how, **kwargs)


_RULES: dict[Any, Callable] = {
    **dict.fromkeys([torch.abs, torch.absolute, Tensor.abs, Tensor.absolute], _absolute),
    Tensor.__abs__: _absolute,
    **dict.fromkeys([torch.relu, Tensor.relu, F.relu], _relu),
    **dict.fromkeys([torch.clamp, Tensor.clamp, torch.clip, Tensor.clip], _clamp),
    **dict.fromkeys([torch.clamp_min, Tensor.clamp_min], _larger),
    **dict.fromkeys([torch.clamp_max, Tensor.clamp_max], _smaller),
    **dict.fromkeys([torch.maximum, Tensor.maximum, torch.fmax, Tensor.fmax], _larger),
    **dict.fromkeys([torch.minimum, Tensor.minimum, torch.fmin, Tensor.fmin], _smaller),
    **dict.fromkeys([torch.max, Tensor.max, torch.amax, Tensor.amax], _largest),
    **dict.fromkeys(
        [torch.min, Tensor.min, torch.amin, Tensor.amin], partial(_largest, pick=_smaller)
    ),
    **dict.fromkeys(
        [torch.gt, Tensor.gt, torch.ge, Tensor.ge, torch.greater], partial(_compared, above=True)
    ),
    **dict.fromkeys(
        [torch.lt, Tensor.lt, torch.le, Tensor.le, torch.less], partial(_compared, above=False)
    ),
    torch.where: _where,
    Tensor.where: _where_of,
    **{
        cast: partial(_number, cast=cast)
        for cast in (Tensor.to, Tensor.type_as, Tensor.float, Tensor.double)
    },
}


class Kinks:
    """A density (d,) to a scalar, whose kinks are where one of m residuals is zero.

    Attributes:
        density: the function.
        places: the user's line of each operation that has kinks.
        sizes: how many residuals each has.
        compared: whether it asks for the sign of a residual.
    """

    def __init__(self, density: Density, tape: _Tape):
        self.density, self.places = density, tape.places
        self.sizes = [r.numel() for r in tape.residuals]
        self.compared = [id(r) in tape.compared for r in tape.residuals]

    @property
    def count(self) -> int:
        """m, the number of residuals."""
        return sum(self.sizes)

    def lines(self, which: Tensor) -> list[str]:
        """The user's lines of some of the residuals, (m,) of bool."""
        met = [part.any() for part in which.split(self.sizes)]
        return sorted({place for place, some in zip(self.places, met) if some and place})

    def typical(self, points: list[Tensor]) -> Tensor:
        """The median size of the residuals of each operation at some points, (m,)."""
        found = torch.stack([self.residuals(u) for u in points]).abs().split(self.sizes, dim=1)
        sizes = [part.median() if part.numel() else part.new_ones(()) for part in found]
        sizes = [torch.where(size > 0, size, 1.0) for size in sizes]
        return torch.cat([size.expand(n) for size, n in zip(sizes, self.sizes)])

    @classmethod
    def of(cls, density: Density, u: Tensor) -> Kinks | None:
        """The kinks that a run at `u` meets; None where there are none, or they change nothing."""
        u = u.detach().requires_grad_()
        with _Tape() as tape:
            density(u)
        kinks = cls(density, tape)
        if not kinks.count:
            return None
        signs = torch.where(tape.flat() < 0, -1.0, 1.0).to(u)
        sides = [kinks.piece(u, side)[0] for side in (signs, -signs)]
        slopes = [torch.autograd.grad(side, u, allow_unused=True)[0] for side in sides]
        same = sides[0] == sides[1] and torch.equal(*slopes)
        return None if same else kinks

    def residuals(self, u: Tensor) -> Tensor:
        """r(u), (m,), detached."""
        with _Tape() as tape:
            self.density(u.detach().requires_grad_())
        return tape.flat().detach()

    def steps(self, u: Tensor) -> list[str]:
        """The user's lines where the density jumps from one finite value to another, near `u`."""
        residuals = self.residuals(u).abs()
        found = torch.zeros(self.count, dtype=torch.bool)
        for part, compared in zip(torch.arange(self.count).split(self.sizes), self.compared):
            for i in part[residuals[part].argsort()[:_MOST_LOOKED_AT]] if compared else ():
                found[i] = self._steps(u, i)
        return self.lines(found)

    def _steps(self, u: Tensor, i: Tensor) -> bool:
        """Whether the density jumps where one residual is zero."""
        u, one = u.clone(), torch.zeros(self.count, dtype=torch.bool)
        one[i] = True
        for _ in range(_MOST_TO_ZERO):
            residuals = self.residuals(u)
            signs = torch.where(residuals < 0, -1.0, 1.0).to(u)
            beside = self.across(u, signs, one)
            length = beside.rows.square().sum()
            if not length > 0 or not beside.residual > 1e-12:
                break
            u = u - beside.rows[0] * beside.residual / length
        beyond = self.piece(u.requires_grad_(), torch.where(one, -signs, signs))[0]
        return bool(beside.jumps.isinf().all() and beyond.isfinite())

    def gradients(self, u: Tensor) -> Tensor:
        """The gradients of all residuals, (m, d)."""

        def residuals(v: Tensor) -> Tensor:
            with _Tape() as tape:
                self.density(v)
            return tape.flat()

        return torch.autograd.functional.jacobian(residuals, u, vectorize=False)

    def slopes(self, u: Tensor) -> Tensor:
        """A typical slope of the residuals in each coordinate, (d,); one where there is none.

        The root mean square over random signs of their sum.
        """
        u = u.detach().clone().requires_grad_()
        with _Tape() as tape:
            self.density(u)
        residuals, noise = tape.flat(), torch.Generator().manual_seed(0)
        total = torch.zeros_like(u)
        for _ in range(_MOST_SIGNS):
            signs = torch.randint(0, 2, residuals.shape, generator=noise).to(u) * 2 - 1
            total += _gradient(signs @ residuals, u).square()
        found = (total / (_MOST_SIGNS * self.count)).sqrt()
        return torch.where(found > 0, found, 1.0)

    def piece(self, u: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
        """Density and residuals (m,), differentiable, of the piece with these signs (m,)."""
        with _Piece(signs) as tape:
            value = self.density(u)
        return value, tape.flat()

    def smoothed(self, u: Tensor, width: Tensor) -> Tensor:
        """The density with each kink rounded over its width (m,)."""
        with _Smooth(width):
            return self.density(u)

    def across(self, u: Tensor, signs: Tensor, which: Tensor) -> Across:
        """The density on both sides of some kinks, the others on the sides that `signs` say.

        Args:
            u: a point at or near these kinks (d,).
            signs: of all residuals (m,).
            which: the kinks in question, (m,) of bool.
        """
        u = u.detach().clone().requires_grad_()
        value, residuals = self.piece(u, signs)
        gradient = _gradient(value, u)
        rows, jumps = [gradient.new_zeros(0, len(u))], [gradient.new_zeros(0)]
        for i in which.nonzero()[:, 0]:
            row = signs[i] * _gradient(residuals[i], u)
            other = signs.clone()
            other[i] = -other[i]
            beyond = self.piece(u, other)[0]
            jump = (gradient - _gradient(beyond, u)) @ row / row.square().sum().clamp_min(1e-300)
            # Of the densities themselves, not of what their slopes differ by on the way to r = 0.
            drop = (value - beyond).detach() - jump * (signs[i] * residuals[i]).detach()
            rows.append(row[None])
            jumps.append(_jump(jump, drop, value.detach())[None])
        residual = (signs * residuals)[which].detach()
        return Across(gradient, torch.cat(rows), torch.cat(jumps), residual)


class Across(NamedTuple):
    """A density beside some of its kinks, whose residuals are positive on the side in question.

    Attributes:
        gradient: of the density on its piece (d,).
        rows: gradients of the residuals (a, d).
        jumps: what the slope in each residual changes by as it passes zero upwards (a,); minus
            infinity at an edge, beyond which the density drops; infinity where it is higher.
        residual: the residuals (a,).
    """

    gradient: Tensor
    rows: Tensor
    jumps: Tensor
    residual: Tensor


def _jump(slope: Tensor, drop: Tensor, value: Tensor) -> Tensor:
    """The jump of a slope, infinite where the density itself drops by more than rounding."""
    if not drop.isfinite():
        return torch.full_like(slope, -torch.inf)
    steps = drop.abs() > 1e-6 * (1 + value.abs())
    return torch.where(steps, -drop.sign() * torch.inf, slope)


def _gradient(value: Tensor, u: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(u)
    found = torch.autograd.grad(value, u, retain_graph=True, allow_unused=True)[0]
    return torch.zeros_like(u) if found is None else found.detach()
