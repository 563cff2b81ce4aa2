"""Stochastic variational inference: a guide's parameters by stochastic gradient ascent."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Annotated, Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from tqdm.auto import tqdm

from . import guides
from ._problem import Context, Fault, Finding, Fit, Guide, Problem, Refused, check_memory
from .chains import DISCRETE, DRAWS, FIT, Heard, listening, seeded
from .graph import Graphs, How, compiled
from .point import mode
from .prepare import where
from .program import (
    NOT_VECTORISED,
    Batch,
    Program,
    Weighted,
    further_draws,
    over_draws,
    run,
    start_value,
    sum_of_factors,
)
from .settings import BadSetting
from .state import State

# What is in force where neither the user nor the guide says otherwise.
_SETTINGS = {"lr": 0.1, "window": 100}
# The learning rate falls by this factor at each plateau of the objective, in so many phases; in
# more where the last fall still raised the objective.
_DECAY, _PHASES, _MOST_PHASES = 0.3, 5, 20
# Random points from which `init=map` searches the mode.
_STARTS = 4
# Passes over the data that a window has at least, where a step sees a batch.
_PASSES = 10


def svi(
    problem: Problem,
    *,
    seed: int,
    context: Context,
    guide: str | Guide | Callable = "normal",
    steps: Annotated[int, ">= 1"] = 20_000,
    lr: Annotated[float | None, "> 0"] = None,
    particles: Annotated[int, ">= 1"] = 8,
    batch_size: Annotated[int | None, ">= 1"] = None,
    window: Annotated[int | None, ">= 10"] = None,
    draws: Annotated[int, ">= 2"] = 4000,
    init: Literal["start", "map"] = "start",
    compile: How = "traced",
) -> Fit:
    """Maximises the guide's objective, by default the ELBO, with Adam (Kingma and Ba 2015).

    The learning rate falls whenever the objective has not risen, by more than its noise, from one
    window of steps to the next, and the parameters do not drift in one direction; after the last
    such plateau they are averaged over windows until all is level once more (Polyak and Juditsky
    1992).

    Args:
        problem: model and data; discrete latents are summed out, then recovered.
        seed: seed of starting point, noise, batches and draws.
        context: whether to show progress, and the device.
        guide: a shared guide's name, one of the model's own, or a Pyro function.
        steps: at most so many; a fit that is not level by then has not converged.
        lr: the first learning rate; None takes the guide's own, else 0.1.
        particles: Monte Carlo samples of the objective in a step.
        batch_size: rows in a step, drawn anew in each pass over the data; None takes all.
        window: steps over which the objective is averaged to see a plateau; None takes the
            guide's own, else 100.
        draws: independent draws from the fitted guide.
        init: where the location of a shared guide begins: at a random `start`, or at the mode of
            the unconstrained density, `map`.
        compile: how a step runs: `traced`, `aot` (needs a C++ compiler) or `plain` Pyro.

    Raises:
        Refused: the guide's sites are not the model's latents; batches of a problem that has no
            rows, or whose rows have latents without an encoder.
        Fault: the objective or a gradient is not finite; with the step.
        BadSetting: `init=map` with a guide that is not shared, or on a GPU.
    """
    program = Program(problem)
    check_memory(draws, program.size)
    chosen, findings = _chosen(guide, program, init, seed, context)
    used = _SETTINGS | dict(chosen.settings)
    used |= {k: v for k, v in (("lr", lr), ("window", window)) if v is not None}
    lr, window = used["lr"], used["window"]
    with pyro.get_param_store().scope(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        with seeded(seed, FIT):
            pyro.clear_param_store()
            batches = _batches(problem, batch_size)
            ahead = [next(batches), next(batches)]
            gradient, params = _prepare(program, chosen, particles, ahead, compile, context.graphs)
            of_pass = 1 if batch_size is None else problem.n // batch_size
            window = max(window, _PASSES * of_pass) // of_pass * of_pass
            ascent = _Ascent(_Adam(params, lr), steps, window, of_pass, context.state)
            # At the end of a window the batches of a pass are all drawn: a new pass begins.
            batches = _batches(problem, batch_size) if ascent.load() else chain(ahead, batches)
            ended = ascent.run(gradient, batches, context)
            findings += ended.pop("findings", [])
            if chosen.objective is None and batch_size is None:
                findings += _fallen(ended["trace"], window, lr)
        sample = _sample(program, chosen, draws, seed)
        learned = {k: v.detach().clone() for k, v in pyro.get_param_store().items()}
    return Fit(
        kind="independent", params=learned, settings=used, findings=findings, **sample, **ended
    )


def _sample(program: Program, chosen: Guide, draws: int, seed: int) -> dict[str, Any]:
    """What a `Fit` holds of the fitted guide: draws, log p, log q and further ratios of them."""
    with seeded(seed, DRAWS):
        values, log_q = _draw(program, chosen.guide, draws)
        log_p = over_draws(program.log_joint, values, program.elements)
        more = further_draws(program, program.log_joint, values)
        log_ratios = log_p - log_q if more <= draws else _log_ratios(program, chosen, more)
    with seeded(seed, DISCRETE):
        values = program.complete(values)
    return {
        "draws": {name: value[None] for name, value in values.items()},
        "log_p": log_p[None],
        "log_q": log_q[None],
        "log_ratios": log_ratios,
    }


def resolve(
    guide: str | Guide | Callable, program: Program, init: guides.Init = start_value
) -> Guide:
    """The `Guide` of that name (or function): the model's own first, then the shared ones."""
    if isinstance(guide, str):
        own = program.problem.guides
        name, argument = guides.parse(guide, own)
        return Guide(own[name]) if name in own else guides.GUIDES[name](program, init, **argument)
    return guide if isinstance(guide, Guide) else Guide(guide)


