"""Steps become few loops, in little memory."""

from __future__ import annotations

import torch

from inference.native.loops import BLOCK, LINE, Array, Steps, contiguous, merged, source

DOUBLE = torch.float64


def given(*shape, strides=None, name="given0"):
    return Array(name, DOUBLE, shape, strides or contiguous(shape))


def test_dimensions_that_lie_one_after_another_are_one():
    (flat,) = merged([given(4, 5, 6)])
    assert flat.shape == (120,) and flat.strides == (1,)
    turned = given(6, 5, strides=(1, 6))
    assert [a.shape for a in merged([turned, turned])] == [(30,), (30,)]
    assert [a.shape for a in merged([given(5, 6), given(6).expanded((5, 6))])] == [(5, 6), (5, 6)]


def test_a_chain_of_steps_is_one_loop_of_blocks():
    steps, x = Steps(), given(10 * BLOCK)
    for text in ("exp({0})", "{0} + 1", "log({0})"):
        out = steps.new(DOUBLE, x.shape)
        steps.write(out, text, x)
        x = out
    total = steps.new(DOUBLE, ())
    steps.write(total, "{0}", x, adds=True)
    text, scratch = source(steps)
    assert text.count("b += ") == 1 and text.count("#pragma omp simd") == 4
    # Three blocks and a number, and not three arrays.
    assert scratch == 3 * 8 * BLOCK + LINE


def test_a_sum_is_whole_before_it_is_used():
    steps, x = Steps(), given(1000)
    total, out = steps.new(DOUBLE, ()), steps.new(DOUBLE, (1000,))
    steps.write(total, "{0}", x, adds=True)
    steps.write(out, "{0} / {1}", x, total)
    text, _ = source(steps)
    assert text.count("b += ") == 2


def test_memory_is_used_again():
    steps, x = Steps(), given(100, 100)
    for _ in range(20):
        out = steps.new(DOUBLE, (100, 100))
        steps.lines("", out, x)  # any lines of C: no loop that others join
        x = out
    _, scratch = source(steps)
    assert scratch == 2 * 8 * 100 * 100


def test_a_part_of_another_array_has_no_memory_of_its_own():
    steps, x = Steps(), given(1000)
    part, whole = steps.new(DOUBLE, (1000,)), steps.new(DOUBLE, (3000,))
    steps.write(part, "exp({0})", x)
    assert steps.lay_into(part, whole.part(0, 1000, 1000))
    assert not steps.lay_into(part, whole.part(0, 2000, 1000))  # it lies there already
    text, scratch = source(steps)
    assert scratch == 8 * 3000 and f"{part.memory} = (double *)({whole.memory} + 1000)" in text
    changed = Steps(changed={"t0"})
    part, whole = changed.new(DOUBLE, (1000,)), changed.new(DOUBLE, (3000,))
    assert not changed.lay_into(part, whole.part(0, 0, 1000))


def test_nothing_is_written_for_empty_arrays():
    steps = Steps()
    steps.write(steps.new(DOUBLE, (0, 3)), "{0}", given(0, 3))
    steps.write(steps.new(DOUBLE, ()), "{0}", given(0, 3), adds=True)
    (step,) = steps.steps
    assert step.text == "0"
