"""Stochastic gradient ascent: Adam on one vector, window by window, until all is level.

It knows no model: a function gives an objective and its gradient on the rows of a batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from models.contract import Fault, Refused

from ..core.callbacks import Callback
from ..core.problem import Context, Finding, Problem, State
from ..core.signals import Heard, listening

# How the learning rate falls: at each `plateau` of the objective, or `linear` in the steps.
Schedule = Literal["plateau", "linear"]
# The learning rate falls by this factor at each plateau of the objective, in so many phases; in
# more where the last fall still raised the objective.
_DECAY, _PHASES, _MOST_PHASES = 0.3, 5, 20
# The share of the steps after which a linear schedule lowers the learning rate, and the smallest
# number of windows that it is cut into.
_FALL, _WINDOWS = 0.5, 50
# What as many steps again would still bring: nats a row, and a share of an objective that is of
# rows alone, without a prior of weights. More is a warning, still more a failure. Networks that
# gained 0.02 to 0.03 nats a row by twice the steps scored held-out rows higher by 0.01 at most;
# a decoder gains for as long as anyone has trained it, half a percent by twice the steps.
_WARNED, _FAILED = (0.05, 0.02), (0.25, 0.1)
# Less than this is no gain at all, nats: the evidence is not told more closely.
_NOTHING = 1.0
# Standard errors that a rise has to be above zero, and parts of a tenth of the steps by whose
# means they are told: successive steps are not independent.
_SURE, _PARTS = 3.0, 10
# Doublings from a quarter and a half of the steps to all and twice as many, counted at the full
# rate; by how much the last is more than the last two tenths of the steps, whose rates are low.
_DOUBLINGS, _LATE = math.log2(3), 6.0
# Steps without which nothing can be told of further ones.
_FEWEST = 100
# Steps by whose median the objective is judged, where one may be an outlier.
_SEVERAL = 5
# A long window shows its objective, over the last steps, every so many seconds.
_SHOWN_STEPS, _SHOWN_SECONDS = 100, 2.0

# Value and flat gradient of the objective on the rows of a batch.
Gradient = Callable[..., tuple[Tensor, Tensor]]
# Numbers that change while the steps go on: a tensor, and its value by the share of steps done.
Live = Sequence[tuple[Tensor, Callable[[float], float]]]


def batches(problem: Problem, size: int | None) -> Iterator[list[Tensor]]:
    """The row tensors of one batch after another: all rows, or a shuffled part of them."""
    if size is None:
        while True:
            yield []
    if problem.rows is None:
        raise Refused("the data have no rows to take batches of; leave batch_size out")
    given = problem.tensors if problem.redrawn is None else problem.redrawn[0]
    rows = [given[key] for key in problem.rows[1]]
    n = len(rows[0])
    while True:
        for part in torch.randperm(n, device=rows[0].device).split(size):
            if len(part) == size:  # the last few rows wait for another pass
                yield [tensor[part] for tensor in rows]


class Adam:
    """Adam's ascent on one vector (Kingma and Ba 2015), by torch's fused kernel.

    Called directly: the optimiser class around it costs 60 microseconds a step, and imports
    torch's compiler (1.5 s) on its first.
    """

    def __init__(self, flat: Tensor, lr: float):
        self.flat, self.lr = flat, lr
        self.mean, self.square = torch.zeros_like(flat), torch.zeros_like(flat)
        self.step = torch.zeros((), dtype=torch.float32, device=flat.device)

    def __call__(self, gradient: Tensor) -> None:
        self.step += 1
        torch._fused_adam_(
            [self.flat],
            [gradient],
            [self.mean],
            [self.square],
            [],
            [self.step],
            lr=self.lr,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=True,
        )

    @property
    def state(self) -> dict[str, Tensor]:
        """All that changes from step to step, but the learning rate."""
        return {"flat": self.flat, "mean": self.mean, "square": self.square, "step": self.step}


@dataclass
class _Progress:
    """How far an ascent has come, beside its optimiser and its random numbers.

    Attributes:
        done: steps made.
        phase: number of the learning rate, from 1.
        averaging: whether the parameters are averaged, the learning rates being over.
        converged: whether all is level.
        means: of the parameters in each window of this phase.
        level: the objective's last values at the plateau before.
    """

    done: int = 0
    phase: int = 1
    averaging: bool = False
    converged: bool = False
    means: list[Tensor] = field(default_factory=list)
    level: Tensor | None = None


class _Told:
    """Tells bar and callbacks of the objective, in a long window too.

    Args:
        bar: of all steps.
        callbacks: told of the step.
        steps: in all.
        rows: where the objective is of rows that stand alone, their number: the bar shows its
            mean over them.
    """

    def __init__(self, bar: tqdm, callbacks: Callback, steps: int, rows: int | None):
        self.bar, self.callbacks, self.steps, self.rows = bar, callbacks, steps, rows
        self.last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether nothing was told for some seconds."""
        return time.monotonic() > self.last + _SHOWN_SECONDS

    def tell(self, step: int, values: Tensor, lr: float) -> None:
        """So many steps are done, in the last of which the objective had these values."""
        self.last, mean = time.monotonic(), float(values.mean())
        said = f"{mean:.4g}" if self.rows is None else f"{mean / self.rows:.5g} a row"
        self.bar.set_postfix_str(f"ELBO {said}")
        self.callbacks.on_step({"step": step, "of": self.steps, "elbo": mean, "lr": lr})


