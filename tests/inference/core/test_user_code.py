"""Lines of the user's code: of what runs now, of an error, of a function."""

from __future__ import annotations

from pathlib import Path

import pyro
import pyro.distributions as dist
import torch

from inference.checks.model_view import Watch
from inference.core import user_code
from inference.program.handlers import run

HERE = Path(__file__).name


def model():
    pyro.sample("direct", dist.Normal(0.0, 1.0))
    helper()


def helper():
    with pyro.plate("row", 2):
        pyro.sample("by_helper", dist.Normal(0.0, 1.0))


def line_of(text: str) -> str:
    """The first line of this file that holds a text."""
    lines = Path(__file__).read_text().splitlines()
    return f"{HERE}, line {1 + next(i for i, line in enumerate(lines) if text in line)}"


def test_a_site_is_told_by_the_line_it_is_written_in():
    watch = Watch()
    run(model, {}, watch)
    assert watch.lines["direct"] == line_of('pyro.sample("direct"')
    assert watch.lines["by_helper"] == line_of('pyro.sample("by_helper"')
    assert watch.lines["row"] == line_of('pyro.plate("row"')


def test_what_a_library_does_of_itself_has_no_line():
    from pyro.infer.autoguide import AutoNormal

    watch, guide = Watch(), AutoNormal(model)
    run(guide, {})
    run(guide, {}, watch)
    assert set(watch.lines.values()) == {None}


def test_an_error_inside_a_library_is_told_by_the_line_that_led_there():
    try:
        torch.ones(2) @ torch.ones(3)  # of the wrong length
    except RuntimeError as error:
        assert user_code.of_error(error) == line_of("# of the wrong length")


def test_a_function_is_told_by_its_first_line_and_an_object_not_at_all():
    assert user_code.of_function(model) == line_of("def model():")
    assert user_code.of_function(torch.nn.Linear(1, 1)) is None
