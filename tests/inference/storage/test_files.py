"""Files on disk: whole or not at all, and folders that are checked and left as they were."""

from __future__ import annotations

import pytest

from inference.storage import files
from inference.storage.files import check_writable, write_atomically, write_text
from models.contract import CannotWrite, Locked


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "f"
    write_atomically(file, b"old")

    def full(_):
        assert len(list(tmp_path.iterdir())) == 2
        raise OSError

    monkeypatch.setattr("inference.storage.files.os.fsync", full)
    with pytest.raises(OSError):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]


def test_text_is_written_whole(tmp_path):
    write_text(tmp_path / "t.csv", "a\n")
    assert (tmp_path / "t.csv").read_text() == "a\n"
    with pytest.raises(CannotWrite):
        write_text(tmp_path / "no" / "t.csv", "a\n")


def test_a_folder_is_checked_before_the_work_and_nothing_is_left(tmp_path):
    check_writable(tmp_path / "new" / "runs")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite, match="cannot write the run"):
        check_writable(tmp_path / "file" / "runs")


def test_a_lock_keeps_a_second_writer_out_until_it_is_released(tmp_path):
    assert not files.is_running(tmp_path) and list(tmp_path.iterdir()) == []
    held = files.acquire(tmp_path)
    assert files.is_running(tmp_path)
    with pytest.raises(Locked, match="written by another process"):
        files.acquire(tmp_path, 0)
    held.release()
    assert not files.is_running(tmp_path)
    files.acquire(tmp_path, 0).release()
