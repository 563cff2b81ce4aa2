"""Stochastic variational inference: a guide's parameters by stochastic gradient ascent."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Annotated, Any, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide, AutoLaplaceApproximation, AutoNormalizingFlow
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor, nn
from torch.distributions import transform_to

from models.contract import BadSetting, Fault, Refused

from .. import guide as shared_guide
from ..core import user_code
from ..core.problem import Context, Finding, Fit, Graphs, Guide, Problem
from ..core.seeds import DISCRETE, DRAWS, FIT, seeded
from ..program import batching, memory, row_latents
from ..program.prepare import clash, where
from ..program.program import (
    Batch,
    Program,
    Weighted,
    further_draws,
    over_draws,
    run,
    sum_of_factors,
)
from ..program.record import How, compiled
from ..program.sampling import NOT_VECTORISED, Sampling, base_of
from . import guides
from .ascent import Adam, Ascent, Gradient, Schedule, batches, fallen
from .mode import mode

# What is in force where neither the user nor the guide says otherwise.
_SETTINGS = {"lr": 0.1, "window": 100, "schedule": "plateau", "particles": 8}
# What is climbed where the guide has no objective of its own.
Aim = Literal["elbo", "iwae"]
# Stream of the random numbers that a guide begins with, apart from those of its steps.
BEGIN = 1
# And of draws that are looked at for what is outside of supports.
_LOOK = 2
# Draws by which it is seen whether a guide stays inside of the model's supports, and if not.
_LOOKED_AT = 200
_MINUS_INFINITY = "its ELBO is minus infinity; use nuts, or a guide that draws no such values"
# Random points from which `begin=map` searches the mode.
_STARTS = 4
# Products of rows, draws and weights up to which the density of a network's draws is computed.
_MOST_PRODUCTS = 1e11
# Passes over the data that a window has at least, where a step sees a batch.
_PASSES = 10


def svi(
    program: Program,
    *,
    seed: int,
    context: Context,
    guide: str | Guide | Callable = "normal",
    steps: Annotated[int, ">= 1"] = 20_000,
    lr: Annotated[float | None, "> 0"] = None,
    schedule: Schedule | None = None,
    particles: Annotated[int | None, ">= 1"] = None,
    batch_size: Annotated[int | None, ">= 1"] = None,
    objective: Aim = "elbo",
    window: Annotated[int | None, ">= 10"] = None,
    draws: Annotated[int, ">= 2"] = 4000,
    rows: Annotated[int | None, ">= 1"] = None,
    begin: Literal["start", "map"] = "start",
    compile: How = "traced",
) -> Fit:
    """Maximises the guide's objective, by default the ELBO, with Adam (Kingma and Ba 2015).

    By the schedule `plateau` the learning rate falls whenever the objective has not risen, by more
    than its noise, from one window of steps to the next, and the parameters do not drift in one
    direction; after the last such plateau they are averaged over windows until all is level once
    more (Polyak and Juditsky 1992). By `linear` it stands for half of the steps and falls to zero
    in the other half.

    Args:
        program: model and data; discrete latents are summed out, then recovered.
        seed: seed of starting point, noise, batches and draws.
        context: whether to show progress, and the device.
        guide: a shared guide's name, one of the model's own, or a Pyro function.
        steps: at most so many (exactly so many, if `linear`); a fit that is not level by then has
            not converged.
        lr: the first learning rate; None takes the guide's own, else 0.1.
        schedule: how the learning rate falls; None takes the guide's own, else `plateau`.
        particles: Monte Carlo samples of the objective in a step; None takes the guide's own,
            else 8.
        objective: `elbo`, or `iwae`, the tighter bound of Burda et al. (2016): for each row the
            log of the mean over the particles of p / q, where each row has latents of its own.
        batch_size: rows in a step, drawn anew in each pass over the data; None takes all.
        window: steps over which the objective is averaged to see a plateau; None takes the
            guide's own, else 100.
        draws: independent draws from the fitted guide.
        rows: of the latents that belong to rows, those of the first so many are drawn in the end,
            by a guide that has an encoder; None takes all, as every other guide does.
        begin: where the location of a shared guide begins: at a random `start`, or at the mode of
            the unconstrained density, `map`.
        compile: how a step runs: `traced`, `aot` (needs a C++ compiler) or `plain` Pyro.

    Raises:
        Refused: the guide's sites are not the model's latents; batches of a problem that has no
            rows, or whose rows have latents without an encoder, or that do not stand for all rows
            (`batching.prove`); `iwae` where latents are not of the rows.
        Fault: the objective or a gradient is not finite; with the step.
        BadSetting: `begin=map` with a guide that is not shared, or on a GPU.
    """
    if isinstance(_module(_own(guide, program)), AutoLaplaceApproximation):
        return _laplace(program, draws, seed, context)
    with seeded(seed, FIT, BEGIN):
        chosen, findings = _chosen(guide, program, begin, seed, context)
    shown = program if rows is None else _of_first(program, chosen.guide, rows, seed)
    memory.check(shown, draws)
    used = _SETTINGS | dict(chosen.settings)
    own = {"lr": lr, "window": window, "schedule": schedule, "particles": particles}
    used |= {name: value for name, value in own.items() if value is not None}
    pace = Pace(steps, batch_size, compile=compile, objective=objective, **used)
    with store(), _in_mode(chosen.guide, False):
        with seeded(seed, FIT, BEGIN):
            _check_aim(objective, program, chosen)
        ended = trained(program, chosen, pace, seed, context)
        if chosen.objective is None and batch_size is None:
            ended["findings"] += fallen(ended["trace"], used["window"], used["lr"])
        metrics, told = chosen.finish() if chosen.finish is not None else ({}, [])
        sample = _sample(shown, chosen, draws, seed, context)
        learned = {k: v.detach().clone() for k, v in pyro.get_param_store().items()}
        params = learned if chosen.packed is None else chosen.packed(learned)
    ended["findings"] = findings + ended["findings"] + told
    kept = None if shown is program else shown.problem.n
    return Fit(params=params, settings=used, metrics=metrics, rows=kept, **sample, **ended)


def _laplace(program: Program, draws: int, seed: int, context: Context) -> Fit:
    """What Pyro's `AutoLaplaceApproximation` stands for; while it is trained it is a point."""
    from .laplace import laplace  # which is made of what is made of this module

    fit = laplace(program, seed=seed, context=context, draws=draws)
    what = "AutoLaplaceApproximation is Laplace's approximation, and was run as method laplace"
    fit.findings.append(Finding("note", what))
    return fit


