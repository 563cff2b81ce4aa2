"""What models and inference share: the records of a model, of data and of truth; all faults."""

from __future__ import annotations

import hashlib
import inspect
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from torch import Tensor

    # A tensor, or an int or float that stays one: what uses a key knows which (hence Any).
    Value = Tensor | Any


class Fault(Exception):
    """What a user is told in one line, with the exit code; itself: the run failed."""

    exit_code = 70


class UsageError(Fault):
    """A name or an argument that does not exist."""

    exit_code = 2


class BadInput(Fault):
    """Data, a model file or a saved run that cannot be used as they are."""

    exit_code = 65


class Refused(Fault):
    """The method has no answer for this problem, or the model excludes the data; says why."""

    exit_code = 65


class MissingInput(BadInput):
    """A file or data set that is not there."""

    exit_code = 66


class MissingRun(Fault):
    """There is no such run."""

    exit_code = 66


class CannotWrite(Fault):
    """A file or folder that cannot be made or written."""

    exit_code = 73


class WriteFailed(CannotWrite):
    """The disk is full or broken."""

    exit_code = 74


class Locked(Fault):
    """Someone else is writing this run."""

    exit_code = 75


class BadSetting(Fault):
    """A setting that is unknown or out of its range."""

    exit_code = 78


class Died(Fault):
    """A worker's process ended without a result."""


class Interrupted(Fault):
    """A run that an interruption kept from ending, or from beginning.

    Attributes:
        signal: that of the interruption.
    """

    exit_code = 130
    signal: int = signal.SIGINT


