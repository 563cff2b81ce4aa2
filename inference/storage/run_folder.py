"""The folder of a run: made whole, locked while it is written, sealed when the result is there.

    run.json            what runs or ran, its status, and the hashes of the other files; comes last
    idata.nc, params.safetensors, metrics.json, figures/*.png      the result
    data.npz            data that were given in Python, which have no other source
    progress.jsonl      the steps so far, a line each second
    state/              what a resume needs; removed when the run is done
    .lock               held by the process that writes

A calibration has table.csv and fits.jsonl, a line for each fit, in place of idata.nc. Every file
but those that grow by lines is written under another name, synced and renamed. Nothing is pickled.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from models.contract import CannotWrite, Refused, Stopped

from . import files
from .files import LOCK, remove_empty, write_atomically, write_faults
from .record import DRAWING, FILE, RESULT_KEYS, RunRecord, read_record, record_of, write_record
from .seals import sealed_line, sha256
from .state import Journal, SavedState, seconds_spent

if TYPE_CHECKING:
    import numpy as np
    from filelock import BaseFileLock
    from torch import Tensor

# What a calibration has in place of draws: a line for each of its fits.
FITS = "fits.jsonl"
PROGRESS, STATE = "progress.jsonl", "state"
# Data that were given in Python, and the prefix of each name: NumPy has a use for `file`.
DATA, KEY = "data.npz", "key "
# Marks a folder as the zoo's, while it is half-written or half-removed.
MARK = ".bayeszoo"
_SIGINT = 2
# Files that grow where they lie, so that the other end of a hard link would grow too.
_GROWING = (PROGRESS, FITS, LOCK)
_SUFFIXES = (".json", ".nc", ".safetensors", ".npz", ".csv", ".jsonl", ".png")


# -- a run under way --------------------------------------------------------------------------


class RunFolder:
    """The folder of a run under way, with its lock, its saved state and its journal.

    Used as a context. At its end the lock is released; a run that an exception ended says so in
    its record. A run that was refused, or stopped before it had anything, leaves no folder.

    Attributes:
        path: the folder.
        record: what is known of the run by now.
        state: where the method saves what a resume needs.
        spent: how long earlier attempts took, seconds.
        journal: writes `progress.jsonl`.
    """

    def __init__(
        self, path: Path, record: RunRecord, lock: BaseFileLock, made: list[Path] | None = None
    ):
        self.path, self.record, self.made, self.lock = path, record, made, lock
        self.state = SavedState(path / STATE, record["id"])
        self.spent = seconds_spent(path / PROGRESS)
        self.journal = Journal(path / PROGRESS)
        _remove_partial_files(path)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType
    ) -> None:
        try:
            if error is not None:
                with suppress(OSError):  # a full disk is reported already
                    self._record_end(error)
        finally:
            self.lock.release()

    def _record_end(self, error: BaseException) -> None:
        """Record how an exception ended the run, or remove a folder that is worth nothing."""
        if isinstance(error, CannotWrite):
            return  # the run can go on when there is room
        stopped = isinstance(error, KeyboardInterrupt)
        failed = not stopped and getattr(error, "exit_code", 70) == 70
        if self.record["status"] == "running" and "verdict" not in self.record:
            empty = not any((self.path / name).exists() for name in (STATE, FITS))
            if self.made is not None and not failed and (empty or not stopped):
                shutil.rmtree(self.path, ignore_errors=True)
                remove_empty(self.made)
                return
            if failed or stopped:
                status, reason = ("interrupted", "") if stopped else ("failed", str(error))
                self._journal_end(status, reason)
                write_record(self.path, {**self.record, "status": status, "reason": reason})
        if stopped:
            raise Stopped(getattr(error, "signal", _SIGINT), self._how_to_resume()) from error

    def _how_to_resume(self) -> str:
        resume = f"`zoo.py resume {self.path}`"
        if self.record["status"] == DRAWING:
            return f"interrupted, in {self.path}; the result is saved, {resume} draws its pictures"
        return f"interrupted, in {self.path}; continue with {resume}"

    def write(
        self,
        record: Mapping[str, Any],
        *,
        netcdf: bytes,
        params: Mapping[str, Tensor],
        pictures: bool = False,
    ) -> None:
        """Write the result; the record, with the hashes of all files, comes last.

        Args:
            record: what is known of the run now.
            netcdf: its draws, as the content of a netCDF file.
            params: its learned parameters.
            pictures: whether these follow: then the run is done when `add_figures` is.

        Raises:
            CannotWrite: not allowed, or no room; the run can be resumed when there is.
        """
        if pictures and record["status"] == "done":
            record = {**record, "status": DRAWING}
        with self._write_faults():
            _write_result(self.path, record["metrics"], netcdf, params)
            self._finish(record)

    def write_tables(
        self, record: Mapping[str, Any], tables: Mapping[str, Any], figures: Mapping[str, bytes]
    ) -> None:
        """Write a result of tables (.csv) and figures, as `write` does one of draws."""
        with self._write_faults():
            _write_tables(self.path, tables, figures)
            self._finish(record)

    def _finish(self, record: Mapping[str, Any]) -> None:
        """Seal a result that is written; what a resume needs is removed with it."""
        self.record = record_of({"files": {}, **record})  # their hashes come with the seal
        self._journal_end(self.record["status"])
        self._seal()
        if self._has_result:
            shutil.rmtree(self.path / STATE, ignore_errors=True)

    def restart(self, file: str, objects: Iterable[Mapping[str, Any]]) -> None:
        """Write a file of sealed lines anew, to which `append` adds."""
        text = "".join(map(sealed_line, objects))
        with self._write_faults():
            write_atomically(self.path / file, text.encode())

    def append(self, file: str, content: Mapping[str, Any]) -> None:
        """Add an object to a file of sealed lines, and sync it to the disk.

        Raises:
            CannotWrite: as `write`.
        """
        with self._write_faults(), (self.path / file).open("a", encoding="utf-8") as lines:
            lines.write(sealed_line(content))
            lines.flush()
            os.fsync(lines.fileno())

    def add_figures(self, figures: Mapping[str, bytes]) -> None:
        """Write the pictures of a result; with them the run is done.

        Raises:
            CannotWrite: as `write`; the result is there all the same.
        """
        fix = f"the result is saved; make room, then `zoo.py resume {self.path}` draws them"
        with write_faults(f"the pictures in {self.path}", fix):
            _write_figures(self.path, figures)
            if self.record["status"] == DRAWING:
                self.record = record_of({**self.record, "status": "done"})
                self._journal_end("done")
            self._seal()

    @property
    def _has_result(self) -> bool:
        return self.record["status"] in ("done", DRAWING)

    def _seal(self) -> None:
        """Write the record with the hashes of the files of the result."""
        paths = sorted(path for path in self.path.rglob("*") if _is_of_result(path, self.path))
        if not self._has_result:  # a resume goes on writing them
            paths = [path for path in paths if path.name != FITS]
        hashes = {path.relative_to(self.path).as_posix(): sha256(path) for path in paths}
        write_record(self.path, {**self.record, "files": hashes})

    def _write_faults(self) -> AbstractContextManager[None]:
        fix = f"make room, then `zoo.py resume {self.path}` continues it"
        return write_faults(f"the run in {self.path}", fix)

    def _journal_end(self, status: str, reason: str = "") -> None:
        with suppress(OSError):  # a line of the journal is not worth a run
            self.journal.end(status, reason)


def begin(
    out: Path,
    name: str,
    record: Mapping[str, Any],
    data: Mapping[str, np.ndarray] | None = None,
) -> RunFolder:
    """Make the folder of a run, which appears with its record in it.

    Args:
        out: folder of runs, made if it is not there.
        name: the run's name; `-2` and so on is added if it is taken.
        record: what is known of the run before it begins.
        data: arrays of data that cannot be read again (`arrays_of`).

    Raises:
        CannotWrite: not allowed, or no room; nothing is left behind.
    """
    _check_name(name)
    known = {key: value for key, value in record.items() if key not in RESULT_KEYS}
    begun = record_of({**known, "status": "running", "files": {}})

    def write(folder: Path) -> None:
        if data is not None:
            write_atomically(folder / DATA, _archive(data))
        write_record(folder, begun)

    with write_faults(f"the run in {out}", "use --out"):
        made = files.make_folder(out)
        try:
            path, lock = _make_whole(out, name, write)
        except OSError:
            remove_empty(made)
            raise
        return RunFolder(path, begun, lock, made)


def reopen(path: Path) -> RunFolder:
    """The folder of a run that is to go on.

    Raises:
        MissingRun, Refused: as `read_record`, or there is a link. Locked: it is running.
        CannotWrite: not allowed.
    """
    read_record(path)
    _check_links(path)
    with write_faults(f"the run in {path}", "copy the run to where you may write"):
        lock = files.acquire(path)
        # Another process may have ended the run while the lock was waited for.
        folder = RunFolder(path, read_record(path), lock)
        if folder.record["status"] == "failed":  # no longer: a resume keeps what it computes
            status = "interrupted" if "verdict" in folder.record else "running"
            folder.record = record_of({**folder.record, "status": status, "reason": None})
            write_record(path, folder.record)
        return folder


def arrays_of(data: Any) -> dict[str, np.ndarray] | None:
    """Data given in Python as arrays; None of a file, or where an array cannot hold them."""
    if not isinstance(data, Mapping):
        return None
    import numpy as np

    arrays = {}
    for name, value in data.items():
        array = value.numpy(force=True) if hasattr(value, "numpy") else np.asarray(value)
        if array.dtype.kind == "O" and all(isinstance(cell, str) for cell in array.flat):
            array = array.astype(str)
        if array.dtype.kind not in "iufbU":
            return None
        arrays[str(name)] = array
    return arrays


def save_tables(
    out: Path, name: str, tables: Mapping[str, Any], figures: Mapping[str, bytes]
) -> Path:
    """Write a folder of tables (.csv) and figures under `out`; returns it.

    Raises:
        CannotWrite: not allowed, or no room; nothing is left behind.
    """
    _check_name(name)
    with write_faults(f"{name} in {out}", "use --out"):
        out.mkdir(parents=True, exist_ok=True)
        path, lock = _make_whole(out, name, lambda path: _write_tables(path, tables, figures))
        lock.release()
        (path / LOCK).unlink(missing_ok=True)  # nothing is added to it
        return path


# -- folders that appear whole ----------------------------------------------------------------


def _check_name(name: str) -> None:
    """Refuse a name that would lie elsewhere, or be hidden.

    Raises:
        CannotWrite: naming it.
    """
    if Path(name).name != name or name.startswith("."):
        raise CannotWrite(f"'{name}' is no name for a folder; use letters and digits")


def _make_whole(out: Path, name: str, write: Callable[[Path], None]) -> tuple[Path, BaseFileLock]:
    """A folder that appears under its name only when all of it is written, and its lock, held."""
    partial = out / files.partial_name(name)
    try:
        partial.mkdir()
        (partial / MARK).touch()
        lock = files.acquire(partial, 0)  # no other process finds it unlocked
        write(partial)
        (partial / MARK).unlink()
        return _rename(partial, out, name), lock
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _rename(partial: Path, out: Path, name: str) -> Path:
    """Rename a folder to the first of `name`, `name-2`, ... that is free."""
    for attempt in range(1, 100):
        target = out / (name if attempt == 1 else f"{name}-{attempt}")
        if target.exists():
            continue
        try:
            moved = partial.rename(target)
            files.sync_folder(out)
            return moved
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise  # else another process was faster
    raise CannotWrite(f"a hundred runs are called {name} already, {out}; use --out")


def _check_links(path: Path) -> None:
    """Refuse a folder that holds a link: what is written or removed there lies elsewhere.

    Raises:
        Refused: naming the first link.
    """
    for folder, folders, others in os.walk(path):
        for name in sorted([*folders, *others]):
            entry = Path(folder, name)
            if entry.is_symlink() or (name in _GROWING and entry.stat().st_nlink > 1):
                raise Refused(
                    f"{entry.relative_to(path)} is a link, {path}; copy the run's files instead"
                )


def _remove_partial_files(path: Path) -> None:
    """Remove what a killed process left half-written, of the names that a run's files have."""
    for partial in [*path.glob(".*.partial-*"), *path.glob("*/.*.partial-*")]:
        if partial.name[1:].partition(".partial-")[0].endswith(_SUFFIXES):
            partial.unlink(missing_ok=True)


