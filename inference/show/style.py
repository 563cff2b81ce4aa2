"""What the pictures of runs share: frames, captions, densities, which parameters to show.

Panels are arrays of draws by scalar name, (chain, draw). Lengths are in inches, letters in points.
"""

import io
from collections.abc import Callable, Collection, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from models.contract import figures
from models.contract.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

from ..results.inference_data import InferenceData, cells

Results = Mapping[str, InferenceData]

CYCLE = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, "0.3")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
SMALL, SMALLEST = figures.SMALL, figures.SMALLEST
_MOST_SCALARS = 1000


class Picture(Figure):
    """A figure that a notebook shows by itself, also where no pyplot has set matplotlib up."""

    def _repr_png_(self) -> bytes:
        return png(self)


def png(figure: Figure, **options: Any) -> bytes:
    """The content of a PNG file of the figure, with options of `savefig`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", **options)
    return buffer.getvalue()


def saved(figure: Figure) -> bytes:
    """The content of a figure's file in the folder of a run."""
    # A tenth larger than at the default level of compression, in half the time.
    return png(figure, dpi=130, pil_kwargs={"compress_level": 1})


def shown(figure: Figure) -> Figure:
    """A figure made elsewhere, as one that a notebook shows by itself."""
    if type(figure) is Figure:
        figure.__class__ = Picture
    return figure


