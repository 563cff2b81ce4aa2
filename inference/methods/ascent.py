"""Stochastic gradient ascent: Adam on one vector, window by window, until all is level.

It knows no model: a function gives an objective and its gradient on the rows of a batch. What the
trace of the objective tells is in `convergence.py`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import Tensor
from tqdm.auto import tqdm

from models.contract import BadSetting, Fault

from ..core.problem import Context, Finding, Problem
from ..core.signals import Heard, listening
from ..program.graphs import How
from .convergence import LEVEL, drifting, is_rising, of_linear_schedule, rises

# How the learning rate falls: at each `plateau` of the objective, or `linear` in the steps.
Schedule = Literal["plateau", "linear"]
# What is climbed where a guide has no objective of its own.
Bound = Literal["elbo", "iwae"]
# The learning rate falls by this factor at each plateau of the objective, in so many phases; in
# more where the last fall still raised the objective.
_DECAY, _PHASES, _MOST_PHASES = 0.3, 5, 20
# The share of the steps after which a linear schedule lowers the learning rate, and the smallest
# number of windows that it is cut into.
_FALL, _WINDOWS = 0.5, 50
# Passes over the data that a window has at least, where a step sees a batch.
_PASSES = 10
# Adam's constants, as its authors recommend them.
_ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False}
# A long window shows its objective, over the last steps, every so many seconds.
_SHOWN_STEPS, _SHOWN_SECONDS = 100, 2.0

# Value and flat gradient of the objective on the rows of a batch.
Gradient = Callable[..., tuple[Tensor, Tensor]]
# Numbers that change while the steps go on: a tensor, and its value by the share of steps done.
Live = Sequence[tuple[Tensor, Callable[[float], float]]]


@dataclass(frozen=True)
class AscentSettings:
    """How an objective is climbed.

    Attributes:
        steps: at most so many.
        batch_size: rows in a step; None takes all.
        particles: Monte Carlo samples of the objective in a step.
        compile: how a step runs.
        objective: what is climbed where the guide has no objective of its own.
        lr: the first learning rate.
        window: steps over which the objective is averaged to see a plateau, at least.
        schedule: how the learning rate falls.
    """

    steps: int
    batch_size: int | None = None
    particles: int = 1
    compile: How = "native"
    objective: Bound = "elbo"
    lr: float = 0.1
    window: int = 100
    schedule: Schedule = "plateau"

    @classmethod
    def of_network(cls, problem: Problem, **given: Any) -> Self | None:
        """How the mode of a network is climbed; None for a model whose mode solvers find.

        Args:
            problem: a network, whose weights are not identified, or another model.
            given: the settings of networks that the user may give; None where one is not given.

        Raises:
            BadSetting: settings of networks for another model.
        """
        given = {name: value for name, value in given.items() if value is not None}
        if problem.identified and given:
            raise BadSetting(f"{', '.join(given)}: for networks alone; leave it out")
        if problem.identified:
            return None
        return cls(**{"steps": 10_000, "lr": 1e-3, "schedule": "linear", **given})


class Adam:
    """Adam's ascent on one vector (Kingma and Ba 2015), by torch's fused kernel.

    Called directly: the optimiser class around it costs 60 microseconds a step, and imports
    torch's compiler (1.5 s) on its first.

    Args:
        flat: the vector (d,), which is changed in place.
        lr: the learning rate.
    """

    def __init__(self, flat: Tensor, lr: float):
        self.flat, self.lr = flat, lr
        self.mean, self.square = torch.zeros_like(flat), torch.zeros_like(flat)
        self.step = torch.zeros((), dtype=torch.float32, device=flat.device)

    def __call__(self, gradient: Tensor) -> None:
        """One step up a gradient (d,)."""
        self.step += 1
        tensors = [self.flat], [gradient], [self.mean], [self.square], [], [self.step]
        torch._fused_adam_(*tensors, lr=self.lr, maximize=True, **_ADAM)

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


class _Reporter:
    """Reports the objective to a bar and to callbacks, in a long window too.

    Args:
        context: whether there is a bar, and the callbacks.
        done: steps made before.
        steps: in all.
        rows: where the objective is of rows that stand alone, their number: the bar shows its
            mean over them.
    """

    def __init__(self, context: Context, done: int, steps: int, rows: int | None):
        shown = {"desc": "training", "disable": not context.progress, "mininterval": 0.2}
        self.bar = tqdm(total=steps, initial=done, **shown)
        self.callbacks, self.steps, self.rows = context.callbacks, steps, rows
        self.last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last report was some seconds ago."""
        return time.monotonic() > self.last + _SHOWN_SECONDS

    def report(self, step: int, values: Tensor, lr: float) -> None:
        """So many steps are done, in the last of which the objective had these values."""
        self.last, mean = time.monotonic(), float(values.mean())
        shown = f"{mean:.4g}" if self.rows is None else f"{mean / self.rows:.5g} a row"
        self.bar.set_postfix_str(f"ELBO {shown}")
        self.callbacks.on_step({"step": step, "of": self.steps, "elbo": mean, "lr": lr})


