"""What a fitted model thinks of rows, each by itself: log p(x), how near its guide comes, and why.

    log p(x) - ELBO(q) = [log p(x) - ELBO(q*)] + [ELBO(q*) - ELBO(q)]

with q the encoder's distribution of a row's latents and q* the best independent normals for that
very row: what the family of normals costs, and what it costs that one encoder serves all rows
(Cremer, Li and Duvenaud 2018, arXiv:1801.03558, eq. 4 and 5; "amortisation" may be below zero
where the encoder's own family is richer than independent normals).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from models.contract import Refused

from ..core.machine import cores
from ..core.problem import Context, Guide
from ..core.seeds import PREDICTIVE, seeded
from ..methods.svi import svi
from ..methods.training import trained_guide
from ..program import row_latents
from ..program.program import Program
from ..results.predictive import of_rows
from ..results.psis import KHAT_MAX
from . import importance
from .annealed import annealed

# How normals are fitted to each row by itself, all at once.
_FIT = {"steps": 2000, "lr": 0.05, "schedule": "linear", "particles": 8, "draws": 1000}

# A share of rows with a high k-hat, and a bias in nats, that are worth a word; standard errors
# beyond which two estimates differ.
_MANY, _BIAS, _SURE = 0.25, 0.05, 3


@dataclass(frozen=True)
class Effort:
    """How much is done.

    Attributes:
        particles: draws of each row for importance sampling.
        annealed: so many of the first rows are annealed too.
        chains: of each of these rows.
        temperatures: moves of each chain.
        gaps: for so many of the first rows normals are fitted to each by itself.
    """

    particles: int = 5000
    annealed: int = 0
    chains: int = 16
    temperatures: int = 1000
    gaps: int = 0


def table(
    program: Program,
    guide: str | Guide | Callable,
    rows: Mapping[str, Tensor],
    effort: Effort,
    *,
    seed: int,
    context: Context,
) -> pd.DataFrame:
    """A row for each of the rows, nats.

    Args:
        program: the model and what it learned, its guide's parameters too.
        guide: an encoder: a guide of any rows.
        rows: the row keys of the rows.
        effort: how much is done.
        seed: of all draws.
        context: whether to show progress.

    Returns:
        `log_p` and its standard `error` (importance sampling), `elbo`, and `khat` of the weights;
        for those annealed `annealed` and `annealed_error`; for those with gaps `elbo_normal`,
        `approximation` and `amortisation`.

    Raises:
        Refused: the model's latents are not of rows alone, or the guide has no encoder.
    """
    if not row_latents.has_weights(program):
        raise Refused(
            "the evidence is of rows that have latents of their own, and not every latent of "
            "this model belongs to a row; log_evidence of laplace is that of the whole model"
        )
    rows = {key: value.to(program.tensors[key]) for key, value in rows.items()}
    n = len(next(iter(rows.values())))
    with _all_cores(), trained_guide(program, guide) as trained:
        if not row_latents.encodes(program, trained):
            raise Refused(
                "the run's guide has no encoder, and knows only the rows that it was fitted to; "
                "give a run of one of the model's own guides"
            )
        with _bar("rows", n, context) as report:
            sampled = importance.evidence(
                program, trained, rows, effort.particles, seed=seed, report=report
            )
    columns = dict(sampled.columns)
    if effort.annealed:
        columns |= _annealed(_first(program, rows, effort.annealed), effort, seed, context)
    if effort.gaps:
        best = _best_elbo(_first(program, rows, effort.gaps), seed, context)
        columns |= {
            "elbo_normal": best,
            "approximation": sampled.log_p[: len(best)] - best,
            "amortisation": best - sampled.elbo[: len(best)],
        }
    each = {name: pd.Series(values) for name, values in columns.items()}
    return pd.DataFrame(each).rename_axis("row")


def _first(program: Program, rows: Mapping[str, Tensor], n: int) -> Program:
    """The program of the first so many of the rows."""
    first = of_rows(program, {key: value[:n] for key, value in rows.items()})
    return first.changed(test=None, beside={}, redrawn=None)


def _annealed(
    program: Program, effort: Effort, seed: int, context: Context
) -> dict[str, np.ndarray]:
    """log p(x) of the program's rows by annealing, and its standard error, nats (rows,)."""
    bar = _bar("annealing", effort.temperatures, context)
    with _all_cores(), seeded(seed, PREDICTIVE), bar as report:
        estimate = annealed(program, effort.temperatures, effort.chains, report)
    return {"annealed": estimate.log_p, "annealed_error": estimate.error}


def _best_elbo(program: Program, seed: int, context: Context) -> np.ndarray:
    """The ELBO of independent normals that are fitted to each row by itself, nats (rows,)."""
    alone = Context(progress=context.progress)
    fit = svi(program, guide="normal", seed=seed, context=alone, **_FIT)
    return fit.log_ratios.double().mean(0).numpy()


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means over rows, with two errors: of the draws, and of the rows being a sample.

    Columns `mean`, `mcse` (NaN where it is not known) and `se`, nats; `rows` that it is of. The
    line `apart` is importance sampling less annealing, on the rows that have both.
    """
    errors = {"log_p": "error", "annealed": "annealed_error", "apart": "apart_error"}
    table = _with_difference(table) if "annealed" in table else table
    lines = {}
    for name in table.columns.difference([*errors.values(), "khat"], sort=False):
        values = table[name].dropna()
        n = len(values)
        mcse = np.nan
        if name in errors:
            mcse = float(np.sqrt((table[errors[name]].dropna() ** 2).sum()) / n)
        se = float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan
        lines[name] = {"mean": float(values.mean()), "mcse": mcse, "se": se, "rows": n}
    return pd.DataFrame.from_dict(lines, orient="index")


def _with_difference(table: pd.DataFrame) -> pd.DataFrame:
    """With importance sampling less annealing, row by row, and its standard error, nats."""
    error = np.hypot(table["error"], table["annealed_error"])
    return table.assign(apart=table["log_p"] - table["annealed"], apart_error=error)


def doubts(table: pd.DataFrame) -> list[str]:
    """What speaks against the estimates, in words."""
    sentences = []
    high = float((table["khat"] > KHAT_MAX).mean())
    bias = float((table["error"] ** 2).mean() / 2)
    if high > _MANY or bias > _BIAS:
        sentences.append(
            f"log p(x) is too low, by {bias:.2g} nats or more: the draws miss a part of the "
            f"posterior in {high:.0%} of the rows (k-hat above {KHAT_MAX}); give more "
            "--particles, or compare it with --annealed rows"
        )
    if "annealed" in table:
        away, error = summary(table).loc["apart", ["mean", "mcse"]]
        if abs(away) > _SURE * error:
            sentences.append(
                f"importance sampling and annealing differ by {away:+.2g} +- {error:.1g} "
                "nats on the same rows; both are too low on average, so believe the higher"
            )
    return sentences


@contextmanager
def _all_cores() -> Iterator[None]:
    """Large batches are worth more threads than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _bar(name: str, total: int, context: Context) -> Iterator[Callable[[int], Any]]:
    """A progress bar, as a function of how much is done."""
    with tqdm(total=total, desc=name, disable=not context.progress, mininterval=0.2) as bar:
        yield lambda done: bar.update(done - bar.n)
