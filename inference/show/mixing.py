"""Pictures of Markov chains: whether they mix, agree, and reach every energy.

Each takes the InferenceData of one run of chains (and the exact truth, which none of these shows),
whose group `sample_stats` has `diverging` and `energy` (chain, draw). Of many parameters those are
drawn that mix worst; of a network it is its predictions.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from ..results import inference_data
from ..results.diagnostics import BFMI_MIN, ESS_MIN
from ..results.inference_data import InferenceData, judged
from . import style
from .style import BLUE, CYCLE, GREY, RED, SKY, captioned, chosen, density, grid, scalars, short

_PANELS, _CURVES = 6, 4


def trace(idata: InferenceData, exact: Any = None) -> Figure:
    """Draws in order, by chain: chains that mix lie on top of each other, without trends.

    Ticks mark the draws at which any chain diverged.
    """
    panels, rest = _worst_mixing(idata, _PANELS)
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
    panels, rest = _worst_mixing(idata, _PANELS)
    figure, axes = grid(len(panels), height=1.4, below=0.35, above=0.35, gap=0.45)
    for ax, (name, values) in zip(axes, panels.items()):
        draws = values.shape[1]
        bins = int(np.clip(draws // 25, 5, 20))
        ranks = stats.rankdata(values, method="ordinal").reshape(values.shape)
        low, high = _uniform_band(values, bins)
        ax.axhspan(low, high, color="0.85", lw=0, label="99 % band")
        ax.axhline(draws / bins, color=GREY, lw=0.8)
        for chain, own in enumerate(ranks):
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
    alone = np.mean([inference_data.ess(chain[None], "mean") for chain in values])
    effective = np.clip(alone, 5, draws) if np.isfinite(alone) else draws
    low, high = stats.binom.ppf([0.005, 0.995], int(effective), 1 / bins) * draws / effective
    return float(low), float(high)


def energy(idata: InferenceData, exact: Any = None) -> Figure:
    """Energies and their jumps from draw to draw, nats (Betancourt 2016, arXiv:1604.00695).

    Beside them the E-BFMI of each chain: the mean square of the jumps over the energies' variance.
    """
    levels = idata["sample_stats"]["energy"].values
    jumps = np.diff(levels, axis=1)
    figure, (left, right) = grid(2, columns=2, height=2.3, ratios=(2.2, 1))
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
    both = [inference_data.ess(values, method) for method in ("bulk", "tail")]
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