class Ascent:
    """Adam, window by window, until all is level; goes on from a state on disk.

    By `plateau` the learning rate falls whenever the objective is level, and the parameters of the
    last windows are averaged. By `linear` it stands for half of the steps, and falls to zero in
    the other half: so networks are trained, whose objective is never level before its rate is.

    Args:
        adam: the optimiser, on the vector of all parameters.
        steps: at most so many.
        window: steps of a window.
        of_pass: steps of a pass over the data.
        state: where to keep what a resume needs.
        schedule: how the learning rate falls.
        rows: of the data, by which a rise of the objective is measured.
        live: numbers that change while the steps go on.
        of_rows: whether the objective is of the rows alone.
    """

    def __init__(
        self,
        adam: Adam,
        steps: int,
        window: int,
        of_pass: int,
        state: State,
        schedule: Schedule = "plateau",
        rows: int = 1,
        live: Live = (),
        of_rows: bool = False,
    ):
        self.adam, self.steps, self.of_pass = adam, steps, of_pass
        self.schedule, self.rows, self.live, self.of_rows = schedule, rows, live, of_rows
        # Whole passes, so that a new one begins where a resume does.
        windows = max(1, steps // _WINDOWS // of_pass) * of_pass
        self.window = window if schedule == "plateau" else windows
        self.lr, self.kept = adam.lr, state
        self.trace = torch.zeros(steps, dtype=adam.flat.dtype)
        self.at = _Progress()

    def run(
        self, gradient: Gradient, batches: Iterator[list[Tensor]], context: Context
    ) -> dict[str, Any]:
        """The trace, and what a `Fit` says of it; the parameters are left at their best."""
        at, last, broke = self.at, self.adam.flat.clone(), None
        bar = tqdm(
            total=self.steps, desc="training", disable=not context.progress, mininterval=0.2
        )
        bar.update(at.done)
        told = _Told(bar, context.callbacks, self.steps, self.rows if self.of_rows else None)
        with bar, listening() as heard:
            while at.done < self.steps and not at.converged and heard.signal is None:
                values, mean = self._window(gradient, batches, heard, told)
                broke = _broken(values, self.adam.flat)
                if not len(values) or broke is not None:
                    break
                last.copy_(self.adam.flat)
                self._advance(values, mean)
                told.tell(at.done, values, self.adam.lr)
                if self.kept.due and len(values) == self.window:
                    self.save()
        if at.averaging and at.converged:
            self.adam.flat.copy_(torch.stack(at.means).mean(0))
        trace = self.trace[: at.done].cpu()
        if broke is not None:
            self.adam.flat.copy_(last)
            return _broken_off(trace, at.done + broke, self.lr)
        # One that came too late to end it is for whoever goes on after it.
        return {"trace": trace, "signal": heard.signal, **self._ending(trace, heard.signal)}

    def _window(
        self, gradient: Gradient, batches: Iterator[list[Tensor]], heard: Heard, told: _Told
    ) -> tuple[Tensor, Tensor | None]:
        """Some steps: the objective at each (steps,), and the parameters' mean for a plateau."""
        values, done = [], self.at.done
        total = torch.zeros_like(self.adam.flat) if self.schedule == "plateau" else None
        for number, at in self.live:
            number.fill_(at(done / self.steps))
        most = min(self.window, self.steps - done)
        while len(values) < most and heard.signal is None:
            if self.schedule == "linear":
                left = 1 - (done + len(values)) / self.steps
                self.adam.lr = self.lr * min(1.0, left / (1 - _FALL))
            value, slope = gradient(*next(batches))
            self.adam(slope)
            values.append(value)
            if total is not None:
                total += self.adam.flat
            told.bar.update()
            if len(values) % _SHOWN_STEPS == 0 and told.due:
                recent = torch.stack(values[-_SHOWN_STEPS:])
                told.tell(done + len(values), recent, self.adam.lr)
        mean = None if total is None else total / max(len(values), 1)
        return torch.stack(values) if values else self.trace[:0], mean

    def _advance(self, values: Tensor, mean: Tensor | None) -> None:
        """Take a window into account."""
        self.trace[self.at.done : self.at.done + len(values)] = values
        self.at.done += len(values)
        if mean is not None:
            self._look_for_a_plateau(mean)

    def _look_for_a_plateau(self, mean: Tensor) -> None:
        """A plateau ends a phase, the last one the ascent."""
        at = self.at
        at.means.append(mean)
        recent = self.trace[max(at.done - 2 * self.window, 0) : at.done]
        if len(at.means) < 3 or rising(recent, self.of_pass) or drifting(at.means[-3:]):
            return
        if at.averaging:
            at.converged = len(at.means) >= 5
            return
        raised = at.level is not None and _above(recent, at.level)
        at.level, at.means = recent.clone(), []
        at.averaging = (at.phase >= _PHASES and not raised) or at.phase == _MOST_PHASES
        if not at.averaging:
            at.phase, self.adam.lr = at.phase + 1, self.adam.lr * _DECAY

    def _ending(self, trace: Tensor, signal: int | None) -> dict:
        """What a `Fit` says of the end of the ascent."""
        done = self.at.done
        if signal is not None and done < self.steps and not self.at.converged:
            what = f"interrupted after {done} steps, before the objective was level"
            found = Finding("fail", what, "resume it, or run it again")
            return {"findings": [found], "status": "interrupted", "signal": signal}
        if self.schedule == "linear":
            # Live numbers change the objective itself: its first values are those of another.
            wrecked = [] if self.live else _wrecked(trace, self.rows, self.lr)
            live = bool(self.live)
            unfinished = _unfinished(trace, self.rows, self.lr, self.of_rows, live)
            told = "" if len(trace) < _FEWEST else str(outlook(trace, live))
            return {"findings": [*wrecked, *unfinished][:1], "outlook": told}
        if self.at.converged:
            return {"outlook": str(Outlook(0.0, 0.0, False))}
        what = f"the objective was still rising, or too noisy to tell, after {done} steps"
        mend = "give more steps, more particles or another learning rate"
        return {"findings": [Finding("fail", what, mend)], "outlook": what}

    def save(self) -> None:
        """Keep all that the rest of the ascent depends on, at the end of a window."""
        at = self.at
        arrays = {**self.adam.state, "trace": self.trace[: at.done], **_random_states()}
        arrays |= {"means": torch.stack(at.means)} if at.means else {}
        arrays |= {} if at.level is None else {"level": at.level}
        numbers = {"done": at.done, "phase": at.phase, "averaging": at.averaging}
        numbers |= {"converged": at.converged, "lr": self.adam.lr}
        found = {name: tensor.detach().cpu().numpy() for name, tensor in arrays.items()}
        self.kept.save("svi", found, **numbers)

    def load(self) -> bool:
        """Go back to where an earlier attempt was, if it left its state."""
        found = self.kept.load("svi")
        if found is None or found[0]["flat"].shape != tuple(self.adam.flat.shape):
            return False
        numbers = found[1]  # on the processor, whatever the default: so want it random states
        arrays = {k: torch.as_tensor(v, device="cpu") for k, v in found[0].items()}
        for name, tensor in self.adam.state.items():
            tensor.copy_(arrays[name])
        self.adam.lr = numbers.pop("lr")
        self.trace[: numbers["done"]] = arrays["trace"]
        means = arrays.get("means", torch.zeros(0)).to(self.adam.flat)
        self.at = _Progress(**numbers, means=list(means), level=arrays.get("level"))
        _restore_random(arrays)
        return True


def _random_states() -> dict[str, Tensor]:
    """The states of the generators that steps draw from."""
    states = {"random": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        states["random_cuda"] = torch.cuda.get_rng_state()
    return states


def _restore_random(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["random"])
    if "random_cuda" in states and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(states["random_cuda"])


def _broken(values: Tensor, flat: Tensor) -> int | None:
    """The first step of a window, from 1, after which something was not finite."""
    bad = torch.nonzero(~values.isfinite())
    if len(bad):
        return int(bad[0]) + 1
    return None if flat.isfinite().all() else len(values)


def _broken_off(trace: Tensor, step: int, lr: float) -> dict[str, Any]:
    """What a `Fit` says of an ascent that ended in a value that is not finite.

    Raises:
        Fault: in the first window, so that there is no good state to keep.
    """
    what = f"the objective or its gradient is not finite in step {step}"
    mend = f"lower lr (it was {lr:g}), or check the model's supports"
    if not len(trace):
        raise Fault(f"{what}; {mend}")
    said = f"{what}; kept is the state after step {len(trace)}"
    return {"trace": trace, "findings": [Finding("fail", said, mend)], "status": "failed"}


# -- what a trace of the objective tells -------------------------------------------------------


def fallen(trace: Tensor, window: int, lr: float) -> list[Finding]:
    """Whether the ELBO of all rows ended far below where it had been: by steps too large.

    A single estimate of the ELBO exceeds the log evidence by t with a probability of exp(-t) at
    most (Markov's inequality on the importance weight), so that one 20 nats above the end, and
    above its noise, was no accident.
    """
    if len(trace) < 2 * window:
        return []
    end, best = trace[-window:], int(trace[:-window].argmax())
    if trace[best] < end.mean() + 20 + 4 * end.std():
        return []
    what = (
        f"the fit ended at an ELBO of {end.mean():.6g}, below the {trace[best]:.6g} of step "
        f"{best + 1}: the learning rate of {lr:g} is too large"
    )
    return [Finding("fail", what, f"lower it (--set lr={lr / 10:g})")]


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
    what = (
        f"the steps threw the objective from {trace[0]:.6g} to {level:.6g} "
        f"(step {low + 1 + _SEVERAL // 2}): the learning rate of {lr:g} is too large"
    )
    return [Finding("fail", what, f"lower it (--set lr={lr / 10:g})")]


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
            return "the objective was level at the end"
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
    def of(cls, values: Tensor) -> _Mean:
        """By the means of parts of the steps (batch means)."""
        size = max(len(values) // _PARTS, 1)
        parts = values[len(values) % size :].unflatten(0, (-1, size)).mean(1)
        return cls(float(values.mean()), float(parts.std() / len(parts) ** 0.5))

    def above(self, before: _Mean) -> _Mean:
        """The difference to an earlier one."""
        return _Mean(self.value - before.value, math.hypot(self.error, before.error))

    @property
    def sure(self) -> bool:
        """Whether it is above zero by more than chance."""
        return self.value > _SURE * self.error


def _unfinished(
    trace: Tensor, rows: int, lr: float, of_rows: bool, live: bool = False
) -> list[Finding]:
    """Whether more steps, or a smaller rate, would bring more, or none of it can be told.

    What they would bring is told even where it does not matter to predictions: the ELBO is below
    the evidence by that much at least.
    """
    more = f"give more (--set steps={2 * len(trace)})"
    if len(trace) < _FEWEST:
        more = f"give more (--set steps={10 * len(trace)})"
        return [Finding("fail", f"{len(trace)} steps are too few to train by", more)]
    found, size = outlook(trace, live), float(trace[-(len(trace) // 10) :].mean().abs())
    if found.ahead < _NOTHING:
        return []
    bounds = [max(row * rows, share * size * of_rows) for row, share in (_WARNED, _FAILED)]
    level = ("note", "warn", "fail")[sum(found.ahead > bound for bound in bounds)]
    spoils = {"note": ("evidence",), "warn": ("evidence", "parameters"), "fail": ()}[level]
    said = f"{found} ({_short(found.ahead / rows)} a row)"
    if not found.by_rate or level == "note":
        return [Finding(level, said, more, spoils=spoils, unfinished=True)]
    what = (
        f"the objective rose by {_short(found.rise / rows)} nats a row in the last tenth of "
        f"{len(trace)} steps, only as the learning rate fell"
    )
    if level == "warn":
        what = f"{what}: a slower fall would end somewhat higher"
        return [Finding(level, what, more, spoils=spoils, unfinished=True)]
    mend = f"lower it (--set lr={lr / 10:g})"
    return [Finding(level, f"{what}: {lr:g} is too large", mend)]


def _rise(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """By how much the mean of the second is above that of the first, and its standard error."""
    error = (before.var() / len(before) + after.var() / len(after)).sqrt()
    return after.mean() - before.mean(), error


def rising(values: Tensor, several: int) -> bool:
    """Whether the second half is above the first by more than its standard error.

    Args:
        values: the objective of two windows of steps.
        several: steps of a pass over the data, over which batches are averaged first: the rows of
            a pass are the same (but for a last few), so that their noise hides no slow rise.
    """
    passes = values[len(values) % several :].unflatten(0, (-1, several)).mean(1)
    rise, error = _rise(*passes.chunk(2))
    return bool(rise > error)


def _above(values: Tensor, before: Tensor) -> bool:
    """Whether the objective is higher than it was, by more than two standard errors."""
    rise, error = _rise(before, values)
    return bool(rise > 2 * error)


def drifting(means: Sequence[Tensor]) -> bool:
    """Whether the parameters still move in one direction, from window to window.

    Two successive differences of means point the same way on a slope (cosine near 1), opposite
    ways around an optimum (-1/2), which shows where noise hides the objective's rise: the idea of
    Pflug (1990), Monatshefte fuer Mathematik 110, on means instead of single steps.
    """
    first, second = means[1] - means[0], means[2] - means[1]
    return bool(first @ second > 0.5 * first.norm() * second.norm())
