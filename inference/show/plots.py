"""Pictures of one result: one style, colour-blind safe, a caption that says what to see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any


import numpy as np
from matplotlib.ticker import MaxNLocator
from scipy import stats

from ..results.diagnostics import BFMI_MIN, ESS_MIN
from ..results.inference_data import bfmi as bfmi_of, ess as ess_of, judged
from ..results.psis import KHAT_MAX
from ..results.scores import calibration_bins
from . import style, uncertainty
from .style import (
    BLUE,
    CYCLE,
    GREY,
    ORANGE,
    RED,
    SKY,
    captioned,
    chosen,
    density,
    grid,
    scalars,
    short,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS, _CHAIN_PANELS, _PAIR, _CURVES = 9, 6, 4, 4
_POINTS = 1500  # of a scatter: more hide each other


# -- chains -----------------------------------------------------------------------------------


def trace(idata: az.InferenceData, exact: Any = None) -> Figure:
    """Draws in order, by chain: chains that mix lie on top of each other, without trends."""
    panels, rest = _worst_mixing(idata, _CHAIN_PANELS)
    figure, axes = grid(len(panels), columns=2, height=1.1, below=0.35, above=0.35)
    (diverging,) = np.nonzero(idata["sample_stats"]["diverging"].values.any(axis=0))
    for ax, (name, values) in zip(axes, panels.items()):
        for chain, draws in enumerate(values):
            ax.plot(draws, lw=0.4, alpha=0.8, color=CYCLE[chain % len(CYCLE)])
        ax.plot(diverging, np.full(len(diverging), values.min()), "|", color="k", ms=7)
        ax.set_title(short(name, 44), fontsize=style.SMALL, loc="left", pad=3)
        ax.set_xlim(0, values.shape[1])
    style.share_x(axes, 2, "draw")
    caption = "Draws by chain (colours): good chains overlap and show no trend."
    caption += " Black ticks: divergences." if len(diverging) else ""
    return captioned(figure, caption + rest, idata)


def rank(idata: az.InferenceData, exact: Any = None) -> Figure:
    """Histograms of the ranks of each chain among all draws (Vehtari et al. 2021, section 4.4)."""
    panels, rest = _worst_mixing(idata, _CHAIN_PANELS)
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
        ax.set_title(short(name), fontsize=style.SMALL, loc="left", pad=3)
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

    (The ESS over chains falls when they disagree, and would hide it.)
    """
    draws = values.shape[1]
    alone = np.mean([az.ess(chain[None], method="mean") for chain in values])
    effective = np.clip(alone, 5, draws) if np.isfinite(alone) else draws
    low, high = stats.binom.ppf([0.005, 0.995], int(effective), 1 / bins) * draws / effective
    return float(low), float(high)


def energy(idata: az.InferenceData, exact: Any = None) -> Figure:
    """Energies and their jumps from draw to draw (Betancourt 2016, arXiv:1604.00695)."""
    levels = idata["sample_stats"]["energy"].values
    jumps = np.diff(levels, axis=1)
    figure, (left, right) = grid(2, columns=2, height=2.3, ratios=(2.2, 1))
    centred = levels - levels.mean()
    density(left, centred.ravel(), SKY, "energy, minus its mean")
    density(left, jumps.ravel(), RED, "change of energy per draw", fill=False)
    left.set(xlabel="energy (nats)", ylabel="density")
    style.legend(left, loc="upper left")
    left.set_ylim(0, left.get_ylim()[1] * 1.25)
    bfmi = az.bfmi(idata)
    right.plot(range(len(bfmi)), bfmi, "o", color=BLUE)
    right.axhline(BFMI_MIN, color=RED, ls="--", lw=1.2)
    place = {"ha": "right", "va": "bottom", "transform": right.get_yaxis_transform()}
    said = f"bound {BFMI_MIN}"
    right.text(0.98, BFMI_MIN, said, color=RED, fontsize=style.SMALLEST, **place)
    right.set(xlabel="chain", ylabel="E-BFMI", ylim=(0, max(1.2, 1.1 * bfmi.max())))
    right.set(xticks=range(len(bfmi)), xlim=(-0.6, len(bfmi) - 0.4))
    caption = (
        "The sampler reaches every energy if its changes are as wide as the energies; "
        f"chains with an E-BFMI under {BFMI_MIN} move too slowly between them."
    )
    return captioned(figure, caption, idata)


