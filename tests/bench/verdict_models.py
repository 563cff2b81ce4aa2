"""The cases of the benchmark of the verdict, and the fits of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from verdict_case import Case
from verdict_fresh import CASES as FRESH
from verdict_hierarchy import CASES as HIERARCHY
from verdict_location import CASES as LOCATION
from verdict_regression import CASES as REGRESSION
from verdict_several import CASES as SEVERAL
from verdict_zoo import CASES as ZOO

CASES: dict[str, Case] = {
    case.name: case for case in (*LOCATION, *REGRESSION, *SEVERAL, *HIERARCHY, *ZOO, *FRESH)
}

SEEDS = (0, 1, 2)

# Settings made bad on purpose, by method and guide.
_BAD_NUTS = (
    {"draws": 100, "warmup": 50},
    {"warmup": 20},
    {"target_accept": 0.5},
    {"chains": 1, "draws": 500},
    {"draws": 50, "warmup": 100, "chains": 2},
)
_BAD_SVI = (
    {"steps": 200},
    {"steps": 1000, "schedule": "linear", "lr": 0.001},
    {"lr": 1.0},
    {"lr": 0.001},
    {"particles": 1},
    {"draws": 50},
    {"batch_size": 5},
)
_BAD_LAPLACE = ({"draws": 50},)


class Job(NamedTuple):
    """One fit: of a case by a method, with settings that are `default` or `bad`."""

    case: str
    method: str
    guide: str | None
    settings: Mapping[str, Any]
    sort: str
    seed: int

    def key(self) -> str:
        """What tells it from all others, in words."""
        return json.dumps([self.case, self.method, self.guide, self.settings, self.seed])


def jobs(case: Case) -> Iterator[Job]:
    """The fits of a case: defaults with every seed, each setting made bad with one of them."""
    for label in case.methods:
        method, _, guide = label.partition(":")
        for seed in SEEDS if method in ("nuts", "svi", "laplace") else SEEDS[:1]:
            sort = "bad" if case.contrary else "default"
            yield Job(case.name, method, guide or None, {}, sort, seed)
        for i, bad in enumerate(_bad(case, method, guide)):
            yield Job(case.name, method, guide or None, bad, "bad", SEEDS[i % len(SEEDS)])


def _bad(case: Case, method: str, guide: str) -> tuple[dict[str, Any], ...]:
    """Settings made bad of a method, all of nuts and mean field and some of richer guides."""
    if method != "svi":
        return {"nuts": _BAD_NUTS, "laplace": _BAD_LAPLACE}.get(method, ())
    every = tuple(s for s in _BAD_SVI if "batch_size" not in s or case.batches)
    if guide == "normal":
        return every
    # Another three of them by each case and guide, so that all are met by some.
    first = hashlib.sha256((case.name + guide).encode()).digest()[0]
    return tuple(every[(first + i) % len(every)] for i in range(3))
