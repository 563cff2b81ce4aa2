"""Saved runs: read, and checked against the hashes of their records; listed, and removed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.contract import Fault, Locked, MissingRun, Refused

from .files import acquire, is_running, partial_name, write_faults
from .record import DRAWING, RunRecord, read_record
from .run_folder import MARK, PROGRESS
from .seals import sha256
from .state import last_step

if TYPE_CHECKING:
    from torch import Tensor


def read_result(folder: Path) -> RunRecord:
    """The record of a run that has a result, after every file is checked against its hash.

    Raises:
        MissingRun: no run there. Refused: a file is missing or altered, or of another format, or
            there is no result yet. Locked: it is running for the first time.
    """
    record: Any = read_record(folder)
    if "verdict" not in record:
        raise _no_result(folder, record)
    for name, expected in record["files"].items():
        file = folder / name
        if file.is_symlink() or (file.parent.is_symlink() and file.parent != folder):
            raise Refused(f"{name} is a link, {folder}; copy the run's files instead")
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise Refused(f"run.json names {name}, outside its folder, {folder}; run it again")
        if not file.is_file() or sha256(file) != expected:
            fix = "run it again" if record["status"] == "done" else f"`zoo.py resume {folder}`"
            raise Refused(f"{name} is missing or was altered, {folder}; {fix}")
    return record


def _no_result(folder: Path, record: RunRecord) -> Fault:
    """Why a run has no result, and what to do."""
    if is_running(folder):
        return Locked(f"the run is not done yet ({progress(folder)}), {folder}; wait for it")
    if record["status"] == "failed":
        return Refused(
            f"the run failed and has no result, {folder}: {record.get('reason')}; run it again"
        )
    fix = f"continue it with `zoo.py resume {folder}`"
    return Refused(f"the run was stopped before it was done, {folder}; {fix}")


def progress(folder: Path) -> str:
    """How many steps a run under way has done, in words."""
    step = last_step(folder / PROGRESS)
    return f"{step['step']} of {step['of']} steps" if step else "no step yet"


def read_params(folder: Path) -> dict[str, Tensor]:
    """Learned parameters of a run, by name; empty if it has none.

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


def pictures(folder: Path | None) -> list[Path]:
    """The pictures (.png) that the record of a run names; none of a run that is not saved."""
    if folder is None:
        return []
    names = [name for name in read_record(folder)["files"] if name.startswith("figures/")]
    return [folder / name for name in sorted(names) if name.endswith(".png")]


# -- the runs of a folder ----------------------------------------------------------------------


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
            if statuses is not None and read_record(folder)["status"] not in statuses:
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
