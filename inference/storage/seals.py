"""Seals: hashes by which a file, a record or a line that was damaged or altered is recognised."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

# Hexadecimal digits of a line's seal: enough against damage, which is all it is for.
_DIGITS = 16


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
