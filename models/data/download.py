"""Files of public data sets: in `$ZOO_DATA`, in the user's cache, or downloaded into it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ..contract import BadInput, MissingInput

_TIMEOUT = 20  # seconds without a word from the server


def contents(name: str, sha256: str, urls: Sequence[str]) -> bytes:
    """The content of a file of a data set, exactly the one that is meant.

    Args:
        name: path below the folder of all data sets, such as `mnist/labels.gz`.
        sha256: of the file, in hexadecimal digits.
        urls: where it can be had, the best first.

    Raises:
        MissingInput: it is not on disk and cannot be downloaded, or not read.
        BadInput: a file of that name has another content.
    """
    places = [folder / name for folder in _folders()]
    for path in places:
        if path.is_file():
            return _checked(path, sha256, urls[0])
    failures = []
    for url in urls:
        try:
            return _downloaded(url, places[-1], sha256)
        except (OSError, ValueError) as error:  # requests' errors are OSErrors
            failures.append(f"{urlsplit(url).hostname}: {_reason(error)}")
    raise MissingInput(
        f"{name} is not on disk, and no download came ({', '.join(failures)}); save {urls[0]} "
        f"(sha256 {sha256}) as {places[0]}"
    )


def _folders() -> list[Path]:
    """Where data sets are looked for; the last is the one that they are downloaded into."""
    own = os.environ.get("ZOO_DATA")
    return [*([Path(own).absolute()] if own else []), _cache() / "data"]


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root).absolute() / "bayeszoo"


def _checked(path: Path, sha256: str, url: str) -> bytes:
    try:
        found = path.read_bytes()
    except OSError as error:
        raise MissingInput(f"cannot read {path} ({error.strerror}); allow it") from None
    other = hashlib.sha256(found).hexdigest()
    if other != sha256:
        raise BadInput(
            f"{path} has the sha256 {other}, not {sha256}; delete it, or put {url} in its place"
        )
    return found


def _downloaded(url: str, path: Path, sha256: str) -> bytes:
    """The content that came, and is kept at `path`; another one never is.

    Raises:
        OSError: no answer in time, or no place to write. ValueError: another content came.
    """
    import pooch

    _cache().mkdir(mode=0o700, parents=True, exist_ok=True)  # compiled code lies there as well
    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(timeout=_TIMEOUT)
    pooch.retrieve(
        url, f"sha256:{sha256}", fname=path.name, path=path.parent, downloader=downloader
    )
    return path.read_bytes()


def _reason(error: Exception) -> str:
    """A failed download in a word or two."""
    if type(error) is ValueError:
        return "another file came"
    return getattr(error, "strerror", None) or type(error).__name__
