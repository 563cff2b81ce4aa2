"""Residuals of a run: what a model takes an absolute value or a sign of, and runs that change it.

A tape watches torch's functions below a density. Each that has a kink is put in words of |r|, or
of whether r > 0, for a residual r: max(a, b) = (a + b + |a - b|) / 2. Tapes differ in what they
take for |r|: its value, the smooth piece of one sign, or a smoothed version. Pyro's Laplace
densities are seen by the same means as a `relu` of the user's own.
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
from . import sampling

# Libraries whose own absolute values guard against overflow or cancel; and those whose do not.
_LIBRARIES = ("torch.", "pyro.", "inference.")
_KINKED = ("torch.distributions.laplace", "pyro.distributions.asymmetriclaplace")
# Where a bound is compared with the value: an edge if it moves and the value is what was observed.
_EDGED = "torch.distributions.uniform"
# What stands between the caller and the operation.
_BETWEEN = ("torch.overrides", "torch.nn.", "torch.functional", "torch._tensor")
_BETWEEN = (*_BETWEEN, sampling.__name__, __name__)
# Share of the width over which an edge is smoothed.
_STEEP = 0.01
# Numbers of which the largest is taken by comparing pairs.
_MOST_COMPARED = 64


class Tape(TorchFunctionMode):
    """Keeps every residual of a run, flat and in order, with the line of the user's it is on.

    Attributes:
        residuals: one tensor for each operation that has kinks, in their order.
        places: the user's line of each, as far as it is known.
        size: m, the number of residuals.
        compared: ids of the residuals of which it is asked whether r > 0.
    """

    def __init__(self):
        super().__init__()
        self.residuals: list[Tensor] = []
        self.places: list[str | None] = []
        self.size = 0
        self.compared: set[int] = set()
        self._parts: dict[int, slice] = {}
        self._answers: dict[int, Answer] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        rule = _RULES.get(function)
        if rule is not None and (self._knows(args) or (_varies(args) and _counts(args))):
            value = rule(self, *args, **(kwargs or {}))
            if value is not NotImplemented:
                return value
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
        value = self.share(r) > 0.5 if above else self.share(r) < 0.5
        self.compared.add(id(r))
        self._answers[id(value)] = Answer(value, r, above)
        return value

    def asked(self, answer: Any) -> Answer | None:
        """What was asked; None of what is no answer."""
        return self._answers.get(id(answer))

    def branch(self, asked: Answer) -> Tensor:
        """How much of the first branch is taken by an answer."""
        share = self.share(asked.residual)
        return share if asked.above else 1 - share

    def number(self, asked: Answer) -> Tensor:
        """An answer as a number."""
        return self.branch(asked)

    def flat(self) -> Tensor:
        """All residuals, (m,)."""
        return torch.cat([r.flatten() for r in self.residuals])


class Piece(Tape):
    """The smooth piece on which the residuals have the given signs.

    Args:
        signs: 1 or -1 for each residual (m,).
    """

    def __init__(self, signs: Tensor):
        super().__init__()
        self.signs = signs

    def absolute(self, r: Tensor) -> Tensor:
        return self.signs[self.part(r)].view_as(r) * r

    def share(self, r: Tensor) -> Tensor:
        return (self.signs[self.part(r)].view_as(r) > 0).to(r)


class Smooth(Tape):
    """|r| is sqrt(r^2 + width^2), a branch the weighted mean of its two ends.

    An answer as a number is nearly one where r > 0, and falls as exp(r / width) below: the
    logarithm of a density that is zero there becomes a penalty. It is steep from the beginning,
    lest the whole ascent go where there is no density.

    Args:
        width: of each residual (m,), in its units.
    """

    def __init__(self, width: Tensor):
        super().__init__()
        self.width = width

    def absolute(self, r: Tensor) -> Tensor:
        return (r.square() + self.width[self.part(r)].view_as(r).square()).sqrt()

    def share(self, r: Tensor) -> Tensor:
        return (1 + r / self.absolute(r)) / 2

    def number(self, asked: Answer) -> Tensor:
        r = asked.residual if asked.above else -asked.residual
        width = _STEEP * self.width[self.part(asked.residual)].view_as(r)
        return ((r - (r.square() + width.square()).sqrt()) / (2 * width)).exp()


class Answer(NamedTuple):
    """An answer to r > 0, or to r < 0.

    Attributes:
        value: the answer, of bool; kept alive, so that its id is unique.
        residual: r, in the same shape.
        above: whether r > 0 was asked.
    """

    value: Tensor
    residual: Tensor
    above: bool


def _blend(answer: Tensor, share: Tensor, first: Any, second: Any) -> Tensor:
    """The mean of two branches where both are finite; the chosen one elsewhere.

    Args:
        answer: whether the first branch is chosen.
        share: its weight in the mean, from 0 to 1.
        first: the branch of the answer yes.
        second: the branch of the answer no.
    """
    first, second = torch.as_tensor(first), torch.as_tensor(second)
    finite = first.isfinite() & second.isfinite()
    of_first, of_second = (torch.where(finite, branch, 0.0) for branch in (first, second))
    mean = share * of_first + (1 - share) * of_second
    return torch.where(finite, mean, torch.where(answer, first, second))


def _varies(args: tuple) -> bool:
    """Whether an argument depends on the latents."""
    return any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)


def _counts(args: tuple) -> bool:
    """Whether the kink is the user's, or one of the libraries' that is of interest.

    It is that of the module that called the operation, what stands between left out.
    """
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


def _absolute(tape: Tape, x: Tensor) -> Tensor:
    return tape.absolute(x)


def _relu(tape: Tape, x: Tensor, inplace: bool = False) -> Tensor:
    return NotImplemented if inplace else (x + tape.absolute(x)) / 2


def _larger(tape: Tape, x: Tensor, other: Any) -> Tensor:
    return (x + other + tape.absolute(x - other)) / 2


def _smaller(tape: Tape, x: Tensor, other: Any) -> Tensor:
    return (x + other - tape.absolute(x - other)) / 2


def _clamp(tape: Tape, x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    x = x if min is None else _larger(tape, x, min)
    return x if max is None else _smaller(tape, x, max)


def _largest(tape: Tape, x: Tensor, *more: Any, pick: Callable = _larger, **kwargs: Any) -> Any:
    """Of two tensors, or of all elements."""
    if len(more) == 1 and isinstance(more[0], Tensor):
        return pick(tape, x, more[0])
    if more or kwargs or x.numel() > _MOST_COMPARED:
        return NotImplemented
    first, *others = x.flatten()
    for element in others:
        first = pick(tape, first, element)
    return first


def _compared(tape: Tape, x: Any, other: Any, *, above: bool) -> Tensor:
    """x > other, or x < other: equality has no measure."""
    r = x if isinstance(other, int | float) and other == 0 else x - other
    return tape.answer(r, above)


def _where(tape: Tape, answer: Tensor, *branches: Any) -> Any:
    asked = tape.asked(answer)
    if asked is None or len(branches) != 2:
        return NotImplemented
    return _blend(answer, tape.branch(asked), *branches)


def _number(tape: Tape, answer: Tensor, *how: Any, cast: Callable, **kwargs: Any) -> Any:
    """An answer as a number, such as `answer.double()`."""
    asked = tape.asked(answer)
    return NotImplemented if asked is None else cast(tape.number(asked), *how, **kwargs)


def _everywhere(rule: Callable, *names: str) -> dict[Any, Callable]:
    """A rule for torch's functions and the tensors' methods of these names."""
    places = [(place, name) for place in (torch, Tensor, F) for name in names]
    return {getattr(place, name): rule for place, name in places if hasattr(place, name)}


_CASTS = (Tensor.to, Tensor.type_as, Tensor.float, Tensor.double)
_RULES: dict[Any, Callable] = {
    **_everywhere(_absolute, "abs", "absolute", "__abs__"),
    **_everywhere(_relu, "relu"),
    **_everywhere(_clamp, "clamp", "clip"),
    **_everywhere(_larger, "clamp_min", "maximum", "fmax"),
    **_everywhere(_smaller, "clamp_max", "minimum", "fmin"),
    **_everywhere(_largest, "max", "amax"),
    **_everywhere(partial(_largest, pick=_smaller), "min", "amin"),
    **_everywhere(partial(_compared, above=True), "gt", "ge", "greater"),
    **_everywhere(partial(_compared, above=False), "lt", "le", "less"),
    torch.where: _where,
    Tensor.where: lambda tape, first, answer, second: _where(tape, answer, first, second),
    **{
        f: partial(_number, cast=f)
        for f in (Tensor.to, Tensor.type_as, Tensor.float, Tensor.double)
    },
}
