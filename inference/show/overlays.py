"""Pictures that lay several results side by side: methods, priors, amounts of data.

Results come as label to InferenceData, at most about ten; studies of many runs come as tables.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .. import METHODS, POINTS
from ..checks.calibration import FAMILY, Band, Calibration, band, ecdf
from ..results.inference_data import HDI_PROB, hdi
from ..results.reference import exact_hdi
from ..results.scores import calibration_bins
from . import style
from .style import BLUE, CYCLE, GREEN, GREY, ORANGE, RED, captioned, grid, scalars, short

# Label to draws (chain, draw) of one parameter.
Runs = dict[str, np.ndarray]


_ROWS, _PANELS, _STUDY_PANELS, _BINS = 16, 9, 6, 40
_INNER = 0.5  # share of the draws in the thick part of an interval


# -- parameters by run -------------------------------------------------------------------------


def forest(results: style.Results, exact: Any = None) -> Figure:
    """Mean, 50 % and 94 % HDI of each parameter by each run; a point estimate is a cross.

    Args:
        results: label to run.
        exact: an `Exact`, whose own 94 % HDI is a grey band; None if not known.
    """
    draws, rest = _most_differing(results, _ROWS)
    known = exact.marginals if exact is not None else {}
    labels = [label for label in results if any(label in runs for runs in draws.values())]
    step = 1 / (len(labels) + 1.2)
    height = max(1.2, len(draws) * max(0.22, 0.115 * len(labels)))
    widest = max(len(short(name)) for name in draws)
    figure, (ax,) = grid(1, height=height, left=0.3 + 0.068 * widest)
    for row, (name, runs) in enumerate(draws.items()):
        if name in known:
            _exact_band(ax, row, known[name])
        for i, label in enumerate(labels):
            if label in runs:
                _interval(ax, runs[label], row + (i + 1.1) * step - 0.5, i, label)
    ax.set_yticks(range(len(draws)), [short(name) for name in draws], fontsize=style.SMALLEST)
    ax.set(ylim=(len(draws) - 0.4, -0.6), xlabel="value, model's units")
    away = _beyond(ax, draws, labels, step)
    ax.grid(axis="x", color="0.93")
    ax.set_axisbelow(True)
    caption = (
        "Mean, 50 % (thick) and 94 % (thin) highest-density intervals; crosses: point estimates. "
        " Good approximations agree in place and width."
    )
    return captioned(figure, caption + away + rest, shared=ax)


def _exact_band(ax: Axes, row: int, marginal: Any) -> None:
    """The 94 % HDI and the mean of an exact marginal, behind a row."""
    ends = [row - 0.44, row + 0.44]
    ax.fill_betweenx(ends, *exact_hdi(marginal), color="0.87", lw=0, label="exact, 94 %")
    ax.plot([marginal.mean()] * 2, ends, color=GREY, lw=1)


def _interval(ax: Axes, draws: np.ndarray, y: float, i: int, label: str) -> None:
    """Mean and HDIs of the i-th run, of that name, at a height; a point as a cross."""
    colour = CYCLE[i % len(CYCLE)]
    if draws.size == 1:
        ax.plot(draws.item(), y, "x", color=colour, ms=5, mew=1.6, zorder=3, label=label)
        return
    for prob, width in ((HDI_PROB, 1.1), (_INNER, 2.8)):
        low, high = hdi(draws.reshape(-1, 1), prob)
        ax.plot([low[0], high[0]], [y, y], color=colour, lw=width, solid_capstyle="butt")
    look = style.look(i, ms=4, mec="w", mew=0.5, ls="none")
    ax.plot(draws.mean(), y, label=label, **look)


def _beyond(ax: Axes, draws: Mapping[str, Runs], labels: Sequence[str], step: float) -> str:
    """Cut the axis, mark by an arrow at the edge what lies beyond it; a sentence on it."""
    spans = np.array([_span(runs) for runs in draws.values()])
    low, high = _widened(spans[:, 0].min(), spans[:, 1].max())
    any_away = False
    for row, runs in enumerate(draws.values()):
        for label, values in runs.items():
            mean, i = values.mean(), labels.index(label)
            if not low <= mean <= high:
                any_away = True
                x, mark = (high, ">") if mean > high else (low, "<")
                y, colour = row + (i + 1.1) * step - 0.5, CYCLE[i % len(CYCLE)]
                ax.plot(x, y, mark, color=colour, ms=6, clip_on=False, zorder=4)
    ax.set_xlim(low, high)
    return " Arrows at the edge: means far beyond it." if any_away else ""


def overlay(results: style.Results, exact: Any = None) -> Figure:
    """Posterior densities of several runs on top of each other; point estimates as lines.

    Args:
        results: label to run.
        exact: an `Exact`, drawn dashed; None if not known.
    """
    draws, rest = _most_differing(results, _PANELS)
    known = exact.marginals if exact is not None else {}
    figure, axes = grid(len(draws), left=0.2, gap=0.25, height=1.45)
    colours = {label: CYCLE[i % len(CYCLE)] for i, label in enumerate(results)}
    for ax, (name, runs) in zip(axes, draws.items()):
        _outlines(ax, runs, colours)
        if name in known:
            across = style.value_range(np.array(_span(runs)), known[name])
            ax.plot(across, known[name].pdf(across), "k--", lw=1.2, label="exact density")
        ax.set(xlabel=short(name, 34), yticks=[], ylim=(0, None), xlim=_widened(*_span(runs)))
    caption = (
        "Posterior densities of each parameter: what is too narrow, too wide or off to one side? "
        "Vertical lines: point estimates."
    )
    return captioned(figure, caption + rest, shared=axes)


def _outlines(ax: Axes, runs: Runs, colours: Mapping[str, str]) -> None:
    """Histograms of all runs in the same bins, as outlines; what does not move is a line."""
    moving = {k: values for k, values in runs.items() if values.size > 1 and np.ptp(values) > 0}
    edges = np.linspace(*_span(moving), _BINS + 1) if moving else None
    for label, values in runs.items():
        if label in moving:
            counts, _ = np.histogram(values, edges)
            heights = counts / (values.size * (edges[1] - edges[0]))
            ax.stairs(heights, edges, color=colours[label], lw=1.3, label=label)
        else:
            ax.axvline(values.flat[0], color=colours[label], lw=1.6, label=label)


def _span(runs: Runs) -> tuple[float, float]:
    """Where most runs lie, generously: one that is wildly off must not hide the others."""
    ends = np.array([np.percentile(values, [0.1, 99.9]) for values in runs.values()])
    low, high = np.median(ends, axis=0)
    wide = max(high - low, 1e-12)
    inside = np.clip(ends, low - 0.75 * wide, high + 0.75 * wide)
    return float(inside[:, 0].min()), float(inside[:, 1].max())


def _widened(low: float, high: float) -> tuple[float, float]:
    """A range with a margin on both sides, also where it is a point."""
    margin = 0.03 * max(high - low, 1e-6 * abs(high), 1e-300)
    return low - margin, high + margin


def _most_differing(results: style.Results, most: int) -> tuple[dict[str, Runs], str]:
    """Where runs differ most, in means and sds, by the widest run's sd; and what is left out.

    Returns:
        Parameter to label to draws (chain, draw), of all runs that have a posterior.
    """
    draws: dict[str, Runs] = {}
    for label, idata in results.items():
        if "posterior" in idata.groups():
            for name, values in scalars(idata["posterior"]).items():
                draws.setdefault(name, {})[label] = values
    score = {}
    for name, runs in draws.items():
        means = [values.mean() for values in runs.values()]
        sds = [values.std() for values in runs.values() if values.size > 1] or [0.0]
        score[name] = float((np.ptp(means) + np.ptp(sds)) / max(*sds, 1e-12))
    return style.chosen(draws, score, most, "those that differ most,")


# -- held-out classes --------------------------------------------------------------------------


def calibration(results: style.Results) -> Figure:
    """Reliability diagrams of several runs on the rows held out (Guo et al. 2017).

    Args:
        results: label to run; those without the group `held_out` are left out.

    Raises:
        ValueError: no run has held-out class probabilities.
    """
    words = "class probabilities of held-out rows (--set split=0.2)"
    runs = style.having(results, lambda run: "held_out" in run.groups(), words)
    figure, (top, bottom) = style.reliability(runs.values())
    for i, (label, run) in enumerate(runs.items()):
        group = run["held_out"]
        bins = calibration_bins(group["probability"].values, group["label"].values).filled
        claimed, share = bins.claimed / bins.rows, bins.right / bins.rows
        look = style.look(i, ms=4.5, lw=1.1)
        top.plot(claimed, share, label=f"{label} (ece {bins.error:.3f})", **look)
        bottom.plot(claimed, bins.rows, **look)
    bottom.set(yscale="log")
    caption = (
        "Held-out rows by the probability of the predicted class: under the diagonal is "
        "overconfident, over it underconfident. Below: the rows behind each point; few say little."
    )
    return captioned(figure, caption, shared=top)


# -- studies -----------------------------------------------------------------------------------

# Kind of estimate to colour, marker, words: points as the catalogue names them, then the others.
_ESTIMATES = {
    **{
        name: (*mark, METHODS[name].label)
        for name, mark in zip(POINTS, ((RED, "v"), (ORANGE, "s")))
    },
    "posterior": (BLUE, "o", "posterior mean, 94 %"),
    "predictive": (GREEN, "D", "posterior predictive"),
}


def asymptopia(table: pd.DataFrame, truth: Mapping[str, float] | None = None) -> Figure:
    """Estimates against the number of rows: they differ with few and agree with many.

    Args:
        table: columns n, estimate (a kind of `_ESTIMATES`), parameter, value, low, high; a missing
            value (refused) leaves a gap. Parameters called `P(next ...)` come last.
        truth: parameter to the value that made the data, where known.
    """
    names = sorted(dict.fromkeys(table["parameter"]), key=lambda name: name.startswith("P(next"))
    # Predictions are kept whatever the number of parameters.
    next_ = [name for name in names if name.startswith("P(next")][:2]
    names = [n for n in names if n not in next_][: _STUDY_PANELS - len(next_)] + next_
    rest = style.left_out(names, set(table["parameter"]), "the first")
    figure, axes = _study_grid(names)
    for ax, name in zip(axes, names):
        part = table[table["parameter"] == name]
        for i, (kind, (colour, marker, words)) in enumerate(_ESTIMATES.items()):
            rows, look = part[part["estimate"] == kind], {"color": colour, "marker": marker}
            if len(rows):
                _against(ax, rows, "n", "value", i, label=words, **look)
        if truth and name in truth:
            ax.axhline(truth[name], color="k", ls="--", lw=1, label="truth")
        _rows_axis(ax, table["n"])
        ax.set(xlabel="rows of data, n")
    caption = (
        "With few rows the estimates differ and the posterior is wide; with many they agree and "
        "it narrows. Gaps: the estimate does not exist."
    )
    return captioned(figure, caption + rest, shared=axes)


def sensitivity(table: pd.DataFrame) -> Figure:
    """Parameters against a setting of the prior: what moves is what the prior decides.

    Args:
        table: columns setting (its name), value, method, parameter, mean, low, high (94 %).
    """
    setting = table["setting"].iloc[0]
    names, rest = _most_moved(table)
    figure, axes = _study_grid(names)
    words = list(dict.fromkeys(table["value"])) if table["value"].dtype.kind not in "if" else []
    if words:  # values that are words stand side by side
        table = table.assign(value=table["value"].map(words.index))
    values = table["value"]
    wide = bool(values.min() > 0 and values.max() / values.min() > 20)
    methods = list(dict.fromkeys(table["method"]))
    for ax, name in zip(axes, names):
        for i, method in enumerate(methods):
            part = table[(table["parameter"] == name) & (table["method"] == method)]
            _against(ax, part, "value", "mean", i, label=method, **style.look(i))
        ax.set(xlabel=setting)
        if wide:
            ax.set_xscale("log")
        else:
            ax.xaxis.set_major_locator(MaxNLocator(4))
        if words:
            ax.set_xticks(range(len(words)), words)
    caption = (
        f"Posterior mean and 94 % interval as {setting} varies: flat lines are decided by the "
        "data, sloping ones by the prior."
    )
    return captioned(figure, caption + rest, shared=axes)


def _most_moved(table: pd.DataFrame) -> tuple[dict[str, Any], str]:
    """The parameters whose means move most, by their mean intervals; and what is left out."""
    by_parameter = table.groupby("parameter", sort=False)
    widths = (by_parameter["high"].mean() - by_parameter["low"].mean()).abs().clip(lower=1e-12)
    moves = {name: float(np.ptp(part["mean"]) / widths[name]) for name, part in by_parameter}
    moves = {name: move if np.isfinite(move) else 0.0 for name, move in moves.items()}
    names = dict.fromkeys(table["parameter"])
    return style.chosen(names, moves, _STUDY_PANELS, "those that move most,")


def _study_grid(names: Iterable[str]) -> tuple[Figure, list[Axes]]:
    """A panel for each parameter, its name beside it."""
    names = list(names)
    figure, axes = grid(len(names), columns=min(3, len(names)), height=2.0, gap=0.8)
    for ax, name in zip(axes, names):
        ax.set_ylabel(short(name, 26))
    return figure, axes


def _against(ax: Axes, rows: pd.DataFrame, x: str, y: str, order: int, **look: Any) -> None:
    """A line with markers against x, and the band from low to high where there is one.

    Later lines are thinner and have smaller markers, that equal values stay visible.
    """
    rows = rows.sort_values(x)
    sizes = {"ms": max(9 - 2 * order, 3.5), "lw": max(2.6 - 0.6 * order, 1)}
    ax.plot(rows[x], rows[y], **sizes, **look)
    low, high = (rows[end].to_numpy(dtype=float) for end in ("low", "high"))
    if np.isfinite(low).any():
        ax.fill_between(rows[x], low, high, color=look["color"], alpha=0.18, lw=0)


def _rows_axis(ax: Axes, counts: pd.Series) -> None:
    """A logarithmic axis, which none at all (the prior) joins in a linear part."""
    if counts.min() > 0:
        ax.set_xscale("log")
    else:
        ax.set_xscale("symlog", linthresh=1)
        ax.set_xlim(-0.3, None)


def ranks(table: Calibration, who: str) -> Figure:
    """Where the truth lay among the draws: ECDF minus the uniform, in a simultaneous band.

    Säilynoja, Bürkner and Vehtari (2022), Statistics and Computing 32, doi
    10.1007/s11222-022-10090-6.

    Args:
        table: ranks by quantity.
        who: model and method, for the caption.
    """
    score = {name: -min(row["p_z"], row["p_z2"]) for name, row in table.iterrows()}
    panels, rest = style.chosen(table.ranks, score, _PANELS, "those most off,")
    n = len(next(iter(panels.values())))
    region = band(n, table.levels)
    steps = {name: ecdf(own, table.levels) - region.at for name, own in panels.items()}
    most = 1.08 * max(
        np.abs(values).max() for values in [*steps.values(), region.high - region.at]
    )
    figure, axes = grid(len(panels), left=0.6, gap=0.25, height=1.35, below=0.5)
    for i, (ax, (name, step)) in enumerate(zip(axes, steps.items())):
        _difference(ax, region, step, off=table.loc[name, "p_holm"] < FAMILY)
        ax.set(xlim=(0, 1), ylim=(-most, most), xticks=(0, 0.5, 1), xlabel=short(name, 34))
        ax.tick_params(labelleft=i % 3 == 0)
    axes[0].set_ylabel("ECDF - uniform")
    caption = (
        f"{who}, {n} simulated data sets: ranks of the truth among {table.levels - 1} draws, as "
        "shares. A right posterior stays in the band, at all points of a panel at once, in 99 %. "
        "A hill: the posterior is too high; a valley: too low; first up, then down: too narrow; "
        "first down, then up: too wide."
    )
    return captioned(figure, caption + rest.replace("parameters", "quantities"), shared=axes)


def _difference(ax: Axes, region: Band, step: np.ndarray, *, off: bool) -> None:
    """One quantity's ECDF minus the uniform, in its band; both are zero at the ends."""
    at = np.concatenate([[0.0], region.at, [1.0]])
    low, high = (np.pad(edge - region.at, 1) for edge in (region.low, region.high))
    ax.fill_between(at, low, high, color="0.87", lw=0, label="99 % band")
    ax.axhline(0, color=GREY, lw=0.8)
    colour, label = (RED, "off, by the tests of the verdict") if off else (BLUE, "as it should be")
    ax.plot(at, np.pad(step, 1), color=colour, lw=1.4, label=label)