def _chosen(
    guide: str | Guide | Callable, program: Program, init: str, seed: int, context: Context
) -> tuple[Guide, list[Finding]]:
    """The guide, begun where `init` says, and what there is to say of that."""
    if init == "start":
        return resolve(guide, program), []
    if not isinstance(guide, str) or guide in program.problem.guides:
        raise BadSetting(
            "init=map is for the shared guides, others begin as written; leave it out"
        )
    if context.device != "cpu":
        raise BadSetting("init=map runs on the processor alone; leave it out, or use --device cpu")
    guides.parse(guide, program.problem.guides)  # a wrong name is told before the search
    with seeded(seed, FIT):
        at = mode(program, [program.start() for _ in range(_STARTS)], jacobian=True)
    if at.escaped.any() or not at.u.isfinite().all():
        what = "the unconstrained density has no mode to begin at, so the guide began at random"
        return resolve(guide, program), [Finding("note", what)]
    values = program.constrain(at.u)
    return resolve(guide, program, lambda site: values[site["name"]].clone()), []


# -- one step ----------------------------------------------------------------------------------

# Value and flat gradient of the objective on the rows of a batch.
Gradient = Callable[..., tuple[Tensor, Tensor]]


def _batches(problem: Problem, size: int | None) -> Iterator[list[Tensor]]:
    """The row tensors of one batch after another: all rows, or a shuffled part of them."""
    if size is None:
        while True:
            yield []
    if problem.rows is None:
        raise Refused("the data have no rows to take batches of; leave batch_size out")
    rows = [problem.tensors[key] for key in problem.rows[1]]
    n = len(rows[0])
    if size > n:
        raise Refused(f"batch_size is {size}, there are {n} rows; leave it out for all rows")
    while True:
        for part in torch.randperm(n, device=rows[0].device).split(size):
            if len(part) == size:  # the last few rows wait for another pass
                yield [tensor[part] for tensor in rows]


def _batch(problem: Problem, rows: Sequence[Tensor]) -> Batch:
    """The data with the rows of a batch in the place of all rows."""
    if not rows:
        return Batch(problem.tensors)
    plate, keys = problem.rows
    tensors = {**problem.tensors, **dict(zip(keys, rows))}
    return Batch(tensors, plate, problem.n / len(rows[0]))


