"""A run on disk: a folder from its beginning, locked while it runs, checked when it is read.

    run.json            what runs or ran, its status, and the hashes of the other files; comes last
    idata.nc, params.safetensors, metrics.json, figures/*.png      the result
    data.npz            data that were given in Python, which have no other source
    progress.jsonl      how it went, a line a second
    state/              what a resume needs; gone when the run is done
    .lock               held by whoever writes

(A calibration has table.csv and fits.jsonl, a line for each fit, in place of idata.nc.) Every file
but those that grow by lines is written under another name, synced and renamed. Nothing is pickled.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from models.contract import CannotWrite, Fault, Locked, MissingRun, Refused, Stopped, WriteFailed

from ..core.callbacks import Journal, last_step, seconds_spent
from . import signature
from .record_shape import odd
from .state import Folder, partial_of, replace, sync

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from torch import Tensor

FORMAT = 2
# The status of a run that has its result and not yet its pictures.
DRAWING = "drawing"
# What a calibration has in place of draws: a line for each of its fits.
FITS = "fits.jsonl"
# How long to wait for a lock whose holder may be just ending, seconds.
_PATIENCE = 1.0
_SIGINT = 2
# The disk is at fault, or full: not the name, and not the rights.
_IO_ERRORS = (errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EDQUOT)


def check_folder(out: Path) -> None:
    """Whether runs can be written under `out`; makes and leaves nothing.

    Raises:
        CannotWrite: it cannot be made or written to.
    """
    with _told(f"the run in {out}", "use --out"):
        made = _made(out)
        try:
            with tempfile.TemporaryFile(dir=out):
                pass
        finally:
            _unmake(made)


def _made(out: Path) -> list[Path]:
    """Make a folder; those that were not there before, the innermost first."""
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    return missing


def _unmake(made: list[Path]) -> None:
    """Take away folders that are still empty."""
    for folder in made:
        try:
            folder.rmdir()
        except OSError:
            return


@contextmanager
def _told(what: str, mend: str) -> Iterator[None]:
    """What the system says of a file, as one line.

    Raises:
        WriteFailed: a full or broken disk. CannotWrite: anything else.
    """
    try:
        yield
    except OSError as error:
        kind = WriteFailed if error.errno in _IO_ERRORS else CannotWrite
        raise kind(f"cannot write {what} ({error.strerror or error}); {mend}") from error


# -- a run's folder while it is written --------------------------------------------------------


class Place:
    """The folder of a run under way: its lock, its state and its journal.

    Used as a context. At its end the lock is released, and what an exception left undone is
    said in `run.json`; a run that was refused, or stopped before it had anything, leaves nothing.

    Attributes:
        path: the folder.
        state: where the method keeps what a resume needs.
        spent: seconds of earlier attempts.
        journal: writes `progress.jsonl`.
    """

    def __init__(
        self, path: Path, record: Mapping[str, Any], lock: Any, made: list[Path] | None = None
    ):
        self.path, self.record, self.made, self.lock = path, dict(record), made, lock
        self.state = Folder(path / "state", record.get("id", ""))
        self.spent = seconds_spent(path / "progress.jsonl")
        self.journal = Journal(path / "progress.jsonl")
        _clear(path)

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType
    ) -> None:
        try:
            if error is not None:
                with suppress(OSError):  # the disk that is full is told of already
                    self._ended_by(error)
        finally:
            self.lock.release()

    def _ended_by(self, error: BaseException) -> None:
        """Say in the record how the run ended, where that is worth keeping."""
        if isinstance(error, CannotWrite):
            return  # it can go on when there is room
        stopped = isinstance(error, KeyboardInterrupt)
        failed = not stopped and getattr(error, "exit_code", 70) == 70
        empty = not any((self.path / kept).exists() for kept in ("state", FITS))
        unused = self.record["status"] == "running" and "verdict" not in self.record
        if unused and self.made is not None and not failed and not (stopped and not empty):
            self._discard()
            return
        if unused and (failed or stopped):
            status, reason = ("interrupted", "") if stopped else ("failed", str(error))
            self._journal_end(status, reason)
            _put_manifest(self.path, {**self.record, "status": status, "reason": reason})
        if stopped:
            what = f"interrupted, in {self.path}; continue with `zoo.py resume {self.path}`"
            if self.record["status"] == DRAWING:
                what = f"interrupted, in {self.path}; the result is saved, "
                what += f"`zoo.py resume {self.path}` draws its pictures"
            raise Stopped(getattr(error, "signal", _SIGINT), what) from error

    def _discard(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        _unmake(self.made or [])

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
            pictures: whether these are to come: then it is done when `add_figures` is.

        Raises:
            CannotWrite: not allowed, or no room; the run can be resumed when there is.
        """
        if pictures and record["status"] == "done":
            record = {**record, "status": DRAWING}
        with self._told():
            _put_result(self.path, record, netcdf, params)
            self._finish(record)

    def write_tables(
        self, record: Mapping[str, Any], tables: Mapping[str, Any], figures: Mapping[str, Figure]
    ) -> None:
        """Write a result of tables (.csv) and figures, as `write` does one of draws."""
        with self._told():
            _put_tables(self.path, tables)
            _put_figures(self.path, figures)
            self._finish(record)

    def _finish(self, record: Mapping[str, Any]) -> None:
        self.record = dict(record)
        self._journal_end(record["status"])
        self._seal()
        if record["status"] in ("done", DRAWING):
            shutil.rmtree(self.path / "state", ignore_errors=True)

    def restart(self, file: str, objects: Iterable[Mapping[str, Any]]) -> None:
        """Write a file of JSON lines anew, to which `append` adds."""
        text = "".join(_line(one) for one in objects)
        with self._told():
            replace(self.path / file, lambda path: path.write_text(text, encoding="utf-8"))

    def append(self, file: str, one: Mapping[str, Any]) -> None:
        """Add a line to a file of JSON lines, and see it on the disk.

        Raises:
            CannotWrite: as `write`.
        """
        with self._told(), (self.path / file).open("a", encoding="utf-8") as lines:
            lines.write(_line(one))
            lines.flush()
            os.fsync(lines.fileno())

    def add_figures(self, figures: Mapping[str, Figure]) -> None:
        """Write pictures beside a result, which is done with them.

        Raises:
            CannotWrite: as `write`; the result is there all the same.
        """
        mend = f"the result is saved; make room, then `zoo.py resume {self.path}` draws them"
        with _told(f"the pictures in {self.path}", mend):
            _put_figures(self.path, figures)
            if self.record["status"] == DRAWING:
                self.record["status"] = "done"
                self._journal_end("done")
            self._seal()

    def _seal(self) -> None:
        files = sorted(path for path in self.path.rglob("*") if _of_result(path, self.path))
        if self.record["status"] not in ("done", DRAWING):  # a resume goes on writing them
            files = [path for path in files if path.name != FITS]
        hashes = {path.relative_to(self.path).as_posix(): sha256(path) for path in files}
        _put_manifest(self.path, {**self.record, "files": hashes})

    def _told(self) -> Any:
        return _told(
            f"the run in {self.path}", f"make room, then `zoo.py resume {self.path}` continues it"
        )

    def _journal_end(self, status: str, reason: str = "") -> None:
        with suppress(OSError):  # a line of the journal is not worth a run
            self.journal.end(status, reason)