def gradients(table: pd.DataFrame) -> Figure:
    """Variance of gradient estimators by layer, with intervals.

    Args:
        table: of `gradients.variances`, or `gradients.biases`.
    """
    figure, (ax,) = grid(1, height=2.8, left=0.75)
    table = table[table["variance"] > 1e-12 * table["mean_squared_norm"]]  # others have no noise
    layers = list(dict.fromkeys(table.index.get_level_values("layer")))
    estimators = list(dict.fromkeys(table.index.get_level_values("estimator")))
    for i, name in enumerate(estimators):
        part = table.xs(name, level="estimator").reindex(layers)
        at = np.arange(len(layers)) + 0.12 * (i - (len(estimators) - 1) / 2)
        error = 1.96 * part["variance_se"]
        marks = style.look(i, ms=5, ls="none")
        ax.errorbar(at, part["variance"], yerr=error, label=name, capsize=2, **marks)
    ax.set(yscale="log", ylabel="variance of the gradient")
    ax.set_xticks(range(len(layers)), layers)
    ax.set_xlim(-0.5, len(layers) - 0.5)
    whose = "Four unbiased estimators of the same gradient"
    if "bias" in table:
        whose = "Estimators of the gradient of the same bound (what has no noise is not shown)"
    caption = (
        f"{whose}, at the same parameters and batch; the lower, the fewer steps are wasted on "
        "noise. 95 % intervals (often within the mark)."
    )
    return captioned(figure, caption, shared=ax)
