"""What the operating system refuses, in words a user can act on."""

import errno

from . import caches


def described(error: OSError) -> tuple[str, int]:
    """What the system says, with what to do about it, and the exit code."""
    full = error.errno in (errno.EMFILE, errno.ENFILE)
    where = error.filename or ("this process" if full else "standard output")
    problem = f"{error.strerror or error}, {where}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{problem}; make room", 74
    if full:
        return f"{problem}; close some, or allow more (ulimit -n)", 74
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return f"{problem}; check the name", 66
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{problem}; name a folder that you may write to (--out, XDG_CACHE_HOME)", 73
    if str(error.filename).startswith(str(caches.root())):
        return f"{problem}; set XDG_CACHE_HOME to a folder that you may write to", 73
    return f"{problem}; check the place", 74