def ess(idata: az.InferenceData, exact: Any = None) -> Figure:
    """Bulk and tail ESS against the number of draws (Vehtari et al. 2021)."""
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
    caption += style.said(panels, scalars(judged(idata)), "the lowest")
    return captioned(figure, caption, idata, shared=ax)


def _ess(values: np.ndarray) -> tuple[float, float]:
    """Bulk and tail ESS of (chain, draw); zero where nothing moves."""
    both = [az.ess(values, method=method) for method in ("bulk", "tail")]
    return tuple(np.nan_to_num(both).tolist())


def _worst_mixing(idata: az.InferenceData, most: int) -> tuple[dict[str, np.ndarray], str]:
    """The parameters of largest split R-hat (Gelman et al. 2013, eq. 11.4), and what is left."""
    panels = scalars(judged(idata))
    draws = np.stack(list(panels.values()))  # (k, chain, draw)
    half = draws.shape[2] // 2
    parts = draws[:, :, : 2 * half].reshape(len(draws), -1, half)
    within, means = parts.var(2).mean(1), parts.mean(2)
    ratio = means.var(1) / np.where(within > 0, within, np.inf)
    return chosen(panels, dict(zip(panels, ratio)), most, "the worst mixing")


# -- parameters -------------------------------------------------------------------------------


def marginals(idata: az.InferenceData, exact: Any = None) -> Figure:
    """Posterior density of each scalar, with the exact one where it is known."""
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


def prior_posterior(idata: az.InferenceData, exact: Any = None) -> Figure:
    """Prior beside posterior: how much the data taught."""
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


def pair(idata: az.InferenceData, exact: Any = None) -> Figure:
    """Draws of the parameters that depend most on each other, divergences marked."""
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


def _diverging(idata: az.InferenceData, size: int) -> np.ndarray:
    if "sample_stats" in idata.groups() and "diverging" in idata["sample_stats"]:
        return idata["sample_stats"]["diverging"].values.ravel().astype(bool)
    return np.zeros(size, dtype=bool)


