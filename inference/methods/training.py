"""The training of a guide: its objective climbed, by batches of rows or by all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import pyro

from models.contract import Fault, Refused

from ..core.problem import Context, Guide
from ..core.seeds import FIT, seeded
from ..program import row_latents
from ..program.handlers import run
from ..program.program import Program
from .ascent import Adam, Ascent, AscentSettings
from .batches import batches
from .guide_checks import check_draws, check_edges
from .objective import gradient_of
from .parameters import in_mode, set_values, store
from .resolve import resolve

# Stream of the random numbers that a guide begins with, apart from those of its steps.
BEGIN = 1


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
        What a `Fit` holds of the ascent: `trace`, `findings`, `outlook`, `status`, `signal`.

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
        gradient, params = gradient_of(program, chosen, settings, ahead, context.graphs)
        ascent = Ascent(
            Adam(params, settings.lr),
            settings,
            context.state,
            of_pass=1 if size is None else problem.n // size,
            rows=problem.n or 1,
            live=chosen.live,
            of_rows=row_latents.is_of_rows(program),
        )
        check_draws(program, chosen, seed)
        # At the end of a window the batches of a pass are all drawn: a new pass begins.
        parts = batches(problem, size) if ascent.load() else chain(ahead, parts)
        try:
            ended = ascent.run(gradient, parts, context)
        except Fault:
            check_edges(program, chosen, seed)
            raise
        if ended.get("status") == "failed":
            check_edges(program, chosen, seed)
    return {"findings": [], **ended}


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