def _of_first(program: Program, guide: Callable, rows: int, seed: int) -> Program:
    """The program of the first rows; of all, where the guide knows only those it was fitted to."""
    with store(), seeded(seed, DRAWS):  # nothing of these runs is kept
        _first_run(guide, program.problem.tensors)
        if not (row_latents.is_of_rows(program) and row_latents.encodes(program, guide)):
            return program
    return Program(program.problem.first(rows))


def _check_aim(objective: Aim, program: Program, chosen: Guide) -> None:
    """Refuse a bound for each row where there is none."""
    if objective == "elbo":
        return
    if chosen.objective is not None:
        raise BadSetting(
            f"this guide has an objective of its own; leave objective={objective} out"
        )
    if not row_latents.has_weights(program):
        raise Refused(
            "iwae is a bound for each row, and not every latent of the model belongs to a row; "
            "use objective=elbo"
        )
    if not row_latents.draws_by_row(program, chosen.guide):
        raise Refused(
            "iwae is a bound for each row, and the guide draws the latents of all rows at once; "
            "use objective=elbo, or a guide such as normal"
        )


@contextmanager
def trained_guide(
    problem: Problem, guide: str | Guide | Callable, params: Mapping[str, Tensor]
) -> Iterator[tuple[Program, Callable]]:
    """The program and the guide with the parameters that an earlier fit learned.

    Raises:
        Refused: they are those of another guide.
    """
    with store():
        program = Program(replace(problem, params=params))
        chosen = resolve(guide, program)
        with _in_mode(chosen.guide, False):
            run(chosen.guide, problem.tensors)
            for name in pyro.get_param_store():
                if name not in params or chosen.packed is not None:
                    raise Refused(f"the run has not learned {name}; give a run of this very guide")
            _put(params)
            yield program, chosen.guide