def _most_correlated(idata: az.InferenceData) -> tuple[dict[str, np.ndarray], str]:
    """The pair of largest rank correlation, then what correlates most with those taken.

    Of rows that are independent only the first is looked at. With five divergences or more it
    begins with the parameter in which they are least like the other draws: there the trouble
    lies.
    """
    panels = _moving(idata)
    draws = np.stack([v.ravel() for v in panels.values()])
    ranks = stats.rankdata(draws[:, :: max(1, draws.shape[1] // 1000)], axis=1)
    correlation = np.abs(np.corrcoef(ranks))
    np.fill_diagonal(correlation, -1)
    taken = list(np.unravel_index(correlation.argmax(), correlation.shape))
    which, diverging = "the most correlated", _diverging(idata, draws.shape[1])
    if diverging.sum() >= 5:
        apart = [stats.ks_2samp(d[diverging], d[~diverging]).statistic for d in draws]
        taken = [int(np.argmax(apart))]
        which = f"where divergences stand out ({list(panels)[taken[0]]}) and the most correlated,"
    while len(taken) < min(_PAIR, len(panels)):
        rest = correlation[taken].max(0)
        rest[taken] = -1
        taken.append(int(rest.argmax()))
    names = list(panels)
    kept = {names[i]: panels[names[i]] for i in sorted(taken)}
    row = " Latents of the first row: rows are independent." if _rows(idata) else ""
    return kept, row + style.said(kept, panels, which)


def _moving(idata: az.InferenceData) -> dict[str, np.ndarray]:
    """The scalars that move, of one row where rows are independent."""
    rows = {dim: [0] for dim in _rows(idata)}
    panels = scalars(idata["posterior"].isel(rows))
    return {k: v for k, v in panels.items() if np.ptp(v) > 0}


def _rows(idata: az.InferenceData) -> set[str]:
    """The dimension of the data's rows, if every latent has it: none is shared between rows."""
    groups = [idata[k].data_vars.values() for k in ("posterior", "observed_data") if k in idata]
    if len(groups) < 2:
        return set()
    latent, observed = groups
    return set.intersection(
        *(set(value.dims[2:3]) for value in latent), *(set(value.dims[:1]) for value in observed)
    )


# -- predictions ------------------------------------------------------------------------------


def predictive(idata: az.InferenceData, exact: Any = None) -> Figure:
    """What the fit predicts, laid against what was observed."""
    replicated = idata["posterior_predictive"]
    names = list(replicated.data_vars)[:_PANELS]
    figure, axes = grid(len(names), columns=min(len(names), 2), height=2.7, gap=0.7)
    for ax, name in zip(axes, names):
        values = replicated[name].values
        observed = idata["observed_data"][name].values
        draws = values.reshape(-1, *values.shape[2:])
        seen = np.isfinite(observed)
        if not seen.all():
            draws, observed = draws[:, seen], observed[seen]
        if _is_count(observed) and _is_count(draws):
            _shares(ax, draws, observed)
        else:
            density(ax, draws.ravel(), SKY, "predicted")
            density(ax, observed.ravel(), RED, "observed", fill=False, whole=True)
            ax.set_ylabel("density")
        ax.set(xlabel=name, ylim=(0, None))
    caption = "New data as the fit predicts them, against the data it saw: alike if it fits."
    return captioned(figure, caption, idata, shared=axes[0])


def _is_count(values: np.ndarray) -> bool:
    sample = values.ravel()[:10_000]
    return bool(np.all(sample == np.round(sample)) and sample.min() >= 0 and sample.max() <= 30)


def _shares(ax: Axes, draws: np.ndarray, observed: np.ndarray) -> None:
    """Share of each value: predicted with its 94 % interval over replicated data, and observed."""
    levels = np.arange(0, max(draws.max(), observed.max()) + 1)
    rows = draws.reshape(len(draws), -1)
    shares = np.array([(rows == level).mean(axis=1) for level in levels])
    low, high = np.percentile(shares, [3, 97], axis=1)
    mean = shares.mean(axis=1)
    ax.bar(levels, mean, width=0.6, color=SKY, alpha=0.6, label="predicted")
    ax.vlines(levels, low, high, color=BLUE, lw=2, label="94 % of replicated data")
    for end in (low, high):  # as wide as the bars: they stick out behind the diamonds
        ax.hlines(end, levels - 0.3, levels + 0.3, color=BLUE, lw=1.2)
    seen = [(observed == level).mean() for level in levels]
    ax.plot(levels, seen, "D", ms=4, color=RED, label="observed")
    ax.set(xticks=levels, ylabel="share of the data")


def reliability(idata: az.InferenceData, exact: Any = None) -> Figure:
    """Share of right answers against claimed probability on held-out rows (Guo et al. 2017).

    Where a calibrated classifier would lie is the binomial interval of each bin (Broecker and
    Smith 2007, Weather and Forecasting 22, 651).
    """
    group = idata["held_out"]
    counts, claimed, right = calibration_bins(group["probability"].values, group["label"].values)
    used = counts > 0
    n = counts[used]
    claimed, share = claimed[used] / n, right[used] / n
    figure, (top, bottom) = grid(2, columns=1, height=1.9, below=0.55)
    low, high = stats.binom.ppf([[0.05], [0.95]], n, claimed) / n
    top.plot([0, 1], [0, 1], color=GREY, lw=1)
    top.vlines(claimed, low, high, color="0.8", lw=9, label="90 % of shares if calibrated")
    top.plot(claimed, share, "o", color=BLUE, label="share that is right", zorder=3)
    least = 1 / group.sizes["class"] - 0.05
    top.set(xlim=(least, 1.02), ylim=(-0.03, 1.05), ylabel="share that is right")
    bottom.stairs(counts, np.linspace(0, 1, 16), fill=True, color=SKY)
    bottom.set(xlim=(least, 1.02), xlabel="probability of the most probable class", ylabel="rows")
    for middle, count in zip((np.flatnonzero(used) + 0.5) / 15, n):
        bottom.annotate(f"{count:.0f}", (middle, count), ha="center", va="bottom", fontsize=7)
    bottom.set_ylim(0, 1.2 * n.max())
    ece = float((n * np.abs(share - claimed)).sum() / n.sum())
    caption = (
        f"{n.sum():.0f} held-out rows by the probability of the predicted class: on the "
        f"diagonal if calibrated, under it if overconfident. Calibration error (ece) {ece:.3f}."
    )
    return captioned(figure, caption, idata, shared=top)


def khat(idata: az.InferenceData, exact: Any = None) -> Figure:
    """Pareto k-hat of leave-one-out by row, and of the approximation (Vehtari et al. 2024, JMLR).

    The importance weights p / q of an approximation fall like rank ** -k in their tail. Where
    rows are independent each has its own, and those of all rows at once say nothing.
    """
    groups = idata.groups()
    there = {
        _row_khat: _has_row_khat(idata),
        _own_khat: "rows" in groups,
        _weights: "rows" not in groups and _has_ratios(idata),
    }
    draw = [panel for panel, fits in there.items() if fits]
    figure, axes = grid(len(draw), columns=2, height=2.5, gap=0.75)
    captions = [panel(ax, idata) for panel, ax in zip(draw, axes)]
    return captioned(figure, " ".join(captions), idata)


def _has_row_khat(idata: az.InferenceData) -> bool:
    """Whether rows were left out by weights, not in closed form."""
    return "loo" in idata.groups() and "khat" in idata["loo"]


def _row_khat(ax: Axes, idata: az.InferenceData) -> str:
    values = idata["loo"]["khat"].values
    beyond = _khat_dots(ax, values)
    ax.set_ylabel("k-hat of leaving the row out")
    return (
        f"Leave-one-out cannot be trusted for rows with k-hat above {KHAT_MAX}: "
        f"{(values > KHAT_MAX).sum()} of {len(values)}{beyond}."
    )


def _own_khat(ax: Axes, idata: az.InferenceData) -> str:
    values = idata["rows"]["khat"].values
    beyond = _khat_dots(ax, values)
    ax.set_ylabel("k-hat of the row's approximation")
    return (
        f"The approximation of a row's latents cannot be trusted where k-hat is above {KHAT_MAX}: "
        f"{(values > KHAT_MAX).sum()} of {len(values)} rows{beyond}; the median "
        f"is {np.median(values):.2f}."
    )


def _khat_dots(ax: Axes, values: np.ndarray) -> str:
    """The k-hat of each row, and the bounds; words on those beyond the picture."""
    shown = np.clip(values, -0.5, 1.5)
    high = values > KHAT_MAX
    rows = np.arange(len(values))
    ax.plot(rows[~high], shown[~high], ".", ms=4, color=BLUE)
    ax.plot(rows[high], shown[high], "x", ms=5, color=RED)
    for row in rows[high] if high.sum() <= 10 else ():  # more would hide each other
        ax.annotate(f" {row}", (row, shown[row]), fontsize=7, va="center")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _khat_bounds(ax)
    ax.set_xlabel("row of the data")
    ax.set_ylim(min(-0.05, shown.min() - 0.05), max(0.85, shown.max() + 0.1))
    return " (at the top: 1.5 and more)" if (values > 1.5).any() else ""


def _khat_bounds(ax: Axes) -> None:
    for bound, dashes in ((0.5, ":"), (0.7, "--")):
        ax.axhline(bound, color=RED, ls=dashes, lw=1)


def _has_ratios(idata: az.InferenceData) -> bool:
    groups = idata.groups()
    return "sample_stats" in groups and {"log_p", "log_q"} <= set(idata["sample_stats"].data_vars)


def _weights(ax: Axes, idata: az.InferenceData) -> str:
    sample_stats = idata["sample_stats"]
    ratios = (sample_stats["log_p"] - sample_stats["log_q"]).values.ravel()
    weights = np.sort(np.exp(ratios - ratios.max()))[::-1]
    weights = weights / weights.mean()
    ranks = np.arange(1, len(weights) + 1)
    ax.plot(ranks, weights, color=BLUE, lw=1.5, label="weight p / q")
    tail = ranks[: max(2, int(3 * np.sqrt(len(ranks))))]
    ax.plot(tail, weights[tail[-1] - 1] * (tail / tail[-1]) ** -KHAT_MAX, "--", color=RED, lw=1.2,
            label=f"slope of k = {KHAT_MAX}")  # fmt: skip
    ax.axhline(1, color=GREY, lw=0.8)
    ax.set(xscale="log", yscale="log", xlabel="draws, the heaviest first")
    ax.set(ylabel="weight p / q, mean 1", ylim=(max(1e-3, weights.min() / 2), None))
    style.legend(ax, loc="lower left")
    value = idata.attrs.get("khat")
    if value is None:
        return "The approximation's weights should fall flatter than the dashes."
    verdict = "under the bound 0.7" if value < KHAT_MAX else "too large: distrust its intervals"
    return (
        f"The approximation's k-hat is {value:.2f}, {verdict}; its weights should fall flatter "
        "than the dashes."
    )


# -- the optimiser ----------------------------------------------------------------------------


def objective(idata: az.InferenceData, exact: Any = None) -> Figure:
    """The objective over the steps of the optimiser: the ELBO, where the draws have a density."""
    values = idata["objective"]["value"].values
    bound = _has_ratios(idata)
    figure, (ax,) = grid(1, height=2.9, left=0.75)
    some = np.arange(0, len(values), max(1, len(values) // 3000))
    ax.plot(some, values[some], lw=0.4, color=SKY, alpha=0.7, label="each step")
    width = max(1, len(values) // 100)
    smooth = np.convolve(values, np.ones(width) / width, mode="valid")
    ax.plot(np.arange(len(smooth)) + width / 2, smooth, color=BLUE, lw=1.5, label="running mean")
    low, high = _late(values, smooth)
    below = " The first steps are below the picture." if smooth[0] < low else ""
    evidence = getattr(exact, "log_evidence", None) if bound else None
    if evidence is not None:
        ax.axhline(evidence, color=RED, ls="--", lw=1.2, label="exact log evidence")
        high = max(high, evidence + 0.1 * (high - low))
    name = "ELBO" if bound else "objective"
    ax.set(xlabel="step", ylabel=f"{name} (nats)", ylim=(low, high))
    told = idata["objective"].attrs.get("outlook")
    caption = f"The {name} by step: a good one is level at the end. "
    caption += f"{told[0].upper()}{told[1:]}. " if told else ""
    if not bound:
        caption += "It may hold a log prior density at a point: its level alone says nothing."
    if evidence is not None:
        caption += "What it stays under the evidence is how far the guide is from the posterior."
    return captioned(figure, caption.rstrip() + below, idata, shared=ax)


def _late(values: np.ndarray, smooth: np.ndarray) -> tuple[float, float]:
    """The range of an objective's later half: of its running mean, and of most steps."""
    later = smooth[len(smooth) // 2 :]
    low, high = np.percentile(values[len(values) // 2 :], [5, 95])
    low, high = min(low, later.min()), max(high, later.max())
    margin = 0.1 * max(high - low, 1e-3)
    return low - margin, high + margin


def _sureness(kind: str) -> Callable[..., Figure]:
    """A picture of how sure a network is, of one run."""

    def draw(idata: az.InferenceData, exact: Any = None) -> Figure:
        return uncertainty.PICTURES[kind]({style.named(idata): idata})

    return draw


# Name to (figure function, groups of the InferenceData that it needs).
PLOTS: dict[str, tuple[Callable[..., Figure], tuple[str, ...]]] = {
    "trace": (trace, ("posterior", "sample_stats")),
    "rank": (rank, ("posterior", "sample_stats")),
    "ess": (ess, ("posterior", "sample_stats")),
    "energy": (energy, ("sample_stats",)),
    "marginals": (marginals, ("posterior",)),
    "pair": (pair, ("posterior",)),
    "prior_posterior": (prior_posterior, ("posterior", "prior")),
    "predictive": (predictive, ("posterior_predictive", "observed_data")),
    "reliability": (reliability, ("held_out",)),
    "khat": (khat, ()),
    "objective": (objective, ("objective",)),
    "plane": (_sureness("plane"), ("plane",)),
    "outside": (_sureness("outside"), ("held_out",)),
    "shifted": (_sureness("shifted"), ("held_out",)),
}


def available(idata: az.InferenceData) -> list[str]:
    """The plots that this result can fill: a density wants draws, a trace wants chains."""
    groups = set(idata.groups())
    fits = _fits(idata)
    return [k for k, (_, needs) in PLOTS.items() if groups >= set(needs) and fits.get(k, True)]


def _fits(idata: az.InferenceData) -> Mapping[str, bool]:
    """What some plots need beyond groups: draws, chains, two parameters that move."""
    groups = idata.groups()
    network = "predictions" in groups  # whose weights nobody looks at one by one
    values = {} if network or "posterior" not in groups else scalars(idata["posterior"])
    sizes = judged(idata).sizes if values or network else {}
    filled = sizes.get("draw", 1) > 1
    sampled = set(idata["sample_stats"].data_vars) if "sample_stats" in groups else set()
    chains = filled and "diverging" in sampled and sizes["draw"] >= 20
    before = scalars(idata["prior"]) if "prior" in groups else {}
    sureness = {kind: kind in uncertainty.kinds(idata) for kind in uncertainty.PICTURES}
    return sureness | {
        "trace": chains,
        "rank": chains and sizes["chain"] > 1,
        "ess": chains,
        "energy": "energy" in sampled,
        "marginals": filled and not network,
        "pair": filled and bool(values) and len(_moving(idata)) > 1,
        "prior_posterior": filled and bool(before.keys() & values.keys()),
        "khat": _has_row_khat(idata)
        or "rows" in groups
        or (filled and not network and {"log_p", "log_q"} <= sampled),
    }
