"""What the models' own figures share: width, colours, panels, and a caption above them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of Okabe and Ito's palette, which colour-blind readers tell apart.
BLUE, ORANGE, RED, SKY = "#0072B2", "#E69F00", "#D55E00", "#56B4E9"
GREEN, PURPLE = "#009E73", "#CC79A7"
GREY = "0.55"
# How many times larger the pixels of an image are drawn; width of figures and margins, inches.
_LARGER, _WIDTH, _MARGINS, _NARROW = 4, 7.0, (0.65, 0.2, 0.5), (0.084, 0.084, 0.1)


def panels(
    count: int = 1,
    *,
    height: float = 3.2,
    gap: float = 0.2,
    above: float = 0.12,
    margins: tuple[float, float, float] = _MARGINS,
    **options: Any,
) -> tuple[Figure, Sequence[Axes]]:
    """A figure of `count` panels side by side, and the panels; lengths in inches.

    Args:
        count: number of panels.
        height: of the panels.
        gap: between them.
        above: them, for titles of their own.
        margins: left, right and below, for the axes' numbers.
        options: of matplotlib's `Figure.subplots`.
    """
    from matplotlib.figure import Figure

    left, right, below = margins
    total = height + below + above
    figure = Figure(figsize=(_WIDTH, total))
    spaces = (_WIDTH - left - right - gap * (count - 1)) / count
    figure.subplots_adjust(left=left / _WIDTH, right=1 - right / _WIDTH, wspace=gap / spaces)
    figure.subplots_adjust(bottom=below / total, top=1 - above / total)
    axes = figure.subplots(1, count, squeeze=False, **options)[0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=7.5)
        ax.xaxis.label.set_size(8.5)
        ax.yaxis.label.set_size(8.5)
    return figure, axes


def captioned(figure: Figure, caption: str | None, shared: Axes | None = None) -> Figure:
    """Set the caption above the panels, and the legend of one of them below it.

    Args:
        figure: from `panels`; it grows by the lines.
        caption: what is seen, and what to look for; often the docstring of the figure's function.
        shared: a panel whose legend holds for all.
    """
    lines = textwrap.wrap(" ".join((caption or "").split()), 106)
    handles, labels = shared.get_legend_handles_labels() if shared is not None else ([], [])
    words, body = 0.165 * len(lines) + 0.1, figure.get_figheight()
    total = body + words + 0.25 * bool(labels)
    at = figure.subplotpars
    figure.set_figheight(total)
    figure.subplots_adjust(bottom=at.bottom * body / total, top=at.top * body / total)
    place = {"x": 0.012, "y": 1 - 0.06 / total, "ha": "left", "va": "top"}
    figure.suptitle("\n".join(lines), fontsize=8.5, linespacing=1.25, **place)
    if labels:
        style = {"frameon": False, "fontsize": 7.5, "borderaxespad": 0, "borderpad": 0}
        style |= {"handlelength": 1.4, "handletextpad": 0.5, "columnspacing": 1.2}
        corner = (0.016, 1 - words / total)
        figure.legend(
            handles, labels, ncols=len(labels), loc="upper left", bbox_to_anchor=corner, **style
        )
    return figure


def grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Images (n, height, width), n a multiple of the columns, as one, with white between them."""
    large = images.repeat(_LARGER, 1).repeat(_LARGER, 2)
    padded = np.pad(large, ((0, 0), (0, _LARGER), (0, _LARGER)))
    _, height, width = padded.shape
    rows = padded.reshape(-1, columns, height, width).transpose(0, 2, 1, 3)
    return rows.reshape(-1, columns * width)[:-_LARGER, :-_LARGER]


def shown(images: np.ndarray, columns: int, caption: str | None) -> Figure:
    """A grid of grey pictures, black for 1.

    Args:
        images: (n, height, width), n a multiple of the columns.
        columns: images in a row.
        caption: as for `captioned`.
    """
    image = grid(images, columns)
    width = _WIDTH - sum(_NARROW[:2])
    figure, (ax,) = panels(height=width * image.shape[0] / image.shape[1], margins=_NARROW)
    ax.imshow(image, cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    return captioned(figure, caption)
