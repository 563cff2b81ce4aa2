"""From what a user asked for to a run that can be computed: names looked up, settings checked.

    Request -> Plan -> Problem -> Program -> Fit -> Run

The first step of these; nothing is computed here.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import inference
import models
from models.contract import BadInput, Data, Entry, Refused, UsageError, nearest

from ..core import settings


@dataclass(frozen=True, kw_only=True)
class Request:
    """A run as its user asked for it; the attributes are the arguments of `zoo.run`.

    Attributes:
        columns: what was given as `target` and `features` (see `columns`).
        settings: options of model and data, and settings of the method, by name.
        init: an earlier run (`Run`), whose parameters of the model's own are taken.
    """

    model: str | Path | Callable | Entry
    method: str | None = None
    guide: str | Path | Callable | None = None
    data: Any = None
    columns: Mapping[str, str | None] = field(default_factory=dict)
    seed: int = 0
    device: str = "cpu"
    settings: Mapping[str, Any] = field(default_factory=dict)
    init: Any = None


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What an earlier run learned, which a later one takes as it is.

    Attributes:
        run: its folder; None if it was not saved.
        params: its parameters.
    """

    run: str | None
    params: Mapping[str, Any]

    @cached_property
    def sha256(self) -> str:
        """Hash of names and values, by which a resumed run knows them again."""
        import numpy as np

        digest = hashlib.sha256()
        for name in sorted(self.params):
            digest.update(name.encode() + np.ascontiguousarray(self.params[name]).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run that can be computed: names looked up, settings checked, data read.

    Attributes:
        entry: the model.
        name: its name, or the path of its file.
        method: name of the method.
        options: all options of the model, by name.
        settings: the method's settings that are not its own defaults; `guide` among them.
        data: the data set.
        source: what the data were read from, as given.
        data_options: the options by which they were read.
        seed: of all that is random, except the data.
        device: `cpu` or `cuda`.
        model_in_python: whether the model was given in Python, so that no record can name it.
        init: what an earlier run learned of the model's own parameters.
    """

    entry: Entry
    name: str
    method: str
    options: Mapping[str, Any]
    settings: Mapping[str, Any]
    data: Data
    source: Any = None
    data_options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    device: str = "cpu"
    model_in_python: bool = False
    init: Learned | None = None

    @property
    def kind(self) -> inference.Method:
        """What the method is."""
        return inference.METHODS[self.method]

    @property
    def dtype(self) -> str:
        """The number type in which it computes, `float64` or `float32`.

        Raises:
            Refused: as `machine.precision`.
        """
        from ..core.machine import precision

        identified, asked = self.entry.identified, "dtype" in self.data_options
        return precision(self.kind, self.data, identified=identified, asked=asked)

    @property
    def guide(self) -> str | None:
        """The guide's name, None for a method without one."""
        guide = self.settings.get("guide")
        return guide if isinstance(guide, str | None) else name_of(guide)


def name_of(function: Any) -> str:
    """What a function (or an object that is called like one) is called."""
    return getattr(function, "__name__", type(function).__name__)


def columns(
    target: str | None, features: str | Sequence[str] | None = None
) -> dict[str, str | None]:
    """The columns of a table that are asked for, as they are recorded.

    Raises:
        UsageError: features that are no names.
    """
    if isinstance(features, Iterable) and not isinstance(features, Set):
        features = models.join_names(features)
    elif features is not None:
        raise UsageError(f"features={features} are no names of columns; give such as ['a', 'b']")
    return {"target": None if target is None else str(target), "features": features}


def planned(request: Request, earlier: Any = None) -> Plan:
    """The plan of a request.

    Args:
        request: what was asked for.
        earlier: the run of `init`, loaded and seen to be of the same model.

    Raises:
        UsageError: an unknown model, method, guide or column.
        BadSetting: a setting that is unknown or out of its range.
        BadInput, MissingInput: data or a model file that cannot be used.
        Refused: the method has no answer for this model or these data.
    """
    from ..core import machine

    entry, name = entry_of(request.model, request.settings)
    method, guide = _method_and_guide(entry, request.method, request.guide)
    function = method_of(method)
    shares = _shared_out(entry, method, guide, function, request.settings)
    _check_options_of_earlier(earlier, shares["model"])
    given = {key: value for key, value in request.columns.items() if value is not None}
    data_options = shares["data"] | given
    source = models.given(entry.model, request.data)
    data = read_data(entry, source, data_options)
    device = machine.device(request.device, method)
    reason = entry.inference.refuses(method, shares["model"], data)
    if reason:
        raise Refused(f"{method} is refused for {name}: {reason}")
    if inference.METHODS[method].takes_guide:
        shares["method"]["guide"] = guide_of(entry, guide, shares["model"], data.dtype)
    elif guide is not None:
        raise UsageError(f"{method} takes no guide; leave --guide out, or use --method svi")
    return Plan(
        entry=entry,
        name=name,
        method=method,
        options=shares["model"],
        settings=shares["method"],
        data=data,
        source=source,
        data_options=data_options,
        seed=request.seed,
        device=device,
        model_in_python=not isinstance(request.model, str | Path),
        init=earlier and Learned(run=_folder_of(earlier), params=earlier.params),
    )


def _folder_of(run: Any) -> str | None:
    return None if run.path is None else str(run.path.resolve())


def _check_options_of_earlier(earlier: Any, options: Mapping[str, Any]) -> None:
    """Refuse model options that are not those by which the parameters were learned."""
    for name, value in options.items() if earlier is not None else ():
        old = earlier.record["options"].get(name)
        if old != value:
            raise UsageError(
                f"{name}={value}, but the run of --init has {name}={old}; leave it out"
            )


def _method_and_guide(
    entry: Entry, method: str | None, guide: str | Path | Callable | None
) -> tuple[str, Any]:
    """Method and guide, where they are not named those of the model's own choice."""
    first, _, own = entry.inference.first.partition(":")
    if method is None:
        method = first if guide is None else inference.OF_GUIDES
    if guide is None and method == first and own:
        guide = own
    return method, guide


def entry_of(model: str | Path | Callable | Entry, given: Mapping[str, Any]) -> tuple[Entry, str]:
    """The model and its name.

    Args:
        model: as for `zoo.run`.
        given: settings, of which `dtype` is the number type in which a file is imported.

    Raises:
        UsageError: no model has that name; with the nearest.
        BadInput, MissingInput: a file that cannot be a model.
    """
    if isinstance(model, Entry):
        return model, Path(models.place(model.model).partition(",")[0]).stem
    if callable(model):
        entry = models.wrap(model)
        return entry, name_of(entry.model)
    name = str(model)
    if name not in models.names() and not name.endswith(".py"):
        known = nearest(name, models.names())
        raise UsageError(f"there is no model '{name}'; {known} (a file of yours ends in .py)")
    return models.load(name, given.get("dtype", "float64")), name


def method_of(name: str) -> Callable:
    """The function of a method.

    Raises:
        UsageError: no method has that name; with the nearest.
    """
    if name not in inference.METHODS:
        raise UsageError(f"there is no method '{name}'; {nearest(name, inference.METHODS)}")
    return inference.method(name)


def guide_of(
    entry: Entry,
    guide: str | Path | Callable | None,
    options: Mapping[str, Any],
    dtype: str,
) -> str | Callable:
    """The guide as svi takes it: a name that is known, or a function; of a file, the file's.

    Raises:
        UsageError, BadSetting: no guide has that name, or its argument is out of range.
        BadInput, MissingInput: a file that cannot be a guide.
    """
    from ..methods import guides

    if guide is None:
        return [*entry.inference.guides, *inference.GUIDES][0]
    if isinstance(guide, Path) or (isinstance(guide, str) and guide.endswith(".py")):
        keys = models.data_keys(entry.model)
        own = settings.bound(models.load_guide(str(guide), keys, dtype), options)
        own.__name__ = str(guide)  # what the record says
        return own
    if isinstance(guide, str):
        guides.parse(guide, entry.inference.guides)  # a wrong name is refused now
    return guide


def homes(entry: Entry, function: Callable | None = None) -> dict[str, dict[str, Any]]:
    """Where a setting may belong: name to `Setting` of the `model`, the `data`, the `method`."""
    declared = {
        "model": settings.declared(entry.model),
        "data": settings.declared(entry.data),
        "method": settings.declared(function) if function else {},
    }
    if entry.identified:
        own = declared["method"].items()
        declared["method"] = {key: setting for key, setting in own if not setting.of_networks}
    apart = {"data": ("target", "features"), "method": ("guide",)}
    return {
        home: {k: setting for k, setting in own.items() if k not in apart.get(home, ())}
        for home, own in declared.items()
    }


def model_options(entry: Entry, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a model: those given, checked, and the defaults of the others."""
    declared = settings.declared(entry.model)
    own = {k: settings.check(declared[k], v) for k, v in given.items() if k in declared}
    return {name: setting.default for name, setting in declared.items()} | own


def _shared_out(
    entry: Entry,
    method: str,
    guide: str | Path | Callable | None,
    function: Callable,
    given: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """What belongs to model, data and method; what is not given is the model's or the default."""
    known = homes(entry, function)
    shares = settings.share_out(given, known)
    shares["model"] = {k: s.default for k, s in known["model"].items()} | shares["model"]
    defaults = {k: s.default for k, s in known["method"].items()}
    for name in (method, f"{method}:{str(guide).partition(':')[0]}"):
        defaults |= entry.inference.settings.get(name, {})
    shares["method"] = defaults | shares["method"]
    return shares


def read_data(entry: Entry, source: Any, options: Mapping[str, Any]) -> Data:
    """The data set of a model, with all that the model needs.

    Raises:
        UsageError: an option that the model's data do not take.
        BadInput, MissingInput: data that cannot be read, or lack a key that the model needs.
    """
    known = settings.declared(entry.data)
    for name in options:
        if name not in known:
            raise UsageError(f"this model's data take no --{name}; leave it out")
    if isinstance(source, Data):
        return source
    data = entry.data(models.given(entry.model, source), **options)
    keys = models.data_keys(entry.model)
    required = [k for k, p in keys.items() if p.default is p.empty and k not in entry.free]
    missing = [key for key in required if key not in data.tensors]
    if missing:
        raise BadInput(
            f"the model needs {', '.join(missing)}, the data ({data.source}) have "
            f"{', '.join(data.tensors) or 'nothing'}; add it (--data)"
        )
    return data
