"""The cases of the benchmark of the verdict, and the fits of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from verdict_case import Case
from verdict_location import CASES as LOCATION

CASES: dict[str, Case] = {case.name: case for case in (*LOCATION,)}

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
_BAD_LAPLACE = ({"starts": 1}, {"draws": 50})


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
    """The fits of a case: defaults with every seed, settings made bad with some."""
    for label in case.methods:
        method, _, guide = label.partition(":")
        seeds = SEEDS if method in ("nuts", "svi", "laplace") else SEEDS[:1]
        for seed in seeds:
            yield Job(case.name, method, guide or None, {}, "default", seed)
        for i, bad in enumerate(_bad(case, method)):
            # One seed of laplace is as good as three: it is all but deterministic.
            for seed in SEEDS[:1] if method == "laplace" else _some_seeds(guide, i):
                yield Job(case.name, method, guide or None, bad, "bad", seed)


def _some_seeds(guide: str, i: int) -> tuple[int, ...]:
    """All seeds of nuts and mean field, one in turn of the other guides."""
    return SEEDS if guide in ("", "normal") else (SEEDS[i % len(SEEDS)],)


def _bad(case: Case, method: str) -> tuple[dict[str, Any], ...]:
    if method == "svi":
        return tuple(s for s in _BAD_SVI if "batch_size" not in s or case.batches)
    return {"nuts": _BAD_NUTS, "laplace": _BAD_LAPLACE}.get(method, ())
