"""Stochastic variational inference: a guide's parameters by stochastic gradient ascent."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import pyro
from torch import Tensor

from models.contract import BadSetting, Refused

from ..core.problem import Context, Finding, Fit, Guide
from ..core.seeds import DRAWS, FIT, seeded
from ..program import memory, row_latents
from ..program.graphs import How
from ..program.program import Program, further_draws
from ..program.sampling import over_draws
from .ascent import AscentSettings, Bound, Schedule
from .convergence import fallen
from .draws import all_draws, check_values, draw, draws_labels, one_chain
from .guides import is_laplace, parse, resolve
from .laplace import laplace
from .mode import mode
from .training import BEGIN, first_run, in_mode, store, train

# What is in force where neither the user nor the guide says otherwise.
_SETTINGS = {"lr": 0.1, "window": 100, "schedule": "plateau", "particles": 8}
_NOTE = "AutoLaplaceApproximation is Laplace's approximation, and was run as method laplace"
# Random points from which `begin=map` searches the mode.
_STARTS = 4
# Products of rows, draws and weights up to which the density of a network's draws is computed.
_MOST_PRODUCTS = 1e11


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
    objective: Bound = "elbo",
    window: Annotated[int | None, ">= 10"] = None,
    draws: Annotated[int, ">= 2"] = 4000,
    rows: Annotated[int | None, ">= 1"] = None,
    begin: Literal["start", "map"] = "start",
    compile: How = "native",
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
        compile: how a step runs: `native` (compiled C), `traced` (torch) or `plain` Pyro.

    Raises:
        Refused: the guide's sites are not the model's latents; batches of a problem that has no
            rows, or whose rows have latents without an encoder, or that do not stand for all rows
            (`batching.prove`); `iwae` where latents are not of the rows.
        Fault: the objective or a gradient is not finite; with the step.
        BadSetting: `begin=map` with a guide that is not shared, or on a GPU.
    """
    if is_laplace(guide, program):
        # While Pyro's `AutoLaplaceApproximation` is trained it is a point.
        fit = laplace(program, seed=seed, context=context, draws=draws)
        fit.findings.append(Finding("note", _NOTE))
        return fit
    with seeded(seed, FIT, BEGIN):
        if begin == "map":
            chosen, findings = _at_mode(guide, program, seed, context)
        else:
            chosen, findings = resolve(guide, program), []
    drawn = program if rows is None else _of_first(program, chosen.guide, rows, seed)
    memory.check(drawn, draws)
    given = {"lr": lr, "window": window, "schedule": schedule, "particles": particles}
    used = _SETTINGS | dict(chosen.settings) | {k: v for k, v in given.items() if v is not None}
    settings = AscentSettings(steps, batch_size, compile=compile, objective=objective, **used)
    with store(), in_mode(chosen.guide, False):
        with seeded(seed, FIT, BEGIN):
            _check_bound(objective, program, chosen)
        ended = train(program, chosen, settings, seed, context)
        if chosen.objective is None and batch_size is None:
            ended["findings"] += fallen(ended["trace"], settings.window, settings.lr)
        metrics, notes = chosen.finish() if chosen.finish is not None else ({}, [])
        sample = _sample(drawn, chosen, draws, seed, context)
        params = {name: param.detach().clone() for name, param in pyro.get_param_store().items()}
        params = params if chosen.packed is None else chosen.packed(params)
    ended["findings"] = findings + ended["findings"] + notes
    first = None if drawn is program else drawn.problem.n
    ended["settings"] |= used
    return Fit(params=params, metrics=metrics, rows=first, **sample, **ended)


def _at_mode(
    guide: str | Guide | Callable, program: Program, seed: int, context: Context
) -> tuple[Guide, list[Finding]]:
    """A shared guide whose location begins at the mode of the unconstrained density.

    Args:
        guide: the name of a shared guide.
        program: the model that it is for.
        seed: of the points from which the mode is searched.
        context: the device.

    Returns:
        The guide, and a note where there is no mode, so that it begins at random.

    Raises:
        BadSetting: a guide that is not shared, or a run on a GPU.
    """
    if not isinstance(guide, str) or guide in program.problem.guides:
        raise BadSetting(
            "begin=map is for the shared guides, others begin as written; leave it out"
        )
    if context.device != "cpu":
        raise BadSetting(
            "begin=map runs on the processor alone; leave it out, or use --device cpu"
        )
    parse(guide, program.problem.guides)  # a wrong name is refused before the search
    with seeded(seed, FIT):
        end = mode(program, [program.start() for _ in range(_STARTS)], jacobian=True)
    if end.escaped.any() or not end.u.isfinite().all():
        text = "the unconstrained density has no mode to begin at, so the guide began at random"
        return resolve(guide, program), [Finding("note", text)]
    values = program.constrain(end.u)
    return resolve(guide, program, lambda site: values[site["name"]].clone()), []


def _of_first(program: Program, guide: Callable, rows: int, seed: int) -> Program:
    """The program of the first rows; of all, where the guide knows only those it was fitted to."""
    with store(), seeded(seed, DRAWS):  # nothing of these runs is kept
        first_run(guide, program.problem.tensors)
        if not (row_latents.is_of_rows(program) and row_latents.encodes(program, guide)):
            return program
    return program.first(rows)


def _check_bound(objective: Bound, program: Program, chosen: Guide) -> None:
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


def _sample(
    program: Program, chosen: Guide, count: int, seed: int, context: Context
) -> dict[str, Any]:
    """What a `Fit` holds of the fitted guide: draws, log p, log q and further ratios of them."""
    values, densities = all_draws(program, chosen, seed), {}
    has_density = chosen.density and values is None and not draws_labels(program, chosen, seed)
    with seeded(seed, DRAWS):
        if values is None:
            values, log_q = draw(program, chosen.guide, count)
            if has_density:
                check_values(program, chosen.guide, values)
        # Of a network the joint density of all rows, at all draws, is to be had in seconds.
        products = (program.problem.n or 1) * program.size * count
        if has_density and (program.problem.identified or products < _MOST_PRODUCTS):
            densities = _densities(program, chosen, values, log_q, context)
    draws = one_chain(program, values, seed)
    kind = "point" if next(iter(draws.values())).shape[1] == 1 else "independent"
    return {"draws": draws, "kind": kind, **densities}


def _densities(
    program: Program, chosen: Guide, values: dict[str, Tensor], log_q: Tensor, context: Context
) -> dict[str, Tensor]:
    """log p and log q of draws (1, S), and their ratios at these or at further draws (S,)."""
    draws = len(log_q)
    log_p = over_draws(program.log_joint, values, program.elements)
    ratios = log_p - log_q
    few = context.of_many or not program.problem.identified
    more = 0 if few else further_draws(program, program.log_joint, values)
    if row_latents.has_weights(program) and row_latents.draws_by_row(program, chosen.guide):
        ratios = row_latents.at_draws(program, chosen.guide, draws)
    elif more > draws:
        further, log_q_further = draw(program, chosen.guide, more)
        ratios = over_draws(program.log_joint, further, program.elements) - log_q_further
    return {"log_p": log_p[None], "log_q": log_q[None], "log_ratios": ratios}
