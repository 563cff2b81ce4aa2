"""One step of a guide's training: estimates of its objective, and their gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from models.contract import Fault, Refused

from ..core.problem import Graphs, Guide
from ..program import batching, row_latents
from ..program.graphs import compiled
from ..program.handlers import Batch, Weighted, run, sum_of_factors
from ..program.prepare import clash, where
from ..program.program import Program
from ..program.sampling import NOT_VECTORISED, Sampling
from .ascent import AscentSettings, Gradient
from .batches import batch_of
from .draws import draw_one
from .guide_checks import check_sites
from .parameters import flatten, set_values, unconstrained

# The objective on the rows of a batch, or one Monte Carlo estimate of it: a scalar, nats,
# differentiable in the parameters.
Estimate = Callable[[Batch], Tensor]


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
