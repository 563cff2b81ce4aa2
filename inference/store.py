"""A run on disk: written whole or not at all, checked against its hashes when read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._problem import Fault, Refused

if TYPE_CHECKING:
    import arviz as az
    from matplotlib.figure import Figure
    from torch import Tensor

FORMAT = 1


class CannotWrite(Fault):
    """The run's folder cannot be made or written."""

    exit_code = 73


class MissingRun(Fault):
    """There is no such run."""

    exit_code = 66


def check_folder(out: Path) -> None:
    """Whether runs can be written under `out`; makes and leaves nothing.

    Raises:
        CannotWrite: it cannot be made or written to.
    """
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
        for folder in missing:
            folder.rmdir()
    except OSError as error:
        raise CannotWrite(
            f"cannot write the run ({error.strerror or error}), {out}; use --out"
        ) from error


def save(
    out: Path,
    name: str,
    record: Mapping[str, Any],
    *,
    idata: az.InferenceData,
    params: Mapping[str, Tensor],
    figures: Mapping[str, Figure],
) -> Path:
    """Write a run's folder under `out`; it appears under its name only when it is complete.

    Args:
        out: folder of runs, made if it is not there.
        name: the run's name; `-2` and so on is added if it is taken.
        record: what goes to run.json, beside the hashes of the other files.
        idata: the result.
        params: learned parameters; no file if there are none.
        figures: name to figure.

    Returns:
        The folder.

    Raises:
        CannotWrite: not allowed, or no room; nothing is left behind.
    """
    return _whole(out, name, lambda folder: _write_files(folder, record, idata, params, figures))


def save_tables(
    out: Path, name: str, tables: Mapping[str, Any], figures: Mapping[str, Figure]
) -> Path:
    """Write a folder of tables (.csv) and figures under `out`; returns it.

    Raises:
        CannotWrite: not allowed, or no room; nothing is left behind.
    """

    def write(folder: Path) -> None:
        for stem, table in tables.items():
            table.to_csv(folder / f"{stem}.csv")
        _write_figures(folder, figures)

    return _whole(out, name, write)


def _whole(out: Path, name: str, write: Callable[[Path], None]) -> Path:
    """A folder that appears under its name only when all of it is written."""
    if Path(name).name != name or name.startswith("."):
        raise CannotWrite(f"'{name}' is no name for a folder; use letters and digits")
    partial = out / f".{name}.partial-{os.getpid()}"
    try:
        (partial / "figures").mkdir(parents=True)
        write(partial)
        return _rename(partial, out, name)
    except OSError as error:
        raise CannotWrite(
            f"cannot write {name} ({error.strerror or error}), {out}; use --out"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_figures(folder: Path, figures: Mapping[str, Figure]) -> None:
    for name, figure in figures.items():
        # A tenth larger than at the default level, in half the time.
        fast = {"compress_level": 1}
        figure.savefig(folder / "figures" / f"{name}.png", dpi=130, pil_kwargs=fast)


def _write_files(
    folder: Path,
    record: Mapping[str, Any],
    idata: az.InferenceData,
    params: Mapping[str, Tensor],
    figures: Mapping[str, Figure],
) -> None:
    from . import results

    results.write(idata, folder / "idata.nc")
    if params:
        from safetensors.torch import save_file

        contiguous = {name: tensor.detach().contiguous() for name, tensor in params.items()}
        save_file(contiguous, folder / "params.safetensors")
    (folder / "metrics.json").write_text(json.dumps(record["metrics"], indent=1))
    _write_figures(folder, figures)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = {str(path.relative_to(folder)): sha256(path) for path in files}
    manifest = {"format": FORMAT, **record, "files": hashes}
    (folder / "run.json").write_text(json.dumps(manifest, indent=1))
    for path in [*files, folder / "run.json"]:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        CannotWrite: not allowed, or no room; an earlier file of that name is as it was.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise CannotWrite(f"cannot write {path} ({error.strerror or error}); use --out") from error
    finally:
        partial.unlink(missing_ok=True)


def _rename(partial: Path, out: Path, name: str) -> Path:
    for attempt in range(1, 100):
        target = out / (name if attempt == 1 else f"{name}-{attempt}")
        if not target.exists():
            partial.rename(target)
            return target
    raise CannotWrite(f"a hundred runs are called {name} already, {out}; use --out")


def sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record(folder: Path) -> dict[str, Any]:
    """A run's record, after every file was held against its hash.

    Raises:
        MissingRun: no run there. Refused: a file is missing or altered, or of another format.
    """
    path = folder / "run.json"
    if not path.is_file():
        raise MissingRun(f"there is no run in {folder} (no run.json); see `zoo.py list runs`")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version, files = content["format"], content["files"]
    except (ValueError, KeyError, TypeError):
        raise Refused(f"run.json is damaged, {folder}; run it again") from None
    if version != FORMAT:
        raise Refused(f"{folder} has format {version}, this zoo reads {FORMAT}; run it again")
    for name, expected in files.items():
        file = folder / name
        if not file.is_file() or sha256(file) != expected:
            raise Refused(f"{name} is missing or was altered, {folder}; run it again")
    return content


def runs(out: Path) -> list[dict[str, Any]]:
    """The records of the finished runs under a folder, oldest first, hashes not checked."""
    found = []
    for path in sorted(out.glob("*/run.json"), key=lambda p: p.stat().st_mtime):
        try:
            found.append({**json.loads(path.read_text(encoding="utf-8")), "run": str(path.parent)})
        except ValueError:
            found.append({"run": str(path.parent), "status": "damaged"})
    return found


def read_params(folder: Path) -> dict[str, Tensor]:
    """Learned parameters of a run; empty if it has none."""
    path = folder / "params.safetensors"
    if not path.is_file():
        return {}
    from safetensors.torch import load_file

    return load_file(path)
