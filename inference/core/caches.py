"""Where libraries keep what they make: in the user's cache, or for once in a folder of the run."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path


def root() -> Path:
    """The user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def ensure() -> None:
    """Have libraries that insist on a cache find one where the home cannot be written to.

    ArviZ and matplotlib end in an error or warn on import there. What they keep is then in a
    folder of this process, and goes with it.
    """
    if _is_writable(root()):
        return
    folder = tempfile.mkdtemp(prefix="bayeszoo-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["XDG_CACHE_HOME"] = folder
    os.environ.setdefault("MPLCONFIGDIR", folder)


def _is_writable(folder: Path) -> bool:
    """Whether the folder can be written to; one that is not there is made."""
    if folder.is_dir():
        return os.access(folder, os.W_OK | os.X_OK)
    try:
        folder.mkdir(mode=0o700, parents=True)
    except OSError:
        return False
    return True
