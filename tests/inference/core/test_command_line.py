"""Functions as commands: what a signature and a docstring say becomes options, once."""

from __future__ import annotations

from typing import Any, Literal

import pytest

import zoo
from inference.core.command_line import (
    Command,
    arguments_of,
    flag,
    options_of,
    pairs_of,
    parsed,
)
from models.contract import UsageError


def test_settings_may_be_given_apart_or_in_one_word():
    apart = pairs_of(["n=3", "heads=0.7"])
    assert apart == pairs_of(["n=3,", "heads=0.7"]) == pairs_of(["n=3,heads=0.7"])
    assert pairs_of(["hidden=16,16"]) == {"hidden": "16,16"}


def brew(
    tea: str,
    *,
    minutes: int = 3,
    seed: int = 0,
    cup: Literal["small", "large"] = "small",
    sweet: bool = False,
    progress: bool = False,
    **settings: Any,
) -> dict:
    """Make tea.

    Args:
        tea: the leaves.
        minutes: how long.
        cup: its size; both
            hold tea.
        sweet: with sugar.
        settings: of the kettle.

    Returns:
        A cup.
    """
    return {"tea": tea, "minutes": minutes, "cup": cup, "sweet": sweet, **settings}


def pour(tea: str, *, minutes: int = 1) -> int:
    """Pour it.

    Args:
        tea: as for `brew`.
        minutes: until it is cold.
    """
    return minutes


COMMANDS = {
    "tea": Command(lambda typed: 0, [brew], [flag("--json", help="as JSON")], {"cup": "large"})
}


def typed(*words: str):
    return parsed(["tea", *words], COMMANDS, "Tea.", like=brew)


def test_types_defaults_choices_and_help_are_those_of_the_function():
    options = {option.names[-1]: option.details for option in options_of(brew)}
    assert list(options) == ["tea", "--minutes", "--seed", "--cup", "--sweet", "--set"]
    assert options["--minutes"]["type"] is int
    assert options["--minutes"]["help"] == "how long (default 3)"
    assert options["--cup"]["choices"] == ["small", "large"]
    assert options["--cup"]["help"] == "its size; both hold tea (default small)"
    assert options["--sweet"]["action"] == "store_true"
    assert options_of(pour, like=brew)[0].details["help"] == "the leaves"


def test_what_is_typed_reaches_the_function_and_all_else_is_its_default():
    assert typed("green").calls(brew) == {
        "tea": "green", "minutes": 3, "cup": "large", "sweet": False,
    }  # fmt: skip
    words = ("green", "--minutes", "5", "--sweet", "--set", "heat=80,leaf=whole", "--cup", "small")
    assert typed(*words).calls(brew) == {
        "tea": "green", "minutes": 5, "cup": "small", "sweet": True, "heat": "80", "leaf": "whole",
    }  # fmt: skip
    assert typed("green", "--json").json and not typed("green").json


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["green", "--minutse", "3"], "tea takes no --minutse; did you mean '--minutes'"),
        (["green", "--minutes", "x"], "argument --minutes: invalid int value: 'x'"),
        (["green", "--cup", "huge"], "invalid choice: 'huge'"),
        (["green", "--seed", "-1"], "-1 is no seed|expected one argument"),
        ([], "the following arguments are required: TEA"),
    ],
)
def test_a_wrong_word_is_an_error_in_one_line(words, message):
    with pytest.raises(UsageError, match=message):
        typed(*words)


def test_an_option_that_would_be_ignored_is_an_error():
    with pytest.raises(UsageError, match="tea would ignore --sweet here; leave it out"):
        typed("green", "--sweet").calls(pour)
    with pytest.raises(UsageError, match="minutes is no setting of --set; write --minutes 4"):
        arguments_of(brew, {"tea": "green", "settings": ["minutes=4"]}, "tea")


@pytest.mark.parametrize("name", zoo.COMMANDS)
def test_every_option_of_every_command_has_its_words(name):
    command = zoo.COMMANDS[name]
    assert command.line
    for option in [*command.options(zoo.run).values(), *command.flags]:
        assert option.details["help"], option


def test_a_name_of_an_option_is_no_setting_though_another_function_has_it(capsys):
    assert zoo.main(["check", "coin", "--set", "method=nuts"]) == 2
    assert "write --method nuts" in capsys.readouterr().err


def test_a_file_to_write_is_checked_as_every_path(capsys):
    assert zoo.main(["predict", "nowhere", "--out", ""]) == 2
    assert "out='' is no path" in capsys.readouterr().err


def test_help_shows_percent_signs_and_defaults(capsys):
    for words, shown in ((["predict"], "94 % interval"), (["report"], "(default report.html)")):
        with pytest.raises(SystemExit):
            zoo.main([*words, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert shown in text and "%%" not in text


def test_types_are_read_whether_or_not_they_are_written_as_text():
    def typed(run: str, *, k: int = 3, kind: Literal["a", "b"] = "a", dry: bool = False) -> None:
        """Types that are evaluated."""

    as_text = options_of(typed)
    typed.__annotations__ = {"run": str, "k": int, "kind": Literal["a", "b"], "dry": bool}
    assert options_of(typed) == as_text
