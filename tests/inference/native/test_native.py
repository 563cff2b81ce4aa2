"""A compiled function: called with tensors, by threads, in another process."""

from __future__ import annotations

import ctypes
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from inference.native.native import Layout
from inference.native.parts import in_c
from inference.program.record import record
from models.contract import Refused

U = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)


def density(u):
    return -(u.exp().sum() ** 2), -2 * u.exp().sum() * u.exp()


@pytest.fixture
def native():
    return in_c(record(density, [U]), [U]).whole


def test_results_are_new_in_each_call(native):
    first = native(U)
    kept = first[1].clone()
    native(2 * U)
    assert torch.equal(first[1], kept)


def test_another_layout_is_brought_into_that_of_the_recording(native):
    wide = torch.stack([U, U], 1)[:, 0]
    torch.testing.assert_close(native(wide)[1], density(U)[1])
    with pytest.raises(ValueError, match=r"\(2,\) in place of \(3,\)"):
        native(U[:2])
    with pytest.raises(ValueError, match="in place of"):
        Layout.of(U).laid_out(U.float())


def test_constants_are_read_where_they_lie():
    data = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    native = in_c(record(lambda u: ((u * data).sum(),), [U]), [U]).whole
    before = native(U)[0]
    data += 1
    torch.testing.assert_close(native(U)[0], before + U.sum())


def call(task, u):
    """Value, gradient and code of the C function that a sampler calls."""
    u, slope, value = np.array(u), np.empty(len(u)), np.empty(1)
    places = [array.ctypes.data for array in (u, slope, value, task.data)]
    run = task.functions.density
    run.argtypes = [ctypes.c_uint64, *[ctypes.c_void_p] * 4]
    run.restype = ctypes.c_int64
    code = run(len(u), *places)
    return value[0], slope, code


def test_a_sampler_calls_it_without_python(native):
    steps = (ctypes.c_int64 * 1)()
    task = native.task([U], ctypes.addressof(steps), np.empty((1, 3)))
    value, slope, code = call(task, [0.1, 0.2, 0.3])
    expected = density(torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    assert code == 0 and value == pytest.approx(expected[0].item(), rel=1e-14)
    np.testing.assert_allclose(slope, expected[1], rtol=1e-14)
    assert call(task, [800.0, 0.0, 0.0])[2] != 0  # not finite


def test_threads_have_memory_of_their_own(native):
    steps = (ctypes.c_int64 * 4)()
    tasks = [native.task([U], ctypes.addressof(steps), np.empty((1, 3))) for _ in range(4)]

    def values(number):
        return {call(tasks[number], [0.1 * number] * 3)[0] for _ in range(2000)}

    with ThreadPoolExecutor(4) as pool:
        assert [len(found) for found in pool.map(values, range(4))] == [1, 1, 1, 1]


def test_it_is_loaded_in_another_process_if_it_is_whole(native, tmp_path):
    sent = pickle.dumps(native)
    torch.testing.assert_close(pickle.loads(sent)(U), native(U))
    state = native.__getstate__()
    state["path"] = tmp_path / "graph-0.so"
    (tmp_path / "graph-0.so").write_bytes(b"")
    with pytest.raises(Refused, match="not what was compiled"):
        native.__class__.__new__(native.__class__).__setstate__(state)
