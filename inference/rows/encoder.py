"""What an encoder says of rows, each by itself: how probable they are, and their codes.

An encoder is a guide whose distribution of a row's latents, q(z | x), is a function of the row:
its mean is the row's code, and draws from it give the row's evidence p(x). How near it comes:

    log p(x) - ELBO(q) = [log p(x) - ELBO(q*)] + [ELBO(q*) - ELBO(q)]

with q* the best independent normals for that very row: the approximation gap (Gaussian q) and the
amortisation gap (one encoder for all rows). Cremer, Li and Duvenaud 2018, arXiv:1801.03558, eq. 4
and 5; "amortisation" may be below zero where the encoder's own family is richer than independent
normals.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
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
from ..program.handlers import run
from ..program.program import Program
from ..program.sampling import over_draws
from ..results.predictive import indexed, of_rows
from ..results.psis import KHAT_MAX
from . import importance

# How normals are fitted to each row by itself, all at once.
_FIT = {"steps": 2000, "lr": 0.05, "schedule": "linear", "particles": 8, "draws": 1000}
# Rows whose codes are computed at once.
_BATCH = 1000
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


def evidence_table(
    program: Program,
    guide: str | Guide | Callable,
    rows: Mapping[str, Tensor],
    effort: Effort,
    *,
    seed: int,
    context: Context,
) -> pd.DataFrame:
    """The evidence of each of the rows, nats.

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
    with _all_cores(), _encoder(program, guide, rows) as (trained, rows):
        n = len(next(iter(rows.values())))
        with _bar("rows", n, context) as report:
            sampled = importance.evidence(
                program, trained, rows, effort.particles, seed=seed, report=report
            )
    columns = dict(sampled.columns)
    if effort.annealed:
        first = _first(program, rows, effort.annealed)
        bar = _bar("annealing", effort.temperatures, context)
        with _all_cores(), seeded(seed, PREDICTIVE), bar as report:
            estimate = importance.annealed(first, effort.temperatures, effort.chains, report)
        columns |= {"annealed": estimate.log_p, "annealed_error": estimate.error}
    if effort.gaps:
        # Of independent normals that are fitted to each row by itself.
        alone, first = Context(progress=context.progress), _first(program, rows, effort.gaps)
        fit = svi(first, guide="normal", seed=seed, context=alone, **_FIT)
        best = fit.log_ratios.double().mean(0).numpy()
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


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means over rows of an evidence table: errors of the draws, and of the rows being a sample.

    Columns `mean`, `mcse` (NaN where it is not known) and `se`, nats; `rows` that it is of. The
    line `apart` is importance sampling less annealing, on the rows that have both.
    """
    errors = {"log_p": "error", "annealed": "annealed_error", "apart": "apart_error"}
    if "annealed" in table:
        error = np.hypot(table["error"], table["annealed_error"])
        table = table.assign(apart=table["log_p"] - table["annealed"], apart_error=error)
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


def concerns(table: pd.DataFrame) -> list[str]:
    """What speaks against the estimates of an evidence table, in words."""
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


# -- codes -------------------------------------------------------------------------------------


def code_table(
    program: Program,
    guide: str | Guide | Callable,
    rows: Mapping[str, Tensor],
    *,
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """The code of each of the rows.

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
    with _encoder(program, guide, rows) as (trained, rows):
        keys = program.problem.rows[1]
        each = zip(*(rows[key].split(_BATCH) for key in keys))
        with seeded(seed, PREDICTIVE), torch.no_grad():
            tables = [_codes(program, trained, dict(zip(keys, batch)), draws) for batch in each]
    return pd.concat(tables, ignore_index=True).rename_axis("row")


def _codes(
    program: Program, guide: Callable, rows: Mapping[str, Tensor], draws: int
) -> pd.DataFrame:
    """The columns of `code_table` for some rows.

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


# -- what both share ---------------------------------------------------------------------------


@contextmanager
def _encoder(
    program: Program, guide: str | Guide | Callable, rows: Mapping[str, Tensor]
) -> Iterator[tuple[Callable, dict[str, Tensor]]]:
    """The trained guide, and the rows with the type and on the device of the problem's.

    Raises:
        Refused: the model's latents are not of rows alone, or the guide has no encoder.
    """
    with trained_guide(program, guide) as trained:
        if not (row_latents.is_of_rows(program) and row_latents.encodes(program, trained)):
            raise Refused(
                "the run's guide has no encoder, and knows only the rows that it was fitted to; "
                "give a run of svi with one of the model's own guides"
            )
        yield trained, {key: value.to(program.tensors[key]) for key, value in rows.items()}


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
