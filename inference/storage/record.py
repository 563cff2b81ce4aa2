"""The record of a run, `run.json`: typed, and written and read by this module alone.

A record is a `RunRecord` from the beginning of the run on. Once there is a result it is a
`ResultRecord`, or of a calibration a `CalibrationRecord`. The annotations are the one source of
what a record must hold, and of what type: a record that comes from elsewhere is checked against
them before anything of it is used. Keys that no type names are carried along.

On disk the record is sealed by the SHA-256 of its content, and signed by the user who made the run
(`seals`).
"""

import json
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from models.contract import MissingRun, Refused

from ..core.problem import Finding
from . import seals
from .files import write_atomically

FILE, FORMAT = "run.json", 2
# The status of a run that has its result and not yet its pictures.
DRAWING = "drawing"

Number = int | float | None
Status = Literal["running", "interrupted", "drawing", "done", "failed"]

# Keys of the file beside the record itself, keys of a record in memory alone, and those that are
# left out where their value is None.
_OF_FILE = ("sha256", "signature", "format")
_OF_MEMORY = ("run", "signed")
_OPTIONAL = (*_OF_MEMORY, "files_of", "calibration", "reason")
# What holds where the file does not say: of runs that were made before it did, mostly.
_DEFAULTS: dict[str, Any] = {"id": "", "command": [], "unhashed": {}, "given": {}}
_DEFAULTS |= dict.fromkeys(("model_sha256", "guide_sha256", "init", "signal"))
_DEFAULTS |= {"identified": True, "linearised": False, "dtype": "float64"}


# -- what a record holds, by type -------------------------------------------------------------


class Asked(TypedDict):
    """The data as they were asked for, by which they can be read again.

    Attributes:
        source: name of a data set, or path of a file; None of the model's own, or in Python.
        in_python: whether they were given in Python; then they are kept in the run's folder.
        options: options of the data by name.
    """

    source: str | None
    in_python: bool
    options: dict


class DataRecord(TypedDict):
    """The data of a run: where they came from.

    Attributes:
        source: in words, as the user would say it.
        n: number of rows; None without rows.
        sha256: hash of names, types, shapes, values and units.
        dtype: number type in which the run computes; older runs do not say.
        notes: what was done to the data, sentences.
        asked: as they were asked for.
    """

    source: str
    n: Number
    sha256: str
    dtype: str
    notes: list[str]
    asked: Asked


class ModelledData(DataRecord):
    """The data of a run as its model saw them.

    Attributes:
        rows: name of the row plate and the keys indexed by it; None without rows.
        shapes: data key to the shape of its tensor.
        predicted: keys that were observed, or latent, and that a prediction does not need.
        units: observed key to (loc, scale): user's value = loc + scale * model's value.
    """

    rows: list | None
    shapes: dict[str, list]
    predicted: list[str]
    units: dict


class VerdictRecord(TypedDict):
    """A verdict and its reasons, sentences; of draws also `headline`, `trust` and `because`."""

    status: Literal["pass", "warn", "fail"]
    reasons: list[str]


class RunRecord(TypedDict):
    """What is known of a run before it has a result: how it is made, and made again.

    Attributes:
        id: tells this run from all others; its saved state carries it.
        name: the folder's name.
        model, guide: name, or path of a file.
        model_sha256, guide_sha256: fingerprint of the function; None without one.
        model_in_python, guide_in_python: whether it was given as a function, not by name.
        unhashed: what of model and guide the fingerprint does not cover, by `model` and `guide`.
        files_of: file of model and guide to the hashes of what it imports; older runs have none.
        method: name of the method.
        seed: of the run.
        device: `cpu` or `cuda`.
        options, settings: of the model and of the method, by name.
        data: where the data came from.
        init: folder and hash of the run whose parameters this one takes.
        versions: library, and what else the draws depend on, to its version.
        command: the command line.
        calibration: number of fits, of a calibration.
        status: of the run.
        reason: why it failed.
        files: file of the result to its SHA-256.
        run: the folder that the record was read from; in memory alone.
        signed: whether this user made the run; in memory alone.
    """

    id: str
    name: str
    model: str
    model_sha256: str | None
    model_in_python: bool
    method: str
    guide: str | None
    guide_sha256: str | None
    guide_in_python: bool
    unhashed: dict
    files_of: NotRequired[dict | None]
    seed: int
    device: str
    options: dict
    settings: dict
    data: DataRecord
    init: dict | None
    versions: dict[str, str | None]
    command: list
    calibration: NotRequired[int | None]
    status: Status
    reason: NotRequired[str | None]
    files: dict[str, str]
    run: NotRequired[str | None]
    signed: NotRequired[bool | None]


class CalibrationRecord(RunRecord):
    """The record of a calibration with its verdict; `timing` in seconds, but for `fits`."""

    verdict: VerdictRecord
    timing: dict[str, Number]


class ResultRecord(CalibrationRecord):
    """The record of a run that has a result.

    Attributes:
        signal: number of the signal that interrupted the run.
        data: the data as the model saw them.
        latent_keys: data keys that were not given and so were inferred.
        identified: whether the latents are; those of a network are not.
        point: site to the value that the method stands on (the mode of `map` and `laplace`).
        linearised: whether the draws are of the model made linear at its learned parameters.
        metrics: by name, in the units of each.
        exact: scalar to its exact mean and sd, where the method knows them.
        findings: what a user should know of the result, the gravest first.
        given: purpose to an answer (yes, no, not known) and its reason; older runs have none.
    """

    signal: int | None
    data: ModelledData
    latent_keys: list[str]
    identified: bool
    point: dict[str, int | float | list]
    linearised: bool
    metrics: dict[str, Number]
    exact: dict
    findings: list[Finding]
    given: dict[str, tuple[str, str]]