def begin(
    out: Path,
    name: str,
    record: Mapping[str, Any],
    data: Mapping[str, np.ndarray] | None = None,
) -> Place:
    """Make the folder of a run, which appears with its record in it.

    Args:
        out: folder of runs, made if it is not there.
        name: the run's name; `-2` and so on is added if it is taken.
        record: what is known of the run before it begins.
        data: arrays to keep, of data that cannot be read again.

    Raises:
        CannotWrite: not allowed, or no room; nothing is left behind.
    """
    _check_name(name)
    begun = {key: value for key, value in record.items() if key not in _FOUND}
    begun["status"] = "running"
    with _told(f"the run in {out}", "use --out"):
        made = _made(out)
        try:
            path, lock = _whole(out, name, lambda folder: _put_begun(folder, begun, data))
        except OSError:
            _unmake(made)
            raise
        return Place(path, begun, lock, made)


# What a record has once there is a result.
_FOUND = ("verdict", "findings", "given", "metrics", "files")


def _put_begun(
    folder: Path, record: Mapping[str, Any], data: Mapping[str, np.ndarray] | None
) -> None:
    if data is not None:
        replace(folder / DATA, lambda path: _put_arrays(path, data))
    _put_manifest(folder, {**record, "files": {}})


def _put_arrays(path: Path, data: Mapping[str, np.ndarray]) -> None:
    import numpy as np

    named = {f"{KEY}{name}": array for name, array in data.items()}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **named)


