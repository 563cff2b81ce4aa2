"""What is given is checked before any work, and what is recorded can be read again."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from inference.core.arguments import recordable
from models.contract import UsageError

COIN = {"method": "exact", "draws": 50}


@pytest.mark.parametrize("seed", [0, np.int64(3), np.uint64(2**64 - 1), torch.tensor(3)])
def test_whole_numbers_of_any_kind_are_seeds(seed, tmp_path):
    run = zoo.run("coin", seed=seed, out=tmp_path, **COIN)
    assert type(run.record["seed"]) is int
    again = zoo.run("coin", seed=int(seed), **COIN)
    assert run.idata["posterior"]["pi"].equals(again.idata["posterior"]["pi"])
    assert zoo.load(run.path).record["seed"] == int(seed)


@pytest.mark.parametrize("seed", [None, True, -1, 2**64, 1.0, "3", Fraction(3), [1]])
@pytest.mark.parametrize("verb", [zoo.run, zoo.compare, zoo.check, zoo.calibrate, zoo.gradients])
def test_what_is_no_seed_is_refused_by_every_verb(seed, verb):
    with pytest.raises(UsageError, match="is no seed"):
        verb("coin", seed=seed)


@pytest.mark.parametrize("out", [123, b"runs", "", "a\0b", object(), True])
def test_what_is_no_path_is_refused(out):
    with pytest.raises(UsageError, match="is no path"):
        zoo.run("coin", out=out, **COIN)
    with pytest.raises(UsageError, match="is no path"):
        zoo.load(out)


@pytest.mark.parametrize(
    "asked", [{"method": 3}, {"device": 3}, {"guide": 3}, {"init": 3}, {"callbacks": 3}]
)
def test_arguments_of_another_kind_are_refused(asked):
    with pytest.raises(UsageError, match=f"{next(iter(asked))}=3 "):
        zoo.run("coin", **asked)


def test_fits_at_once_are_counted():
    for jobs in (0, True, 1.5, None):
        with pytest.raises(UsageError, match="is no number of fits at once"):
            zoo.compare("coin", methods="map", jobs=jobs)


def test_records_hold_what_can_be_read_again():
    value = {"a": np.float32(2), "b": (1, torch.ones(2)), "c": Path("x"), "d": None}
    assert recordable(value) == {"a": 2.0, "b": [1, [1.0, 1.0]], "c": "x", "d": None}
    with pytest.raises(UsageError, match=r"a\.b is a object"):
        recordable({"a": {"b": object()}})
