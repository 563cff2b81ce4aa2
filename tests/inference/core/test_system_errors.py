"""What the system refuses: what it was, what to do about it, and the exit code."""

from __future__ import annotations

import errno

import pytest

from inference.core import caches
from inference.core.system_errors import described


@pytest.mark.parametrize(
    ("number", "code", "fix"),
    [
        (errno.ENOSPC, 74, "make room"),
        (errno.EMFILE, 74, "ulimit -n"),
        (errno.ENAMETOOLONG, 66, "check the name"),
        (errno.EACCES, 73, "a folder that you may write to"),
        (errno.EIO, 74, "check the place"),
    ],
)
def test_each_has_its_fix_and_its_code(number, code, fix):
    words, found = described(OSError(number, "so it is", "here"))
    assert found == code and fix in words and words.startswith("so it is, here")


def test_a_cache_that_cannot_be_used_is_named():
    words, code = described(OSError(errno.EIO, "so it is", str(caches.root() / "x")))
    assert code == 73 and "XDG_CACHE_HOME" in words
