"""Pictures of one result: one style, colour-blind safe, a caption that says what to see.

A picture is a function of the InferenceData of one run and its exact truth (`Exact`, or None),
that gives a Figure; `PLOTS` names them all, and `available` those that a result can fill. Here are
those of predictions, of approximations and of the optimiser.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import scipy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..results.inference_data import InferenceData, judged
from ..results.psis import KHAT_MAX
from ..results.scores import calibration_bins
from . import posterior, style, uncertainty
from .style import BLUE, GREY, RED, SKY, captioned, density, grid, scalars

_PANELS = 9
# Draws of a chain below which it has no picture.
_FEWEST_DRAWS = 20


# -- predictions ------------------------------------------------------------------------------


def predictive(idata: InferenceData, exact: Any = None) -> Figure:
    """What the fit predicts, beside what was observed: shares of counts, densities of numbers.

    Observations that are not there (NaN) are left out on both sides.
    """
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
    """Whether all are small whole numbers, by the first ten thousand."""
    sample = values.ravel()[:10_000]
    return bool(np.all(sample == np.round(sample)) and sample.min() >= 0 and sample.max() <= 30)


def _shares(ax: Axes, draws: np.ndarray, observed: np.ndarray) -> None:
    """Share of each value: predicted with its 94 % interval over replicated data, and observed.

    Args:
        ax: where to draw.
        draws: replicated data sets, (S, *shape).
        observed: the data, (*shape).
    """
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


def reliability(idata: InferenceData, exact: Any = None) -> Figure:
    """Share of right answers against claimed probability on held-out rows (Guo et al. 2017).

    Where a calibrated classifier would lie is the binomial interval of each bin (Broecker and
    Smith 2007, Weather and Forecasting 22, 651). Below it the number of rows in each bin.
    """
    group = idata["held_out"]
    bins = calibration_bins(group["probability"].values, group["label"].values)
    n, claimed, right = bins.filled
    claimed, share = claimed / n, right / n
    figure, (top, bottom) = style.reliability([idata])
    low, high = scipy.stats.binom.ppf([[0.05], [0.95]], n, claimed) / n
    top.vlines(claimed, low, high, color="0.8", lw=9, label="90 % of shares if calibrated")
    top.plot(claimed, share, "o", color=BLUE, label="share that is right", zorder=3)
    bars = len(bins.rows)
    bottom.stairs(bins.rows, np.linspace(0, 1, bars + 1), fill=True, color=SKY)
    for middle, count in zip((np.flatnonzero(bins.rows) + 0.5) / bars, n):
        bottom.annotate(f"{count:.0f}", (middle, count), ha="center", va="bottom", fontsize=7)
    bottom.set_ylim(0, 1.2 * n.max())
    caption = (
        f"{n.sum():.0f} held-out rows by the probability of the predicted class: on the "
        "diagonal if calibrated, under it if overconfident. Calibration error (ece) "
        f"{bins.error:.3f}."
    )
    return captioned(figure, caption, idata, shared=top)


# -- approximations ---------------------------------------------------------------------------


def khat(idata: InferenceData, exact: Any = None) -> Figure:
    """Pareto k-hat of leave-one-out by row, and of the approximation (Vehtari et al. 2024, JMLR).

    The importance weights p / q of an approximation fall like rank ** -k in their tail. Where
    rows are independent each has its own, and those of all rows at once say nothing.
    """
    groups = idata.groups()
    panels = [_loo_khat] if _has_loo_khat(idata) else []
    if "rows" in groups:
        panels.append(_own_khat)
    elif _has_ratios(idata):
        panels.append(_weights)
    figure, axes = grid(len(panels), columns=2, height=2.5, gap=0.75)
    captions = [panel(ax, idata) for panel, ax in zip(panels, axes)]
    return captioned(figure, " ".join(captions), idata)


def _has_loo_khat(idata: InferenceData) -> bool:
    """Whether rows were left out by weights, not in closed form."""
    return "khat" in idata.get("loo", ())


def _has_ratios(idata: InferenceData) -> bool:
    """Whether the draws have a density under the model and under the approximation."""
    return {"log_p", "log_q"} <= set(idata.get("sample_stats", ()))


def _loo_khat(ax: Axes, idata: InferenceData) -> str:
    """The k-hat of leaving each row out, and words on those that are too high."""
    high, beyond = _khat_dots(ax, idata["loo"]["khat"].values, "leaving the row out")
    return f"Leave-one-out cannot be trusted for rows with k-hat above {KHAT_MAX}: {high}{beyond}."


def _own_khat(ax: Axes, idata: InferenceData) -> str:
    """The k-hat of each row's own latents, and words on those that are too high."""
    values = idata["rows"]["khat"].values
    high, beyond = _khat_dots(ax, values, "the row's approximation")
    return (
        f"The approximation of a row's latents cannot be trusted where k-hat is above {KHAT_MAX}: "
        f"{high} rows{beyond}; the median is {np.median(values):.2f}."
    )


