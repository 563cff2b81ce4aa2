"""A run as it was asked for, before anything is computed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .. import METHODS


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What an earlier run learned, which a later one takes as it is.

    Attributes:
        run: its folder; None if it was not saved.
        params: its parameters.
        sha256: hash of these.
    """

    run: str | None
    params: Mapping[str, Any]

    @cached_property
    def sha256(self) -> str:
        """Hash of names and values, by which a resumed run knows them again."""
        import numpy as np

        digest = hashlib.sha256()
        for name in sorted(self.params):
            digest.update(name.encode() + np.ascontiguousarray(self.params[name]).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run as it was asked for: names resolved, settings checked, data read.

    `init` is what an earlier run learned of the model's own parameters.
    """

    entry: Any
    name: str
    method: str
    options: Mapping[str, Any]
    settings: Mapping[str, Any]
    data: Any
    asked: Mapping[str, Any]
    seed: int
    device: str
    model_in_python: bool = False
    init: Learned | None = None

    @property
    def dtype(self) -> str:
        """The number type in which it computes, `float64` or `float32`.

        Raises:
            Refused: as `machine.precision`.
        """
        from ..core import machine

        asked = "dtype" in self.asked["options"]
        identified = self.entry.identified
        return machine.precision(
            METHODS[self.method], self.data, identified=identified, asked=asked
        )

    @property
    def guide(self) -> str | None:
        """The guide's name, None for a method without one."""
        guide = self.settings.get("guide")
        return guide if isinstance(guide, str | None) else name_of(guide)


def name_of(function: Any) -> str:
    """What a function (or an object that is called like one) is called."""
    return getattr(function, "__name__", type(function).__name__)
