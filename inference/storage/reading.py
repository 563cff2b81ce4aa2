"""A saved run is read: its result, checked against the hashes of its record, and its progress."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from models.contract import Fault, Locked, Refused

from .journal import last_step
from .lock import is_running
from .record import RunRecord, read_record
from .run_folder import PROGRESS
from .seals import sha256

if TYPE_CHECKING:
    from torch import Tensor


def read_result(folder: Path) -> RunRecord:
    """The record of a run that has a result, after every file is checked against its hash.

    Raises:
        MissingRun: no run there. Refused: a file is missing or altered, or of another format, or
            there is no result yet. Locked: it is running for the first time.
    """
    record = read_record(folder)
    if "verdict" not in record:
        raise _no_result(folder, record)
    for name, expected in record.files.items():
        file = folder / name
        if file.is_symlink() or (file.parent.is_symlink() and file.parent != folder):
            raise Refused(f"{name} is a link, {folder}; copy the run's files instead")
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise Refused(f"run.json names {name}, outside its folder, {folder}; run it again")
        if not file.is_file() or sha256(file) != expected:
            fix = "run it again" if record.status == "done" else f"`zoo.py resume {folder}`"
            raise Refused(f"{name} is missing or was altered, {folder}; {fix}")
    return record


def _no_result(folder: Path, record: RunRecord) -> Fault:
    """Why a run has no result, and what to do."""
    if is_running(folder):
        return Locked(f"the run is not done yet ({progress(folder)}), {folder}; wait for it")
    if record.status == "failed":
        return Refused(
            f"the run failed and has no result, {folder}: {record.reason}; run it again"
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
    names = [name for name in read_record(folder).files if name.startswith("figures/")]
    return [folder / name for name in sorted(names) if name.endswith(".png")]
