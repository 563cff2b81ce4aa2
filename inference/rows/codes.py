"""What an encoder makes of rows: the latents of each, and the classes that it guesses.

The encoder is the guide, whose distribution of a row's latents, q(z | x), is a function of the
row: its mean is the row's code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from models.contract import Refused

from ..core.problem import Guide
from ..core.seeds import PREDICTIVE, seeded
from ..methods.training import trained_guide
from ..program import row_latents
from ..program.handlers import run
from ..program.program import Program
from ..program.sampling import over_draws
from ..results.predictive import indexed

# Rows that are encoded at once.
_BATCH = 1000


def table(
    program: Program,
    guide: str | Guide | Callable,
    rows: Mapping[str, Tensor],
    *,
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """A row for each of the rows.

    Args:
        program: the model and what it learned, its guide's parameters too.
        guide: an encoder: a guide of any rows.
        rows: the row keys of the rows.
        draws: of each row's latents, whose means and sds are those of the draws where the guide
            does not say them itself.
        seed: of the draws.

    Returns:
        `z[0]`, the mean of each element of each latent, and `sd z[0]`. Where the guide
        guesses a class of its own (`guess`), its most probable value, and `p[guess=0]`, ...

    Raises:
        Refused: the model's latents are not of rows alone, or the guide has no encoder.
    """
    with trained_guide(program, guide) as trained:
        if not (row_latents.is_of_rows(program) and row_latents.encodes(program, trained)):
            raise Refused(
                "the run has no encoder, which tells the latents of any row; give a run of svi "
                "with one of the model's own guides"
            )
        keys = program.problem.rows[1]
        each = zip(*(rows[key].to(program.tensors[key]).split(_BATCH) for key in keys))
        with seeded(seed, PREDICTIVE), torch.no_grad():
            tables = [_of_batch(program, trained, dict(zip(keys, batch)), draws) for batch in each]
    return pd.concat(tables, ignore_index=True).rename_axis("row")


def _of_batch(
    program: Program, guide: Callable, rows: Mapping[str, Tensor], draws: int
) -> pd.DataFrame:
    """The columns of `table` for some rows.

    Args:
        program: the model, its own parameters fitted.
        guide: trained, of the row keys.
        rows: the row keys of the rows.
        draws: of each row's latents, where the guide does not say their moments.
    """
    tensors = {**program.problem.tensors, **rows}

    def at_draw(_: Any) -> dict[str, Tensor]:
        nodes = run(guide, tensors).nodes
        return {name: nodes[name]["value"] for name in program.layout}

    columns: dict[str, Any] = {}
    first = run(guide, tensors).nodes
    for name, node in first.items():
        if node.get("infer", {}).get("is_auxiliary") and node["fn"].has_enumerate_support:
            columns |= _guessed(name, node["fn"])
    moments = _moments(first, run(guide, tensors).nodes, program.layout)
    if len(moments) < len(program.layout):
        size = sum(first[name]["value"].numel() for name in program.layout)
        values = over_draws(at_draw, {"draw": torch.arange(draws)}, size)
        moments = {name: (v.mean(0), v.std(0)) for name, v in values.items()} | moments
    for name in program.layout:
        mean, sd = (part.reshape(len(part), -1).cpu().numpy().T for part in moments[name])
        names = indexed(name, moments[name][0].shape[1:])
        columns |= dict(zip(names, mean)) | dict(zip((f"sd {n}" for n in names), sd))
    return pd.DataFrame(columns)


def _moments(
    first: Mapping[str, Any], second: Mapping[str, Any], names: Iterable[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Means and sds that the guide itself gives: the same in two runs, whatever it drew."""
    moments = {}
    for name in names:
        fns = first[name]["fn"], second[name]["fn"]
        with suppress(NotImplementedError):  # a flow has draws alone
            (mean, variance), again = ((fn.mean, fn.variance) for fn in fns)
            if all(map(torch.equal, (mean, variance), again)):
                moments[name] = mean, variance.sqrt()
    return moments


def _guessed(name: str, fn: Any) -> dict[str, Any]:
    """The most probable value of a discrete site, by row, and the probability of each value."""
    support = fn.enumerate_support(expand=False).flatten()
    log_p = fn.log_prob(fn.enumerate_support())
    best = support[log_p.argmax(0)].cpu().numpy()
    names = (f"p[{name}={value:g}]" for value in support.tolist())
    return {name: best, **dict(zip(names, log_p.exp().cpu().numpy()))}
