"""The training of a guide: its objective climbed, by batches of rows or by all of them.

A step has the rows of a batch, estimates of the objective on them, and their gradient in one
vector, of which all parameters are views.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from models.contract import Fault, Refused

from ..core.problem import Context, Graphs, Guide, Problem
from ..core.seeds import FIT, seeded
from ..program import batching, row_latents
from ..program.graphs import compiled, way_of
from ..program.handlers import Batch, Weighted, run, sum_of_factors
from ..program.prepare import clash, where
from ..program.program import Program
from ..program.sampling import NOT_VECTORISED, Sampling
from .ascent import Ascent, AscentSettings, Gradient
from .draws import check_draws, check_edges, check_sites, draw_one
from .guides import module_of, resolve

# Stream of the random numbers that a guide begins with, apart from those of its steps.
BEGIN = 1
# The objective on the rows of a batch, or one Monte Carlo estimate of it: a scalar, nats,
# differentiable in the parameters.
Estimate = Callable[[Batch], Tensor]


def train(
    program: Program, chosen: Guide, settings: AscentSettings, seed: int, context: Context
) -> dict[str, Any]:
    """Climb a guide's objective; the parameters are in the store.

    Args:
        program: the model and its data.
        chosen: the guide.
        settings: how it is climbed.
        seed: of noise and batches.
        context: where progress is shown, and the state of an earlier attempt.

    Returns:
        What a `Fit` holds of the ascent: `trace`, `findings`, `outlook`, `status`, `signal`, and
        of its settings how a step ran.

    Raises:
        Refused: as `gradient_of`; or the guide draws what the priors or the data exclude.
        Fault: the objective or its gradient is not finite in the first window.
    """
    _ = program.summed  # proved now: while a step is recorded, the proof's draws would be too
    problem, size = program.problem, settings.batch_size
    if size is not None and problem.n is not None and size >= problem.n:
        size = None
    with seeded(seed, FIT), in_mode(chosen.guide, True):
        parts = batches(problem, size)
        ahead = [next(parts), next(parts)]
        _, saved = context.state.load("svi") or ({}, {})
        earlier = saved.get("way")
        settings = replace(settings, compile=earlier or settings.compile)
        gradient, params = gradient_of(program, chosen, settings, ahead, context.graphs)
        ascent = Ascent(
            params,
            settings,
            context,
            of_pass=1 if size is None else problem.n // size,
            rows=problem.n or 1,
            live=chosen.live,
            of_rows=row_latents.is_of_rows(program),
            way=way_of(gradient, earlier),
        )
        check_draws(program, chosen, seed)
        # At the end of a window the batches of a pass are all drawn: a new pass begins.
        parts = batches(problem, size) if ascent.load() else chain(ahead, parts)
        try:
            ended = ascent.run(gradient, parts)
        except Fault:
            check_edges(program, chosen, seed)
            raise
        if ended.get("status") == "failed":
            check_edges(program, chosen, seed)
    return {"findings": [], "settings": {"compile": ascent.way}, **ended}


@contextmanager
def trained_guide(program: Program, guide: str | Guide | Callable) -> Iterator[Callable]:
    """The guide with the parameters that an earlier fit learned, as long as the context lasts.

    Args:
        program: a model whose problem has these parameters.
        guide: as `svi` takes it.

    Raises:
        Refused: they are those of another guide.
    """
    params = program.problem.params
    with store():
        chosen = resolve(guide, program)
        with in_mode(chosen.guide, False):
            run(chosen.guide, program.problem.tensors)
            for name in pyro.get_param_store():
                if name not in params or chosen.packed is not None:
                    raise Refused(f"the run has not learned {name}; give a run of this very guide")
            set_values(params)
            yield chosen.guide


# -- the rows of a step ------------------------------------------------------------------------


def batches(problem: Problem, size: int | None) -> Iterator[list[Tensor]]:
    """The row tensors of one batch after another, without an end.

    Args:
        problem: the model and its data.
        size: rows of a batch, a shuffled part of all in each pass; None takes all of them, of
            which nothing is cut out (an empty list).

    Raises:
        Refused: the data have no rows.
    """
    if size is None:
        while True:
            yield []
    if problem.rows is None:
        raise Refused("the data have no rows to take batches of; leave batch_size out")
    given = problem.tensors if problem.redrawn is None else problem.redrawn[0]
    rows = [given[key] for key in problem.rows[1]]
    while True:
        for part in torch.randperm(len(rows[0]), device=rows[0].device).split(size):
            if len(part) == size:  # the last few rows wait for another pass
                yield [tensor[part] for tensor in rows]


def batch_of(problem: Problem, rows: Sequence[Tensor]) -> Batch:
    """The data with the rows of a batch in the place of all rows.

    Args:
        problem: the model and its data.
        rows: the row tensors, as `batches` yields them.
    """
    grey, draw = problem.redrawn or ({}, dict)
    if not rows:
        return Batch({**problem.tensors, **draw(grey)})
    return Batch.of(problem, {**problem.tensors, **draw(dict(zip(problem.rows[1], rows)))})


# -- the objective of a step, and its gradient --------------------------------------------------


def gradient_of(
    program: Program,
    chosen: Guide,
    settings: AscentSettings,
    examples: list[list[Tensor]],
    graphs: Graphs | None = None,
) -> tuple[Gradient, Tensor]:
    """The objective's gradient, and the vector of all unconstrained parameters it is in.

    The parameters of guide and model are views of that vector from here on.

    Args:
        program: the model and its data.
        chosen: the guide, with its objective if that is not the ELBO.
        settings: particles and bound of a step, and how it runs.
        examples: the row tensors of a few batches, on which the step is recorded.
        graphs: what other fits to data of this shape have recorded; None in a single run.

    Returns:
        A function of a batch's row tensors that gives value and gradient (d,), and the vector.

    Raises:
        Refused: the guide cannot run, its sites are not the model's latents, batches do not stand
            for all rows, or there is nothing to learn.
    """
    batch = batch_of(program.problem, examples[0])
    with poutine.trace(param_only=True) as asked:
        _check_guide(program, chosen, batch, proven=graphs is not None and not graphs.blank)
        single = _single(program, chosen, batch)
        with pyro.validation_enabled(False):
            single(batch)
    params = unconstrained(asked.trace)
    if not params:
        raise Refused("the guide has no parameters to learn; use the prior method to sample it")
    set_values(program.problem.earlier)
    estimate = _over_particles(program, chosen, single, settings, batch)
    flat = flatten(params, graphs)

    def gradient(*rows: Tensor) -> tuple[Tensor, Tensor]:
        with pyro.validation_enabled(False):
            value = estimate(batch_of(program.problem, rows))
        slopes = torch.autograd.grad(value, params, materialize_grads=True)
        return value.detach(), torch.cat([slope.flatten() for slope in slopes])

    record = compiled if graphs is None else graphs.compiled
    live = [*params, *(number for number, _ in chosen.live)]
    return record(gradient, examples, how=settings.compile, live=live), flat


def _check_guide(program: Program, chosen: Guide, batch: Batch, *, proven: bool) -> None:
    """Run a guide, and the model with it, for the first time."""
    # On all rows first: Pyro's guides take their shapes from the first data they see.
    for part in (Batch(program.problem.tensors), batch):
        trace = first_run(chosen.guide, part.tensors)
        check_sites(program, trace, part)
    if batch.weight != 1 and not proven:
        batching.prove(program, chosen, round(program.problem.n / batch.weight))
    if program.unfitted:  # the model's own begin here, where no vmap sees them
        run(program.model, batch.tensors, lambda model: poutine.replay(model, trace=trace))


def first_run(guide: Callable, tensors: Mapping[str, Any]) -> poutine.Trace:
    """The guide's trace.

    Raises:
        Refused: an error inside it, with file and line.
    """
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


# -- several estimates -------------------------------------------------------------------------


def _over_particles(
    program: Program, chosen: Guide, single: Estimate, settings: AscentSettings, batch: Batch
) -> Estimate:
    """The objective by several draws, all at once where the model can be vectorised."""
    particles = settings.particles
    if settings.objective == "iwae":
        return partial(_iwae, program, chosen, particles)
    if particles == 1:
        return single

    def vectorised(batch: Batch) -> Tensor:
        return _vectorised(lambda: single(batch), particles).mean()

    def looped(batch: Batch) -> Tensor:
        return torch.stack([single(batch) for _ in range(particles)]).mean()

    try:
        with pyro.validation_enabled(False):
            vectorised(batch)
    except NOT_VECTORISED:
        return looped
    return vectorised


def _iwae(program: Program, chosen: Guide, particles: int, batch: Batch) -> Tensor:
    """The sum over rows of log mean_k w_k, w = p / q: Burda et al. (2016), section 3."""
    log_weights = partial(row_latents.log_weights, program, chosen.guide, batch)
    several = _vectorised(log_weights, particles)
    return batch.weight * (several.logsumexp(0) - math.log(particles)).sum()


def _vectorised(function: Callable[[], Tensor], particles: int) -> Tensor:
    """Several draws of a random function at once, (particles, *shape)."""
    several = torch.func.vmap(lambda _: function(), randomness="different")
    return several(torch.arange(particles))


# -- one estimate ------------------------------------------------------------------------------


def _single(program: Program, chosen: Guide, batch: Batch) -> Estimate:
    """One Monte Carlo estimate of the objective, of the kind that suits the guide."""
    if chosen.objective is not None:
        return partial(_of_its_own, program, chosen)
    reparameterised = is_reparameterised(run(chosen.guide, batch.tensors))
    return partial(_elbo if reparameterised else _score_elbo, program, chosen.guide)


def _of_its_own(program: Program, chosen: Guide, batch: Batch) -> Tensor:
    """The guide's own objective, of model and guide that are weighed as the batch is."""
    model, guide = Weighted(batch)(program.model), Weighted(batch)(chosen.guide)
    guide = Sampling()(guide)  # for objectives that are vectorised over draws
    return chosen.objective(model, guide, batch.tensors)


