"""Stochastic variational inference: a guide's parameters by stochastic gradient ascent."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Annotated

import pyro
import torch
from pyro import poutine
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from tqdm.auto import tqdm

from . import guides
from ._problem import Context, Fault, Finding, Fit, Guide, Problem, Refused, check_memory
from .chains import DISCRETE, DRAWS, FIT, seeded
from .discrete import factors
from .program import NOT_VECTORISED, Program, further_draws, over_draws, run

# The learning rate falls by this factor at each plateau of the objective, so many times.
_DECAY, _PHASES = 0.3, 5


def svi(
    problem: Problem,
    *,
    seed: int,
    context: Context,
    guide: str | Guide | Callable = "normal",
    steps: Annotated[int, ">= 1"] = 20_000,
    lr: Annotated[float, "> 0"] = 0.1,
    particles: Annotated[int, ">= 1"] = 8,
    window: Annotated[int, ">= 10"] = 100,
    draws: Annotated[int, ">= 2"] = 4000,
) -> Fit:
    """Maximises the guide's objective, by default the ELBO, with Adam (Kingma and Ba 2015).

    The learning rate falls whenever the objective has not risen, by more than its noise, from one
    window of steps to the next; after the last such plateau the parameters are averaged over
    windows until the objective is level once more (Polyak and Juditsky 1992).

    Args:
        problem: model and data; discrete latents are summed out, then recovered.
        seed: seed of starting point, noise and draws.
        context: whether to show progress.
        guide: a shared guide's name, one of the model's own, or a Pyro function.
        steps: at most so many; a fit that is not level by then has not converged.
        lr: the first learning rate.
        particles: Monte Carlo samples of the objective in a step.
        window: steps over which the objective is averaged to see a plateau.
        draws: independent draws from the fitted guide.

    Raises:
        Refused: the guide's sites are not the model's latents.
        Fault: the objective or a gradient is not finite; with the step.
    """
    program = Program(problem)
    check_memory(draws, program.size)
    chosen = resolve(guide, program)
    with pyro.get_param_store().scope(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        with seeded(seed, FIT):
            pyro.clear_param_store()
            objective, params = _prepare(program, chosen, particles)
            trace, converged = _ascend(objective, params, steps, lr, window, context)
        with seeded(seed, DRAWS):
            values, log_q = _draw(program, chosen.guide, draws)
            log_p = over_draws(program.log_joint, values, program.elements)
            more = further_draws(program, program.log_joint, values)
            log_ratios = log_p - log_q if more <= draws else _log_ratios(program, chosen, more)
        with seeded(seed, DISCRETE):
            values = program.complete(values)
        learned = {k: v.detach().clone() for k, v in pyro.get_param_store().items()}
    return Fit(
        draws={name: value[None] for name, value in values.items()},
        kind="independent",
        log_p=log_p[None],
        log_q=log_q[None],
        log_ratios=log_ratios,
        params=learned,
        trace=trace,
        findings=[] if converged else [_not_level(steps)],
    )


def resolve(guide: str | Guide | Callable, program: Program) -> Guide:
    """The `Guide` of that name (or function): the model's own first, then the shared ones."""
    if isinstance(guide, str):
        own = program.problem.guides
        return Guide(own[guide]) if guide in own else guides.GUIDES[guide](program)
    return guide if isinstance(guide, Guide) else Guide(guide)


def _not_level(steps: int) -> Finding:
    return Finding(
        "fail",
        f"the objective was still rising, or too noisy to tell, after {steps} steps",
        "give more steps, more particles or another learning rate",
    )


def _prepare(
    program: Program, chosen: Guide, particles: int
) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """The objective averaged over particles, and the unconstrained parameters it depends on."""
    tensors = program.problem.tensors
    with poutine.trace(param_only=True) as capture:
        _check_sites(program, run(chosen.guide, tensors))
    single = _single(program, chosen)
    with poutine.trace(param_only=True) as more, pyro.validation_enabled(False):
        single(None)
    nodes = {**capture.trace.nodes, **more.trace.nodes}.values()
    params = [node["value"].unconstrained() for node in nodes if node["type"] == "param"]
    if not params:
        raise Refused("the guide has no parameters to learn; use the prior method to sample it")

    def vectorised() -> Tensor:
        return torch.func.vmap(single, randomness="different")(torch.arange(particles)).mean()

    def looped() -> Tensor:
        return torch.stack([single(None) for _ in range(particles)]).mean()

    try:
        vectorised()
    except NOT_VECTORISED:
        return looped, params
    return vectorised, params


def _single(program: Program, chosen: Guide) -> Callable[[Tensor | None], Tensor]:
    """One Monte Carlo estimate of the objective, differentiable in the parameters."""
    tensors = program.problem.tensors
    if chosen.objective is not None:
        return lambda _: chosen.objective(program.model, chosen.guide, tensors)
    if _reparameterised(run(chosen.guide, tensors)):
        return lambda _: _elbo(program, chosen.guide)
    return lambda _: _score_elbo(program, chosen.guide)


def _elbo(program: Program, guide: Callable) -> Tensor:
    """log p(data, z) - log q(z) at one z from the guide: Kingma and Welling (2014), eq. 2."""
    values, log_q = _from_guide(program, guide)
    return program.log_joint(values) - log_q


