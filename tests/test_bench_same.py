"""Two records of commands side by side: what they are told to differ in, and what they may."""

from __future__ import annotations

import copy
import json
import math
import re
import sys
from pathlib import Path

import pytest
import readme
from conftest import HOUSE

import models

sys.path.insert(0, str(Path(__file__).resolve().parent / "bench"))

import same
from same_commands import COMMANDS, CUTS, DOWNLOADED

RUN = "linear-nuts-0-20261128-060726"
ENTRY = {
    "words": ["run", "linear", "--json"],
    "exit": 0,
    "out": {"run": f"runs/{RUN}", "timing": {"fit_s": 1.5}, "metrics": {"elbo": 0.1, "n": 3}},
    "said": "warning: as it was",
    "draws": {RUN: {"posterior/w": "a0", "params/at": "b1"}},
    "seconds": 2.0,
}
TEXT = {
    "words": ["show", "coin"],
    "exit": 0,
    "out": ["Coin", "Source: HOUSE/models/coin.py, line 42", "alpha 1.0", "beta 1.0"],
}


def whole(**commands):
    return {"libraries": {"torch": "2.13.0"}, "commands": copy.deepcopy(commands)}


def changed(entry, *path, to):
    """An entry that has another value at the end of a path."""
    other = copy.deepcopy(entry)
    inner = other
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return other


def found(before, now):
    return same.compare(whole(linear=before), whole(linear=now))["linear"]


def test_a_record_is_the_same_as_itself():
    record = whole(linear=ENTRY, show=TEXT)
    assert same.compare(record, record) == {"libraries": [], "linear": [], "show": []}


@pytest.mark.parametrize(
    "other",
    [
        json.loads(json.dumps(ENTRY).replace("20261128-060726", "20270101-000000-2")),
        changed(ENTRY, "out", "timing", to={"fit_s": 9.0}),
        changed(ENTRY, "seconds", to=99.0),
    ],
    ids=["date", "time", "seconds"],
)
def test_dates_and_times_are_left_out(other):
    assert found(ENTRY, other) == []


def test_the_line_of_our_own_source_is_left_out_and_its_file_is_not():
    moved = changed(TEXT, "out", 1, to="Source: HOUSE/models/coin.py, line 50")
    assert found(TEXT, moved) == []
    elsewhere = changed(TEXT, "out", 1, to="Source: HOUSE/models/toss.py, line 42")
    assert [one.where for one in found(TEXT, elsewhere)] == ["out[1]"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("out", "metrics", "elbo"), math.nextafter(0.1, 1)),
        (("out", "metrics", "elbo"), math.nan),
        (("out", "metrics", "n"), 3.0),
        (("exit",), 70),
        (("said",), "warning: otherwise"),
        (("words",), ["run", "linear"]),
    ],
)
def test_all_else_is_told_with_where_it_is_and_both_values(path, value):
    (one,) = found(ENTRY, changed(ENTRY, *path, to=value))
    assert one.where == ".".join(path) if path != ("words",) else "words[2:3]"
    if path != ("words",):
        before = ENTRY[path[0]] if len(path) == 1 else ENTRY["out"]["metrics"][path[-1]]
        assert (one.before, repr(one.now)) == (before, repr(value))


def test_other_draws_are_told_though_the_summary_is_the_same():
    (one,) = found(
        ENTRY, changed(ENTRY, "draws", RUN, to=ENTRY["draws"][RUN] | {"params/at": "c"})
    )
    assert one == ("draws.linear-nuts-0-DATE.params/at", "b1", "c")


def test_a_key_that_only_one_record_has_is_told():
    more = changed(ENTRY, "out", "metrics", "khat", to=0.5)
    assert found(ENTRY, more) == [("out.metrics.khat", ..., 0.5)]
    assert found(more, ENTRY) == [("out.metrics.khat", 0.5, ...)]


def test_a_line_put_in_is_one_difference_and_not_one_of_each_later_line():
    more = changed(TEXT, "out", to=[*TEXT["out"][:2], "gamma 2.0", *TEXT["out"][2:]])
    assert found(TEXT, more) == [("out[2:2]", [], ["gamma 2.0"])]


def test_runs_that_only_their_dates_tell_apart_are_all_looked_at():
    draws = {"linear-exact-0-20261128-060726": {"w": "a"}, "linear-exact-0-20261128-060730": {}}
    two = {"exit": 0, "draws": draws}
    other = changed(two, "draws", "linear-exact-0-20261128-060730", to={"w": "b"})
    assert [one.now for one in found(two, other)] == ["b"]


def test_a_command_of_one_record_alone_differs_unless_it_was_skipped():
    assert len(same.compare(whole(linear=ENTRY), whole())["linear"]) == 1
    assert found({"words": ["run"], "skipped": "ZOO_DATA is not set"}, ENTRY) is None


