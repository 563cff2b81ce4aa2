"""The lock of a run's folder: held by one, seen by all, and free when its holder is gone."""

from __future__ import annotations

import pytest

from inference.storage import lock
from models.contract import Locked


def test_a_lock_keeps_a_second_writer_out_until_it_is_released(tmp_path):
    assert not lock.is_running(tmp_path) and list(tmp_path.iterdir()) == []
    held = lock.acquire(tmp_path)
    assert lock.is_running(tmp_path)
    with pytest.raises(Locked, match="written by another process"):
        lock.acquire(tmp_path, 0)
    held.release()
    assert not lock.is_running(tmp_path)
    lock.acquire(tmp_path, 0).release()
