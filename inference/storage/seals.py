"""Seals: hashes by which a file, a record or a line that was damaged or altered is recognised.

A record's seal is signed with a key that this user alone can read. A run folder may come from
anybody: that its seals match says that it is whole, not whose it is, and the model's file that it
names would run, were it imported. The key lies in the user's own configuration folder, is made
when the first run is recorded, and never leaves the machine.
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

# Hexadecimal digits of a line's seal: enough against damage, which is all it is for.
_DIGITS = 16
_BYTES = 32  # of the user's key


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object: the same for any order of its keys and any layout."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sealed_line(content: Mapping[str, Any]) -> str:
    """A JSON object as one line of a file, with its seal in the key `sha`."""
    return json.dumps({**content, "sha": seal_of(content)[:_DIGITS]}) + "\n"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of sealed lines, if it is there; damaged lines are skipped.

    A line may have been cut short by a kill or a full disk.
    """
    objects = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.splitlines():
        with suppress(ValueError, AttributeError, KeyError, TypeError):
            content = json.loads(line)
            if content.pop("sha") == seal_of(content)[:_DIGITS]:
                objects.append(content)
    return objects


# -- who made a run ----------------------------------------------------------------------------


def sign(seal: str) -> str | None:
    """The signature of a record's seal; None where no key can be kept."""
    key = _key(make=True)
    return None if key is None else _signed(key, seal)


def is_signed(seal: str, signature: object) -> bool:
    """Whether this user has signed the seal."""
    key = _key(make=False)
    if key is None or not isinstance(signature, str):
        return False
    return hmac.compare_digest(_signed(key, seal).encode(), signature.encode())


def _signed(key: bytes, seal: str) -> str:
    """HMAC-SHA-256 of a seal under a key, in hexadecimal digits."""
    return hmac.new(key, seal.encode(), hashlib.sha256).hexdigest()


def _key(*, make: bool) -> bytes | None:
    """The user's key; None where there is none, others can read or write it, or none is made."""
    root = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    path = Path(root) / "bayeszoo" / "key"
    try:
        if make and not path.exists():
            _made(path)
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)
        with open(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            private = not hasattr(os, "getuid") or (
                status.st_uid == os.getuid() and not status.st_mode & 0o077
            )
            key = file.read()
    except OSError:
        return None
    return key if private and len(key) == _BYTES else None


def _made(path: Path) -> None:
    """Write a new key, whole from the first; that of a process that was faster stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f".key-{secrets.token_hex(8)}")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(_BYTES))
        with suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