def grid(
    count: int,
    *,
    columns: int = 3,
    height: float = 1.7,
    left: float = 0.62,
    gap: float = 0.5,
    **lengths: Any,
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels with few ticks, as `models.contract.figures.panels` makes it.

    Args:
        count: number of panels.
        columns: panels side by side.
        height: of a panel.
        left: margin for the numbers and the label of the vertical axis.
        gap: between columns.
        lengths: `below` a panel, and `above` the first ones; options of `Figure.subplots`.
    """
    margins = (left, 0.22, 0.5)
    figure, axes = figures.panels(
        count, columns=columns, height=height, gap=gap, margins=margins, **lengths
    )
    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.yaxis.set_major_locator(MaxNLocator(4))
    return shown(figure), axes


def reliability(runs: Collection[InferenceData]) -> tuple[Figure, list[Axes]]:
    """Two panels by the probability of the top label: shares that are right, and rows below.

    Args:
        runs: with the group `held_out`; of the most classes the axis begins at their chance.
    """
    figure, (top, bottom) = grid(2, columns=1, height=1.9, below=0.55)
    least = min(1 / run["held_out"].sizes["class"] for run in runs) - 0.05
    top.plot([0, 1], [0, 1], color=GREY, lw=1)
    top.set(xlim=(least, 1.02), ylim=(-0.03, 1.05), ylabel="share that is right")
    bottom.set(xlim=(least, 1.02), xlabel="probability of the most probable class", ylabel="rows")
    return figure, [top, bottom]


def titled(ax: Axes, title: str, **more: Any) -> None:
    """A small title above a panel, on the left."""
    ax.set_title(title, fontsize=SMALL, loc="left", **more)


def look(i: int, **more: Any) -> dict[str, Any]:
    """Colour and marker of the i-th of several runs, and more of its line."""
    return {"color": CYCLE[i % len(CYCLE)], "marker": MARKERS[i % len(MARKERS)], **more}


def having(
    results: Mapping[str, InferenceData], has: Callable[[InferenceData], Any], words: str
) -> dict[str, InferenceData]:
    """The runs that can fill a picture.

    Args:
        results: label to run.
        has: whether a run can.
        words: what it needs.

    Raises:
        ValueError: none can.
    """
    runs = {label: run for label, run in results.items() if has(run)}
    if not runs:
        raise ValueError(f"no run has {words}")
    return runs


def share_x(axes: Sequence[Axes], columns: int, label: str) -> None:
    """Panels of the same range: numbers and the label under the lowest of each column only."""
    for ax in axes[:-columns]:
        ax.tick_params(labelbottom=False)
    for ax in axes[-columns:]:
        ax.set_xlabel(label)


def captioned(
    figure: Figure,
    caption: str,
    idata: InferenceData | None = None,
    *,
    shared: Axes | Sequence[Axes] = (),
) -> Figure:
    """As `captioned` of the contract, the caption after the run's name where one is given."""
    who = named(idata) if idata is not None else ""
    return figures.captioned(figure, f"{who}: {caption}" if who else caption, shared)


def named(idata: InferenceData) -> str:
    """A run by its model, method and guide."""
    attrs = idata.attrs
    model = Path(str(attrs.get("model", ""))).stem
    return " ".join([model, *(attrs[k] for k in ("method", "guide") if attrs.get(k))]).strip()


def scalars(dataset: xr.Dataset) -> dict[str, np.ndarray]:
    """Scalar name as in the summary to draws (chain, draw); real ones, the first thousand."""
    panels: dict[str, np.ndarray] = {}
    for name, array in dataset.data_vars.items():
        if array.dtype.kind == "f":
            names = cells(name, [array[dim].values for dim in array.dims[2:]])
            columns = np.moveaxis(array.values.reshape(*array.shape[:2], -1), 2, 0)
            panels |= zip(names, columns[: _MOST_SCALARS - len(panels)])
    return panels


def chosen(
    panels: Mapping[str, Any], score: Mapping[str, float] | None, most: int, which: str
) -> tuple[dict[str, Any], str]:
    """Those of highest score (None: the first), in their order, and a sentence on the others."""
    score = score or dict.fromkeys(panels, 0.0)
    best = set(sorted(score, key=lambda name: -score[name])[:most])
    shown = {name: panels[name] for name in panels if name in best}
    return shown, left_out(shown, panels, which)


def left_out(shown: Sized, panels: Sized, which: str) -> str:
    """A sentence on how many parameters are shown of how many, nothing if all are."""
    few, whole = len(shown), len(panels)
    return "" if few == whole else f" Shown: {which} {few} of {whole} parameters."


def short(name: str, letters: int = 30) -> str:
    """A label with its middle left out where it is too long for its panel."""
    half = (letters - 1) // 2
    return name if len(name) <= letters else f"{name[:half]}…{name[-half:]}"


def density(
    ax: Axes,
    values: np.ndarray,
    colour: str,
    label: str,
    *,
    fill: bool = True,
    span: tuple[float, float] | None = None,
    whole: bool = False,
) -> None:
    """A histogram: unlike a kernel estimate it invents nothing beyond a bound of the support.

    Args:
        ax: where to draw.
        values: draws, of any shape.
        colour: of bars or outline.
        label: in the legend.
        fill: bars, else their outline.
        span: the range to show; the height stays the density among all values.
        whole: from the least to the largest, as data want it; of draws the outermost thousandth
            is left out.
    """
    values = values[np.isfinite(values)].astype(float)
    ends = [0, 100] if whole else [0.05, 99.95]
    low, high = span or (np.percentile(values, ends) if len(values) else (0.0, 0.0))
    if len(values) > 1 and np.ptp(values) > 0 and high > low:
        bins = np.linspace(low, high, int(np.clip(len(values) ** 0.5, 8, 50)))
        counts, edges = np.histogram(values, bins)
        heights = counts / (len(values) * (bins[1] - bins[0]))
        style = {"alpha": 0.45} if fill else {"lw": 1.6}
        ax.stairs(heights, edges, fill=fill, color=colour, label=label, **style)
    elif len(values):
        ax.axvline(values[0], color=colour, lw=2, label=label)


def value_range(values: np.ndarray, truth: Any) -> np.ndarray:
    """200 values that cover the draws and the truth, within its support."""
    mean, sd = truth.mean(), truth.std()  # quantiles of a mixture cost a hundred times as much
    low, high = (mean - 3.5 * sd, mean + 3.5 * sd) if np.isfinite(sd) else truth.ppf([0.01, 0.99])
    low, high = min(low, np.percentile(values, 0.1)), max(high, np.percentile(values, 99.9))
    bottom, top = truth.support()
    return np.linspace(max(low, bottom), min(high, top), 200)
