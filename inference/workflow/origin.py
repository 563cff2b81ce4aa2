"""How a run was made, as its record has it, and what of that can be had again.

Whoever wrote a record chose the files that it names, and importing a file runs it: files are read
again only for the user who ran them, as they were (see `storage/seals.py`).
"""

import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import models
from models.contract import BadInput, Data

from ..core.arguments import recordable
from .plan import Plan, Request

# -- what a record holds of a run before it begins ----------------------------------------------


def begun(plan: Plan) -> dict[str, Any]:
    """What run.json holds of a run before it begins: how it is made, and made again."""
    from ..core import machine

    stamp, stem = time.strftime("%Y%m%d-%H%M%S"), Path(plan.name).stem
    name = "-".join([stem, plan.method, *folder_words(plan.guide), str(plan.seed), stamp])
    options = {k: v for k, v in plan.settings.items() if k != "guide"}
    return {
        "id": secrets.token_hex(8),
        "name": name,
        **_model_and_guide(plan),
        "method": plan.method,
        "seed": plan.seed,
        "device": plan.device,
        "options": recordable(plan.options),
        "settings": recordable(options),
        "data": _data_asked(plan),
        "init": plan.init and {"run": plan.init.run, "sha256": plan.init.sha256},
        "versions": machine.versions(),
        "command": sys.argv,
    }


# What of a record may be another when it goes on: the same file may lie elsewhere.
OF_FILES = ("model", "model_in_python", "guide", "guide_in_python", "files_of")


def _model_and_guide(plan: Plan) -> dict[str, Any]:
    """Names, files and hashes of model and guide."""
    guide, given = plan.guide, plan.settings.get("guide")
    known = plan.entry.inference.guides.get(guide)
    own = given if callable(given) else known and known.function
    in_file = guide is not None and guide.endswith(".py")
    model_sha256, of_model = models.identity(plan.entry.model)
    guide_sha256, of_guide = models.identity(own) if callable(own) else (None, [])
    files = {"model": plan.name} if plan.name.endswith(".py") else {}
    files |= {"guide": guide} if in_file else {}
    return {
        "model": str(Path(plan.name).resolve()) if "model" in files else plan.name,
        "model_sha256": model_sha256,
        "model_in_python": plan.model_in_python,
        "guide": str(Path(guide).resolve()) if in_file else guide,
        "guide_sha256": guide_sha256,
        "guide_in_python": callable(given) and not in_file,
        "unhashed": {"model": of_model, "guide": of_guide},
        "files_of": {part: models.trees(file) for part, file in files.items()},
    }


def folder_words(guide: str | None) -> list[str]:
    """The guide as part of a folder's name: not every system allows a colon there."""
    return [Path(guide).stem.replace(":", "")] if guide else []


def identity_of(data: Data) -> dict[str, Any]:
    """By what a data set is known: source, number of rows, hash."""
    return {"source": data.source, "n": data.n, "sha256": data.sha256}


def _data_asked(plan: Plan) -> dict[str, Any]:
    """The data of a run as they were asked for."""
    data, source = plan.data, plan.source
    in_python = not isinstance(source, str | Path | None)
    if data.source == str(source) and os.path.isfile(source):
        source = os.path.abspath(source)  # read again from wherever the run is loaded
    asked = {
        "source": None if in_python or source is None else str(source),
        "in_python": in_python,
        "options": recordable(plan.data_options),
    }
    more = {"dtype": plan.dtype, "notes": list(data.notes), "asked": asked}
    return {**identity_of(data), **more}


# -- the same again -----------------------------------------------------------------------------


def request_of(record: Mapping[str, Any], given: Mapping[str, Any]) -> Request:
    """What a run was asked for, by its record.

    Args:
        record: the run's record.
        given: `model`, `guide` and `data` that stand in for the record's; None leaves those.

    Raises:
        BadInput: they were given in Python, or are files of somebody else's.
    """
    options = dict(record["data"]["asked"]["options"])
    columns = {name: options.pop(name, None) for name in ("target", "features")}
    parts = {"model": model_of, "guide": guide_of_record, "data": source_of}
    return Request(
        **{k: given[k] if given[k] is not None else of(record) for k, of in parts.items()},
        method=record["method"],
        columns=columns,
        seed=record["seed"],
        device=record["device"],
        settings={**options, **record["options"], **record["settings"]},
        init=(record.get("init") or {}).get("run"),
    )


