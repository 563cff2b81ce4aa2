"""Pictures of how sure a network is: in the plane, on shifted rows, on rows of another kind.

Each takes runs by label, one or several; those without the groups it draws are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import arviz as az
import numpy as np

from ..results.scores import entropy
from .style import (
    BLUE,
    CYCLE,
    GREY,
    MARKERS,
    ORANGE,
    RED,
    SKY,
    SMALL,
    SMALLEST,
    captioned,
    density,
    grid,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Results = Mapping[str, az.InferenceData]

_COLUMNS = 3


def plane(results: Results) -> Figure:
    """Probability of the likeliest class, and what the draws disagree on, over two features.

    Args:
        results: label to run; those without the group `plane` are left out.

    Raises:
        ValueError: no run has it.
    """
    groups = _having(results, "plane")
    figure, axes = grid(2 * len(groups), columns=2, height=2.3, below=0.42, above=0.28)
    most = max(float(group["mutual_information"].max()) for group in groups.values())
    for i, (label, group) in enumerate(groups.items()):
        top = group["probability"].values.max(-1)
        left, right = axes[2 * i], axes[2 * i + 1]
        levels = np.linspace(1 / group.sizes["class"], 1, 11)
        shades = [_shade(left, group, top, levels, "cividis")]
        _boundaries(left, group)
        levels = np.linspace(0, max(most, 1e-3), 11)
        shades.append(_shade(right, group, group["mutual_information"].values, levels, "Greys"))
        for ax, shade in zip((left, right), shades):
            _rows(ax, results[label])
            bar = figure.colorbar(shade, ax=ax, pad=0.02, aspect=25)
            bar.ax.tick_params(labelsize=SMALLEST - 1)
        left.set_title(f"{label}: probability of the likeliest class", fontsize=SMALL, loc="left")
        right.set_title("mutual information (nats)", fontsize=SMALL, loc="left")
    caption = (
        "Left: how sure the prediction is (red: where the likeliest class changes). Right: what "
        "the draws disagree on. Away from the data an honest answer is unsure; a single network "
        "has nothing to disagree with."
    )
    return captioned(figure, caption)


def _having(results: Results, group: str) -> dict[str, Any]:
    groups = {label: run[group] for label, run in results.items() if group in run.groups()}
    if not groups:
        raise ValueError(f"no run has the group {group}")
    return groups


def _shade(ax: Axes, group: Any, values: np.ndarray, levels: np.ndarray, colours: str) -> Any:
    x, side = group["x"].values, round(len(values) ** 0.5)
    across, up = x[:side, 0], x[::side, 1]
    ax.set(xlim=(across[0], across[-1]), ylim=(up[0], up[-1]))
    table = values.reshape(side, side)
    return ax.contourf(across, up, table, levels=levels, cmap=colours, extend="both")


def _boundaries(ax: Axes, group: Any) -> None:
    """Lines where the likeliest class changes."""
    x, probability = group["x"].values, group["probability"].values
    side, classes = round(len(x) ** 0.5), probability.shape[1]
    top = probability.argmax(-1)
    for label in range(classes - 1):
        here = probability[:, 0] if classes == 2 else (top <= label).astype(float)
        here = here.reshape(side, side)
        if here.min() < 0.5 < here.max():
            ax.contour(x[:side, 0], x[::side, 1], here, levels=[0.5], colors=RED, linewidths=1.4)


def _rows(ax: Axes, run: az.InferenceData) -> None:
    """The training rows, a mark and a colour for each class."""
    if "constant_data" not in run.groups() or "x" not in run["constant_data"]:
        return
    x, (y,) = run["constant_data"]["x"].values, run["observed_data"].data_vars.values()
    for label, colour, mark in zip(np.unique(y), (SKY, ORANGE, BLUE, GREY), "o^sD"):
        rows = x[y.values == label]
        ax.scatter(*rows.T, s=6, c=colour, marker=mark, ec="k", lw=0.25)


def outside(results: Results) -> Figure:
    """Entropy of the predictions on test rows and on rows of another kind.

    Args:
        results: label to run; those without rows of another kind are left out.

    Raises:
        ValueError: no run has them.
    """
    chosen = {label: run for label, run in results.items() if _unlabelled(run)}
    if not chosen:
        raise ValueError("no run has rows of another kind (--set outside=...)")
    figure, axes = grid(len(chosen), columns=_COLUMNS, height=1.6, below=0.4, above=0.28)
    for ax, (label, run) in zip(axes, chosen.items()):
        density(ax, entropy(run["held_out"]["probability"].values), SKY, "test rows")
        for name, colour in zip(_unlabelled(run), CYCLE[1:]):
            values = run[f"beside_{name}"]["entropy"].values
            density(ax, values, colour, name, fill=False)
        ax.set_title(label, fontsize=SMALL, loc="left")
        ax.set(xlabel="entropy (nats)", yticks=[], ylim=(0, None))
    caption = (
        "Entropy of the predictions: the further right the rows of another kind lie of the test "
        "rows, the better the model knows that it does not know."
    )
    return captioned(figure, caption, shared=axes[0])


def _unlabelled(run: az.InferenceData) -> list[str]:
    return [
        name.removeprefix("beside_")
        for name in run.groups()
        if name.startswith("beside_") and "right" not in run[name]
    ]


def shifted(results: Results) -> Figure:
    """Accuracy and entropy against how far the test rows were shifted (angle, noise).

    Args:
        results: label to run; those without shifted rows are left out.

    Raises:
        ValueError: no run has them.
    """
    series = {label: _series(run) for label, run in results.items()}
    kinds = list(dict.fromkeys(kind for found in series.values() for kind in found))
    if not kinds:
        raise ValueError("no run has shifted rows (--set outside=rotate,noise)")
    figure, axes = grid(2 * len(kinds), columns=2, height=2.0, below=0.5)
    for i, kind in enumerate(kinds):
        for j, (label, found) in enumerate(series.items()):
            if kind not in found:
                continue
            at, right, sureness = np.array(found[kind]).T
            look = {"color": CYCLE[j % 7], "marker": MARKERS[j % 10], "ms": 4, "lw": 1.1}
            axes[2 * i].plot(at, right, label=label, **look)
            axes[2 * i + 1].plot(at, sureness, **look)
        word = "degrees turned" if kind == "rotate" else f"{kind} (sd)"
        axes[2 * i].set(xlabel=word, ylabel="accuracy", ylim=(0, 1.02))
        axes[2 * i + 1].set(xlabel=word, ylabel="mean entropy (nats)", ylim=(0, None))
    caption = (
        "As the test rows are shifted, accuracy falls; entropy should rise with it. Entropy that "
        "stays low where accuracy is low is overconfidence."
    )
    return captioned(figure, caption, shared=axes[0])


def _series(run: az.InferenceData) -> dict[str, list[tuple[float, float, float]]]:
    """Kind of shift to (how far, accuracy, mean entropy), in order."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for name in run.groups():
        words = name.removeprefix("beside_").split(" ")
        if name.startswith("beside_") and len(words) == 2 and "right" in run[name]:
            group = run[name]
            point = float(words[1]), float(group["right"].mean()), float(group["entropy"].mean())
            found.setdefault(words[0], []).append(point)
    return {kind: sorted(points) for kind, points in found.items()}


def kinds(run: az.InferenceData) -> list[str]:
    """The pictures of this module that a run can fill."""
    filled = {
        "plane": "plane" in run.groups(),
        "outside": "held_out" in run.groups() and bool(_unlabelled(run)),
        "shifted": bool(_series(run)),
    }
    return [kind for kind, can in filled.items() if can]


PICTURES = {"plane": plane, "outside": outside, "shifted": shifted}