def reopen(path: Path) -> Place:
    """The folder of a run that is to go on.

    Raises:
        MissingRun, Refused: as `begun`, or there is a link. Locked: it is running. CannotWrite:
            not allowed.
    """
    begun(path)
    _check_links(path)
    with _told(f"the run in {path}", "copy the run to where you may write"):
        lock = _locked(path, _PATIENCE)
        place = Place(path, begun(path), lock)  # it may have ended while the lock was waited for
        if place.record["status"] == "failed":  # no longer: what it will have done is to be kept
            status = "interrupted" if "verdict" in place.record else "running"
            place.record = {k: v for k, v in place.record.items() if k != "reason"}
            place.record["status"] = status
            _put_manifest(path, place.record)
        return place


def _locked(path: Path, patience: float) -> Any:
    """The lock of a run's folder, acquired.

    Raises:
        Locked: another process has it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path / _LOCK)
    try:
        lock.acquire(timeout=patience, poll_interval=0.05)
    except Timeout:
        raise Locked(f"the run is being written by another process, {path}; wait for it") from None
    return lock


def is_running(path: Path) -> bool:
    """Whether a process is writing the run; makes nothing, and keeps no other reader out."""
    try:
        with (path / _LOCK).open("rb") as file:
            return not _is_free(file.fileno())
    except OSError:  # nobody has ever written here, or nobody may look
        return False


def _is_free(descriptor: int) -> bool:
    """Whether nobody holds the lock of an open file; yes where the system cannot tell."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except ImportError:
        return True
    except OSError:
        return False
    return True


_LOCK = ".lock"
# Data that were given in Python, and what stands before each name: NumPy has a use for `file`.
DATA, KEY = "data.npz", "key "
# What says that a folder is of this zoo and half-written, or half-removed.
_MARK = ".bayeszoo"
# Files that are added to where they lie, so that a hard link's other end would grow too.
_ADDED_TO = ("progress.jsonl", FITS, _LOCK)


def _check_links(path: Path) -> None:
    """Refuse a run's folder that holds a link: what is written or removed there lies elsewhere.

    Raises:
        Refused: naming the first.
    """
    for folder, folders, files in os.walk(path):
        for name in sorted([*folders, *files]):
            one = Path(folder, name)
            if one.is_symlink() or (name in _ADDED_TO and one.stat().st_nlink > 1):
                name = one.relative_to(path)
                raise Refused(f"{name} is a link, {path}; copy the run's files instead")


def _clear(path: Path) -> None:
    """Remove what a killed writer left half-written, of the names that a run's files have."""
    for partial in [*path.glob(".*.partial-*"), *path.glob("*/.*.partial-*")]:
        if partial.name[1:].partition(".partial-")[0].endswith(_SUFFIXES):
            partial.unlink(missing_ok=True)


_SUFFIXES = (".json", ".nc", ".safetensors", ".npz", ".csv", ".jsonl", ".png")


# -- files -------------------------------------------------------------------------------------


def _check_name(name: str) -> None:
    if Path(name).name != name or name.startswith("."):
        raise CannotWrite(f"'{name}' is no name for a folder; use letters and digits")


def save_tables(
    out: Path, name: str, tables: Mapping[str, Any], figures: Mapping[str, Figure]
) -> Path:
    """Write a folder of tables (.csv) and figures under `out`; returns it.

    Raises:
        CannotWrite: not allowed, or no room; nothing is left behind.
    """

    def write(folder: Path) -> None:
        _put_tables(folder, tables)
        _put_figures(folder, figures)

    _check_name(name)
    with _told(f"{name} in {out}", "use --out"):
        out.mkdir(parents=True, exist_ok=True)
        path, lock = _whole(out, name, write)
        lock.release()
        (path / _LOCK).unlink(missing_ok=True)  # nothing is added to it
        return path


def _whole(out: Path, name: str, write: Callable[[Path], None]) -> tuple[Path, Any]:
    """A folder that appears under its name only when all of it is written, and its lock, held."""
    partial = out / partial_of(name)
    try:
        partial.mkdir()
        (partial / _MARK).touch()
        lock = _locked(partial, 0)  # nobody finds it unlocked
        write(partial)
        (partial / _MARK).unlink()
        return _rename(partial, out, name), lock
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _rename(partial: Path, out: Path, name: str) -> Path:
    for attempt in range(1, 100):
        target = out / (name if attempt == 1 else f"{name}-{attempt}")
        if target.exists():
            continue
        try:
            moved = partial.rename(target)
            sync(out)
            return moved
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise  # else another process was faster
    raise CannotWrite(f"a hundred runs are called {name} already, {out}; use --out")


def _put_result(
    folder: Path,
    record: Mapping[str, Any],
    netcdf: bytes,
    params: Mapping[str, Tensor],
) -> None:
    replace(folder / "idata.nc", lambda path: path.write_bytes(netcdf))
    if params:
        from safetensors.torch import save

        contiguous = {name: tensor.detach().contiguous() for name, tensor in params.items()}
        content = save(contiguous)
        replace(folder / "params.safetensors", lambda path: path.write_bytes(content))
    metrics = json.dumps(record["metrics"], indent=1)
    replace(folder / "metrics.json", lambda path: path.write_text(metrics, encoding="utf-8"))