def _khat_dots(ax: Axes, values: np.ndarray, of: str) -> tuple[str, str]:
    """The k-hat of each row, and the bounds.

    Args:
        ax: where to draw.
        values: k-hat, (rows,).
        of: what has them.

    Returns:
        How many of how many are too high, and words on those beyond the picture.
    """
    shown, high, rows = np.clip(values, -0.5, 1.5), values > KHAT_MAX, np.arange(len(values))
    ax.plot(rows[~high], shown[~high], ".", ms=4, color=BLUE)
    ax.plot(rows[high], shown[high], "x", ms=5, color=RED)
    for row in rows[high] if high.sum() <= 10 else ():  # more would hide each other
        ax.annotate(f" {row}", (row, shown[row]), fontsize=7, va="center")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for bound, dashes in ((0.5, ":"), (0.7, "--")):
        ax.axhline(bound, color=RED, ls=dashes, lw=1)
    ax.set(xlabel="row of the data", ylabel=f"k-hat of {of}")
    ax.set_ylim(min(-0.05, shown.min() - 0.05), max(0.85, shown.max() + 0.1))
    beyond = " (at the top: 1.5 and more)" if (values > 1.5).any() else ""
    return f"{high.sum()} of {len(values)}", beyond


def _weights(ax: Axes, idata: InferenceData) -> str:
    """The weights p / q by rank, beside the steepest fall that is well, and words on them."""
    densities = idata["sample_stats"]
    ratios = (densities["log_p"] - densities["log_q"]).values.ravel()
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
    ax.legend(frameon=False, fontsize=style.SMALLEST, loc="lower left")
    value = idata.attrs.get("khat")
    if value is None:
        return "The approximation's weights should fall flatter than the dashes."
    verdict = "under the bound 0.7" if value < KHAT_MAX else "too large: distrust its intervals"
    return (
        f"The approximation's k-hat is {value:.2f}, {verdict}; its weights should fall flatter "
        "than the dashes."
    )


# -- the optimiser ----------------------------------------------------------------------------


def objective(idata: InferenceData, exact: Any = None) -> Figure:
    """The objective over the steps of the optimiser: the ELBO, where the draws have a density.

    Each step and the running mean, in nats; the exact log evidence, which no ELBO exceeds.
    """
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
    outlook = idata["objective"].attrs.get("outlook")
    caption = f"The {name} by step: a good one is level at the end. "
    caption += f"{outlook[0].upper()}{outlook[1:]}. " if outlook else ""
    if not bound:
        caption += "It may hold a log prior density at a point: its level alone says nothing."
    if evidence is not None:
        caption += "What it stays under the evidence is how far the guide is from the posterior."
    return captioned(figure, caption.rstrip() + below, idata, shared=ax)


def _late(values: np.ndarray, smooth: np.ndarray) -> tuple[float, float]:
    """The range of an objective's later half: of its running mean, and of most steps.

    Args:
        values: of each step, nats (steps,).
        smooth: their running mean.
    """
    later = smooth[len(smooth) // 2 :]
    low, high = np.percentile(values[len(values) // 2 :], [5, 95])
    low, high = min(low, later.min()), max(high, later.max())
    margin = 0.1 * max(high - low, 1e-3)
    return low - margin, high + margin


# -- all kinds --------------------------------------------------------------------------------


def _of_network(kind: str, idata: InferenceData, exact: Any = None) -> Figure:
    """A picture of how sure a network is, of one run."""
    return uncertainty.PICTURES[kind]({style.named(idata): idata})


PLOTS: dict[str, Callable[..., Figure]] = {
    "trace": posterior.trace,
    "rank": posterior.rank,
    "ess": posterior.ess,
    "energy": posterior.energy,
    "marginals": posterior.marginals,
    "pair": posterior.pair,
    "prior_posterior": posterior.prior_posterior,
    "predictive": predictive,
    "reliability": reliability,
    "khat": khat,
    "objective": objective,
    **{kind: partial(_of_network, kind) for kind in uncertainty.PICTURES},
}
# Those that show the exact truth.
OF_TRUTH = ("marginals", "objective")


def available(idata: InferenceData) -> list[str]:
    """The plots that this result can fill: a density wants draws, a trace wants chains."""
    fits = _fits(idata)
    return [kind for kind in PLOTS if fits[kind]]


def _fits(idata: InferenceData) -> Mapping[str, bool]:
    """Whether there is what each plot shows: groups, draws, chains, two parameters that move."""
    groups = idata.groups()
    network = "predictions" in groups  # whose weights nobody looks at one by one
    values = {} if network or "posterior" not in groups else scalars(idata["posterior"])
    sizes = judged(idata).sizes if values or network else {}
    filled = sizes.get("draw", 1) > 1
    sampled = set(idata.get("sample_stats", ()))
    chains = filled and "diverging" in sampled and sizes["draw"] >= _FEWEST_DRAWS
    before = scalars(idata["prior"]) if "prior" in groups else {}
    return {
        "trace": chains,
        "rank": chains and sizes["chain"] > 1,
        "ess": chains,
        "energy": "energy" in sampled,
        "marginals": filled and not network,
        "pair": filled and bool(values) and len(posterior.moving(idata)) > 1,
        "prior_posterior": filled and bool(before.keys() & values.keys()),
        "predictive": {"posterior_predictive", "observed_data"} <= set(groups),
        "reliability": "held_out" in groups,
        "objective": "objective" in groups,
        "khat": _has_loo_khat(idata)
        or "rows" in groups
        or (filled and not network and _has_ratios(idata)),
        **{kind: kind in uncertainty.kinds(idata) for kind in uncertainty.PICTURES},
    }
