"""Where in the user's own code something happens: `my_model.py, line 9`."""

import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path

import pyro
import torch
from pyro.poutine.messenger import Messenger

_OURS = str(Path(__file__).parents[1])
_LIBRARIES = tuple(str(Path(package.__path__[0])) for package in (torch, pyro))
_PYTHON = str(Path(os.__file__).parent)
_INSTALLED = tuple({sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib")})


def here() -> str | None:
    """The innermost line of the user's that is running now; None where none of it is at work.

    For handlers and recorders of this package, which libraries call on behalf of the user.
    """
    frame, own = sys._getframe(1), True
    while frame is not None:
        name = frame.f_code.co_filename
        own = own and _is_ours(name)
        if not own and _is_ours(name):
            return None  # a library that this package has called, and no line of the user's
        if not own and not _is_library(name):
            return _place(name, frame.f_lineno)
        frame = frame.f_back
    return None


class Lines(Messenger):
    """Notes where in the user's file each site and plate is written."""

    def __init__(self):
        super().__init__()
        self.lines: dict[str, str | None] = {}

    def _pyro_sample(self, msg: dict) -> None:
        self.lines[msg["name"]] = here()

    def of(self, name: str) -> str:
        """A site's line, as it is added to a sentence."""
        line = self.lines.get(name)
        return f", {line}" if line else ""


def of_error(error: BaseException) -> str | None:
    """The innermost line of the user's through which an error came."""
    frames = traceback.extract_tb(error.__traceback__)
    users = [f for f in frames if not _is_library(f.filename) and not _is_ours(f.filename)]
    return _place(users[-1].filename, users[-1].lineno) if users else None


def of_function(function: Callable) -> str | None:
    """The line where a function begins, of a class or an object the function that it calls."""
    function = inspect.unwrap(getattr(function, "func", function))
    if not hasattr(function, "__code__"):  # a class, or an object: what is run when it is called
        kind = function if inspect.isclass(function) else type(function)
        function = getattr(kind, "forward", kind.__call__)
    code = getattr(function, "__code__", None)
    if code is None or _is_ours(code.co_filename) or _is_library(code.co_filename):
        return None
    return _place(code.co_filename, code.co_firstlineno)


def _is_ours(name: str) -> bool:
    return name.startswith(_OURS + os.sep)


def _is_library(name: str) -> bool:
    """Whether a file is Python's own, or of an installed package."""
    standard = name.startswith(_PYTHON) and "site-packages" not in name
    return standard or name.startswith(("<frozen", *_INSTALLED, *_LIBRARIES))


def _place(name: str, line: int | None) -> str:
    """A file and a line of it in words, `my_model.py, line 9`."""
    return f"{Path(name).name}, line {line}"