def _put_tables(folder: Path, tables: Mapping[str, Any]) -> None:
    for stem, table in tables.items():
        replace(folder / f"{stem}.csv", table.to_csv)


def _put_figures(folder: Path, figures: Mapping[str, Figure]) -> None:
    fast = {"compress_level": 1}  # a tenth larger than at the default level, in half the time
    for name, figure in figures.items():
        (folder / "figures").mkdir(exist_ok=True)
        replace(
            folder / "figures" / f"{name}.png",
            lambda path, figure=figure: figure.savefig(
                path, format="png", dpi=130, pil_kwargs=fast
            ),
        )


# The record itself, what a resume needs, and the log, which a resume goes on writing.
_OF_NO_RESULT = ("run.json", "state", "progress.jsonl")


def _of_result(path: Path, folder: Path) -> bool:
    """Whether a file is part of a result, and so of its manifest."""
    parts = path.relative_to(folder).parts
    hidden = any(part.startswith(".") for part in parts)
    return path.is_file() and not hidden and parts[0] not in _OF_NO_RESULT


def _put_manifest(folder: Path, record: Mapping[str, Any]) -> None:
    content = {"format": FORMAT, **{k: v for k, v in record.items() if k not in _NOT_KEPT}}
    content = json.loads(json.dumps(content))  # as it will be read
    seal = _seal_of(content)
    sealed = {"sha256": seal, "signature": signature.sign(seal), **content}
    text = json.dumps(sealed, indent=1)
    replace(folder / "run.json", lambda path: path.write_text(text, encoding="utf-8"))


# What a record has in memory alone.
_NOT_KEPT = ("run", "sha256", "signature", "signed", "format")


