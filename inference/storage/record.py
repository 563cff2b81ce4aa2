"""The record of a run, `run.json`: typed, and written and read by this module alone.

A record is a `RunRecord` from the beginning of the run on. Once there is a result it is a
`ResultRecord`, or of a calibration a `CalibrationRecord`. The annotations are the one source of
what a record must hold, and of what type: a record that comes from elsewhere is checked against
them before anything of it is used. Keys that no type names are carried along.

On disk the record is sealed by the SHA-256 of its content (`seals`), and signed by the user who
made the run (`signature`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from models.contract import MissingRun, Refused

from ..core.problem import Finding
from . import signature
from .files import write_atomically
from .seals import seal_of

FILE, FORMAT = "run.json", 2
# The status of a run that has its result and not yet its pictures.
DRAWING = "drawing"

Number: TypeAlias = int | float | None
Status: TypeAlias = Literal["running", "interrupted", "drawing", "done", "failed"]

# Keys of the file beside the record itself, keys of a record in memory alone, and those that are
# left out where their value is None.
_OF_FILE = ("sha256", "signature", "format")
_OF_MEMORY = ("run", "signed")
_OPTIONAL = (*_OF_MEMORY, "files_of", "calibration", "reason")


# -- what a record holds, by type -------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Part:
    """A JSON object with typed keys; a key without a default must be there.

    Attributes:
        more: keys that the type does not name, carried along as they are.
    """

    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Any:
        """The part that a JSON object holds, which must be of this shape (`shape_error`)."""
        kinds = _kinds(cls)
        known = {k: _from_json(v, kinds[k]) for k, v in content.items() if k in kinds}
        return cls(**known, more={k: v for k, v in content.items() if k not in kinds})

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        return {k: _to_json(getattr(self, k)) for k in _kinds(type(self))} | dict(self.more)


@dataclass(frozen=True, kw_only=True)
class Asked(Part):
    """The data as they were asked for, by which they can be read again.

    Attributes:
        source: name of a data set, or path of a file; None of the model's own, or in Python.
        in_python: whether they were given in Python; then they are kept in the run's folder.
        options: options of the data by name.
    """

    source: str | None
    in_python: bool
    options: dict


@dataclass(frozen=True, kw_only=True)
class DataRecord(Part):
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
    dtype: str = "float64"
    notes: list[str]
    asked: Asked


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class VerdictRecord(Part):
    """A verdict and its reasons, sentences; of draws also `headline`, `trust` and `because`."""

    status: Literal["pass", "warn", "fail"]
    reasons: list[str]


@dataclass(frozen=True, kw_only=True)
class RunRecord(Part, Mapping):
    """What is known of a run before it has a result: how it is made, and made again.

    As a mapping it gives the JSON values by key (`record["data"]["n"]`), with `run` and `signed`.

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

    id: str = ""
    name: str
    model: str
    model_sha256: str | None = None
    model_in_python: bool
    method: str
    guide: str | None
    guide_sha256: str | None = None
    guide_in_python: bool
    unhashed: dict = field(default_factory=dict)
    files_of: dict | None = None
    seed: int
    device: str
    options: dict
    settings: dict
    data: DataRecord
    init: dict | None = None
    versions: dict[str, str | None]
    command: list = field(default_factory=list)
    calibration: int | None = None
    status: Status
    reason: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    run: str | None = None
    signed: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON object, without the keys that a run need not have."""
        return {k: v for k, v in super().to_json().items() if v is not None or k not in _OPTIONAL}

    def __getitem__(self, key: str) -> Any:
        return self._json[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._json)

    def __len__(self) -> int:
        return len(self._json)

    def __or__(self, changes: Mapping[str, Any]) -> RunRecord:
        """The record with other values of some keys."""
        return record_of({**self, **changes})

    @cached_property
    def _json(self) -> dict[str, Any]:
        return self.to_json()


@dataclass(frozen=True, kw_only=True)
class CalibrationRecord(RunRecord):
    """The record of a calibration with its verdict; `timing` in seconds, but for `fits`."""

    verdict: VerdictRecord
    timing: dict[str, Number]
    files: dict[str, str]


@dataclass(frozen=True, kw_only=True)
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

    signal: int | None = None
    data: ModelledData
    latent_keys: list[str]
    identified: bool = True
    point: dict[str, int | float | list]
    linearised: bool = False
    metrics: dict[str, Number]
    exact: dict
    findings: list[Finding]
    given: dict[str, tuple[str, str]] = field(default_factory=dict)


# What a record has once there is a result.
RESULT_KEYS = frozenset(f.name for f in fields(ResultRecord)) - {f.name for f in fields(RunRecord)}


def record_of(content: Mapping[str, Any]) -> RunRecord:
    """The record that a mapping holds, as it would be read from its file."""
    known = {k: v for k, v in content.items() if k not in _OF_FILE}
    return _type_of(content).from_json(json.loads(json.dumps(known)))


def _type_of(content: Mapping[str, Any]) -> type[RunRecord]:
    """The type of a record, by whether there is (or must be) a result, and of what."""
    if "verdict" not in content and content.get("status") not in ("done", DRAWING):
        return RunRecord
    return CalibrationRecord if "calibration" in content else ResultRecord


# -- types and JSON ---------------------------------------------------------------------------


@cache
def _kinds(part: type) -> dict[str, Any]:
    """The type of each key of a dataclass; the field `more` is no key."""
    return {name: kind for name, kind in get_type_hints(part).items() if name != "more"}


def _from_json(value: Any, kind: Any) -> Any:
    """A JSON value as its type: parts and findings as objects, all else as it is."""
    if isinstance(kind, type) and issubclass(kind, Part):
        return kind.from_json(value)
    if kind == list[Finding]:
        contents = ({k: _changed(v, list, tuple) for k, v in each.items()} for each in value)
        return [Finding.from_json_object(content) for content in contents]
    return value


def _to_json(value: Any) -> Any:
    if isinstance(value, Part):
        return value.to_json()
    if isinstance(value, Finding):
        return {k: _changed(v, tuple, list) for k, v in value.to_json_object().items()}
    return [_to_json(item) for item in value] if isinstance(value, list) else value


def _changed(value: Any, old: type, new: type) -> Any:
    """A list as a tuple, or the reverse; another value as it is."""
    return new(value) if isinstance(value, old) else value


def shape_error(content: Mapping[str, Any]) -> str | None:
    """The first key of a record that is missing or of another type, such as `data.notes`."""
    return next(_misfits(content, _type_of(content), ""), None)


def _misfits(value: Any, kind: Any, where: str) -> Iterator[str]:
    """Where a JSON value does not fit a type: `where` itself, or parts of it."""
    if not _fits(value, kind):
        yield where
        return
    for name, (part, of) in _parts(value, kind).items():
        at = f"{where}.{name}" if where else str(name)
        yield from (at,) if part is MISSING else _misfits(part, of, at)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value is of a type, its parts aside."""
    if kind is Finding:  # it is made of these keys, and of no others
        known = Finding("note", "").to_json_object().keys()
        return isinstance(value, Mapping) and {"level", "what"} <= value.keys() <= known
    if is_dataclass(kind):
        return isinstance(value, Mapping)
    base = get_origin(kind)
    if base is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if base is tuple:  # which JSON writes as a list
        return isinstance(value, list) and len(value) == len(get_args(kind))
    return isinstance(value, base if base in (list, dict) else kind)


