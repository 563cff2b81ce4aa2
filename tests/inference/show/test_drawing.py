"""Pictures as files: the same from copies of the process, failures are words, signals end it."""

from __future__ import annotations

import os
import sys
import time

import pytest
from matplotlib.figure import Figure
from pictured import coin

from inference.core.zoo_warnings import ZooWarning
from inference.show import drawing, plots, style

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux alone")


def draw(kind):
    """A figure that says which process drew it."""
    if kind == "broken":
        raise ValueError("no ink")
    figure = Figure(figsize=(1, 1))
    figure.text(0, 0, kind)
    figure.savefig = lambda buffer, **_: buffer.write(f"{kind} {os.getpid()}".encode())
    return None if kind == "nothing" else figure


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(drawing, "cores", lambda: 2)


@LINUX
def test_copies_draw_what_is_shared_and_this_process_its_own(two_cores):
    kinds = [f"kind{i}" for i in range(6)]
    files = drawing.files(draw, [*kinds, "nothing"], ["own"])
    assert list(files) == [*kinds, "own"]  # in the order that was asked for
    drawn_by = {name: int(content.split()[1]) for name, content in files.items()}
    assert drawn_by["own"] == os.getpid() != drawn_by["kind0"]
    assert len(set(drawn_by.values())) == 2


@LINUX
@pytest.mark.parametrize("cores", [1, 2])
def test_what_comes_first_is_done_once_and_here_while_others_draw(cores, monkeypatch):
    monkeypatch.setattr(drawing, "cores", lambda: cores)
    done = []

    def first():
        time.sleep(0.5)  # long enough for a copy to draw all
        done.append(os.getpid())

    files = drawing.files(draw, [f"kind{i}" for i in range(6)], first=first)
    assert done == [os.getpid()]
    drawn_by = {int(content.split()[1]) for content in files.values()}
    assert len(drawn_by) == 1 and (os.getpid() in drawn_by) == (cores == 1)


def test_few_pictures_or_one_core_take_no_other_process(two_cores, monkeypatch):
    assert drawing.files(draw, ["a", "b"])["a"] == f"a {os.getpid()}".encode()
    monkeypatch.setattr(drawing, "cores", lambda: 1)
    files = drawing.files(draw, [f"kind{i}" for i in range(9)])
    assert {int(content.split()[1]) for content in files.values()} == {os.getpid()}


@pytest.mark.parametrize("cores", [1, 2])
def test_a_picture_that_fails_costs_a_warning_and_no_other_picture(cores, monkeypatch):
    monkeypatch.setattr(drawing, "cores", lambda: cores)
    kinds = ["broken", *(f"kind{i}" for i in range(6))]
    with pytest.warns(ZooWarning, match=r"'broken' could not be drawn \(ValueError: no ink\)"):
        files = drawing.files(draw, kinds)
    assert list(files) == kinds[1:]


@LINUX
def test_the_files_are_the_same_whoever_draws_them(two_cores, monkeypatch):
    run = coin("nuts")
    files = run.pictures()
    assert set(files) == set(run.plots()) and "updating" in files
    for kind in plots.available(run.groups):
        assert files[kind] == style.saved(run.plot(kind)), kind
    monkeypatch.setattr(drawing, "cores", lambda: 1)
    assert run.pictures() == files


@LINUX
def test_a_process_that_dies_costs_no_picture(two_cores):
    here = os.getpid()

    def dies(kind):
        if kind == "kind1" and os.getpid() != here:
            os._exit(1)
        return draw(kind)

    kinds = [f"kind{i}" for i in range(6)]
    assert drawing.files(dies, kinds)["kind1"] == f"kind1 {here}".encode()


@LINUX
def test_what_ends_this_process_ends_the_copies(two_cores):
    def stop(kind):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawing.files(lambda kind: stop(kind) if kind == "own" else draw(kind),
                      [f"kind{i}" for i in range(6)], ["own"])  # fmt: skip
