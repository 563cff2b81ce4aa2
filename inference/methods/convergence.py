"""What the trace of an objective, one value for each step, tells of the end of an ascent.

Whether it is level, whether the learning rate was too large, and what further steps would bring.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from ..core.problem import Finding

# What as many steps again would still bring: nats a row, and a share of an objective that is of
# rows alone, without a prior of weights. More is a warning, still more a failure. Networks that
# gained 0.02 to 0.03 nats a row by twice the steps scored held-out rows higher by 0.01 at most;
# a decoder gains for as long as anyone has trained it, half a percent by twice the steps.
_WARNED, _FAILED = (0.05, 0.02), (0.25, 0.1)
# The purposes that a result is not fit for, by how grave it is that further steps bring more.
_SPOILT = {"note": ("evidence",), "warn": ("evidence", "parameters"), "fail": ()}
# Less than this is no gain at all, nats: the evidence is not known more closely.
_NOTHING = 1.0
# Standard errors that a rise has to be above zero, and parts of a tenth of the steps by whose
# means they are estimated: successive steps are not independent.
_SURE, _PARTS = 3.0, 10
# Doublings from a quarter and a half of the steps to all and twice as many, counted at the full
# rate; by how much the last is more than the last two tenths of the steps, whose rates are low.
_DOUBLINGS, _LATE = math.log2(3), 6.0
# Steps without which nothing can be said of further ones.
_FEWEST = 100
# Steps by whose median the objective is judged, where one may be an outlier.
_SEVERAL = 5
# Nats by which an end is below a single estimate of the ELBO by no accident, beside its noise.
_FALLEN = 20.0

LEVEL = "the objective was level at the end"


# -- a rate that was too large ---------------------------------------------------------------


def fallen(trace: Tensor, window: int, lr: float) -> list[Finding]:
    """Whether the ELBO of all rows ended far below where it had been: by steps too large.

    A single estimate of the ELBO exceeds the log evidence by t with a probability of exp(-t) at
    most (Markov's inequality on the importance weight), so that one 20 nats above the end, and
    above its noise, was no accident.

    Args:
        trace: the ELBO at each step (steps,), nats.
        window: steps at the end that it is compared with.
        lr: the learning rate that is named.
    """
    if len(trace) < 2 * window:
        return []
    end, best = trace[-window:], int(trace[:-window].argmax())
    if trace[best] < end.mean() + _FALLEN + 4 * end.std():
        return []
    fell = f"below the {trace[best]:.6g} of step {best + 1}"
    return [_too_large(f"the fit ended at an ELBO of {end.mean():.6g}, {fell}", lr)]


def _wrecked(trace: Tensor, rows: int, lr: float) -> list[Finding]:
    """Whether the first steps threw the objective far below where it began: by too large a rate.

    An untrained network predicts about as badly as can be by chance; steps that are too large
    make it sure of what is wrong, which costs nats by the row. A single low value may be noise:
    the median of five steps is looked at.
    """
    tenth = trace[: len(trace) // 10]
    if len(tenth) < _SEVERAL:
        return []
    levels = tenth.unfold(0, _SEVERAL, 1).median(-1).values
    low, level = int(levels.argmin()), levels.min()
    if level > trace[0] - max(trace[0].abs(), torch.tensor(2.0 * rows)):
        return []
    fell = f"from {trace[0]:.6g} to {level:.6g} (step {low + 1 + _SEVERAL // 2})"
    return [_too_large(f"the steps threw the objective {fell}", lr)]


def _too_large(text: str, lr: float) -> Finding:
    """What the learning rate did, and what to do about it."""
    text = f"{text}: the learning rate of {lr:g} is too large"
    return Finding("fail", text, f"lower it (--set lr={lr / 10:g})")


# -- what further steps would bring ----------------------------------------------------------


class Outlook(NamedTuple):
    """What the trace of an ascent with a linear schedule tells of further steps.

    Attributes:
        rise: of the mean objective from the last tenth of the steps but one to the last, nats.
        ahead: what as many steps again would bring, nats; zero where the objective is level.
        by_rate: whether it rose only as the learning rate fell, which a smaller one would mend.
    """

    rise: float
    ahead: float
    by_rate: bool

    def __str__(self) -> str:
        """A sentence, of caption and verdict alike."""
        if self.ahead < _NOTHING:
            return LEVEL
        return (
            f"the objective still rose, by {_short(self.rise)} nats in the last tenth of the "
            f"steps: as many steps again may bring some {_short(self.ahead)} nats"
        )


def _short(value: float) -> str:
    """Two digits, without an exponent."""
    return f"{float(f'{value:.2g}'):,g}"


def outlook(trace: Tensor, live: bool = False) -> Outlook:
    """What as many steps again would bring, from the objective (steps,) of a linear schedule.

    Learning curves are about a level minus a power of the steps: while the rate stands, doubling
    the steps from a quarter to a half of them brought `last`, the doubling before `first`, and
    each further one the ratio of both times as much. All steps count as three quarters at the full
    rate, so that the next doubling comes log2(3) doublings later. It brings no more than the last
    two tenths of the steps may promise, at the rates they had: where they rose little the
    objective was level before the rate was down. A rise that came only as the rate fell is taken
    to bring twice what it brought in the last tenth.

    Args:
        trace: objective of each step, at least a hundred.
        live: whether the objective itself changed in the first steps.
    """
    n = len(trace)
    tenths = [_Mean.of(trace[round(n * i / 10) : round(n * (i + 1) / 10)]) for i in range(10)]
    rise, standing = tenths[9].above(tenths[8]), tenths[4].above(tenths[3])
    late = tenths[9].above(tenths[7])
    if rise.sure and standing.value < rise.value / 2:
        return Outlook(rise.value, 2 * rise.value, True)
    eighth, quarter, half = (_Mean.of(trace[round(0.8 * n / k) : n // k]) for k in (8, 4, 2))
    last, first = half.above(quarter), quarter.above(eighth)
    ratio = 1.0 if live or first.value <= 0 else min(max(last.value / first.value, 0.0), 1.0)
    ahead = min(last.value * ratio**_DOUBLINGS, _LATE * (late.value + late.error))
    return Outlook(rise.value, max(ahead, 0.0) if last.sure else 0.0, False)


class _Mean(NamedTuple):
    """A mean and its standard error, which knows that successive steps are not independent."""

    value: float
    error: float

    @classmethod
    def of(cls, values: Tensor) -> Self:
        """By the means of parts of the steps (batch means)."""
        size = max(len(values) // _PARTS, 1)
        parts = values[len(values) % size :].unflatten(0, (-1, size)).mean(1)
        return cls(float(values.mean()), float(parts.std() / len(parts) ** 0.5))

    def above(self, before: Self) -> Self:
        """The difference to an earlier one."""
        return type(self)(self.value - before.value, math.hypot(self.error, before.error))

    @property
    def sure(self) -> bool:
        """Whether it is above zero by more than chance."""
        return self.value > _SURE * self.error


def of_linear_schedule(
    trace: Tensor, rows: int, lr: float, *, of_rows: bool, live: bool
) -> dict[str, Any]:
    """What a `Fit` says of the end of an ascent with a linear schedule.

    Args:
        trace: objective of each step (steps,), nats.
        rows: of the data.
        lr: the first learning rate.
        of_rows: whether the objective is of the rows alone.
        live: whether the objective itself changed in the first steps.
    """
    # Where it changed, its first values are those of another.
    wrecked = [] if live else _wrecked(trace, rows, lr)
    if len(trace) < _FEWEST:
        text = f"{len(trace)} steps are too few to train by"
        few = Finding("fail", text, f"give more (--set steps={10 * len(trace)})")
        return {"findings": [*wrecked, few][:1], "outlook": ""}
    prospect = outlook(trace, live)
    unfinished = _unfinished(trace, prospect, rows, lr, of_rows)
    return {"findings": [*wrecked, *unfinished][:1], "outlook": str(prospect)}


def _unfinished(
    trace: Tensor, prospect: Outlook, rows: int, lr: float, of_rows: bool
) -> list[Finding]:
    """Whether more steps, or a smaller rate, would bring more.

    What they would bring is reported even where it does not matter to predictions: the ELBO is
    below the evidence by that much at least.
    """
    if prospect.ahead < _NOTHING:
        return []
    size = float(trace[-(len(trace) // 10) :].mean().abs())
    bounds = [max(row * rows, share * size * of_rows) for row, share in (_WARNED, _FAILED)]
    level = ("note", "warn", "fail")[sum(prospect.ahead > bound for bound in bounds)]
    more = f"give more (--set steps={2 * len(trace)})"
    if not prospect.by_rate or level == "note":
        text = f"{prospect} ({_short(prospect.ahead / rows)} a row)"
        return [Finding(level, text, more, spoils=_SPOILT[level], unfinished=True)]
    text = (
        f"the objective rose by {_short(prospect.rise / rows)} nats a row in the last tenth of "
        f"{len(trace)} steps, only as the learning rate fell"
    )
    if level == "fail":
        return [_too_large(text, lr)]
    text = f"{text}: a slower fall would end somewhat higher"
    return [Finding(level, text, more, spoils=_SPOILT[level], unfinished=True)]


# -- a plateau ---------------------------------------------------------------------------------


def rises(before: Tensor, after: Tensor, errors: int = 1) -> bool:
    """Whether the mean of the second is above that of the first by so many standard errors."""
    error = (before.var() / len(before) + after.var() / len(after)).sqrt()
    return bool(after.mean() - before.mean() > errors * error)


def is_rising(values: Tensor, several: int) -> bool:
    """Whether the second half is above the first by more than its standard error.

    Args:
        values: the objective of two windows of steps.
        several: steps of a pass over the data, over which batches are averaged first: the rows of
            a pass are the same (but for a last few), so that their noise hides no slow rise.
    """
    passes = values[len(values) % several :].unflatten(0, (-1, several)).mean(1)
    return rises(*passes.chunk(2))


def drifting(means: Sequence[Tensor]) -> bool:
    """Whether the parameters still move in one direction, from window to window.

    Two successive differences of means point the same way on a slope (cosine near 1), opposite
    ways around an optimum (-1/2), which shows where noise hides the objective's rise: the idea of
    Pflug (1990), Monatshefte fuer Mathematik 110, on means instead of single steps.

    Args:
        means: of the parameters, in three successive windows (d,).
    """
    first, second = means[1] - means[0], means[2] - means[1]
    return bool(first @ second > 0.5 * first.norm() * second.norm())
