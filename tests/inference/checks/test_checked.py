"""The lines of a check: a problem, its line and a fix, in words or in the words of a fault."""

from __future__ import annotations

from inference.checks.checked import Check, Checked, failure, listed, note, raised, refused
from models.contract import Refused


def test_a_refusal_speaks_for_itself():
    check = raised("unused", Refused("y is empty, d.json; give at least one row"))
    assert (check.ok, check.what, check.fix) == (
        False,
        "y is empty, d.json",
        "give at least one row",
    )
    assert str(check) == "y is empty, d.json; give at least one row"
    assert refused(Refused("y is empty; give a row"), "m.py, line 3") == failure(
        "y is empty", "m.py, line 3", "give a row"
    )


def test_a_list_is_ok_without_a_failed_check_and_counts_those_that_failed():
    passed, failed = Check("runs", True, "it runs"), failure("no plate", "m.py, line 3", "add one")
    checked = Checked((passed, note("no latents")))
    assert checked.ok and checked.failed == [] and checked.failure == ""
    checked = Checked((passed, failed, failed, note("no latents")), "m.py", "d.json")
    assert not checked.ok and checked.failed == [failed, failed]
    assert checked.failure == "1 of 2 checks failed: no plate, m.py, line 3; add one"
    assert checked.to_json() == {
        "model": "m.py",
        "data": "d.json",
        "checks": [
            {"name": c.name, "ok": c.ok, "what": c.what, "mend": c.fix} for c in checked.checks
        ],
    }
    assert [check.mark for check in checked.checks] == ["✓", "✗", "✗", "-"]


def test_long_lists_of_names_are_cut():
    assert listed(["a", "b", "c"]) == "a, b, c"
    assert listed(list("abcde")) == "a, b, c (and 2 more)"