def _prepare(
    program: Program,
    chosen: Guide,
    particles: int,
    examples: list[list[Tensor]],
    how: How,
    graphs: Graphs | None = None,
) -> tuple[Gradient, Tensor]:
    """The objective's gradient, and the vector of all unconstrained parameters it is in.

    The parameters of guide and model are views of that vector from here on.
    """
    batch = _batch(program.problem, examples[0])
    with poutine.trace(param_only=True) as capture:
        # On all rows first: Pyro's guides take their shapes from the first data they see.
        for part in (Batch(program.problem.tensors), batch):
            check_sites(program, _first_run(chosen.guide, part.tensors), part)
    single = _single(program, chosen, batch)
    with poutine.trace(param_only=True) as more, pyro.validation_enabled(False):
        single(None, batch)
    nodes = {**capture.trace.nodes, **more.trace.nodes}.values()
    params = [node["value"].unconstrained() for node in nodes if node["type"] == "param"]
    params = list({id(param): param for param in params}.values())
    if not params:
        raise Refused("the guide has no parameters to learn; use the prior method to sample it")
    estimate = _over_particles(single, particles, batch)
    flat = _flatten(params, graphs)

    def gradient(*rows: Tensor) -> tuple[Tensor, Tensor]:
        with pyro.validation_enabled(False):
            value = estimate(_batch(program.problem, rows))
        slopes = torch.autograd.grad(value, params, materialize_grads=True)
        return value.detach(), torch.cat([slope.flatten() for slope in slopes])

    record = compiled if graphs is None else graphs.compiled
    return record(gradient, examples, how=how, live=params), flat


def _first_run(guide: Callable, tensors: Mapping[str, Any]) -> poutine.Trace:
    """The guide's trace; an error inside it as a refusal with file and line."""
    try:
        return run(guide, tensors)
    except Fault:
        raise
    except Exception as error:
        message = str(error).partition("\n")[0]
        raise Refused(
            f"the guide cannot run ({type(error).__name__}: {message}), {where(error, guide)}; "
            "correct it"
        ) from error


def _flatten(params: Sequence[Tensor], graphs: Graphs | None) -> Tensor:
    """One vector of all parameters, of which each becomes a view: one update moves them all."""
    flat = torch.cat([param.detach().flatten() for param in params])
    flat = flat if graphs is None else graphs.memory("parameters", flat)
    start = 0
    for param in params:
        param.data = flat[start : start + param.numel()].view(param.shape)
        start += param.numel()
    return flat


def _over_particles(
    single: Callable[[Tensor | None, Batch], Tensor], particles: int, batch: Batch
) -> Callable[[Batch], Tensor]:
    """The mean of several estimates, all at once where the model can be vectorised."""

    def vectorised(batch: Batch) -> Tensor:
        several = torch.func.vmap(lambda i: single(i, batch), randomness="different")
        return several(torch.arange(particles)).mean()

    def looped(batch: Batch) -> Tensor:
        return torch.stack([single(None, batch) for _ in range(particles)]).mean()

    if particles == 1:
        return lambda batch: single(None, batch)
    try:
        with pyro.validation_enabled(False):
            vectorised(batch)
    except NOT_VECTORISED:
        return looped
    return vectorised


def _single(
    program: Program, chosen: Guide, batch: Batch
) -> Callable[[Tensor | None, Batch], Tensor]:
    """One Monte Carlo estimate of the objective, differentiable in the parameters."""
    if chosen.objective is not None:

        def of_its_own(_: Tensor | None, batch: Batch) -> Tensor:
            model, guide = Weighted(batch)(program.model), Weighted(batch)(chosen.guide)
            return chosen.objective(model, guide, batch.tensors)

        return of_its_own
    if _reparameterised(run(chosen.guide, batch.tensors)):
        return lambda _, batch: _elbo(program, chosen.guide, batch)
    return lambda _, batch: _score_elbo(program, chosen.guide, batch)


def _elbo(program: Program, guide: Callable, batch: Batch) -> Tensor:
    """log p(data, z) - log q(z) at one z from the guide: Kingma and Welling (2014), eq. 2."""
    values, log_q = _from_guide(program, guide, batch)
    return program.log_joint(values, batch) - log_q


def _score_elbo(program: Program, guide: Callable, batch: Batch) -> Tensor:
    """The ELBO at one z whose gradient is REINFORCE's: Ranganath et al. (2014), eq. 3."""
    with torch.no_grad():
        values, _ = _from_guide(program, guide, batch)
    trace = run(poutine.condition(guide, data=values), batch.tensors)
    elbo = program.log_joint(values, batch) - sum_of_factors(trace, batch)
    # The score is that of the density the values were drawn from, whatever they are weighed by.
    score = sum_of_factors(trace, Batch(batch.tensors)) * elbo.detach()
    return elbo + score - score.detach()


def _from_guide(
    program: Program, guide: Callable, batch: Batch
) -> tuple[dict[str, Tensor], Tensor]:
    """One draw of the latents from the guide and its log density."""
    trace = run(guide, batch.tensors)
    values = {name: trace.nodes[name]["value"] for name in program.layout}
    return values, sum_of_factors(trace, batch)


