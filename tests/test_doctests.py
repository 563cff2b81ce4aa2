"""The examples in the docstrings of the verbs run as they are written."""

from __future__ import annotations

import doctest

import pytest

import zoo

VERBS = [getattr(zoo, name) for name in zoo.__all__ if name.islower() and name != "main"]


def examples(verb) -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder()
    return [test for test in finder.find(verb, verb.__name__, globs={}) if test.examples]


@pytest.mark.parametrize("verb", [*VERBS, zoo.Run], ids=lambda verb: verb.__name__)
def test_the_examples_of_a_verb_hold(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner()
    for test in examples(verb):
        runner.run(test)
    assert runner.failures == 0


def test_most_verbs_have_an_example():
    having = {verb.__name__ for verb in VERBS if examples(verb)}
    assert having >= {"run", "load", "compare", "check", "report", "calibrate"}