def _elbo(program: Program, guide: Callable, batch: Batch) -> Tensor:
    """log p(data, z) - log q(z) at one z from the guide: Kingma and Welling (2014), eq. 2."""
    values, log_q = draw_one(program, guide, batch)
    return program.log_joint(values, batch) - log_q


def _score_elbo(program: Program, guide: Callable, batch: Batch) -> Tensor:
    """The ELBO at one z whose gradient is REINFORCE's: Ranganath et al. (2014), eq. 3."""
    with torch.no_grad():
        values, _ = draw_one(program, guide, batch)
    trace = run(poutine.condition(guide, data=values), batch.tensors)
    elbo = program.log_joint(values, batch) - sum_of_factors(trace, batch)
    # The score is that of the density the values were drawn from, whatever they are weighed by.
    score = sum_of_factors(trace, Batch(batch.tensors)) * elbo.detach()
    return elbo + score - score.detach()


def is_reparameterised(trace: poutine.Trace) -> bool:
    """Whether gradients pass through all that a run of a guide drew; a plate draws nothing."""
    nodes = [node["fn"] for node in trace.nodes.values() if node["type"] == "sample"]
    sampled = [fn for fn in nodes if not isinstance(fn, _Subsample)]
    return all(getattr(fn, "has_rsample", True) for fn in sampled)


