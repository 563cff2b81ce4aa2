"""Pictures as PNG files, drawn by several processes at once where there are cores for it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from multiprocessing import RawArray
from typing import Any

from matplotlib.backends import backend_agg  # noqa: F401  what `savefig` would import
from matplotlib.figure import Figure

from ..core.jobs import each
from ..core.machine import cores
from ..core.signals import Heard
from ..core.zoo_warnings import ZooWarning
from . import style

# Pictures that are worth a process: to copy this one takes as long as to draw one.
_WORTH = 3

Draw = Callable[[str], Figure | None]
Drawn = dict[str, bytes | Exception | None]


def files(
    draw: Draw,
    kinds: Sequence[str],
    own: Sequence[str] = (),
    first: Callable[[], None] = lambda: None,
) -> dict[str, bytes]:
    """The content of the PNG file of each picture, by kind; one that fails costs a warning.

    A picture is the same whichever process draws it. Whatever ends this process ends the others.

    Args:
        draw: kind to figure; None of a picture that is not for this result.
        kinds: of pictures that copies of this process may draw; they begin with the first.
        own: of those that this process draws: a model's own, which may begin threads.
        first: what this process does before it draws.
    """
    drawn = _drawn(draw, kinds, own, first)
    found: dict[str, bytes] = {}
    for kind in (*kinds, *own):
        if isinstance(result := drawn[kind], Exception):
            reason = f"{type(result).__name__}: {str(result).partition(chr(10))[0]}"
            words = f"the picture '{kind}' could not be drawn ({reason})"
            warnings.warn(words, ZooWarning, stacklevel=2)
        elif result is not None:
            found[kind] = result
    return found


def _drawn(
    draw: Draw, kinds: Sequence[str], own: Sequence[str], first: Callable[[], None]
) -> Drawn:
    """Each kind and its file, or what went wrong.

    Copies draw from the first kind on, this process its own and then from the last kind back; two
    that take the same one at the same time both draw it, which costs less than a lock would.
    """
    taken, workers = RawArray("b", len(kinds)), _workers(len(kinds))
    mine: list[Drawn] = []

    def work() -> None:
        if not mine:
            mine.append({})
            first()
            mine[0] |= {kind: _file(draw, kind) for kind in own}
            mine[0] |= _shared(draw, kinds, taken, step=-1)

    drawn: Drawn = {}

    def copy(_: int, taken: Any) -> Drawn:
        return _shared(draw, kinds, taken)

    how = {"shared": [taken], "fork": True, "meanwhile": work}
    for _, result in each(copy, range(workers), workers, Heard(), **how):
        drawn |= result if isinstance(result, dict) else {}
    work()
    drawn |= mine[0]
    return drawn | {kind: _file(draw, kind) for kind in kinds if kind not in drawn}


def _workers(pictures: int) -> int:
    """Copies of this process for so many pictures; none where they cannot be made, or do not pay.

    Elsewhere than on Linux a process begins from nothing: its imports take longer than to draw.
    """
    return min(cores() - 1, pictures // _WORTH) if sys.platform == "linux" else 0


def _shared(draw: Draw, kinds: Sequence[str], taken: Any, step: int = 1) -> Drawn:
    """Those of the kinds, from the first or the last on, that nobody has taken by then."""
    drawn: Drawn = {}
    for i in range(len(kinds))[::step]:
        if not taken[i]:
            taken[i] = 1
            drawn[kinds[i]] = _file(draw, kinds[i])
    return drawn


def _file(draw: Draw, kind: str) -> bytes | Exception | None:
    """The content of a picture's file, or what went wrong."""
    try:
        figure = draw(kind)
        return None if figure is None else style.saved(figure)
    except Exception as error:
        return error
