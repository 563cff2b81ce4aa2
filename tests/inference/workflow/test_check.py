"""The checks as verbs: what they take, and what they would ignore."""

from __future__ import annotations

import pytest

import zoo


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x"], "check would ignore --out here; leave it out"),
        (["--jobs", "2"], "check would ignore --jobs here"),
        (["--method", "nuts"], "say by --sbc N how many fits"),
        (["--gradients", "20", "--method", "svi"], "check would ignore --method here"),
        (["--gradients", "5"], "tells no variance; give 10 or more"),
        (["--sbc", "20", "--gradients", "20"], "one of --sbc and --gradients"),
        (["--sbc", "3"], "10 fits at least"),
    ],
)
def test_options_that_have_no_effect_or_say_nothing_are_errors(words, message, capsys):
    assert zoo.main(["check", "coin", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_single_guide_of_the_model_is_checked_in_its_place():
    assert zoo.check("coin", guide="normal").ok
    with pytest.raises(zoo.UsageError, match="did you mean 'normal'"):
        zoo.check("coin", guide="normla")