def test_only_the_commands_that_are_named_are_compared():
    before, now = whole(linear=ENTRY, show=TEXT), whole(linear=ENTRY, show=ENTRY)
    assert same.compare(before, now, ["linear"])["linear"] == []
    assert "show" not in same.compare(before, now, ["linear"])


def test_of_a_command_without_a_seed_all_but_its_numbers_is_compared():
    numbers = changed(ENTRY, "out", "metrics", "elbo", to=0.7)
    keys = changed(ENTRY, "out", "metrics", "khat", to=0.7)
    name = same.UNSEEDED[0]
    assert same.compare(whole(**{name: ENTRY}), whole(**{name: numbers}))[name] == []
    (one,) = same.compare(whole(**{name: ENTRY}), whole(**{name: keys}))[name]
    assert one.where == "out.metrics.khat"


def test_other_libraries_are_told():
    now = whole() | {"libraries": {"torch": "2.14.0"}}
    assert same.compare(whole(), now)["libraries"] == [("torch", "2.13.0", "2.14.0")]


@pytest.mark.parametrize("name", CUTS)
def test_a_resumed_run_has_the_draws_of_the_one_that_nobody_stopped(name):
    right = {CUTS[name].whole: ENTRY, f"{name}-resume": ENTRY}
    assert same.compare(whole(**right), whole(**right))[f"{name}-resume"] == []
    draws = {"linear-nuts-0-20261128-060800": {"posterior/w": "z", "params/at": "b1"}}
    wrong = right | {f"{name}-resume": ENTRY | {"draws": draws}}
    told = same.compare(whole(**wrong), whole(**wrong))[f"{name}-resume"]
    assert [(one.before, one.now) for one in told] == [("a0", "z")] * 2  # of either record


def test_a_line_tells_a_few_differences_and_counts_the_rest():
    assert same.line("x", []) == "same     x"
    assert same.line("x", None) == "skipped  x"
    many = [same.Difference(f"a[{i}]", "long " * 40, i) for i in range(7)]
    short, full = same.line("x", many), same.line("x", many, whole=True)
    assert short.startswith('differs  x: a[0]: "long long') and short.endswith("; and 3 more")
    assert full.count("a[") == 7 and full.count("long ") == 280


def test_the_exit_code_says_whether_anything_differs(tmp_path, capsys):
    before, now = tmp_path / "before.json", tmp_path / "now.json"
    before.write_text(json.dumps(whole(linear=ENTRY)))
    now.write_text(json.dumps(whole(linear=changed(ENTRY, "exit", to=3))))
    assert same.main(["compare", str(before), str(before)]) == 0
    capsys.readouterr()
    assert same.main(["compare", str(before), str(now)]) == 1
    assert capsys.readouterr().out.splitlines()[1] == "differs  linear: exit: 0 -> 3"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"commands": [1]}', '{"commands": {"a": 1}}']
)
def test_what_is_no_record_is_exit_code_65(tmp_path, capsys, text):
    file = tmp_path / "broken.json"
    file.write_text(text)
    assert same.main(["compare", str(file), str(file)]) == 65
    assert "broken.json" in capsys.readouterr().err
    assert same.main(["compare", str(tmp_path / "none"), str(file)]) == 65


def test_a_page_is_told_by_its_words_alone(tmp_path):
    page = tmp_path / "report.html"
    page.write_text("<p>gap 8.6e-05 nats</p><img src='data:abc'><p>HOME, 7e2f70a1, 2026-11</p>")
    told = same._lines(page, lambda text: text.replace("HOME", "away"))
    assert told == ["gap N nats", "away, N, NN"]


# -- the commands -----------------------------------------------------------------------------


def test_all_verbs_of_the_readme_and_all_models_are_there():
    text = (HOUSE / "README.md").read_text(encoding="utf-8")
    verbs = {command.split()[2] for command in readme.commands(text)} | {"new"}
    assert verbs == {words.split()[0] for words in COMMANDS.values()}
    for model in models.names():
        assert any(re.match(f"(run|compare) {model}( |$)", words) for words in COMMANDS.values())


def test_what_a_command_needs_was_made_before_it():
    names = list(COMMANDS | DOWNLOADED)
    for name, words in COMMANDS.items():
        needed = same._with_needs([name], COMMANDS)
        assert needed[-1] == name or name in CUTS
        made = set(re.findall(r"(?:@|\.\./)([\w-]+)", words)) - {"given"}
        assert made <= set(needed)
        assert all(names.index(one) < names.index(name) for one in made)
    assert same._with_needs(["cut-svi-resume"], COMMANDS) == [
        "linear-batches",
        "cut-svi",
        "cut-svi-resume",
    ]