def _parts(value: Any, kind: Any) -> dict[Any, tuple[Any, Any]]:
    """The parts of a value, by name, each with its type; MISSING where one must be and is not."""
    if is_dataclass(kind):
        kinds = {} if kind is Finding else _kinds(kind)
        needed = [f.name for f in fields(kind) if _is_required(f)]
        return {
            k: (value.get(k, MISSING), of) for k, of in kinds.items() if k in {*value, *needed}
        }
    base, arguments = get_origin(kind), get_args(kind)
    if base is list:
        return {i: (one, arguments[0]) for i, one in enumerate(value)}
    if base is tuple:
        return dict(enumerate(zip(value, arguments)))
    return {k: (one, arguments[1]) for k, one in value.items()} if base is dict else {}


def _is_required(key: Field) -> bool:
    return key.default is MISSING and key.default_factory is MISSING


# -- the file ---------------------------------------------------------------------------------


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write a record to `run.json`, sealed and signed.

    Raises:
        OSError: not allowed, or no room; the file is as it was.
    """
    left_out = (*_OF_FILE, *_OF_MEMORY)
    content = {"format": FORMAT, **{k: v for k, v in record.items() if k not in left_out}}
    content = json.loads(json.dumps(content))  # as it will be read
    seal = seal_of(content)
    sealed = {"sha256": seal, "signature": signature.sign(seal), **content}
    text = json.dumps(sealed, indent=1)
    write_atomically(folder / FILE, lambda path: path.write_text(text, encoding="utf-8"))


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
    if seal != seal_of(content):
        raise Refused(f"{FILE} was altered, {folder}; run it again")
    misfit = shape_error(content)
    if misfit is not None:
        raise Refused(f"{FILE} has no {misfit} as runs have it, {folder}; run it again")
    in_memory = {"run": str(folder), "signed": signature.is_signed(seal, signed)}
    return record_of({**content, **in_memory})
