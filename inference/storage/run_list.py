"""The runs of a folder: listed, removed, and cleared of what killed processes left there."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.contract import Fault, MissingRun, Refused

from .files import partial_name, write_faults
from .lock import acquire, is_running
from .record import DRAWING, read_record
from .run_folder import MARK


def status(folder: Path, record: Mapping[str, Any]) -> str:
    """running, interrupted, drawing, done or failed: by the record, and by who is writing.

    A run that was killed still says in its record that it is running, but its lock is free.
    """
    recorded = record.get("status", "damaged")
    if recorded not in ("done", DRAWING) and is_running(folder):
        return "running"
    return "interrupted" if recorded == "running" else recorded


def runs(out: Path) -> list[dict[str, Any]]:
    """The records of the runs under a folder, oldest first; hashes of files are not checked.

    A record that cannot be read is a row too: `run`, `status` damaged, and the `reason`.
    """
    records = []
    for path in sorted(out.glob("[!.]*/run.json"), key=_modified):
        folder = path.parent
        if folder.is_symlink():  # the run lies elsewhere, among others
            continue
        try:
            record = read_record(folder)
            records.append({**record, "status": status(folder, record)})
        except MissingRun:  # removed meanwhile
            continue
        except (Fault, OSError) as fault:
            records.append({"run": str(folder), "status": "damaged", "reason": str(fault)})
    return records


def _modified(path: Path) -> float:
    """When a file was last written, seconds; 0 of one that is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def remove(folder: Path, statuses: Sequence[str] | None = None) -> bool:
    """Remove a run, and say whether it was.

    Args:
        folder: the run's folder.
        statuses: it stays if it has none of these by now; None removes it as it is.

    Raises:
        MissingRun, Refused: as `read_record`, or it is a link. Locked: it is running.
        CannotWrite: not allowed.
    """
    folder = folder.absolute()
    if folder.is_symlink():
        raise Refused(f"{folder} is a link; remove the link, or name the folder itself")
    read_record(folder)
    lock = acquire(folder)
    with write_faults(f"in {folder}", "it stays"):
        try:
            if statuses is not None and read_record(folder).status not in statuses:
                return False
            hidden = folder.with_name(partial_name(folder.name))
            (folder / MARK).touch()
            folder.rename(hidden)
            shutil.rmtree(hidden)
            return True
        finally:
            lock.release()


def partial_folders(out: Path) -> list[Path]:
    """Folders under `out` that a killed process left half-written, or half-removed."""
    return [path for path in out.glob(".*.partial-*") if _is_left(path)]


def _is_left(path: Path) -> bool:
    """Whether a folder has the zoo's mark, or nothing at all, and no process is writing it."""
    if path.is_symlink() or not path.is_dir():
        return False
    ours = (path / MARK).is_file() or not any(path.iterdir())
    return ours and not is_running(path)


def remove_partial(path: Path) -> None:
    """Remove a folder that `partial_folders` named.

    Raises:
        CannotWrite: not allowed.
    """
    with write_faults(str(path), "it stays"):
        shutil.rmtree(path)
