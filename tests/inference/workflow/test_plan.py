"""A run as it was asked for."""

from __future__ import annotations

from functools import partial

import pytest

import models
from inference.core.settings import bound
from inference.workflow.plan import Plan, name_of


def planned(**settings) -> Plan:
    entry = models.load("coin")
    return Plan(
        entry=entry,
        name="coin",
        method="svi",
        options={},
        settings=settings,
        data=entry.data(),
        seed=0,
        device="cpu",
    )


@pytest.mark.parametrize(("guide", "name"), [("lowrank:2", "lowrank:2"), (len, "len")])
def test_a_guide_is_called_by_its_name(guide, name):
    assert planned(guide=guide).guide == name
    assert planned().guide is None
    assert name_of(partial(len)) == "partial"


def test_a_guide_gets_those_options_that_it_names():
    def guide(x, *, alpha=1.0):
        return alpha

    assert bound(guide, {"alpha": 3.0, "beta": 2.0})(None) == 3.0
