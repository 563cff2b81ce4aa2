"""Pictures of how sure a network is: in the plane, on shifted rows, on rows of another kind.

Each takes runs by label, one or several; those without the groups it draws are left out.
"""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure

from ..results.inference_data import InferenceData
from ..results.predictive import entropy
from . import style
from .style import BLUE, CYCLE, GREY, ORANGE, RED, SKY, captioned, density, grid

_COLUMNS = 3


# -- in the plane ------------------------------------------------------------------------------


def plane(results: style.Results) -> Figure:
    """Probability of the likeliest class, and what the draws disagree on, over two features.

    Args:
        results: label to run; those without the group `plane` are left out.

    Raises:
        ValueError: no run has it.
    """
    runs = style.having(results, lambda run: "plane" in run.groups(), "the group plane")
    groups = {label: run["plane"] for label, run in runs.items()}
    figure, axes = grid(2 * len(groups), columns=2, height=2.3, below=0.42, above=0.28)
    most = max(float(group["mutual_information"].max()) for group in groups.values())
    for i, (label, group) in enumerate(groups.items()):
        left, right = axes[2 * i : 2 * i + 2]
        top, least = group["probability"].values.max(-1), 1 / group.sizes["class"]
        apart = group["mutual_information"].values
        shades = {
            left: _shade(left, group, top, np.linspace(least, 1, 11), "cividis"),
            right: _shade(right, group, apart, np.linspace(0, max(most, 1e-3), 11), "Greys"),
        }
        _boundaries(left, group)
        for ax, shade in shades.items():
            _rows(ax, results[label])
            bar = figure.colorbar(shade, ax=ax, pad=0.02, aspect=25)
            bar.ax.tick_params(labelsize=style.SMALLEST - 1)
        style.titled(left, f"{label}: probability of the likeliest class")
        style.titled(right, "mutual information (nats)")
    caption = (
        "Left: how sure the prediction is (red: where the likeliest class changes). Right: what "
        "the draws disagree on. Away from the data an honest answer is unsure; a single network "
        "has nothing to disagree with."
    )
    return captioned(figure, caption)


def _shade(
    ax: Axes, group: xr.Dataset, values: np.ndarray, levels: np.ndarray, colours: str
) -> QuadContourSet:
    """Values (points,) of the plane's square grid, in shades between levels."""
    x, side = group["x"].values, round(len(values) ** 0.5)
    across, up = x[:side, 0], x[::side, 1]
    ax.set(xlim=(across[0], across[-1]), ylim=(up[0], up[-1]))
    table = values.reshape(side, side)
    return ax.contourf(across, up, table, levels=levels, cmap=colours, extend="both")


def _boundaries(ax: Axes, group: xr.Dataset) -> None:
    """Lines where the likeliest class changes."""
    x, probability = group["x"].values, group["probability"].values
    side, classes = round(len(x) ** 0.5), probability.shape[1]
    top = probability.argmax(-1)
    for label in range(classes - 1):
        below = probability[:, 0] if classes == 2 else (top <= label).astype(float)
        below = below.reshape(side, side)
        if below.min() < 0.5 < below.max():
            ax.contour(x[:side, 0], x[::side, 1], below, levels=[0.5], colors=RED, linewidths=1.4)


def _rows(ax: Axes, run: InferenceData) -> None:
    """The training rows, a mark and a colour for each class."""
    if "constant_data" not in run.groups() or "x" not in run["constant_data"]:
        return
    x, (y,) = run["constant_data"]["x"].values, run["observed_data"].data_vars.values()
    for label, colour, mark in zip(np.unique(y), (SKY, ORANGE, BLUE, GREY), "o^sD"):
        rows = x[y.values == label]
        ax.scatter(*rows.T, s=6, c=colour, marker=mark, ec="k", lw=0.25)


# -- on rows beside the test set ---------------------------------------------------------------


def outside(results: style.Results) -> Figure:
    """Entropy of the predictions on test rows and on rows of another kind.

    Args:
        results: label to run; those without rows of another kind are left out.

    Raises:
        ValueError: no run has them.
    """
    runs = style.having(results, _unlabelled, "rows of another kind (--set outside=...)")
    figure, axes = grid(len(runs), columns=_COLUMNS, height=1.6, below=0.4, above=0.28)
    for ax, (label, run) in zip(axes, runs.items()):
        density(ax, entropy(run["held_out"]["probability"].values), SKY, "test rows")
        for name, colour in zip(_unlabelled(run), CYCLE[1:]):
            values = run[f"beside_{name}"]["entropy"].values
            density(ax, values, colour, name, fill=False)
        style.titled(ax, label)
        ax.set(xlabel="entropy (nats)", yticks=[], ylim=(0, None))
    caption = (
        "Entropy of the predictions: the further right the rows of another kind lie of the test "
        "rows, the better the model knows that it does not know."
    )
    return captioned(figure, caption, shared=axes[0])


def _unlabelled(run: InferenceData) -> list[str]:
    """Names of the rows beside the test set that have no labels: they are of another kind."""
    names = [name.removeprefix("beside_") for name in run.groups() if name.startswith("beside_")]
    return [name for name in names if "right" not in run[f"beside_{name}"]]


def shifted(results: style.Results) -> Figure:
    """Accuracy and entropy against how far the test rows were shifted (angle, noise).

    Args:
        results: label to run; those without shifted rows are left out.

    Raises:
        ValueError: no run has them.
    """
    style.having(results, _series, "shifted rows (--set outside=rotate,noise)")
    series = {label: _series(run) for label, run in results.items()}
    kinds = dict.fromkeys(kind for own in series.values() for kind in own)
    figure, axes = grid(2 * len(kinds), columns=2, height=2.0, below=0.5)
    for i, kind in enumerate(kinds):
        right, unsure = axes[2 * i : 2 * i + 2]
        for j, (label, own) in enumerate(series.items()):
            if kind in own:
                at, accuracy, entropies = np.array(own[kind]).T
                right.plot(at, accuracy, label=label, **style.look(j, ms=4, lw=1.1))
                unsure.plot(at, entropies, **style.look(j, ms=4, lw=1.1))
        words = "degrees turned" if kind == "rotate" else f"{kind} (sd)"
        right.set(xlabel=words, ylabel="accuracy", ylim=(0, 1.02))
        unsure.set(xlabel=words, ylabel="mean entropy (nats)", ylim=(0, None))
    caption = (
        "As the test rows are shifted, accuracy falls; entropy should rise with it. Entropy that "
        "stays low where accuracy is low is overconfidence."
    )
    return captioned(figure, caption, shared=axes[0])


def _series(run: InferenceData) -> dict[str, list[tuple[float, float, float]]]:
    """Kind of shift to (how far, accuracy, mean entropy in nats), in order."""
    series: dict[str, list[tuple[float, float, float]]] = {}
    for name in run.groups():
        words = name.removeprefix("beside_").split(" ")
        if name.startswith("beside_") and len(words) == 2 and "right" in run[name]:
            means = (float(run[name][score].mean()) for score in ("right", "entropy"))
            series.setdefault(words[0], []).append((float(words[1]), *means))
    return {kind: sorted(points) for kind, points in series.items()}


def kinds(run: InferenceData) -> list[str]:
    """The pictures of this module that a run can fill."""
    filled = {
        "plane": "plane" in run.groups(),
        "outside": "held_out" in run.groups() and _unlabelled(run),
        "shifted": _series(run),
    }
    return [kind for kind, can in filled.items() if can]


PICTURES: dict[str, Any] = {"plane": plane, "outside": outside, "shifted": shifted}