class Stopped(KeyboardInterrupt):
    """A signal ended a run before it had a result."""

    def __init__(self, signal: int, what: str = ""):
        super().__init__(what)
        self.signal = signal


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` with the closest known name, or all of them, of many the first ones."""
    words = [str(word) for word in known]
    close = get_close_matches(name, words, n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    more = f", ... ({len(words)} in all)" if len(words) > _MOST_NAMED else ""
    return f"known: {', '.join(words[:_MOST_NAMED]) or 'none'}{more}"


# Names that a message lists.
_MOST_NAMED = 40


class Rows(NamedTuple):
    """The row plate of a model and the data keys indexed by it (first dimension)."""

    plate: str
    keys: tuple[str, ...]


class Redrawn(NamedTuple):
    """What training sees in the place of the rows, drawn anew in each step.

    Attributes:
        tensors: row key to what is drawn from (grey pixels), as many rows as the data have.
        draw: gives the row keys of a step (binary pixels) from those of a batch.
    """

    tensors: Mapping[str, Value]
    draw: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set, as keyword arguments of model and guide.

    Attributes:
        tensors: data key to tensor or plain number; a key of the model that is missing here is
            a quantity to infer.
        rows: the row plate and its keys; None when the model has no rows.
        test: the same keys held out, if any.
        redrawn: what training sees in the place of the rows, where that is not the same in each
            step; all else (scores, the other methods) looks at `tensors`.
        beside: name to the row keys of further rows that predictions are looked at on: shifted
            ones, or rows of another kind, then without what is observed.
        plane: row keys of points at which predictions are drawn: of classes in the plane of two
            features, of numbers along one.
        dtype: of floating-point numbers, data and latents, in a run: `float32` for images.
        coords: labels of named dimensions, for ArviZ.
        dims: site or key to the names of its *event* dimensions; plates name the others.
        source: where the data came from, as the user would say it.
        notes: what was done to the data, or is odd about them, in plain words.
        units: observed key to (loc, scale): user's value = loc + scale * model's value.
        scaling: what `Results.original` needs to go back to the user's units.
        new_rows: gives the tensors of new rows from a file or mapping, coded as these are.
    """

    tensors: Mapping[str, Value]
    rows: Rows | None = None
    test: Mapping[str, Value] | None = None
    redrawn: Redrawn | None = None
    beside: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    plane: Mapping[str, Value] | None = None
    dtype: Literal["float64", "float32"] = "float64"
    coords: Mapping[str, tuple] = field(default_factory=dict)
    dims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    source: str
    notes: tuple[str, ...] = ()
    units: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    scaling: Any = None
    new_rows: Callable[[Any], Mapping[str, Value]] | None = None

    @property
    def n(self) -> int | None:
        """Number of rows; None when the data have no rows."""
        first: Any = self.rows and self.tensors[self.rows.keys[0]]  # of rows a tensor
        return None if first is None else len(first)

    @cached_property
    def sha256(self) -> str:
        """Hash of names, types, shapes, values and units; the same data give the same hash."""
        import numpy as np

        digest = hashlib.sha256()
        digest.update(repr(sorted(self.units.items())).encode())
        for key in sorted(self.tensors):
            value = np.ascontiguousarray(self.tensors[key])
            digest.update(f"{key}:{value.dtype.str}:{value.shape};".encode())
            digest.update(value.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Exact:
    """The true posterior, as far as it is known in closed form.

    Attributes:
        sample: `sample(n, rng)` gives site to array (n, *shape) of independent posterior draws.
        marginals: scalar name as in the summary (`pi`, `w[bmi]`) to a frozen scipy distribution.
        log_evidence: log p(data), nats; None where nothing is observed makes it meaningless.
        predictive: observed site to a frozen scipy distribution of one new observation.
        leave_one_out: gives log p(y_i | the other rows) of each row, (n,), nats, in the user's
            units; None leaves it to the evidence of the data without each row.
    """

    sample: Callable[[int, np.random.Generator], Mapping[str, np.ndarray]]
    marginals: Mapping[str, Any] = field(default_factory=dict)
    log_evidence: float | None = None
    predictive: Mapping[str, Any] = field(default_factory=dict)
    leave_one_out: Callable[[], np.ndarray] | None = None


class Caveat(NamedTuple):
    """A reason to be careful with a result, whose verdict is then `warn` at best.

    Attributes:
        reason: in words.
        fix: what to do about it.
    """

    reason: str
    fix: str


@dataclass(frozen=True, kw_only=True)
class View:
    """A result, as a model's own metrics, caveats and figures see it.

    Attributes:
        data: the data of the run.
        draws: site to its draws (draws, *shape); those of the prior if the run is of the prior.
        groups: group of the InferenceData to variable to array (chain, draw, *shape).
        params: name to what was learned for a parameter.
        guide: name of the guide; empty where there is none.
        exact: the truth, where the method used it; figures see none.
        options: the model's options by name.
        metrics: name to number, as far as they are known.
    """

    data: Data
    draws: Mapping[str, np.ndarray]
    groups: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    guide: str = ""
    exact: Exact | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Guide:
    """A guide of the model's own.

    Attributes:
        function: Pyro function of the data keys, and of those options that it names as
            keyword-only parameters; or a class, made as that of a model.
        objective: what it is trained by where that is not the ELBO: `objective(model, guide,
            data)`, a scalar tensor to be maximised, whose gradient trains both; `data` are the
            data keys by name, some of the rows if it is a batch, and the sites of model and guide
            have the `scale` by which these count. Options, or a class, as for the function.
        estimator: whether the objective estimates the same bound, of the same parameters, as the
            others that say so, of which the first has no noise; `check --gradients` holds them
            against that one.
    """

    function: Callable
    objective: Callable | None = None
    estimator: bool = False

    def __post_init__(self):
        from ..users.callables import as_function

        object.__setattr__(self, "function", as_function(self.function, whole=True))


def _never(method: str, options: Mapping[str, Any], data: Data) -> None:
    """The default of `Inference.refuses`: every method is welcome."""


@dataclass(frozen=True, kw_only=True)
class Inference:
    """How a model is inferred.

    Attributes:
        guides: guides beside the shared ones, by name.
        first: the method, and guide, of a run that names none: `nuts`, `svi:normal`.
        settings: method (`svi`), or method and guide (`svi:sparse`), to the settings that this
            model needs instead of the defaults.
        start: `start(name, shape)` gives a random starting value of a latent; None leaves it to
            the methods.
        refuses: `refuses(method, options, data)` gives the reason in words, or None.
        refused: method to the reason why it is refused on the *default* data, read from the
            source by `list`; a test holds it to the truth.
    """

    guides: Mapping[str, Guide] = field(default_factory=dict)
    first: str = "nuts"
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    start: Callable[[str, tuple[int, ...]], Tensor] | None = None
    refuses: Callable[[str, Mapping[str, Any], Data], str | None] = _never
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def estimators(self) -> list[str]:
        """Names of the guides whose objectives estimate one bound, the noiseless one first."""
        return [name for name, guide in self.guides.items() if guide.estimator]


@dataclass(frozen=True, kw_only=True)
class Results:
    """How a model's results are shown, beyond what is shown of every model's.

    Attributes:
        original: `original(draws, data)` gives the draws in the user's units (group
            `posterior_original`); both map sites to arrays (draws, *shape).
        metrics: gives name to number of a view; not of runs of the prior.
        caveats: gives what is doubtful about a view, its metrics known; not of runs of the prior.
        figures: name to a function that gives a matplotlib `Figure` of a view; None means that
            it is not for these data.
    """

    original: Callable[[Mapping[str, Any], Data], Mapping[str, Any]] | None = None
    metrics: Callable[[View], Mapping[str, float]] | None = None
    caveats: Callable[[View], Sequence[Caveat]] | None = None
    figures: Mapping[str, Callable[[View], Figure | None]] = field(default_factory=dict)


# Fields that `Entry` itself had before they were grouped, and what says the same now.
_GUIDES = "inference=Inference(guides={name: Guide(function, objective, estimator)})"
_MOVED = {
    **dict.fromkeys(("guides", "objectives", "estimates"), _GUIDES),
    **{k: f"inference=Inference({k}=...)" for k in ("first", "settings", "start", "refuses")},
    "refused": "inference=Inference(refused=...)",
    "original": "results=Results(original=...)",
    "metrics": "results=Results(metrics=...), a function of one View",
    "doubts": "results=Results(caveats=...), a function of one View",
    "figures": "results=Results(figures=...), functions of one View",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model of the zoo: a record of functions.

    Attributes:
        model: Pyro function; positional parameters are data keys, keyword-only ones options. Or
            a PyroModule class, made as `cls(data, *, options)` or `cls(*, options)`, with
            `forward(data keys)`; or a callable of another kind (see `users/callables.py`).
        data: `data(source, *, ...)`; `source=None` is the default data set. No rows at all (n = 0)
            mean the prior.
        free: data keys that may be left out, and are then inferred.
        exact: `exact(data, *, options)` gives an `Exact`, or None where it is not known.
        identified: whether the latents are identified; those of a network are not, and its
            results are judged on what they predict.
        has_parameters: whether networks of the model have weights without priors, which the
            method `svi` alone fits.
        inference: how it is inferred.
        results: how its results are shown.

    Raises:
        TypeError: a field that has moved; says where to.
    """

    model: Callable
    data: Callable[..., Data]
    free: tuple[str, ...] = ()
    exact: Callable[..., Exact | None] | None = None
    identified: bool = True
    has_parameters: bool = False
    inference: Inference = Inference()
    results: Results = Results()

    def __new__(cls, **fields: Any) -> Entry:
        for name in filter(_MOVED.get, fields):
            raise TypeError(f"Entry has no field {name} any more; write {_MOVED[name]}")
        return super().__new__(cls)

    def __post_init__(self):
        from ..users.callables import as_function

        object.__setattr__(self, "model", as_function(self.model))


def data_keys(model: Callable) -> dict[str, inspect.Parameter]:
    """The data keys of a model: its positional parameters, and the others without a default.

    Of a class they are those of the method that its objects are called by.

    Raises:
        BadInput: no parameter has a name, or Python does not know them.
    """
    parameters = _parameters(model)
    if [p.kind for p in parameters] == [inspect.Parameter.VAR_POSITIONAL]:
        raise BadInput(
            f"the model takes *{parameters[0].name}, {place(model)}, and data come by name; "
            "name them, as in def model(x, y)"
        )
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        p.name: p
        for p in parameters
        if p.kind not in optional and (p.kind is not p.KEYWORD_ONLY or p.default is p.empty)
    }


def takes_any(model: Callable) -> bool:
    """Whether a model takes data of any name (`**data`)."""
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in _parameters(model))


def _parameters(model: Callable) -> list[inspect.Parameter]:
    from ..users.callables import signature

    try:
        return list(signature(model).parameters.values())
    except (ValueError, TypeError) as error:
        raise BadInput(
            f"the parameters of the model are not known ({error}); write it as def model(x, y)"
        ) from None


def place(model: Callable) -> str:
    """File and line where a model is written, as far as Python knows."""
    from ..users.callables import heart

    function = model.__init__ if inspect.isclass(model) else heart(model)
    code = getattr(function, "__code__", None)
    if code is None:
        return f"a {type(model).__name__} object"
    return f"{code.co_filename}, line {code.co_firstlineno}"