def check_same_libraries(record: Mapping[str, Any]) -> None:
    """Refuse to go on with a run under other libraries, or another version of the zoo.

    Raises:
        BadInput: naming both.
    """
    from ..core import machine

    for name, now in machine.versions(machine.OF_DRAWS).items():
        if record["versions"].get(name) != now:
            raise BadInput(
                f"the run was begun with {name} {record['versions'].get(name)}, here is {now}: "
                "its draws would not be those of either; install that one, or run it again"
            )


def check_same_run(record: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """Refuse to go on with a run that is not the record's; gives the record made anew.

    Raises:
        BadInput: model, guide or data are not those of the run, naming both.
    """
    fresh = begun(plan)
    files, then = fresh["files_of"], record.get("files_of", fresh["files_of"])
    for part in ("model", "guide"):
        check_same(part, fresh[f"{part}_sha256"], record[f"{part}_sha256"])
        check_same(part, files.get(part), then.get(part))
    check_same(f"data ({plan.data.source})", plan.data.sha256, record["data"]["sha256"])
    if record.get("init"):
        check_same("run of --init", fresh["init"]["sha256"], record["init"]["sha256"])
    return fresh


def check_same(name: str, now: Any, then: Any) -> None:
    """Refuse what is not the run's own, by hashes, or by files and theirs.

    Raises:
        BadInput: naming what differs.
    """
    if now != then:
        raise BadInput(
            f"the {name} changed since the run ({_differing(now, then)}); "
            "put the old back, or run it again"
        )


def check_same_model(model: Callable, record: Mapping[str, Any]) -> None:
    """Refuse a model that is not the one that ran.

    Raises:
        BadInput: with both hashes.
    """
    check_same("model", models.fingerprint(model), record["model_sha256"])


def check_same_file(part: str, given: Any, record: Mapping[str, Any]) -> None:
    """Refuse a file that says something else than the run's did; older records say nothing."""
    if "files_of" in record and isinstance(given, str | Path) and str(given).endswith(".py"):
        check_same(part, models.trees(given), record["files_of"].get(part))


def _differing(now: Any, then: Any) -> str:
    """The files that differ, or both hashes."""
    if isinstance(now, Mapping) and isinstance(then, Mapping):
        return ", ".join(sorted(k for k in {*now, *then} if now.get(k) != then.get(k)))
    return f"sha256 {str(now)[:8]}, the run's {str(then)[:8]}"


def model_of(record: Mapping[str, Any]) -> str:
    """The name or file of a run's model.

    Raises:
        BadInput: it was given in Python, or is a file that this user has not run so.
    """
    return _named(record, "model")


def guide_of_record(record: Mapping[str, Any]) -> str | None:
    """The name or file of a run's guide; None for a method without one.

    Raises:
        BadInput: it was given in Python, or is a file that this user has not run so.
    """
    return _named(record, "guide")


def _named(record: Mapping[str, Any], part: str) -> str | None:
    name = record[part]
    if record[f"{part}_in_python"]:
        raise BadInput(
            f"the {part} of this run ({name}) was given in Python; give it again: {part}=..."
        )
    if name is None or not name.endswith(".py"):
        return name
    if not record.get("signed"):
        raise BadInput(
            f"the run was not made by you here, and its {part} {name} would run on your machine; "
            f"if you know that file, name it: --{part} {name}"
        )
    check_same_file(part, name, record)
    return name


def source_of(record: Mapping[str, Any]) -> Any:
    """What the data of a run are read from: their source, or the run's folder.

    Raises:
        BadInput: they were given in Python and not kept, or what was kept is damaged.
    """
    asked = record["data"]["asked"]
    if not asked["in_python"]:
        return asked["source"]
    data = data_kept(Path(record["run"])) if record.get("run") else None
    if data is None:
        raise BadInput(
            "the data of this run were given in Python and are not kept; give them again: data=..."
        )
    return data


def data_kept(folder: Path) -> dict[str, Any] | None:
    """Data that were given in Python, name to number or array; None if none are kept.

    Raises:
        BadInput: the file is damaged, or would not fit into memory.
    """
    from models.data.columns import read_columns

    from ..storage import run_folder

    path = folder / run_folder.DATA
    columns = read_columns(path) if path.is_file() else None
    return columns and {k.removeprefix(run_folder.KEY): value for k, value in columns.items()}