@dataclass
class Ascent:
    """Adam, window by window, until all is level; goes on from a state on disk.

    By `plateau` the learning rate falls whenever the objective is level, and the parameters of the
    last windows are averaged. By `linear` it stands for half of the steps, and falls to zero in
    the other half: so networks are trained, whose objective is never level before its rate is.

    Attributes:
        flat: the vector of all parameters (d,), which is changed in place.
        settings: number of steps, learning rate, schedule and window.
        context: where progress is shown, and what a resume needs is kept.
        of_pass: steps of a pass over the data.
        rows: of the data, by which a rise of the objective is measured.
        live: numbers that change while the steps go on.
        of_rows: whether the objective is of the rows alone.
        way: how a step runs, which a resume keeps to.
    """

    flat: Tensor
    settings: AscentSettings
    context: Context
    of_pass: int = 1
    rows: int = 1
    live: Live = ()
    of_rows: bool = False
    way: How = "native"

    def __post_init__(self) -> None:
        self.adam = Adam(self.flat, self.settings.lr)
        steps, of_pass = max(self.settings.window, _PASSES * self.of_pass), self.of_pass
        if self.settings.schedule == "linear":
            steps = max(self.settings.steps // _WINDOWS, of_pass)
        self.window = steps // of_pass * of_pass  # whole passes: a resume begins with a new one
        self.trace = torch.zeros(self.settings.steps, dtype=self.flat.dtype)
        self.at = _Progress()

    def run(self, gradient: Gradient, batches: Iterator[list[Tensor]]) -> dict[str, Any]:
        """Climb; the parameters are left at their best.

        Args:
            gradient: value and gradient (d,) of the objective on the rows of a batch.
            batches: the row tensors of each step.

        Returns:
            What a `Fit` holds of the ascent: `trace`, `findings`, `outlook`, `status`, `signal`.

        Raises:
            Fault: the objective or its gradient is not finite in the first window.
        """
        at, steps, last, broken = self.at, self.settings.steps, self.flat.clone(), None
        shown_rows = self.rows if self.of_rows else None
        reporter = _Reporter(self.context, at.done, steps, shown_rows)
        with reporter.bar, listening() as heard:
            while at.done < steps and not at.converged and heard.signal is None:
                values, mean = self._window(lambda: gradient(*next(batches)), heard, reporter)
                broken = _first_not_finite(values, self.flat)
                if not len(values) or broken is not None:
                    break
                last.copy_(self.flat)
                self.trace[at.done : at.done + len(values)] = values
                at.done += len(values)
                if mean is not None:
                    self._look_for_a_plateau(mean)
                reporter.report(at.done, values, self.adam.lr)
                if self.context.state.due and len(values) == self.window:
                    self.save()
        if at.averaging and at.converged:
            self.flat.copy_(torch.stack(at.means).mean(0))
        trace = self.trace[: at.done].cpu()
        if broken is not None:
            self.flat.copy_(last)
            return _broken_off(trace, at.done + broken, self.settings.lr)
        # One that came too late to end it is for whoever goes on after it.
        return {"trace": trace, "signal": heard.signal, **self._ending(trace, heard.signal)}

    def _window(
        self, step: Callable[[], tuple[Tensor, Tensor]], heard: Heard, reporter: _Reporter
    ) -> tuple[Tensor, Tensor | None]:
        """Some steps: the objective at each (steps,), and the parameters' mean for a plateau."""
        values, done = [], self.at.done
        total = torch.zeros_like(self.flat) if self.settings.schedule == "plateau" else None
        for number, value_at in self.live:
            number.fill_(value_at(done / self.settings.steps))
        most = min(self.window, self.settings.steps - done)
        while len(values) < most and heard.signal is None:
            if self.settings.schedule == "linear":
                left = 1 - (done + len(values)) / self.settings.steps
                self.adam.lr = self.settings.lr * min(1.0, left / (1 - _FALL))
            value, slope = step()
            self.adam(slope)
            values.append(value)
            if total is not None:
                total += self.flat
            reporter.bar.update()
            if len(values) % _SHOWN_STEPS == 0 and reporter.due:
                recent = torch.stack(values[-_SHOWN_STEPS:])
                reporter.report(done + len(values), recent, self.adam.lr)
        mean = None if total is None else total / max(len(values), 1)
        return torch.stack(values) if values else self.trace[:0], mean

    def _look_for_a_plateau(self, mean: Tensor) -> None:
        """A plateau ends a phase, the last one the ascent."""
        at = self.at
        at.means.append(mean)
        recent = self.trace[max(at.done - 2 * self.window, 0) : at.done]
        if len(at.means) < 3 or is_rising(recent, self.of_pass) or drifting(at.means[-3:]):
            return
        if at.averaging:
            at.converged = len(at.means) >= 5
            return
        raised = at.level is not None and rises(at.level, recent, 2)
        at.level, at.means = recent.clone(), []
        at.averaging = (at.phase >= _PHASES and not raised) or at.phase == _MOST_PHASES
        if not at.averaging:
            at.phase, self.adam.lr = at.phase + 1, self.adam.lr * _DECAY

    def _ending(self, trace: Tensor, signal: int | None) -> dict[str, Any]:
        """What a `Fit` says of the end of the ascent."""
        done = self.at.done
        if signal is not None and done < self.settings.steps and not self.at.converged:
            text = f"interrupted after {done} steps, before the objective was level"
            finding = Finding("fail", text, "resume it, or run it again")
            return {"findings": [finding], "status": "interrupted"}
        if self.settings.schedule == "linear":
            how = {"of_rows": self.of_rows, "live": bool(self.live)}
            return of_linear_schedule(trace, self.rows, self.settings.lr, **how)
        if self.at.converged:
            return {"outlook": LEVEL}
        text = f"the objective was still rising, or too noisy to tell, after {done} steps"
        fix = "give more steps, more particles or another learning rate"
        return {"findings": [Finding("fail", text, fix)], "outlook": text}

    def save(self) -> None:
        """Keep all that the rest of the ascent depends on, at the end of a window."""
        at = self.at
        arrays = {**self.adam.state, "trace": self.trace[: at.done]}
        arrays["random"] = torch.get_rng_state()
        if torch.cuda.is_initialized():
            arrays["random_cuda"] = torch.cuda.get_rng_state()
        arrays |= {"means": torch.stack(at.means)} if at.means else {}
        arrays |= {} if at.level is None else {"level": at.level}
        numbers = {"done": at.done, "phase": at.phase, "averaging": at.averaging}
        numbers |= {"converged": at.converged, "lr": self.adam.lr, "way": self.way}
        saved = {name: tensor.detach().cpu().numpy() for name, tensor in arrays.items()}
        self.context.state.save("svi", saved, **numbers)

    def load(self) -> bool:
        """Go back to where an earlier attempt was, if it left its state.

        Returns:
            Whether there is a state of as many parameters.
        """
        saved = self.context.state.load("svi")
        if saved is None or saved[0]["flat"].shape != tuple(self.flat.shape):
            return False
        numbers = saved[1]  # on the processor, whatever the default: so want it random states
        arrays = {k: torch.as_tensor(v, device="cpu") for k, v in saved[0].items()}
        for name, tensor in self.adam.state.items():
            tensor.copy_(arrays[name])
        self.adam.lr = numbers.pop("lr")
        numbers.pop("way", None)
        self.trace[: numbers["done"]] = arrays["trace"]
        means = arrays.get("means", torch.zeros(0)).to(self.flat)
        self.at = _Progress(**numbers, means=list(means), level=arrays.get("level"))
        torch.set_rng_state(arrays["random"])
        if "random_cuda" in arrays and torch.cuda.is_initialized():
            torch.cuda.set_rng_state(arrays["random_cuda"])
        return True


def _first_not_finite(values: Tensor, flat: Tensor) -> int | None:
    """The first step of a window, from 1, after which something was not finite; None: none."""
    steps = torch.nonzero(~values.isfinite())
    if len(steps):
        return int(steps[0]) + 1
    return None if flat.isfinite().all() else len(values)


def _broken_off(trace: Tensor, step: int, lr: float) -> dict[str, Any]:
    """What a `Fit` says of an ascent that ended in a value that is not finite.

    Raises:
        Fault: in the first window, so that there is no good state to keep.
    """
    text = f"the objective or its gradient is not finite in step {step}"
    fix = f"lower lr (it was {lr:g}), or check the model's supports"
    if not len(trace):
        raise Fault(f"{text}; {fix}")
    finding = Finding("fail", f"{text}; kept is the state after step {len(trace)}", fix)
    return {"trace": trace, "findings": [finding], "status": "failed"}