def _reparameterised(trace: poutine.Trace) -> bool:
    nodes = [node["fn"] for node in trace.nodes.values() if node["type"] == "sample"]
    sampled = [fn for fn in nodes if not isinstance(fn, _Subsample)]  # a plate is none
    return all(getattr(fn, "has_rsample", True) for fn in sampled)


def check_sites(program: Program, trace: poutine.Trace, batch: Batch) -> None:
    """Refuse a guide whose sites are not the model's continuous latents.

    Args:
        program: the model.
        trace: a run of the guide on the rows of the batch.
        batch: the rows.

    Raises:
        Refused: a latent without a site, a site of another shape, or one that is no latent.
    """
    for name in program.layout:
        if name not in trace.nodes:
            raise Refused(
                f"the guide has no site '{name}', the model's latents are {_names(program)}; "
                f'add pyro.sample("{name}", ...)'
            )
        shape, found = _shape(program, name, batch), tuple(trace.nodes[name]["value"].shape)
        if shape != found:
            if batch.weight != 1:
                raise Refused(
                    f"'{name}' is a latent of each row, and the guide has shape {found} for a "
                    f"batch of {shape}; leave batch_size out, or give a guide with an encoder"
                )
            raise Refused(
                f"the guide's site '{name}' has shape {found}, the model's {shape}; "
                "give it that of the model"
            )
    for name, node in trace.nodes.items():
        auxiliary = node.get("infer", {}).get("is_auxiliary")
        if node["type"] != "sample" or auxiliary or isinstance(node["fn"], _Subsample):
            continue
        if name in program.sites and program.sites[name].role == "discrete":
            raise Refused(f"'{name}' is discrete and summed out; leave it out of the guide")
        if name not in program.sites:
            raise Refused(
                f"the guide's site '{name}' is not in the model, whose latents are "
                f"{_names(program)}; rename it, or leave it out"
            )


def _shape(program: Program, name: str, batch: Batch) -> tuple[int, ...]:
    """The shape of a latent on the rows of a batch."""
    site, n = program.sites[name], program.problem.n
    shape = list(site.shape)
    for plate in site.plates:
        if plate.name == batch.plate:
            shape[plate.dim - site.event_dim] = round(n / batch.weight)
    return tuple(shape)


def _log_ratios(program: Program, chosen: Guide, draws: int) -> Tensor:
    values, log_q = _draw(program, chosen.guide, draws)
    return over_draws(program.log_joint, values, program.elements) - log_q


def _names(program: Program) -> str:
    return ", ".join(program.layout)


# -- the ascent --------------------------------------------------------------------------------


class _Adam:
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


class _Ascent:
    """Adam until all is level in every phase, window by window; goes on from a state on disk.

    Args:
        adam: the optimiser, on the vector of all parameters.
        steps: at most so many.
        window: steps of a window.
        of_pass: steps of a pass over the data.
        state: where to keep what a resume needs.
    """

    def __init__(self, adam: _Adam, steps: int, window: int, of_pass: int, state: State):
        self.adam, self.steps, self.window, self.of_pass = adam, steps, window, of_pass
        self.kept = state
        self.trace = torch.zeros(steps, dtype=adam.flat.dtype)
        self.at = _Progress()

    def run(self, gradient: Gradient, batches: Iterator[list[Tensor]], context: Context) -> dict:
        """The trace, and what a `Fit` says of it; the parameters are left at their best."""
        at, last, broke = self.at, self.adam.flat.clone(), None
        bar = tqdm(total=self.steps, desc="svi", disable=not context.progress, mininterval=0.2)
        bar.update(at.done)
        with bar, listening() as heard:
            while at.done < self.steps and not at.converged and heard.signal is None:
                most = min(self.window, self.steps - at.done)
                values, mean = _window(gradient, self.adam, batches, most, heard)
                broke = _broken(values, self.adam.flat)
                if not len(values) or broke is not None:
                    break
                last.copy_(self.adam.flat)
                self._advance(values, mean)
                elbo = float(values.mean())
                bar.update(len(values))
                bar.set_postfix_str(f"ELBO {elbo:.4g}")
                told = {"step": at.done, "of": self.steps, "elbo": elbo, "lr": self.adam.lr}
                context.callbacks.on_step(told)
                if self.kept.due and len(values) == self.window:
                    self.save()
        if at.converged:
            self.adam.flat.copy_(torch.stack(at.means).mean(0))
        trace = self.trace[: at.done].cpu()
        if broke is not None:
            self.adam.flat.copy_(last)
            return _broken_off(trace, at.done + broke, self.adam.lr)
        return {"trace": trace, **_ending(at.converged, heard.signal, at.done)}

    def _advance(self, values: Tensor, mean: Tensor) -> None:
        """Take a window into account: a plateau ends a phase, the last one the ascent."""
        at = self.at
        self.trace[at.done : at.done + len(values)] = values
        at.done += len(values)
        at.means.append(mean)
        recent = self.trace[max(at.done - 2 * self.window, 0) : at.done]
        if len(at.means) < 3 or _rising(recent, self.of_pass) or _drifting(at.means[-3:]):
            return
        if at.averaging:
            at.converged = len(at.means) >= 5
            return
        raised = at.level is not None and _above(recent, at.level)
        at.level, at.means = recent.clone(), []
        at.averaging = (at.phase >= _PHASES and not raised) or at.phase == _MOST_PHASES
        if not at.averaging:
            at.phase, self.adam.lr = at.phase + 1, self.adam.lr * _DECAY

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


