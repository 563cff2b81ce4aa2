"""Runs that several files of tests draw: made once in a process."""

from __future__ import annotations

from functools import cache

from conftest import HOUSE

import zoo

SCHOOLS = {"y": [28, 8, -3, 7, -1, 1, 18, 12], "sigma": [15, 10, 16, 11, 9, 11, 10, 18]}


@cache
def coin(method):
    settings = {"nuts": {"draws": 100}, "svi": {"steps": 200}}
    return zoo.run("coin", method=method, data="HHT", **settings.get(method, {}))


@cache
def schools():
    """Eight schools, sampled so carelessly that some draws diverge."""
    path = HOUSE / "tests" / "user" / "eight_schools.py"
    return zoo.run(path, data=SCHOOLS, draws=300, target_accept=0.5)