def _score_elbo(program: Program, guide: Callable) -> Tensor:
    """The ELBO at one z whose gradient is REINFORCE's: Ranganath et al. (2014), eq. 3."""
    with torch.no_grad():
        values, _ = _from_guide(program, guide)
    trace = run(poutine.condition(guide, data=values), program.problem.tensors)
    log_q = sum((f["log_prob"].sum() for f in factors(trace).values()), torch.zeros(()))
    elbo = program.log_joint(values) - log_q
    score = log_q * elbo.detach()
    return elbo + score - score.detach()


def _from_guide(program: Program, guide: Callable) -> tuple[dict[str, Tensor], Tensor]:
    """One draw of the latents from the guide and its log density."""
    trace = run(guide, program.problem.tensors)
    log_q = sum((f["log_prob"].sum() for f in factors(trace).values()), torch.zeros(()))
    return {name: trace.nodes[name]["value"] for name in program.layout}, log_q


def _reparameterised(trace: poutine.Trace) -> bool:
    sites = [node for node in trace.nodes.values() if node["type"] == "sample"]
    return all(getattr(node["fn"], "has_rsample", True) for node in sites)


def _check_sites(program: Program, trace: poutine.Trace) -> None:
    for name in program.layout:
        if name not in trace.nodes:
            raise Refused(
                f"the guide has no site '{name}', the model's latents are {_names(program)}"
            )
        shape, found = program.sites[name].shape, tuple(trace.nodes[name]["value"].shape)
        if shape != found:
            raise Refused(f"the guide's site '{name}' has shape {found}, the model's {shape}")
    for name, node in trace.nodes.items():
        auxiliary = node.get("infer", {}).get("is_auxiliary")
        if node["type"] != "sample" or auxiliary or isinstance(node["fn"], _Subsample):
            continue
        if name in program.sites and program.sites[name].role == "discrete":
            raise Refused(f"'{name}' is discrete and summed out; leave it out of the guide")
        if name not in program.sites:
            raise Refused(f"the guide's site '{name}' is not in the model: {_names(program)}")


def _log_ratios(program: Program, chosen: Guide, draws: int) -> Tensor:
    values, log_q = _draw(program, chosen.guide, draws)
    return over_draws(program.log_joint, values, program.elements) - log_q


def _names(program: Program) -> str:
    return ", ".join(program.layout)


def _ascend(
    objective: Callable[[], Tensor],
    params: list[Tensor],
    steps: int,
    lr: float,
    window: int,
    context: Context,
) -> tuple[Tensor, bool]:
    """Adam until the objective is level in every phase; the objective per step, and whether."""
    optimiser = torch.optim.Adam(params, lr=lr)
    average, averaged, phase, since = [p.detach().clone() for p in params], 0, 0, 0
    trace = torch.zeros(steps)
    bar = tqdm(total=steps, desc="svi", disable=not context.progress, mininterval=0.2)
    with bar, pyro.validation_enabled(False):
        for step in range(steps):
            trace[step] = _step(objective, params, optimiser, step)
            bar.update()
            if phase == _PHASES:
                averaged += 1
                for mean, param in zip(average, params):
                    mean += (param.detach() - mean) / averaged
            since += 1
            if since % window or since < 2 * window:
                continue
            bar.set_postfix_str(f"ELBO {trace[step + 1 - window : step + 1].mean():.4g}")
            if not _level(trace[step + 1 - 2 * window : step + 1]):
                continue
            if phase == _PHASES and averaged >= 5 * window:
                _assign(params, average)
                return trace[: step + 1], True
            if phase < _PHASES:
                phase, since = phase + 1, 0
                optimiser.param_groups[0]["lr"] = lr * _DECAY ** min(phase, _PHASES - 1)
    return trace, False


def _step(
    objective: Callable[[], Tensor],
    params: list[Tensor],
    optimiser: torch.optim.Optimizer,
    step: int,
) -> float:
    optimiser.zero_grad()
    value = objective()
    (-value).backward()
    gradients = [param.grad for param in params if param.grad is not None]
    if not value.isfinite() or not all(g.isfinite().all() for g in gradients):
        raise Fault(
            f"the objective or its gradient is not finite in step {step + 1}; "
            "lower lr, or check the model's supports"
        )
    optimiser.step()
    return value.item()


def _level(values: Tensor) -> bool:
    """Whether the second half is not above the first by more than its standard error."""
    first, second = values.chunk(2)
    error = (first.var() / len(first) + second.var() / len(second)).sqrt()
    return bool(second.mean() - first.mean() <= error)


def _assign(params: list[Tensor], values: Mapping) -> None:
    with torch.no_grad():
        for param, value in zip(params, values):
            param.copy_(value)


def _draw(program: Program, guide: Callable, draws: int) -> tuple[dict[str, Tensor], Tensor]:
    """Draws (S, *shape) from the guide and their log density (S,)."""

    def one(_: Mapping) -> dict[str, Tensor]:
        values, log_q = _from_guide(program, guide)
        return {**values, "log q": log_q}

    values = over_draws(one, {"draw": torch.arange(draws)})
    return values, values.pop("log q")