def _put(values: Mapping[str, Any]) -> None:
    """Parameters of the store take the values of their name and shape, if there are any."""
    state = pyro.get_param_store().get_state()
    for name, param in state["params"].items():
        to_space = transform_to(state["constraints"][name])
        if name in values and to_space(param).shape == tuple(values[name].shape):
            value = torch.as_tensor(values[name]).to(param)
            _lend(param, to_space.inv(value).detach())


def _lend(param: Tensor, data: Tensor) -> None:
    """Give a parameter, which modules of the user's may hold, other values until `store` ends."""
    if not hasattr(param, "lent"):
        param.lent = param.data
    param.data = data


@dataclass(frozen=True)
class Pace:
    """How an objective is climbed; the settings of `svi` of these names."""

    steps: int
    batch_size: int | None = None
    particles: int = 1
    compile: How = "traced"
    objective: Aim = "elbo"
    lr: float = 0.1
    window: int = 100
    schedule: Schedule = "plateau"


@contextmanager
def store() -> Iterator[None]:
    """A parameter store of the fit's own, after which modules hold the values they had before."""
    with pyro.get_param_store().scope(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        pyro.clear_param_store()
        try:
            yield
        finally:
            for param in pyro.get_param_store().get_state()["params"].values():
                param.data = vars(param).pop("lent", param.data)


def trained(
    program: Program, chosen: Guide, pace: Pace, seed: int, context: Context
) -> dict[str, Any]:
    """Climb the guide's objective: what a `Fit` says of it; the parameters are in the store."""
    _ = program.summed  # proved now: while a step is recorded, the proof's draws would be too
    problem, size = program.problem, pace.batch_size
    if size is not None and problem.n is not None and size >= problem.n:
        size = None
    with seeded(seed, FIT), _in_mode(chosen.guide, True):
        parts = batches(problem, size)
        ahead = [next(parts), next(parts)]
        gradient, params = prepared(program, chosen, pace, ahead, context.graphs)
        of_pass = 1 if size is None else problem.n // size
        window = max(pace.window, _PASSES * of_pass) // of_pass * of_pass
        ascent = Ascent(
            Adam(params, pace.lr),
            pace.steps,
            window,
            of_pass,
            context.state,
            schedule=pace.schedule,
            rows=problem.n or 1,
            live=chosen.live,
            of_rows=row_latents.is_of_rows(program),
        )
        _check_draws(program, chosen, seed)
        # At the end of a window the batches of a pass are all drawn: a new pass begins.
        parts = batches(problem, size) if ascent.load() else chain(ahead, parts)
        try:
            ended = ascent.run(gradient, parts, context)
        except Fault:
            _check_edges(program, chosen, seed)
            raise
        if ended.get("status") == "failed":
            _check_edges(program, chosen, seed)
    return {"findings": [], **ended}


def _check_draws(program: Program, chosen: Guide, seed: int) -> None:
    """Refuse a guide that draws what the priors or the data exclude.

    Outside of a support torch's densities may be finite, and the fit that of another model.
    """
    if not chosen.density or not (program.bounded or program.edges):
        return
    with seeded(seed, FIT, _LOOK), pyro.validation_enabled(False):
        values, _ = _draw(program, chosen.guide, _LOOKED_AT)
    _check_values(program, chosen.guide, values)


def _check_values(program: Program, guide: Callable, values: Mapping[str, Tensor]) -> None:
    """The same of draws (S, *shape).

    Raises:
        Refused: with the latent or the observation, its line, and what to do.
    """
    inside = over_draws(program.inside, values, program.elements) if program.bounded else {}
    for name, within in inside.items():
        if not within.all():
            fn = program.sites[name].fn
            line = _line(program, guide, name)
            raise Refused(
                f"the guide draws {name} outside the support of its prior, {line}; "
                f"give it the support of {type(base_of(fn)).__name__} (LogNormal, Beta, ...), or "
                "use a shared guide such as normal"
            )
    if not program.edges:
        return
    for i in range(min(_LOOKED_AT, len(next(iter(values.values()))))):
        _check_excluded(program, {name: value[i] for name, value in values.items()})


def _check_excluded(program: Program, values: Mapping[str, Tensor]) -> None:
    said = program.excluded(values)
    if said is not None:
        raise Refused(f"{said} at values that the guide reaches: {_MINUS_INFINITY}")


def _check_edges(program: Program, chosen: Guide, seed: int) -> None:
    """Refuse, after an objective that is not finite, where the density is zero near the guide."""
    if not chosen.density or not program.problem.identified:
        return
    _check_draws(program, chosen, seed)
    with seeded(seed, FIT, _LOOK):
        u = {"u": 2 * torch.randn(_LOOKED_AT, program.size)}
        density = over_draws(lambda one: program.log_density(one["u"]), u, program.elements)
    zero = u["u"][density == -torch.inf]
    if not len(zero):
        return
    _check_excluded(program, program.constrain(zero[0]))
    site = program.barred(zero[0])
    if site is not None:
        raise Refused(
            f"the site {site} gives a density of zero to values that the guide reaches, "
            f"{program.line(site)}: {_MINUS_INFINITY}"
        )


def _line(program: Program, guide: Callable, name: str) -> str:
    lines = user_code.Lines()
    run(guide, program.problem.tensors, lines)
    return lines.lines.get(name) or user_code.of_function(guide) or "in the guide"


def _sample(
    program: Program, chosen: Guide, draws: int, seed: int, context: Context
) -> dict[str, Any]:
    """What a `Fit` holds of the fitted guide: draws, log p, log q and further ratios of them."""
    of_all = _point(program, chosen, seed) if chosen.all is None else chosen.all()
    log_q, found = None, {}
    density = chosen.density and of_all is None and not _draws_labels(program, chosen, seed)
    with seeded(seed, DRAWS):
        if of_all is None:
            values, log_q = _draw(program, chosen.guide, draws)
            if density:
                _check_values(program, chosen.guide, values)
        else:
            values = {name: value.detach() for name, value in of_all.items()}
        if density and _affordable(program, draws):
            log_p = over_draws(program.log_joint, values, program.elements)
            found = {"log_p": log_p[None], "log_q": log_q[None], "log_ratios": log_p - log_q}
            some = context.of_many or not program.problem.identified
            more = 0 if some else further_draws(program, program.log_joint, values)
            if row_latents.has_weights(program) and row_latents.draws_by_row(
                program, chosen.guide
            ):
                found["log_ratios"] = row_latents.at_draws(program, chosen.guide, draws)
            elif more > draws:
                found["log_ratios"] = _log_ratios(program, chosen, more)
    with seeded(seed, DISCRETE):
        values = program.complete(values)
    return {
        "draws": {name: value[None] for name, value in values.items()},
        "kind": "point" if len(next(iter(values.values()))) == 1 else "independent",
        **found,
    }


def _point(program: Program, chosen: Guide, seed: int) -> dict[str, Tensor] | None:
    """The one value of each latent that the guide gives, if it gives the same each time."""
    with seeded(seed, FIT):
        one = run(chosen.guide, program.problem.tensors).nodes
        if not all(isinstance(base_of(one[k]["fn"]), dist.Delta) for k in program.layout):
            return None
        other = run(chosen.guide, program.problem.tensors).nodes
    if not all(torch.equal(one[k]["value"], other[k]["value"]) for k in program.layout):
        return None
    return {k: one[k]["value"].detach()[None] for k in program.layout}


def _draws_labels(program: Program, chosen: Guide, seed: int) -> bool:
    """Whether the guide is a mixture over labels of its own, whose log q is not a draw's."""
    with seeded(seed, FIT):
        nodes = run(chosen.guide, program.problem.tensors).nodes.values()
    own = [node["fn"] for node in nodes if node.get("infer", {}).get("is_auxiliary")]
    return any(fn.support.is_discrete for fn in own)


def _affordable(program: Program, draws: int) -> bool:
    """Whether the joint density of all rows can be had at all draws, in seconds."""
    rows = program.problem.n or 1
    return program.problem.identified or rows * program.size * draws < _MOST_PRODUCTS


def resolve(
    guide: str | Guide | Callable, program: Program, init: guides.Init | None = None
) -> Guide:
    """The `Guide` of that name (or function): the model's own first, then the shared ones.

    One of Pyro's automatic guides is copied, as it was made: what it learns stays with the run.
    """
    init = program.start_of if init is None else init
    if isinstance(guide, Guide):
        return replace(guide, guide=_anew(guide.guide))
    if isinstance(guide, str) and guide not in program.problem.guides:
        name, argument = guides.parse(guide)
        return shared_guide(name)(program, init, **argument)
    objective = program.problem.objectives.get(guide) if isinstance(guide, str) else None
    return Guide(program.kept(_anew(_own(guide, program))), objective=objective)


def _own(guide: str | Guide | Callable, program: Program) -> Any:
    """The function behind the name of one of the model's own guides; others as they are."""
    if isinstance(guide, str):
        name, _ = guides.parse(guide, program.problem.guides)
        return program.problem.guides.get(name)
    return guide.guide if isinstance(guide, Guide) else guide


def _module(guide: Any) -> nn.Module | None:
    """The module that a guide is, under its options and handlers."""
    guide = inspect.unwrap(guide)
    if isinstance(guide, partial):
        return _module(guide.func)
    return guide if isinstance(guide, nn.Module) else None


@contextmanager
def _in_mode(guide: Callable, training: bool) -> Iterator[None]:
    """Set what a guide that is a module of torch does in training alone: dropout and the like."""
    module = _module(guide)
    before = {} if module is None else {part: part.training for part in module.modules()}
    if module is not None:
        module.train(training)
    try:
        yield
    finally:
        for part, was in before.items():
            part.training = was


def _anew(guide: Any) -> Any:
    """A copy of one of Pyro's automatic guides as if it had never been called; others themselves.

    These take their shapes from the data of their first call, and learn ever further.
    """
    if isinstance(guide, partial):
        return partial(_anew(guide.func), *guide.args, **guide.keywords)
    if not isinstance(guide, AutoGuide):
        return guide
    parts = [part for part in guide.modules() if isinstance(part, AutoGuide)]
    known = [(part._model, part.master) for part in parts]
    # What a first call makes is not copied.
    made = [vars(part).get(name) for part in parts for name in ("prototype_trace", "plates")]
    flows = [part for part in parts if isinstance(part, AutoNormalizingFlow)]
    made += [flow.transform for flow in flows]
    instead = {id(what): None for what in made if what is not None}
    instead |= {id(flow._prototype_tensor): torch.zeros(()) for flow in flows}
    copied = deepcopy(guide, instead)
    twins = [part for part in copied.modules() if isinstance(part, AutoGuide)]
    for part, twin, (model, master) in zip(parts, twins, known):  # a copy takes these off
        part._model, part.master = model, master
        twin._model = model
    return copied


def _chosen(
    guide: str | Guide | Callable, program: Program, begin: str, seed: int, context: Context
) -> tuple[Guide, list[Finding]]:
    """The guide, begun where it is told to, and what there is to say of that."""
    if begin == "start":
        return resolve(guide, program), []
    if not isinstance(guide, str) or guide in program.problem.guides:
        raise BadSetting(
            "begin=map is for the shared guides, others begin as written; leave it out"
        )
    if context.device != "cpu":
        raise BadSetting(
            "begin=map runs on the processor alone; leave it out, or use --device cpu"
        )
    guides.parse(guide, program.problem.guides)  # a wrong name is told before the search
    with seeded(seed, FIT):
        at = mode(program, [program.start() for _ in range(_STARTS)], jacobian=True)
    if at.escaped.any() or not at.u.isfinite().all():
        what = "the unconstrained density has no mode to begin at, so the guide began at random"
        return resolve(guide, program), [Finding("note", what)]
    values = program.constrain(at.u)
    return resolve(guide, program, lambda site: values[site["name"]].clone()), []


# -- one step ----------------------------------------------------------------------------------


def batch_of(problem: Problem, rows: Sequence[Tensor]) -> Batch:
    """The data with the rows of a batch in the place of all rows."""
    grey, draw = problem.redrawn or ({}, dict)
    if not rows:
        return Batch({**problem.tensors, **draw(grey)})
    return Batch.of(problem, {**problem.tensors, **draw(dict(zip(problem.rows[1], rows)))})


def prepared(
    program: Program,
    chosen: Guide,
    pace: Pace,
    examples: list[list[Tensor]],
    graphs: Graphs | None = None,
) -> tuple[Gradient, Tensor]:
    """The objective's gradient, and the vector of all unconstrained parameters it is in.

    The parameters of guide and model are views of that vector from here on.
    """
    batch = batch_of(program.problem, examples[0])
    with poutine.trace(param_only=True) as capture:
        # On all rows first: Pyro's guides take their shapes from the first data they see.
        for part in (Batch(program.problem.tensors), batch):
            drawn = _first_run(chosen.guide, part.tensors)
            check_sites(program, drawn, part)
        if batch.weight != 1 and (graphs is None or graphs.blank):
            batching.prove(program, chosen, len(examples[0][0]))
        if program.unfitted:  # the model's own begin here, where no vmap sees them
            run(program.model, batch.tensors, lambda model: poutine.replay(model, trace=drawn))
    single = _single(program, chosen, batch)
    with poutine.trace(param_only=True) as more, pyro.validation_enabled(False):
        single(None, batch)
    nodes = {**capture.trace.nodes, **more.trace.nodes}.values()
    params = [node["value"] for node in nodes if node["type"] == "param"]
    params = [param.unconstrained() for param in params if hasattr(param, "unconstrained")]
    params = list({id(param): param for param in params}.values())
    if not params:
        raise Refused("the guide has no parameters to learn; use the prior method to sample it")
    _put(program.problem.earlier)
    if pace.objective == "iwae":
        estimate = _iwae(program, chosen, pace.particles)
    else:
        estimate = _over_particles(single, pace.particles, batch)
    flat = _flatten(params, graphs)

    def gradient(*rows: Tensor) -> tuple[Tensor, Tensor]:
        with pyro.validation_enabled(False):
            value = estimate(batch_of(program.problem, rows))
        slopes = torch.autograd.grad(value, params, materialize_grads=True)
        return value.detach(), torch.cat([slope.flatten() for slope in slopes])

    record = compiled if graphs is None else graphs.compiled
    live = [*params, *(number for number, _ in chosen.live)]
    return record(gradient, examples, how=pace.compile, live=live), flat


def _first_run(guide: Callable, tensors: Mapping[str, Any]) -> poutine.Trace:
    """The guide's trace; an error inside it as a refusal with file and line."""
    try:
        return run(guide, tensors)
    except Fault:
        raise
    except Exception as error:
        message = str(error).partition("\n")[0]
        raise Refused(
            f"the guide cannot run ({type(error).__name__}: {message}), {where(error)}; "
            f"{clash(error) or 'correct it'}"
        ) from error


def _flatten(params: Sequence[Tensor], graphs: Graphs | None) -> Tensor:
    """One vector of all parameters, of which each becomes a view: one update moves them all."""
    flat = torch.cat([param.detach().flatten() for param in params])
    flat = flat if graphs is None else graphs.memory("parameters", flat)
    start = 0
    for param in params:
        _lend(param, flat[start : start + param.numel()].view(param.shape))
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


def _iwae(program: Program, chosen: Guide, particles: int) -> Callable[[Batch], Tensor]:
    """The sum over rows of log mean_k w_k, see `by_row`."""

    def estimate(batch: Batch) -> Tensor:
        def one(_: Tensor) -> Tensor:
            return row_latents.log_weights(program, chosen.guide, batch)

        several = torch.func.vmap(one, randomness="different")(torch.arange(particles))
        return batch.weight * (several.logsumexp(0) - math.log(particles)).sum()

    return estimate


def _single(
    program: Program, chosen: Guide, batch: Batch
) -> Callable[[Tensor | None, Batch], Tensor]:
    """One Monte Carlo estimate of the objective, differentiable in the parameters."""
    if chosen.objective is not None:

        def of_its_own(_: Tensor | None, batch: Batch) -> Tensor:
            model, guide = Weighted(batch)(program.model), Weighted(batch)(chosen.guide)
            guide = Sampling()(guide)  # for objectives that are vectorised over draws
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


def _draw(program: Program, guide: Callable, draws: int) -> tuple[dict[str, Tensor], Tensor]:
    """Draws (S, *shape) from the guide and their log density (S,)."""
    everything = Batch(program.problem.tensors)

    def one(_: Mapping) -> dict[str, Tensor]:
        values, log_q = _from_guide(program, guide, everything)
        return {**values, "log q": log_q}

    values = over_draws(one, {"draw": torch.arange(draws)}, program.elements)
    return values, values.pop("log q")
