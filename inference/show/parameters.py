"""Pictures of parameters: densities beside the prior and the truth, and pairs of draws.

Each takes the InferenceData of one run and its exact truth (`Exact`), None where that is not
known. Densities are histograms; of many parameters some are drawn, and the caption says which.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from ..results.inference_data import InferenceData
from . import style
from .style import BLUE, ORANGE, RED, captioned, density, grid, scalars, short

_PANELS, _PAIR = 9, 4
_POINTS = 1500  # of a scatter: more hide each other
# Divergences from which it can be told where they gather.
_GATHERED = 5


def marginals(idata: InferenceData, exact: Any = None) -> Figure:
    """Posterior density of each scalar, with the exact one, dashed, where it is known."""
    panels, rest = style.first(scalars(idata["posterior"]), _PANELS)
    figure, axes = grid(len(panels), left=0.2, gap=0.25, height=1.35)
    known = exact.marginals if exact is not None else {}
    for ax, (name, values) in zip(axes, panels.items()):
        density(ax, values.ravel(), BLUE, "this fit")
        if name in known:
            across = style.value_range(values, known[name])
            ax.plot(across, known[name].pdf(across), color=RED, lw=1.6, ls="--", label="exact")
            ax.set_xlim(across[0], across[-1])
        ax.set(xlabel=short(name, 34), yticks=[], ylim=(0, None))
    caption = "Posterior densities: "
    caption += (
        "filled this fit, dashed the truth; they should coincide."
        if known
        else "look for long tails, heaps at a bound and several modes."
    )
    return captioned(figure, caption + rest, idata, shared=axes[0] if known else None)


def prior_posterior(idata: InferenceData, exact: Any = None) -> Figure:
    """Prior beside posterior: how much the data taught. Wide priors are cut near the posterior."""
    before = scalars(idata["prior"])
    panels = {k: v for k, v in scalars(idata["posterior"]).items() if k in before}
    panels, rest = style.first(panels, _PANELS)
    figure, axes = grid(len(panels), left=0.2, gap=0.25, height=1.35)
    for ax, (name, values) in zip(axes, panels.items()):
        # A heavy-tailed prior would squeeze the posterior into a line: show what lies near.
        (low, high), near = np.percentile(before[name], [1, 99]), 2 * np.ptp(values)
        span = (
            min(max(low, values.min() - near), values.min()),
            max(min(high, values.max() + near), values.max()),
        )
        density(ax, before[name].ravel(), ORANGE, "prior", span=span)
        density(ax, values.ravel(), BLUE, "posterior")
        ax.set(xlabel=short(name, 34), yticks=[], ylim=(0, None))
    caption = "Prior and posterior densities: the narrower the posterior, the more the data said."
    return captioned(figure, caption + rest, idata, shared=axes[0])


def pair(idata: InferenceData, exact: Any = None) -> Figure:
    """Draws of the parameters that depend most on each other, divergences marked.

    Four parameters at most, 1500 draws that did not diverge, and all that did.
    """
    panels, rest = _most_correlated(idata)
    names, draws = list(panels), np.stack([v.ravel() for v in panels.values()])
    diverging = _diverging(idata, draws.shape[1])
    quiet = np.flatnonzero(~diverging)
    quiet = quiet[:: max(1, -(-len(quiet) // _POINTS))]
    k = len(names) - 1
    height = {1: 3.5, 2: 2.3}.get(k, 1.75)
    figure, axes = grid(k * k, columns=k, height=height, gap=0.3, below=0.3, left=0.75)
    for ax, (row, column) in zip(axes, np.ndindex(k, k)):
        if column > row:
            ax.remove()
            continue
        at = draws[[column, row + 1]]
        ax.plot(*at[:, quiet], ".", ms=3, alpha=0.45, color=BLUE, mec="none", label="draw")
        ax.plot(*at[:, diverging], "x", ms=5, mew=1.1, color=RED, label="divergence", zorder=3)
        ax.set_xlabel(short(names[column], 24) if row == k - 1 else "")
        ax.set_ylabel(short(names[row + 1], 20) if column == 0 else "")
        ax.tick_params(labelbottom=row == k - 1, labelleft=column == 0)
    caption = "Draws of two parameters each: narrow ridges, bends and funnels are hard to sample."
    if "diverging" in idata.get("sample_stats", ()):
        caption += f" {diverging.sum()} of {len(diverging)} draws diverged"
        caption += (
            " (crosses): where they gather, the posterior is cut short." if any(diverging) else "."
        )
    return captioned(figure, caption + rest, idata)


def _diverging(idata: InferenceData, size: int) -> np.ndarray:
    """Whether each draw of all chains diverged, (draws,); none did where nobody says."""
    if "diverging" in idata.get("sample_stats", ()):
        return idata["sample_stats"]["diverging"].values.ravel().astype(bool)
    return np.zeros(size, dtype=bool)


def _most_correlated(idata: InferenceData) -> tuple[dict[str, np.ndarray], str]:
    """The pair of largest rank correlation, then what correlates most with those taken.

    Of rows that are independent only the first is looked at. With five divergences or more it
    begins with the parameter in which they are least like the other draws (by the distance of
    Kolmogorov and Smirnov): there the trouble lies.

    Returns:
        Scalar to draws (chain, draw), and a sentence on those left out.
    """
    panels = moving(idata)
    draws = np.stack([v.ravel() for v in panels.values()])
    ranks = stats.rankdata(draws[:, :: max(1, draws.shape[1] // 1000)], axis=1)
    correlation = np.abs(np.corrcoef(ranks))
    np.fill_diagonal(correlation, -1)
    taken = list(np.unravel_index(correlation.argmax(), correlation.shape))
    which, diverging = "the most correlated", _diverging(idata, draws.shape[1])
    if diverging.sum() >= _GATHERED:
        apart = [stats.ks_2samp(d[diverging], d[~diverging]).statistic for d in draws]
        taken = [int(np.argmax(apart))]
        which = f"where divergences stand out ({list(panels)[taken[0]]}) and the most correlated,"
    while len(taken) < min(_PAIR, len(panels)):
        rest = correlation[taken].max(0)
        rest[taken] = -1
        taken.append(int(rest.argmax()))
    names = list(panels)
    shown = {names[i]: panels[names[i]] for i in sorted(taken)}
    row = " Latents of the first row: rows are independent." if _rows(idata) else ""
    return shown, row + style.left_out(shown, panels, which)


def moving(idata: InferenceData) -> dict[str, np.ndarray]:
    """The scalars that move, of one row where rows are independent."""
    rows = {dim: [0] for dim in _rows(idata)}
    panels = scalars(idata["posterior"].isel(rows))
    return {k: v for k, v in panels.items() if np.ptp(v) > 0}


def _rows(idata: InferenceData) -> set[str]:
    """The dimension of the data's rows, if every latent has it: none is shared between rows."""
    groups = [idata[k].data_vars.values() for k in ("posterior", "observed_data") if k in idata]
    if len(groups) < 2:
        return set()
    latent, observed = groups
    return set.intersection(
        *(set(value.dims[2:3]) for value in latent), *(set(value.dims[:1]) for value in observed)
    )