# -- the files of a result --------------------------------------------------------------------


def _archive(data: Mapping[str, np.ndarray]) -> bytes:
    """Arrays by name as an .npz file, each name with its prefix."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{f"{KEY}{name}": array for name, array in data.items()})
    return buffer.getvalue()


def _write_result(
    folder: Path, metrics: Mapping[str, Any], netcdf: bytes, params: Mapping[str, Tensor]
) -> None:
    """The files of a result: draws (idata.nc), learned parameters, metrics."""
    write_atomically(folder / "idata.nc", netcdf)
    if params:
        from safetensors.torch import save

        content = save({k: tensor.detach().contiguous() for k, tensor in params.items()})
        write_atomically(folder / "params.safetensors", content)
    write_atomically(folder / "metrics.json", json.dumps(metrics, indent=1).encode())


def _write_tables(folder: Path, tables: Mapping[str, Any], figures: Mapping[str, bytes]) -> None:
    """Each DataFrame as a .csv file of its name, and the figures."""
    for stem, table in tables.items():
        write_atomically(folder / f"{stem}.csv", table.to_csv().encode())
    _write_figures(folder, figures)


def _write_figures(folder: Path, figures: Mapping[str, bytes]) -> None:
    """The content of each picture as a .png file of its name, in the folder `figures`."""
    for name, content in figures.items():
        (folder / "figures").mkdir(exist_ok=True)
        write_atomically(folder / "figures" / f"{name}.png", content)


def _is_of_result(path: Path, folder: Path) -> bool:
    """Whether a file is part of the result, whose hashes the record holds."""
    parts = path.relative_to(folder).parts
    hidden = any(part.startswith(".") for part in parts)
    # Not the record itself, what a resume needs, or the journal, which a resume goes on writing.
    return path.is_file() and not hidden and parts[0] not in (FILE, STATE, PROGRESS)
