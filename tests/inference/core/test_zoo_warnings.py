"""Warnings: the project's own are heard while a run computes, those of libraries are not."""

from __future__ import annotations

import threading
import warnings

import pytest

from inference.core.zoo_warnings import ZooWarning, ours_alone


def test_ours_are_heard_and_others_are_not():
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with ours_alone():
            warnings.warn("torch resized it", UserWarning, stacklevel=1)
            warnings.warn("a picture is lost", ZooWarning, stacklevel=1)
        warnings.warn("after it", UserWarning, stacklevel=1)
    assert [str(one.message) for one in heard] == ["a picture is lost", "after it"]


def test_who_wants_errors_gets_ours_as_errors():
    with ours_alone(), pytest.raises(ZooWarning):
        warnings.warn("a picture is lost", ZooWarning, stacklevel=1)
    with pytest.raises(UserWarning):
        warnings.warn("filters are back", UserWarning, stacklevel=1)


def test_filters_are_put_back_by_the_last_of_several_threads():
    before = warnings.filters[:]
    entered, leave = threading.Event(), threading.Event()

    def other():
        with ours_alone():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with ours_alone():
        thread.start()
        entered.wait()
    assert warnings.filters != before
    leave.set()
    thread.join()
    assert warnings.filters == before