def _seal_of(content: Mapping[str, Any]) -> str:
    """Hash of what a record says, however it is laid out."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        CannotWrite: not allowed, or no room; an earlier file of that name is as it was.
    """
    with _told(str(path), "use --out"):
        replace(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- reading -----------------------------------------------------------------------------------


def begun(folder: Path) -> dict[str, Any]:
    """The record of a run in whatever state, held against its own hash; files are not looked at.

    `signed` says whether this user made the run.

    Raises:
        MissingRun: no run there. Refused: the record is altered, or of another format.
    """
    path = folder / "run.json"
    if path.is_symlink():
        raise Refused(f"run.json is a link, {folder}; copy the run's files instead")
    if not path.is_file():
        raise MissingRun(f"there is no run in {folder} (no run.json); see `zoo.py list runs`")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version, seal = content["format"], content.pop("sha256", None)
        signed = content.pop("signature", None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Refused(f"run.json is damaged, {folder}; run it again") from None
    if version != FORMAT:
        raise Refused(f"{folder} has format {version}, this zoo reads {FORMAT}; run it again")
    if seal != _seal_of(content):
        raise Refused(f"run.json was altered, {folder}; run it again")
    found = odd(content)
    if found is not None:
        raise Refused(f"run.json has no {found} as runs have it, {folder}; run it again")
    return {**content, "run": str(folder), "signed": signature.is_signed(seal, signed)}


def record(folder: Path) -> dict[str, Any]:
    """The record of a run that has a result, after every file was held against its hash.

    Raises:
        MissingRun: no run there. Refused: a file is missing or altered, or of another format, or
            there is no result yet. Locked: it is running for the first time.
    """
    content = begun(folder)
    if "verdict" not in content:
        raise _unfinished(folder, content)
    for name, expected in content["files"].items():
        file = folder / name
        if file.is_symlink() or (file.parent.is_symlink() and file.parent != folder):
            raise Refused(f"{name} is a link, {folder}; copy the run's files instead")
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise Refused(f"run.json names {name}, outside its folder, {folder}; run it again")
        if not file.is_file() or sha256(file) != expected:
            mend = "run it again" if content["status"] == "done" else f"`zoo.py resume {folder}`"
            raise Refused(f"{name} is missing or was altered, {folder}; {mend}")
    return content


def pictures(folder: Path | None) -> list[Path]:
    """The pictures of a saved run, as its record names them; none of one that is not saved."""
    if folder is None:
        return []
    named = [name for name in begun(folder)["files"] if name.startswith("figures/")]
    return [folder / name for name in sorted(named) if name.endswith(".png")]


def _unfinished(folder: Path, content: Mapping[str, Any]) -> Fault:
    if is_running(folder):
        return Locked(f"the run is not done yet ({progress(folder)}), {folder}; wait for it")
    if content["status"] == "failed":
        return Refused(
            f"the run failed and has no result, {folder}: {content['reason']}; run it again"
        )
    mend = f"continue it with `zoo.py resume {folder}`"
    return Refused(f"the run was stopped before it was done, {folder}; {mend}")


def progress(folder: Path) -> str:
    """How far a run under way has come, in words."""
    step = last_step(folder / "progress.jsonl")
    return f"{step['step']} of {step['of']} steps" if step else "no step yet"


def _line(one: Mapping[str, Any]) -> str:
    return json.dumps({**one, "sha": _seal_of(one)[:16]}) + "\n"


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; a line that is damaged, or cut short, is left out."""
    found = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.splitlines():
        with suppress(ValueError, AttributeError, KeyError):
            one = json.loads(line)
            if one.pop("sha") == _seal_of(one)[:16]:
                found.append(one)
    return found


def status(folder: Path, content: Mapping[str, Any]) -> str:
    """running, interrupted, drawing, done or failed: what a record says, and who is writing.

    A run that was killed says it is running, and nobody holds its lock.
    """
    said = content.get("status", "damaged")
    if said not in ("done", DRAWING) and is_running(folder):
        return "running"
    return "interrupted" if said == "running" else said


def runs(out: Path) -> list[dict[str, Any]]:
    """The records of the runs under a folder, oldest first; hashes of files not checked."""
    found = []
    for path in sorted(out.glob("[!.]*/run.json"), key=_age):
        if path.parent.is_symlink():  # it lies elsewhere, and is of others' concern
            continue
        try:
            content = begun(path.parent)
            found.append({**content, "status": status(path.parent, content)})
        except MissingRun:  # removed meanwhile
            continue
        except (Fault, OSError) as fault:
            found.append({"run": str(path.parent), "status": "damaged", "reason": str(fault)})
    return found


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def read_params(folder: Path) -> dict[str, Tensor]:
    """Learned parameters of a run; empty if it has none.

    Raises:
        Refused: the file is damaged.
    """
    path = folder / "params.safetensors"
    if not path.is_file():
        return {}
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise Refused(f"{path.name} is damaged ({error}), {folder}; run it again") from None


def arrays_of(data: Any) -> dict[str, np.ndarray] | None:
    """Data given in Python as arrays that can be kept; None where they cannot, or of a file."""
    if not isinstance(data, Mapping):
        return None
    import numpy as np

    arrays = {}
    for name, value in data.items():
        array = value.numpy(force=True) if hasattr(value, "numpy") else np.asarray(value)
        if array.dtype.kind == "O" and all(isinstance(one, str) for one in array.flat):
            array = array.astype(str)
        if array.dtype.kind not in "iufbU":
            return None
        arrays[str(name)] = array
    return arrays


# -- clearing away -----------------------------------------------------------------------------


def remove(folder: Path, statuses: Sequence[str] | None = None) -> bool:
    """Remove a run, and say whether it was.

    Args:
        folder: the run's folder.
        statuses: it stays if it has none of these by now; None removes it as it is.

    Raises:
        MissingRun, Refused: as `begun`, or it is a link. Locked: it is running. CannotWrite: not
            allowed.
    """
    folder = folder.absolute()
    if folder.is_symlink():
        raise Refused(f"{folder} is a link; remove the link, or name the folder itself")
    begun(folder)
    lock = _locked(folder, _PATIENCE)
    with _told(f"in {folder}", "it stays"):
        try:
            if statuses is not None and begun(folder)["status"] not in statuses:
                return False
            gone = folder.with_name(partial_of(folder.name))
            (folder / _MARK).touch()
            folder.rename(gone)
            shutil.rmtree(gone)
            return True
        finally:
            lock.release()


def remove_leftover(path: Path) -> None:
    """Remove what `leftovers` found.

    Raises:
        CannotWrite: not allowed.
    """
    with _told(str(path), "it stays"):
        shutil.rmtree(path)


def leftovers(out: Path) -> list[Path]:
    """Folders that killed writers left half-written, or half-removed, under a folder of runs."""
    return [path for path in out.glob(".*.partial-*") if _is_left(path)]


def _is_left(path: Path) -> bool:
    """Whether a folder has the zoo's mark, or nothing at all, and nobody is writing it."""
    if path.is_symlink() or not path.is_dir():
        return False
    ours = (path / _MARK).is_file() or not any(path.iterdir())
    return ours and not is_running(path)