# What a record has once there is a result.
RESULT_KEYS = frozenset(ResultRecord.__annotations__) - set(RunRecord.__annotations__)


def record_of(content: Mapping[str, Any]) -> RunRecord:
    """The record that a mapping holds, as it would be read from its file."""
    content = json.loads(json.dumps(content))
    record = _filled(content, _type_of(content))
    record["data"] = _filled(record["data"], ModelledData)
    for key in (*_OF_FILE, *(k for k in _OPTIONAL if record.get(k) is None)):
        record.pop(key, None)
    return record


def _filled(content: Mapping[str, Any], kind: Any) -> Any:
    """The content and what it does not say, the keys of its type first, in their order."""
    keys = kind.__annotations__
    whole = {k: v for k, v in _DEFAULTS.items() if k in keys} | dict(content)
    return {k: whole[k] for k in (*keys, *whole) if k in whole}


def findings_of(record: Mapping[str, Any]) -> tuple[Finding, ...]:
    """The findings of a result, as objects."""
    findings = []
    for finding in record["findings"]:
        values: dict[str, Any] = dict(finding)
        values |= {k: tuple(v) for k, v in finding.items() if isinstance(v, list)}
        findings.append(Finding.from_json_object(values))
    return tuple(findings)


def _type_of(content: Mapping[str, Any]) -> Any:
    """The type of a record, by whether there is (or must be) a result, and of what."""
    if "verdict" not in content and content.get("status") not in ("done", DRAWING):
        return RunRecord
    return CalibrationRecord if "calibration" in content else ResultRecord


# -- the shape that a record must have ---------------------------------------------------------


def shape_error(content: Mapping[str, Any]) -> str | None:
    """The first key of a record that is missing or of another type, such as `data.notes`."""
    return next(_misfits(content, _type_of(content), ""), None)


def _misfits(value: Any, kind: Any, where: str) -> Iterator[str]:
    """Where a JSON value does not fit a type: `where` itself, or parts of it."""
    parts = _parts(value, kind)
    if parts is None:
        yield where
        return
    for name, (part, of) in parts.items():
        at = f"{where}.{name}" if where else str(name)
        yield from (at,) if part is MISSING else _misfits(part, of, at)


def _parts(value: Any, kind: Any) -> dict[Any, tuple[Any, Any]] | None:
    """The parts of a JSON value, by name, each with its type; None of one of another type.

    MISSING stands where there must be a part, and is none.
    """
    base, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Finding:  # it is made of these keys, and of no others
        known, needed = Finding("note", "").to_json_object().keys(), {"level", "what"}
        return {} if isinstance(value, dict) and needed <= value.keys() <= known else None
    if typing.is_typeddict(kind) and isinstance(value, dict):
        known = (kind.__required_keys__ - _DEFAULTS.keys()) | value.keys()
        kinds = {k: of for k, of in typing.get_type_hints(kind).items() if k in known}
        return {k: (value.get(k, MISSING), of) for k, of in kinds.items()}
    if base is list and isinstance(value, list):
        return {i: (item, arguments[0]) for i, item in enumerate(value)}
    if base is tuple and isinstance(value, list) and len(value) == len(arguments):
        return dict(enumerate(zip(value, arguments)))
    if base is dict and isinstance(value, dict):
        return {k: (item, arguments[1]) for k, item in value.items()}
    if base is Literal and isinstance(value, str) and value in arguments:
        return {}
    plain = base in (None, types.UnionType) and not typing.is_typeddict(kind)
    return {} if plain and isinstance(value, kind) else None


# -- the file ---------------------------------------------------------------------------------


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write a record to `run.json`, sealed and signed.

    Raises:
        OSError: not allowed, or no room; the file is as it was.
    """
    left_out = (*_OF_FILE, *_OF_MEMORY)
    content = {"format": FORMAT, **{k: v for k, v in record.items() if k not in left_out}}
    content = json.loads(json.dumps(content))  # as it will be read
    seal = seals.seal_of(content)
    sealed = {"sha256": seal, "signature": seals.sign(seal), **content}
    write_atomically(folder / FILE, json.dumps(sealed, indent=1).encode())


def read_record(folder: Path) -> RunRecord:
    """The record of a run in whatever state, checked against its own seal; files are not read.

    Raises:
        MissingRun: no run there. Refused: the record is a link, altered, of another format, or
            no record of a run.
    """
    path = folder / FILE
    if path.is_symlink():
        raise Refused(f"{FILE} is a link, {folder}; copy the run's files instead")
    if not path.is_file():
        raise MissingRun(f"there is no run in {folder} (no {FILE}); see `zoo.py list runs`")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version, seal = content["format"], content.pop("sha256", None)
        signed = content.pop("signature", None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Refused(f"{FILE} is damaged, {folder}; run it again") from None
    if version != FORMAT:
        raise Refused(f"{folder} has format {version}, this zoo reads {FORMAT}; run it again")
    if seal != seals.seal_of(content):
        raise Refused(f"{FILE} was altered, {folder}; run it again")
    if "verdict" not in content:  # older calibrations had none before their end
        content.setdefault("files", {})
    misfit = shape_error(content)
    if misfit is not None:
        raise Refused(f"{FILE} has no {misfit} as runs have it, {folder}; run it again")
    in_memory = {"run": str(folder), "signed": seals.is_signed(seal, signed)}
    return record_of({**content, **in_memory})
