"""Pictures of draws: of their densities and pairs, and of whether Markov chains mix and agree.

Each takes the InferenceData of one run and its exact truth (`Exact`), None where that is unknown.
Densities are histograms. Chains have `diverging` and `energy` (chain, draw) in `sample_stats`. Of
many parameters some are drawn (of chains those that mix worst), and the caption says which; of a
network it is its predictions.
"""

from typing import Any

import numpy as np
import scipy
from matplotlib.figure import Figure

from models.contract.figures import BLUE, GREY, ORANGE, RED, SKY

from ..results import inference_data, mixing
from ..results.diagnostics import BFMI_MIN, ESS_MIN
from ..results.inference_data import InferenceData, judged
from . import style
from .style import CYCLE, captioned, chosen, density, grid, scalars, short

_PANELS, _WORST, _CURVES, _PAIR = 9, 6, 4, 4
_POINTS = 1500  # of a scatter: more hide each other
# Divergences from which it can be told where they gather.
_GATHERED = 5


# -- parameters --------------------------------------------------------------------------------


def marginals(idata: InferenceData, exact: Any = None) -> Figure:
    """Posterior density of each scalar, with the exact one, dashed, where it is known."""
    panels, rest = chosen(scalars(idata["posterior"]), None, _PANELS, "the first")
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
    return captioned(figure, caption + rest, idata, shared=axes[:1] if known else ())


