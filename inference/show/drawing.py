"""Pictures as PNG files, drawn in several processes at once where there are cores for it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from matplotlib.figure import Figure

from models.contract import Died

from ..core.jobs import each
from ..core.machine import cores
from ..core.signals import Heard
from ..core.zoo_warnings import ZooWarning
from . import style

# Pictures that are worth a process: to copy this one takes as long as to draw one.
_WORTH = 3

Draw = Callable[[str], Figure | None]


def files(draw: Draw, kinds: Sequence[str], own: Sequence[str] = ()) -> dict[str, bytes]:
    """The content of the PNG file of each picture, by kind; one that fails costs a warning.

    A picture is the same whichever process draws it. Whatever ends this process ends the others.

    Args:
        draw: kind to figure; None of a picture that is not for this result.
        kinds: of pictures that copies of this process may draw.
        own: of those that this process draws: a model's own, which may begin threads.
    """
    drawn = dict(_drawn(draw, kinds, own))
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
    draw: Draw, kinds: Sequence[str], own: Sequence[str]
) -> Iterator[tuple[str, bytes | Exception | None]]:
    """Each kind and its file, or what went wrong, as they are ready."""
    one, ready = partial(_file, draw), {}
    waiting = iter(own)

    def meanwhile() -> None:
        for kind in waiting:
            ready[kind] = one(kind)
            return

    for number, result in each(one, kinds, _workers(len(kinds)), Heard(), fork=True,
                               meanwhile=meanwhile):  # fmt: skip
        kind = kinds[number]
        yield kind, one(kind) if isinstance(result, Died) else result
    yield from ready.items()
    yield from ((kind, one(kind)) for kind in waiting)


def _workers(pictures: int) -> int:
    """Copies of this process for so many pictures; none where they cannot be made, or do not pay.

    Elsewhere than on Linux a process begins from nothing: its imports take longer than to draw.
    """
    most = min(cores(), pictures // _WORTH)
    return most if sys.platform == "linux" and most > 1 else 0


def _file(draw: Draw, kind: str) -> bytes | Exception | None:
    """The content of a picture's file, or what went wrong."""
    try:
        figure = draw(kind)
        return None if figure is None else style.saved(figure)
    except Exception as error:
        return error
