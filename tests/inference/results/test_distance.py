"""The joint distance: closed forms, its noise floor, and what it must not miss."""

import numpy as np
import pytest

from inference.results.distance import Yardstick

RNG = np.random.default_rng(5)
NORMAL = RNG.normal(size=(4000, 3))


def test_between_normals_it_is_the_shift_or_the_difference_of_scales():
    # W2 of N(0, 1) and N(m, s) in one dimension: sqrt(m^2 + (1 - s)^2), Olkin and Pukelsheim 1982.
    yardstick = Yardstick(RNG.normal(size=(4000, 1)) * 7 + 3, 4000)
    shifted = 3 + 7 * (RNG.normal(size=(4000, 1)) * 0.7 + 0.5)
    found = yardstick.measure(shifted, 4000)
    assert found.value == pytest.approx(np.hypot(0.5, 0.3), abs=0.05)
    assert found.floor < 0.1


def test_equal_samples_lie_at_the_floor_and_a_narrow_one_clearly_above():
    yardstick = Yardstick(NORMAL, 4000)
    same = [yardstick.measure(RNG.normal(size=(4000, 3)), 4000) for _ in range(10)]
    assert sum(one.value <= one.floor for one in same) >= 7
    narrow = yardstick.measure(0.8 * RNG.normal(size=(4000, 3)), 4000)
    assert narrow.value == pytest.approx(0.2, abs=0.03)
    assert narrow.value > 2.5 * narrow.floor


def test_a_wrong_correlation_between_right_marginals_is_seen():
    correlated = RNG.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], size=4000)
    found = Yardstick(correlated, 4000).measure(RNG.normal(size=(4000, 2)), 4000)
    assert found.value > 5 * found.floor


def test_fewer_effective_draws_raise_the_floor_and_too_few_say_nothing():
    yardstick, draws = Yardstick(NORMAL, 4000), RNG.normal(size=(4000, 3))
    assert yardstick.measure(draws, 200).floor > 2 * yardstick.measure(draws, 4000).floor
    assert yardstick.measure(draws, 40) is None
    assert yardstick.measure(np.full((4000, 3), np.nan), 4000) is None


def test_what_depends_on_others_or_never_moves_does_no_harm():
    more = np.column_stack([NORMAL, NORMAL @ [1.0, 2.0, 3.0], np.ones(4000)])
    other = RNG.normal(size=(4000, 3))
    other = np.column_stack([other, other @ [1.0, 2.0, 3.0], np.ones(4000)])
    found = Yardstick(more, 4000).measure(other, 4000)
    assert found.value < 1.3 * found.floor


def test_many_dimensions_are_scaled_one_by_one():
    wide = RNG.normal(size=(500, 300)) * np.arange(1, 301)
    found = Yardstick(wide, 500).measure(
        0.5 * RNG.normal(size=(500, 300)) * np.arange(1, 301), 500
    )
    assert found.value == pytest.approx(0.5, abs=0.1)


def test_few_draws_of_many_dimensions_keep_below_their_floor():
    yardstick = Yardstick(RNG.normal(size=(1000, 150)), 1000)
    found = yardstick.measure(RNG.normal(size=(1000, 150)), 1000)
    assert found.value < 1.05 * found.floor