# -- parameters --------------------------------------------------------------------------------


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


def _lend(param: Tensor, data: Tensor) -> None:
    """Give a parameter, which modules of the user's may hold, other values until `store` ends."""
    if not hasattr(param, "lent"):
        param.lent = param.data
    param.data = data


def set_values(values: Mapping[str, Any]) -> None:
    """Parameters of the store take the (constrained) values of their name and shape, if any."""
    state = pyro.get_param_store().get_state()
    for name, param in state["params"].items():
        to_space = torch.distributions.transform_to(state["constraints"][name])
        if name in values and to_space(param).shape == tuple(values[name].shape):
            value = torch.as_tensor(values[name]).to(param)
            _lend(param, to_space.inv(value).detach())


def unconstrained(trace: poutine.Trace) -> list[Tensor]:
    """The unconstrained parameters that a run has asked for, each once."""
    params = [node["value"] for node in trace.nodes.values() if node["type"] == "param"]
    params = [param.unconstrained() for param in params if hasattr(param, "unconstrained")]
    return list({id(param): param for param in params}.values())


def flatten(params: Sequence[Tensor], graphs: Graphs | None) -> Tensor:
    """One vector of all parameters, of which each becomes a view: one update moves them all.

    Args:
        params: unconstrained parameters, of any shapes.
        graphs: in whose memory the vector is to lie; None takes new memory.

    Returns:
        The vector (d,), d the number of all their scalars.
    """
    flat = torch.cat([param.detach().flatten() for param in params])
    flat = flat if graphs is None else graphs.memory("parameters", flat)
    for param, part in zip(params, flat.split([param.numel() for param in params])):
        _lend(param, part.view(param.shape))
    return flat


@contextmanager
def in_mode(guide: Callable, training: bool) -> Iterator[None]:
    """Set what a guide that is a module of torch does in training alone: dropout and the like."""
    module = module_of(guide)
    before = {} if module is None else {part: part.training for part in module.modules()}
    if module is not None:
        module.train(training)
    try:
        yield
    finally:
        for part, was_training in before.items():
            part.training = was_training
