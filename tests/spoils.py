"""What is done to a saved run before a command is given it: `SPOILS`, by its words in the table.

Each takes the folder in which commands are run, and the run's in it. The run is one of svi, of the
files `user.py`, `helper.py` and `guide.py` there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import scene as scenes
from conftest import EVIL
from faults import GUIDE, PLANTED, USER_MODEL

from inference.storage.record import RESULT_KEYS, write_record
from models.users.fingerprint import trees

# What a planted file makes when it is run.
MARKER = "planted"


def settled(run: Path, folder: Path) -> Path:
    """A copy of a run in another folder, as if its files had been there, and made by this user."""
    copy = Path(shutil.copytree(run, folder / "copy" / run.name))
    record = json.loads((copy / "run.json").read_text())
    record |= {name: str(folder / Path(record[name]).name) for name in ("model", "guide")}
    record["data"]["asked"]["source"] = str(folder / "one.json")
    write_record(copy, record)
    return copy


def _again(run: Path, **changes: Any) -> None:
    """Another record, made by this user."""
    write_record(run, {**json.loads((run / "run.json").read_text()), **changes})


def _stopped(folder: Path, run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    write_record(run, {k: v for k, v in record.items() if k not in RESULT_KEYS})
    _again(run, status="interrupted", files={})


def _planted(folder: Path, run: Path) -> None:
    evil = run / "evil.py"
    evil.write_text(PLANTED.format(marker=str(folder / MARKER)) + USER_MODEL + GUIDE)
    shutil.copy(folder / "helper.py", run)
    of = {"model": trees(evil), "guide": trees(evil)}
    scenes.forge(run, model=str(evil), guide=str(evil), files_of=of)


def _planted_and_stopped(folder: Path, run: Path) -> None:
    _stopped(folder, run)
    _planted(folder, run)


def _rewritten(name: str, old: str, new: str) -> Callable[[Path, Path], None]:
    """A file of the run's says something else now."""

    def spoil(folder: Path, run: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return spoil


def _then(*spoils: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
    def spoil(folder: Path, run: Path) -> None:
        for one in spoils:
            one(folder, run)

    return spoil


def _symbolic(name: str) -> Callable[[Path, Path], None]:
    """A part of the run is a link to what lies outside."""

    def spoil(folder: Path, run: Path) -> None:
        if (run / name).exists():
            (run / name).rename(folder / "outside")
        else:
            (folder / "outside").mkdir()
        (run / name).symlink_to(folder / "outside")

    return spoil


def _hard(folder: Path, run: Path) -> None:
    os.link(run / "progress.jsonl", folder / "outside")


def _linked_run(folder: Path, run: Path) -> None:
    _stopped(folder, run)
    run.rename(folder / "outside")
    run.symlink_to(folder / "outside")


def _look_alikes(folder: Path, run: Path) -> None:
    for name in (".bashrc.partial-backup", ".notes.partial-0"):
        (run.parent / name).mkdir()
        (run.parent / name / "mine").touch()
    (run.parent / ".mine.partial-1").symlink_to(folder)


def _record(content: str) -> Callable[[Path, Path], None]:
    """Another run lies beside, whose record is none."""

    def spoil(folder: Path, run: Path) -> None:
        other = run.parent / "other"
        other.mkdir()
        (other / "run.json").write_text(content)

    return spoil


def _of_another_shape(where: str, value: Any) -> Callable[[Path, Path], None]:
    """The record is whole, and one part is of another kind."""

    def spoil(folder: Path, run: Path) -> None:
        _again(run, **{where: value})

    return spoil


def _markup(folder: Path, run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    verdict = record["verdict"] | {"reasons": [EVIL], "headline": EVIL}
    data = record["data"] | {"source": EVIL, "notes": [EVIL]}
    settings = record["settings"] | {"note": EVIL}
    scenes.forge(run, verdict=verdict, data=data, settings=settings, command=[EVIL])


def _in_netcdf(folder: Path, run: Path, plant: Callable[[Any], None]) -> None:
    with h5py.File(run / "idata.nc", "a") as file:
        plant(file["posterior"])
    scenes.forge(run, {"idata.nc": (run / "idata.nc").read_bytes()})


def _external_link(folder: Path, run: Path) -> None:
    link = h5py.ExternalLink("/etc/hosts", "/x")
    _in_netcdf(folder, run, lambda group: group.update({"planted": link}))


def _external_storage(folder: Path, run: Path) -> None:
    where = [(str(folder / "one.json"), 0, h5py.h5f.UNLIMITED)]
    array = {"shape": (2,), "dtype": "u1", "external": where}
    _in_netcdf(folder, run, lambda group: group.create_dataset("planted", **array))


def _claims(folder: Path, run: Path) -> None:
    array = {"shape": (10**6, 10**6), "dtype": "f8", "chunks": (10, 10), "compression": "gzip"}
    _in_netcdf(folder, run, lambda group: group.create_dataset("planted", **array))


def _no_more(folder: Path, run: Path) -> None:
    """Nothing is done to it."""


SPOILS: Mapping[str, Callable[[Path, Path], None]] = {
    "": _no_more,
    "a planted model, seals recomputed": _planted,
    "a planted model, seals recomputed, not done": _planted_and_stopped,
    "helper changed": _rewritten("helper.py", "2.0", "3.0"),
    "helper changed, not done": _then(_stopped, _rewritten("helper.py", "2.0", "3.0")),
    "constant changed": _rewritten("width.txt", "1.0", "2.0"),
    "constant changed, not done": _then(_stopped, _rewritten("width.txt", "1.0", "2.0")),
    "guide changed, not done": _then(_stopped, _rewritten("guide.py", "0.1", "0.2")),
    "only a comment changed": _rewritten("helper.py", "2.0", "2.0  # as wide as it was"),
    "figures is a link": _symbolic("figures"),
    "figures is a link, not done": _then(_stopped, _symbolic("figures")),
    "state is a link, not done": _then(_stopped, _symbolic("state")),
    "the journal has a second name, not done": _then(_stopped, _hard),
    "run.json is a link": _symbolic("run.json"),
    "idata.nc is a link": _symbolic("idata.nc"),
    "the run is a link": _linked_run,
    "folders with names as ours": _look_alikes,
    "a record that is a list beside it": _record("[]"),
    "a record nested deeply beside it": _record("[" * 100_000),
    "a record of another format beside it": _record('{"format": 99}'),
    "notes of a record are a number": _of_another_shape("data", {"notes": 3}),
    "numbers of a record are words": _of_another_shape("metrics", {"elbo": "high"}),
    "findings of a record are a word": _of_another_shape("findings", "none"),
    "markup and control characters in its texts": _markup,
    "idata.nc links to another file": _external_link,
    "idata.nc has values in another file": _external_storage,
    "idata.nc claims 8 TB": _claims,
}
