"""Whose warnings a user sees: the project's own alone, while a run computes.

Libraries warn of what a user can do nothing about (torch of a shape inside `vmap`).
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


class ZooWarning(UserWarning):
    """Something that the user of a run should know, said by this project."""


_LOCK = threading.Lock()
_inside, _undo = 0, ExitStack()


@contextmanager
def ours_alone() -> Iterator[None]:
    """Silences all warnings but `ZooWarning`; the caller's filters are put back after.

    Runs may overlap in several threads, and the filters are of the process: the first sets them,
    the last puts them back.
    """
    global _inside
    with _LOCK:
        if not _inside:
            _undo.enter_context(warnings.catch_warnings())
            _filter()
        _inside += 1
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            if not _inside:
                _undo.close()


def _filter() -> None:
    """Silence all warnings but the zoo's own, which the caller's filters decide on."""
    ours, all_others = _action(ZooWarning), _action(RuntimeWarning)
    warnings.simplefilter("ignore")
    if all_others == "error":  # as in tests: then a slip of this project's code is one
        warnings.filterwarnings("error", module=r"(inference|models)\.|zoo$")
    warnings.simplefilter(ours, ZooWarning)


def _action(kind: type[Warning]) -> Any:
    """What the caller's filters say of a warning of that kind."""
    for action, message, category, module, _ in warnings.filters:
        if issubclass(kind, category) and message is None and module is None:
            return action
    return "default"