def prior_posterior(idata: InferenceData, exact: Any = None) -> Figure:
    """Prior beside posterior: how much the data taught. Wide priors are cut near the posterior."""
    before = scalars(idata["prior"])
    panels = {k: v for k, v in scalars(idata["posterior"]).items() if k in before}
    panels, rest = chosen(panels, None, _PANELS, "the first")
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
    ranks = [mixing.ranks(d) for d in draws[:, :: max(1, draws.shape[1] // 1000)]]
    correlation = np.abs(np.corrcoef(ranks))
    np.fill_diagonal(correlation, -1)
    taken = list(np.unravel_index(correlation.argmax(), correlation.shape))
    which, diverging = "the most correlated", _diverging(idata, draws.shape[1])
    if diverging.sum() >= _GATHERED:
        apart = [scipy.stats.ks_2samp(d[diverging], d[~diverging]).statistic for d in draws]
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


# -- chains ------------------------------------------------------------------------------------


def trace(idata: InferenceData, exact: Any = None) -> Figure:
    """Draws in order, by chain: chains that mix lie on top of each other, without trends.

    Ticks mark the draws at which any chain diverged.
    """
    panels, rest = _worst_mixing(idata, _WORST)
    figure, axes = grid(len(panels), columns=2, height=1.1, below=0.35, above=0.35)
    (diverging,) = np.nonzero(idata["sample_stats"]["diverging"].values.any(axis=0))
    for ax, (name, values) in zip(axes, panels.items()):
        for chain, draws in enumerate(values):
            ax.plot(draws, lw=0.4, alpha=0.8, color=CYCLE[chain % len(CYCLE)])
        ax.plot(diverging, np.full(len(diverging), values.min()), "|", color="k", ms=7)
        style.titled(ax, short(name, 44), pad=3)
        ax.set_xlim(0, values.shape[1])
    style.share_x(axes, 2, "draw")
    caption = "Draws by chain (colours): good chains overlap and show no trend."
    caption += " Black ticks: divergences." if len(diverging) else ""
    return captioned(figure, caption + rest, idata)


def rank(idata: InferenceData, exact: Any = None) -> Figure:
    """Histograms of the ranks of each chain among all draws (Vehtari et al. 2021, section 4.4).

    Beside them the band in which 99 % of the bars lie if the chains agree.
    """
    panels, rest = _worst_mixing(idata, _WORST)
    figure, axes = grid(len(panels), height=1.4, below=0.35, above=0.35, gap=0.45)
    for ax, (name, values) in zip(axes, panels.items()):
        draws = values.shape[1]
        bins = int(np.clip(draws // 25, 5, 20))
        ranks = np.empty(values.size)
        ranks[np.argsort(values, axis=None, kind="stable")] = np.arange(1, values.size + 1)
        low, high = _uniform_band(values, bins)
        ax.axhspan(low, high, color="0.85", lw=0, label="99 % band")
        ax.axhline(draws / bins, color=GREY, lw=0.8)
        for chain, own in enumerate(ranks.reshape(values.shape)):
            counts, edges = np.histogram(own, bins, range=(0.5, values.size + 0.5))
            colour = CYCLE[chain % len(CYCLE)]
            ax.stairs(counts, edges, baseline=None, color=colour, lw=1.1, label=f"chain {chain}")
        style.titled(ax, short(name), pad=3)
        ax.set(ylim=(0, None), xlim=(0, values.size))
    style.share_x(axes, 3, "rank")
    for ax in axes[::3]:
        ax.set_ylabel("draws")
    caption = (
        "Ranks of each chain's draws among all: flat if the chains agree. A tilt is another "
        "mean, a valley or hill another spread. Grey: 99 % of bars if they agree, given "
        "each chain's autocorrelation."
    )
    return captioned(figure, caption + rest, idata, shared=axes[0])


def _uniform_band(values: np.ndarray, bins: int) -> tuple[float, float]:
    """Where 99 % of a chain's bars lie if ranks are uniform, by the ESS *within* the chains.

    A bar of so many effective draws is binomial. (The ESS over chains falls when they disagree,
    and would hide it.)

    Args:
        values: draws, (chain, draw).
        bins: number of bars.

    Returns:
        Low and high, in draws.
    """
    draws = values.shape[1]
    alone = np.mean([mixing.ess(chain[None], "mean") for chain in values])
    effective = np.clip(alone, 5, draws) if np.isfinite(alone) else draws
    size = int(effective)
    below = scipy.special.bdtr(np.arange(size + 1), size, 1 / bins)  # of a binomial, cumulated
    low, high = np.searchsorted(below, [0.005, 0.995]) * draws / effective
    return float(low), float(high)


def energy(idata: InferenceData, exact: Any = None) -> Figure:
    """Energies and their jumps from draw to draw, nats (Betancourt 2016, arXiv:1604.00695).

    Beside them the E-BFMI of each chain: the mean square of the jumps over the energies' variance.
    """
    levels = idata["sample_stats"]["energy"].values
    jumps = np.diff(levels, axis=1)
    figure, (left, right) = grid(2, columns=2, height=2.3, width_ratios=(2.2, 1))
    centred = levels - levels.mean()
    density(left, centred.ravel(), SKY, "energy, minus its mean")
    density(left, jumps.ravel(), RED, "change of energy per draw", fill=False)
    left.set(xlabel="energy (nats)", ylabel="density")
    left.legend(frameon=False, fontsize=style.SMALLEST, loc="upper left")
    left.set_ylim(0, left.get_ylim()[1] * 1.25)
    bfmi = inference_data.bfmi(idata)
    right.plot(range(len(bfmi)), bfmi, "o", color=BLUE)
    right.axhline(BFMI_MIN, color=RED, ls="--", lw=1.2)
    place = {"ha": "right", "va": "bottom", "transform": right.get_yaxis_transform()}
    right.text(0.98, BFMI_MIN, f"bound {BFMI_MIN}", color=RED, fontsize=style.SMALLEST, **place)
    right.set(xlabel="chain", ylabel="E-BFMI", ylim=(0, max(1.2, 1.1 * bfmi.max())))
    right.set(xticks=range(len(bfmi)), xlim=(-0.6, len(bfmi) - 0.4))
    caption = (
        "The sampler reaches every energy if its changes are as wide as the energies; "
        f"chains with an E-BFMI under {BFMI_MIN} move too slowly between them."
    )
    return captioned(figure, caption, idata)


def ess(idata: InferenceData, exact: Any = None) -> Figure:
    """Bulk and tail ESS of the first tenth, two tenths ... of the draws (Vehtari et al. 2021)."""
    candidates, _ = _worst_mixing(idata, 20)
    score = {name: -min(_ess(v)) for name, v in candidates.items()}
    panels, _ = chosen(candidates, score, _CURVES, "")
    draws = next(iter(panels.values())).shape[1]
    counts = np.unique(np.linspace(draws / 10, draws, 10).astype(int).clip(4))
    figure, (ax,) = grid(1, height=3.1)
    chains = len(next(iter(panels.values())))
    for colour, (name, values) in zip(CYCLE, panels.items()):
        curves = np.array([_ess(values[:, :count]) for count in counts]).T
        for curve, line, kind in zip(curves, ("o-", "s--"), ("bulk", "tail")):
            ax.plot(counts * chains, curve, line, ms=3.5, lw=1.2, color=colour,
                    label=f"{short(name)}, {kind}")  # fmt: skip
    ax.axhline(ESS_MIN, color=RED, lw=1.2, ls=":", label=f"needed: {ESS_MIN}")
    ax.set(xlabel="draws of all chains", ylabel="effective sample size", ylim=(0, None))
    caption = "Effective draws grow in proportion to draws; a curve that levels off is a warning."
    caption += style.left_out(panels, scalars(judged(idata)), "the lowest")
    return captioned(figure, caption, idata, shared=ax)


def _ess(values: np.ndarray) -> tuple[float, float]:
    """Bulk and tail ESS of (chain, draw); zero where nothing moves."""
    both = [mixing.ess(values, kind) for kind in ("bulk", "tail")]
    return tuple(np.nan_to_num(both).tolist())


def _worst_mixing(idata: InferenceData, most: int) -> tuple[dict[str, np.ndarray], str]:
    """The parameters of largest split R-hat (Gelman et al. 2013, eq. 11.4), and what is left."""
    panels = scalars(judged(idata))
    draws = np.stack(list(panels.values()))  # (k, chain, draw)
    half = draws.shape[2] // 2
    parts = draws[:, :, : 2 * half].reshape(len(draws), -1, half)
    within, means = parts.var(2).mean(1), parts.mean(2)
    ratio = means.var(1) / np.where(within > 0, within, np.inf)
    return chosen(panels, dict(zip(panels, ratio)), most, "the worst mixing")
