"""Settings read from signatures: types, ranges, text and Python values, unknown names."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest

from inference.core.settings import check, declared, share_out
from models.contract import BadSetting, nearest


def function(
    x,
    *,
    rate: Annotated[float, "> 0", "<= 1"] = 0.5,
    count: Annotated[int, ">= 1"] = 3,
    flag: bool = True,
    kind: Literal["a", "b"] = "a",
    noise: Annotated[float | None, "> 0"] = None,
    share: Annotated[float | Literal["learned"], "> 0", "< 1"] = 0.2,
    untyped=1.5,
    needed,
):
    """Something with settings."""


SETTINGS = declared(function)


def test_only_keywords_with_defaults_are_settings():
    assert list(SETTINGS) == ["rate", "count", "flag", "kind", "noise", "share", "untyped"]
    assert SETTINGS["rate"].range == "> 0 and <= 1"
    assert SETTINGS["kind"].range == "a | b"


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("rate", "0.25", 0.25), ("rate", 1, 1.0), ("count", "7", 7), ("count", "1e3", 1000),
        ("flag", "no", False), ("flag", "true", True), ("flag", False, False), ("kind", "b", "b"),
        ("noise", "none", None), ("noise", "2", 2.0), ("untyped", "2", 2.0),
        ("share", "0.5", 0.5), ("share", "learned", "learned"),
    ],
)  # fmt: skip
def test_values_come_in_the_settings_type(name, given, value):
    found = check(SETTINGS[name], given)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("rate", "0"), ("rate", "1.1"), ("rate", "nan"), ("rate", "much"), ("rate", True),
        ("count", "0"), ("count", "2.5"), ("count", None), ("flag", "perhaps"), ("kind", "c"),
        ("noise", "-1"), ("share", "1"), ("share", "0"), ("share", "learnt"), ("share", None),
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_named(name, given):
    with pytest.raises(BadSetting, match=f"{name}={given} is out of range.*default"):
        check(SETTINGS[name], given)


def test_shares_go_to_their_homes_and_unknown_names_to_the_nearest():
    homes = {"model": {"rate": SETTINGS["rate"]}, "method": {"count": SETTINGS["count"]}}
    assert share_out({"rate": "1", "count": "2"}, homes) == {
        "model": {"rate": 1.0}, "method": {"count": 2},
    }  # fmt: skip
    with pytest.raises(BadSetting, match=r"'ratte'.*did you mean 'rate'"):
        share_out({"ratte": 1}, homes)
    assert nearest("zzz", ["one", "two"]) == "known: one, two"
