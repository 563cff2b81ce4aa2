"""Is a model sound, and how noisy are the gradients by which its guides are trained?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import inference
from models.contract import Entry, UsageError

from ..core import settings as settings_of
from ..core.ambient import alone
from ..core.arguments import checked
from ..core.problem import Context
from .compare import saved_table
from .plan import Plan, Request, columns, entry_of, guide_of, homes, planned, read_data

if TYPE_CHECKING:
    from ..checks.check import Checked
    from ..results.comparison import Table


@checked
@alone()
def check(
    model: str | Path | Callable | Entry,
    *,
    guide: str | Path | Callable | None = None,
    data: Any = None,
    target: str | None = None,
    features: str | Sequence[str] | None = None,
    seed: int = 0,
    **settings: Any,
) -> Checked:
    """Is the model sound? Shapes, plates, priors, density, gradient, guide and predictions.

    Args:
        model, data, target, features: as for `run`.
        guide: a guide to check, as for `run`; default the model's own.
        seed: seed of the draws at which the model is looked at.
        settings: options of model and data by name.

    Returns:
        The list of checks: `.ok`, `.checks`, `.failed`; a failed check names the problem, the
        line and a fix.

    Raises:
        UsageError, Fault: as `run`, for a model, data or settings that cannot be read.

    Examples:
        >>> import zoo
        >>> zoo.check("coin").ok
        True
    """
    from ..checks import check
    from ..core import machine
    from ..program import prepare

    entry, name = entry_of(model, settings)
    known = homes(entry)
    shares = settings_of.share_out(settings, known)
    options = {k: s.default for k, s in known["model"].items()} | shares["model"]
    named = {k: v for k, v in columns(target, features).items() if v}
    given = read_data(entry, data, shares["data"] | named)
    asked = "dtype" in shares["data"]
    dtype = machine.precision(None, given, identified=entry.identified, asked=asked)
    with machine.numbers(dtype):
        chosen = None if guide is None else guide_of(entry, guide, options, dtype)
        problem = prepare.unprepared(entry, options, given)
        report = check.check(problem, seed=seed, guide=chosen)
    return replace(report, model=name, data=given.source)


# Steps of training before gradients are looked at, where none are asked for.
_STEPS = 2000


@checked
@alone()
def gradients(
    model: str | Path | Callable | Entry,
    *,
    draws: int = 1000,
    data: Any = None,
    target: str | None = None,
    features: str | Sequence[str] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = False,
    **settings: Any,
) -> Table:
    """How noisy a network's gradients are: REINFORCE, baseline, reparameterised, local.

    Their variance by layer, at the same parameters (a mean field trained for `steps`) and for the
    same batch. Of a model whose own guides estimate one bound (`resnet`), these, with their bias.

    Args:
        model, data, target, features, seed, progress: as for `run`.
        draws: gradients of each estimator.
        out: folder in which the table is saved; None saves nothing.
        settings: options of model and data, and of svi (`steps`, `lr`, `batch_size`).

    Returns:
        A DataFrame, a row for each layer and estimator; its figure is `gradients`.

    Raises:
        UsageError, Fault: as `run`; Refused: the model has no layers.
    """
    if draws < 10:
        raise UsageError(f"--gradients {draws} tells no variance; give 10 or more, such as 1000")
    entry, _ = entry_of(model, settings)
    request = Request(
        model=model,
        method=inference.OF_GUIDES,
        guide=[*entry.inference.estimators, "local"][0],
        data=data,
        columns=columns(target, features),
        seed=seed,
        settings={"steps": _STEPS, **settings},
    )
    return saved_table(_gradients(planned(request), Context(progress=progress), draws), out)


def _gradients(plan: Plan, context: Context, draws: int) -> Table:
    """The noise of gradients (`gradients.variances`, or `biases`), with its picture."""
    from ..checks import gradients
    from ..core import machine
    from ..methods.ascent import AscentSettings
    from ..program.prepare import program_of
    from ..results.comparison import Table
    from ..show import overlays

    names = ("steps", "batch_size", "lr", "schedule")
    given = {k: v for k, v in plan.settings.items() if k in names and v is not None}
    settings = AscentSettings(**given)
    with machine.numbers(plan.dtype):
        program = program_of(plan.entry, plan.options, plan.data)
        asked = {"seed": plan.seed, "context": context, "settings": settings, "draws": draws}
        estimators = plan.entry.inference.estimators
        if estimators:
            rows = gradients.biases(program, estimators, **asked)
            trained, over = estimators[0], "a part's parameters"
        else:
            rows = gradients.variances(program, **asked)
            trained, over = "a mean field", "a layer's means"
    table = Table(rows)
    table.title = f"gradients-{plan.name}"
    table.pictures = {"gradients": partial(overlays.gradients, rows)}
    table.notes = [
        f"{draws} gradients each after {settings.steps} steps of {trained}, one batch of "
        f"{settings.batch_size or program.problem.n} rows; the variance is summed over {over}",
        *gradients.readings(rows),
    ]
    return table