def _window(
    gradient: Gradient, adam: _Adam, batches: Iterator[list[Tensor]], steps: int, heard: Heard
) -> tuple[Tensor, Tensor]:
    """Some steps: the objective at each (steps,), and the mean of the parameters."""
    values, total = [], torch.zeros_like(adam.flat)
    while len(values) < steps and heard.signal is None:
        value, slope = gradient(*next(batches))
        adam(slope)
        values.append(value)
        total += adam.flat
    return torch.stack(values) if values else total[:0], total / max(len(values), 1)


def _broken(values: Tensor, flat: Tensor) -> int | None:
    """The first step of a window, from 1, after which something was not finite."""
    bad = torch.nonzero(~values.isfinite())
    if len(bad):
        return int(bad[0]) + 1
    return None if flat.isfinite().all() else len(values)


def _broken_off(trace: Tensor, step: int, lr: float) -> dict:
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


def _ending(converged: bool, signal: int | None, done: int) -> dict:
    """What a `Fit` says of the end of the ascent."""
    if converged:
        return {}
    if signal is not None:
        what = f"interrupted after {done} steps, before the objective was level"
        found = Finding("fail", what, "resume it, or run it again")
        return {"findings": [found], "status": "interrupted", "signal": signal}
    what = f"the objective was still rising, or too noisy to tell, after {done} steps"
    mend = "give more steps, more particles or another learning rate"
    return {"findings": [Finding("fail", what, mend)]}


def _fallen(trace: Tensor, window: int, lr: float) -> list[Finding]:
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


def _rising(values: Tensor, several: int) -> bool:
    """Whether the second half is above the first by more than its standard error.

    Args:
        values: the objective of two windows of steps.
        several: steps of a pass over the data, over which batches are averaged first: the rows of
            a pass are the same (but for a last few), so that their noise hides no slow rise.
    """
    passes = values[len(values) % several :].unflatten(0, (-1, several)).mean(1)
    first, second = passes.chunk(2)
    error = (first.var() / len(first) + second.var() / len(second)).sqrt()
    return bool(second.mean() - first.mean() > error)


def _above(values: Tensor, before: Tensor) -> bool:
    """Whether the objective is higher than it was, by more than two standard errors."""
    error = (values.var() / len(values) + before.var() / len(before)).sqrt()
    return bool(values.mean() - before.mean() > 2 * error)


def _drifting(means: Sequence[Tensor]) -> bool:
    """Whether the parameters still move in one direction, from window to window.

    Two successive differences of means point the same way on a slope (cosine near 1), opposite
    ways around an optimum (-1/2), which shows where noise hides the objective's rise: the idea of
    Pflug (1990), Monatshefte fuer Mathematik 110, on means instead of single steps.
    """
    first, second = means[1] - means[0], means[2] - means[1]
    return bool(first @ second > 0.5 * first.norm() * second.norm())


def _draw(program: Program, guide: Callable, draws: int) -> tuple[dict[str, Tensor], Tensor]:
    """Draws (S, *shape) from the guide and their log density (S,)."""
    everything = Batch(program.problem.tensors)

    def one(_: Mapping) -> dict[str, Tensor]:
        values, log_q = _from_guide(program, guide, everything)
        return {**values, "log q": log_q}

    values = over_draws(one, {"draw": torch.arange(draws)}, program.elements)
    return values, values.pop("log q")
