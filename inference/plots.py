"""Pictures of a result: one style, colour-blind safe, a caption that says what to see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    import arviz as az
    from matplotlib.axes import Axes

# Okabe and Ito's palette: told apart by colour-blind readers, and in grey.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442",
)  # fmt: skip
_CHAINS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW)
_MOST_PANELS = 9


def trace(idata: az.InferenceData, exact: Any = None) -> Figure:
    """Draws in order, by chain: chains that mix lie on top of each other, without trends."""
    panels = _scalars(idata["posterior"])
    figure, axes = _grid(panels, columns=1, size=(8, 1.7))
    for ax, (name, values) in zip(axes, panels.items()):
        for chain, draws in enumerate(values):
            ax.plot(draws, lw=0.4, alpha=0.8, color=_CHAINS[chain % len(_CHAINS)])
        ax.set_ylabel(name)
    axes[-1].set_xlabel("draw")
    return _captioned(figure, "Draws by chain: good chains overlap and show no trend.", idata)


def marginals(idata: az.InferenceData, exact: Any = None) -> Figure:
    """Posterior density of each scalar, with the exact one where it is known."""
    panels = _scalars(idata["posterior"])
    figure, axes = _grid(panels)
    known = exact.marginals if exact is not None else {}
    for ax, (name, values) in zip(axes, panels.items()):
        _density(ax, values.ravel(), BLUE, "this fit")
        if name in known:
            grid = _range(values, known[name])
            ax.plot(grid, known[name].pdf(grid), color=RED, lw=1.6, ls="--", label="exact")
            ax.set_xlim(grid[0], grid[-1])
        ax.set(xlabel=name, yticks=[], ylim=(0, None))
    _legend(axes[0])
    caption = "Posterior marginals"
    caption += ": filled is this fit, dashed the truth; they should coincide." if known else "."
    return _captioned(figure, caption, idata)


def prior_posterior(idata: az.InferenceData, exact: Any = None) -> Figure:
    """Prior beside posterior: how much the data taught."""
    panels, before = _scalars(idata["posterior"]), _scalars(idata["prior"])
    figure, axes = _grid(panels)
    for ax, (name, values) in zip(axes, panels.items()):
        if name in before:
            # A heavy-tailed prior would squeeze the posterior into a line: show its middle.
            low, high = np.percentile(before[name], [2, 98])
            low, high = min(low, values.min()), max(high, values.max())
            shown = before[name][(before[name] >= low) & (before[name] <= high)]
            _density(ax, shown, ORANGE, "prior (middle 96 %)")
        _density(ax, values.ravel(), BLUE, "posterior")
        ax.set(xlabel=name, yticks=[], ylim=(0, None))
    _legend(axes[0])
    return _captioned(figure, "Prior against posterior: the data moved one to the other.", idata)


def predictive(idata: az.InferenceData, exact: Any = None) -> Figure:
    """What the fit predicts, laid against what was observed."""
    replicated = idata["posterior_predictive"]
    names = list(replicated.data_vars)
    figure, axes = _grid(names, columns=min(len(names), 2), size=(6.5, 3.6))
    for ax, name in zip(axes, names):
        values = replicated[name].values
        observed = idata["observed_data"][name].values
        draws = values.reshape(-1, *values.shape[2:])
        if _is_count(observed) and _is_count(draws):
            _shares(ax, draws, observed)
        else:
            _density(ax, draws.ravel(), SKY, "predicted")
            _density(ax, observed.ravel(), RED, "observed", fill=False)
        ax.set(xlabel=name, ylim=(0, None))
    _legend(axes[0])
    caption = "New data as the fit predicts them, against the data it saw."
    return _captioned(figure, caption, idata)


def objective(idata: az.InferenceData, exact: Any = None) -> Figure:
    """The objective over the steps of the optimiser; level at the end means converged."""
    values = idata["objective"]["value"].values
    figure, (ax,) = _grid(["value"], columns=1, size=(7, 3.6))
    ax.plot(values, lw=0.4, color=SKY, alpha=0.7)
    width = max(1, len(values) // 100)
    smooth = np.convolve(values, np.ones(width) / width, mode="valid")
    ax.plot(np.arange(len(smooth)) + width / 2, smooth, color=BLUE, lw=1.5, label="running mean")
    evidence = getattr(exact, "log_evidence", None)
    if evidence is not None:
        ax.axhline(evidence, color=RED, ls="--", lw=1.2, label="exact log evidence")
    low, high = np.percentile(smooth, [5, 100])
    spread = max(high - low, 1e-3)
    top = max(high, evidence if evidence is not None else high)
    ax.set(xlabel="step", ylabel="ELBO (nats)", ylim=(low - spread, top + 0.3 * spread))
    ax.legend(frameon=False, fontsize=8, loc="lower right")
    return _captioned(figure, "The ELBO rises, then stays level: the fit has converged.", idata)


# Name to (figure function, groups of the InferenceData that it needs).
PLOTS: dict[str, tuple[Callable[..., Figure], tuple[str, ...]]] = {
    "trace": (trace, ("posterior",)),
    "marginals": (marginals, ("posterior",)),
    "prior_posterior": (prior_posterior, ("posterior", "prior")),
    "predictive": (predictive, ("posterior_predictive", "observed_data")),
    "objective": (objective, ("objective",)),
}


def available(idata: az.InferenceData) -> list[str]:
    """The plots that this result can fill: a density wants draws, a trace wants chains."""
    groups = set(idata.groups())
    many = "posterior" in groups and idata["posterior"].sizes.get("draw", 1) > 1
    filled = many and bool(_scalars(idata["posterior"]))
    chains = "sample_stats" in groups and "diverging" in idata["sample_stats"]
    wanted = {"trace": chains and filled, "marginals": filled, "prior_posterior": filled}
    return [k for k, (_, needs) in PLOTS.items() if groups >= set(needs) and wanted.get(k, True)]


def _scalars(dataset: Any) -> dict[str, np.ndarray]:
    """Scalar name as in the summary to draws (chain, draw); at most a page of them."""
    panels: dict[str, np.ndarray] = {}
    continuous = {k: v for k, v in dataset.data_vars.items() if v.dtype.kind == "f"}
    for name, array in continuous.items():
        for index in np.ndindex(array.shape[2:]):
            labels = [str(array[d].values[i]) for d, i in zip(array.dims[2:], index)]
            panels[f"{name}[{', '.join(labels)}]" if labels else str(name)] = array.values[
                (slice(None), slice(None), *index)
            ]
            if len(panels) == _MOST_PANELS:
                return panels
    return panels


def _grid(
    panels: Mapping | Sequence, columns: int = 3, size: tuple[float, float] = (3, 2.4)
) -> tuple[Figure, list[Axes]]:
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    width = max(size[0] * columns, 5.5)
    figure = Figure(figsize=(width, size[1] * rows + 0.8), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes[: len(panels)]


def _density(ax: Axes, values: np.ndarray, colour: str, label: str, *, fill: bool = True) -> None:
    """A histogram: unlike a kernel estimate it invents nothing beyond a bound of the support."""
    values = values[np.isfinite(values)].astype(float)
    if len(values) > 1 and np.ptp(values) > 0:
        low, high = np.percentile(values, [0.05, 99.95])
        bins = np.linspace(low, high, int(np.clip(len(values) ** 0.5, 8, 50)))
        kind = "stepfilled" if fill else "step"
        style = {"alpha": 0.45} if fill else {"lw": 1.6}
        ax.hist(values, bins, density=True, histtype=kind, color=colour, label=label, **style)
    else:
        ax.axvline(values[0], color=colour, lw=2, label=label)


def _range(values: np.ndarray, truth: Any) -> np.ndarray:
    low, high = truth.ppf([0.0005, 0.9995])
    low, high = min(low, np.percentile(values, 0.1)), max(high, np.percentile(values, 99.9))
    bottom, top = truth.support()
    return np.linspace(max(low, bottom), min(high, top), 400)


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
    ax.vlines(levels, low, high, color=BLUE, lw=2)
    seen = [(observed == level).mean() for level in levels]
    ax.plot(levels, seen, "D", color=RED, label="observed")
    ax.set(xticks=levels, ylabel="share of the data")


def _legend(ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        ax.legend(handles, labels, frameon=False, fontsize=8)


def _captioned(figure: Figure, caption: str, idata: az.InferenceData) -> Figure:
    attrs = idata.attrs
    who = " ".join(str(attrs[k]) for k in ("model", "method", "guide") if attrs.get(k))
    figure.suptitle(f"{who}: {caption}" if who else caption, fontsize=9, x=0.01, ha="left")
    return figure
