"""How every figure looks: one width, one palette, panels, and a caption above them.

Lengths are in inches, letters in points.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by colour-blind readers, and in grey.
BLUE, ORANGE, RED, SKY = "#0072B2", "#E69F00", "#D55E00", "#56B4E9"
GREEN, PURPLE = "#009E73", "#CC79A7"
GREY = "0.55"
SMALL, SMALLEST = 8.5, 7.5  # points
_WIDTH = 7.0  # 910 pixels
_EDGE = 0.03  # stays free on the left
_LINE, _LETTERS = 0.165, 106  # of a caption: a line's height, its letters
# Left, right and below, for the axes' numbers; of pictures without axes.
_MARGINS, _NARROW = (0.65, 0.2, 0.5), (0.084, 0.084, 0.1)
_LARGER = 4  # times that the pixels of an image are drawn


def panels(
    count: int = 1,
    *,
    columns: int | None = None,
    height: float = 3.2,
    gap: float = 0.2,
    below: float = 0.62,
    above: float = 0.12,
    margins: tuple[float, float, float] = _MARGINS,
    **options: Any,
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, and the panels, row by row.

    Layout by measuring the texts (matplotlib's constrained layout) takes longer than to draw.

    Args:
        count: number of panels.
        columns: panels side by side; None puts all of them into one row.
        height: of a panel.
        gap: between columns.
        below: a panel that is not in the last row, for its numbers and label.
        above: the first row, for titles of their own.
        margins: left, right and below, for the axes' numbers.
        options: of matplotlib's `Figure.subplots`.
    """
    from matplotlib.figure import Figure

    left, right, bottom = margins
    columns = min(columns or count, count)
    rows = -(-count // columns)
    total = rows * height + (rows - 1) * below + bottom + above
    width = (_WIDTH - left - right - gap * (columns - 1)) / columns
    figure = Figure(figsize=(_WIDTH, total))
    figure.subplots_adjust(left=left / _WIDTH, right=1 - right / _WIDTH, wspace=gap / width)
    figure.subplots_adjust(bottom=bottom / total, top=1 - above / total, hspace=below / height)
    axes = list(figure.subplots(rows, columns, squeeze=False, **options).ravel())
    for ax in axes[count:]:
        ax.remove()
    for ax in axes[:count]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=SMALLEST)
        ax.xaxis.label.set_size(SMALL)
        ax.yaxis.label.set_size(SMALL)
    return figure, axes[:count]


def captioned(figure: Figure, caption: str | None, shared: Axes | Sequence[Axes] = ()) -> Figure:
    """Set the caption above the panels, and one legend of some of them below it.

    Args:
        figure: from `panels`; it grows by the lines.
        caption: what is seen, and what to look for; often the docstring of the figure's function.
        shared: the panel, or panels, whose legend holds for all.
    """
    _widen(figure)
    lines = textwrap.wrap(" ".join((caption or "").split()), _LETTERS)
    whose = shared if isinstance(shared, Sequence) else [shared]
    keys = [zip(*ax.get_legend_handles_labels()) for ax in whose]
    legend = {label: handle for pairs in keys for handle, label in pairs}
    columns = max(1, min(len(legend), _LETTERS // (max(map(len, legend), default=0) + 8)))
    body, words = figure.get_figheight(), _LINE * len(lines) + 0.1
    total = body + words + 0.2 * -(-len(legend) // columns) + 0.05
    at = figure.subplotpars
    figure.set_figheight(total)
    figure.subplots_adjust(bottom=at.bottom * body / total, top=at.top * body / total)
    place = {"x": 0.012, "y": 1 - 0.06 / total, "ha": "left", "va": "top"}
    figure.suptitle("\n".join(lines), fontsize=SMALL, linespacing=1.25, **place)
    if legend:
        figure.legend(
            legend.values(), legend, ncols=columns, frameon=False, fontsize=SMALLEST,
            loc="upper left", bbox_to_anchor=(0.016, 1 - words / total), borderaxespad=0,
            borderpad=0,
        )  # fmt: skip
    return figure


def _widen(figure: Figure) -> None:
    """Widen the left margin where the numbers and the label of a vertical axis do not fit."""
    labelled = [ax.yaxis for ax in figure.axes if ax.get_ylabel()]
    boxes = [axis.get_tightbbox() for axis in labelled]
    starts = [box.x0 / figure.dpi for box in boxes if box is not None]
    over = _EDGE - min(starts, default=_EDGE)
    if over > 0:
        figure.subplots_adjust(left=figure.subplotpars.left + over / _WIDTH)


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
