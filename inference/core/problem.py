"""What a method takes and returns: `Problem`, `Context`, `Guide`, `Fit`, `Finding`, faults."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from models.contract import Data

from .callbacks import Callback

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Level = Literal["note", "warn", "fail"]
    Purpose = Literal["parameters", "predictions", "evidence", "loo"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem(Data):
    """What is to be inferred: data, and the model that is to explain them; equal to itself alone.

    Attributes:
        model: Pyro function with its options bound, called with `tensors` as keywords.
        latent_keys: data keys that were not given; their sites are latent, their values in
            `tensors` mere placeholders.
        guides: name to Pyro function of the model's own guides, options bound.
        objectives: own guide to its objective, where that is not the ELBO (see `Guide`).
        exact: `exact()` gives the `Exact` truth, or None, and `exact(tensors)` that of other rows;
            None where the model states none.
        params: the model's own parameters (`pyro.param`), already fitted; name to value.
        earlier: what an earlier run learned; a guide's parameters of the same name and shape begin
            there.
        identified: whether the latents are identified; those of a network are not, and results
            are judged on what they predict.
        linear_at: latent to value, at which the outputs of the model are made linear in the
            latents (`predictors.linearised`); None leaves the model as it is.
        start: `start(name, shape)` gives a starting value of a latent; None draws one uniformly
            in (-2, 2) of the unconstrained space.
    """

    model: Callable[..., Any]
    latent_keys: tuple[str, ...] = ()
    guides: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    objectives: Mapping[str, Callable[..., Tensor]] = field(default_factory=dict)
    exact: Callable[..., Any] | None = None
    params: Mapping[str, Tensor] = field(default_factory=dict)
    earlier: Mapping[str, Any] = field(default_factory=dict)
    identified: bool = True
    linear_at: Mapping[str, Tensor] | None = None
    start: Callable[[str, tuple[int, ...]], Tensor] | None = None
    source: str = ""

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    @classmethod
    def of(cls, data: Data, **fields_of_problem: Any) -> Problem:
        """The problem of a data set, and of what a problem has beside it (or in its place)."""
        given = {f.name: getattr(data, f.name) for f in fields(data)}
        return cls(**given | fields_of_problem)

    @property
    def log_units(self) -> dict[str, float]:
        """Observed site to log(user's unit / model's unit), by `units`.

        Densities of the data are in the user's units, and carry it once per observation.
        """
        return {site: math.log(scale) for site, (_, scale) in self.units.items()}

    def first(self, rows: int) -> Problem:
        """The problem of the first so many rows alone."""
        if self.rows is None:
            return self
        plate, keys = self.rows
        some = {key: self.tensors[key][:rows] for key in keys}
        labels = {plate: self.coords[plate][:rows]} if plate in self.coords else {}
        coords = {**self.coords, **labels}
        return replace(self, tensors={**self.tensors, **some}, coords=coords)


class State:
    """What a method keeps while it runs, so that it can go on after a kill: here, nothing.

    Named sets of arrays; `inference.storage.state.SavedState` keeps them in the folder of a run.
    """

    @property
    def due(self) -> bool:
        """Whether it is time to save again."""
        return False

    def save(self, name: str, arrays: Mapping[str, np.ndarray], **numbers: Any) -> None:
        """Keep arrays and numbers under a name, in place of what was there."""

    def load(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Arrays and numbers of that name; None where there are none, or damaged ones."""
        return None


class Graphs(Protocol):
    """Functions recorded once for many fits (`inference.program.graphs.Recordings`)."""

    @property
    def blank(self) -> bool:
        """Whether nothing was recorded yet: this is the first of the fits."""
        ...

    def compiled(
        self,
        function: Callable[..., Any],
        points: Sequence[Sequence[Tensor]],
        *,
        how: str = "native",
        live: Sequence[Tensor] = (),
    ) -> Callable[..., Any]:
        """The function recorded, from the graph of an earlier fit if there is one."""
        ...

    def memory(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor in the memory that the graphs read."""
        ...


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where and how a method runs.

    Attributes:
        progress: whether to show a progress bar.
        device: `cpu` or `cuda`, on which the problem's tensors lie.
        callbacks: called at each step.
        state: where the method keeps what it needs to go on after a kill, and finds it again.
        apart: whether chains may run in processes of their own.
        graphs: what was recorded for other values of the same data; None in a single run.
        beside: called once where the method waits for compiled code: what is to be done before
            its result can be judged.
    """

    progress: bool = False
    device: str = "cpu"
    callbacks: Callback = field(default_factory=Callback)
    state: State = field(default_factory=State)
    apart: bool = True
    graphs: Graphs | None = None
    beside: Callable[[], None] = lambda: None

    @property
    def of_many(self) -> bool:
        """Whether this is one of many fits, which need not tell all about themselves."""
        return self.graphs is not None


@dataclass(frozen=True)
class Guide:
    """A Pyro guide and the objective by which it is trained.

    Attributes:
        guide: Pyro function of the data keys.
        objective: `objective(model, guide, batch)` gives a scalar tensor to be maximised, whose
            gradient trains guide and model; None means the ELBO.
        settings: settings of svi that suit this guide, in force where the user gives none.
        density: whether its draws have a density; those of point masses have none, and so no
            log q, ELBO or k-hat.
        live: scalar tensors that the objective reads, each with its value by the share of the
            steps that are done (a weight that warms up).
        all: gives all its draws (S, *shape) by site, where they are finitely many; else None.
        finish: called when the guide is trained, to do what is left to do (weights that are
            noise are removed); gives metrics and findings.
        packed: its learned parameters as they are kept.
    """

    guide: Callable[..., Any]
    objective: Callable[[Callable, Callable, Mapping], Tensor] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    density: bool = True
    live: Sequence[tuple[Tensor, Callable[[float], float]]] = ()
    all: Callable[[], Mapping[str, Tensor] | None] | None = None
    finish: Callable[[], tuple[dict[str, float], list[Finding]]] | None = None
    packed: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None


# What a result may be used for: see `diagnostics.Verdict`.
PURPOSES: tuple[Purpose, ...] = ("parameters", "predictions", "evidence", "loo")


@dataclass(frozen=True)
class Finding:
    """Something a user should know of a result, and what to do about it.

    Attributes:
        level: how grave it is; `fail` says that the computation did not come to its end.
        what: what was found.
        fix: what to do about it.
        spoils: the purposes that the result may not be used for because of it; of a `fail` that
            names none, all.
        opens: the purposes of which it leaves unknown whether the result may be used for them.
        of_intervals: whether it spoils the parameters' intervals alone, and leaves their means.
        unfinished: whether it says that further steps would bring more.
    """

    level: Level
    what: str
    fix: str = ""
    spoils: tuple[Purpose, ...] = ()
    opens: tuple[Purpose, ...] = ()
    of_intervals: bool = False
    unfinished: bool = False

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}" if self.fix else self.what

    def to_json_object(self) -> dict[str, Any]:
        """Its fields by the keys of a record, of which `mend` is the fix."""
        return {"mend" if name == "fix" else name: value for name, value in vars(self).items()}

    @classmethod
    def from_json_object(cls, content: Mapping[str, Any]) -> Finding:
        """What `to_json_object` made."""
        return cls(**{"fix" if key == "mend" else key: value for key, value in content.items()})


@dataclass(kw_only=True)
class Fit:
    """What a method returns.

    Attributes:
        draws: site (deterministic ones included) to tensor (chain, draw, *shape).
        kind: `chains` of a Markov chain (R-hat applies), `independent` draws, a `point` estimate
            (1 chain, 1 draw), or the `prior`.
        stats: sampler statistic, by ArviZ's name, to tensor (chain, draw); of chains `diverging`
            and `energy` are judged where they are given.
        log_p: log joint density of data and draws in the constrained space (chain, draw), nats.
        log_q: log density of the approximation at the draws (chain, draw), nats.
        log_ratios: log p - log q at further draws (many,), for the ELBO and k-hat: k-hat from a
            few thousand draws misses one bad guide in four (true k 0.85, bound 0.7).
        params: learned parameters.
        trace: the objective per step of an optimiser, nats.
        outlook: what the trace tells of further steps, a sentence.
        metrics: numbers that only the method knows (`log_evidence`).
        point: site to the value that the method stands on: the mode of `map` and `laplace`.
        linear_at: latent to value, where the draws are of a model that is linear in the latents
            there and predicts by it; None for the model itself.
        exact: the closed form, where the method used it.
        rows: where the draws of rows' latents are those of the first so many alone; else None.
        settings: settings that the method chose itself, as used.
        findings: borders, refusals of a part, fallbacks, failures to converge.
        status: `interrupted` by a signal or `failed` on the way, and what is here was kept.
        signal: the signal that interrupted it.
    """

    draws: dict[str, Tensor]
    kind: Literal["chains", "independent", "point", "prior"]
    stats: dict[str, Tensor] = field(default_factory=dict)
    log_p: Tensor | None = None
    log_q: Tensor | None = None
    log_ratios: Tensor | None = None
    params: dict[str, Tensor] = field(default_factory=dict)
    trace: Tensor | None = None
    outlook: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    point: dict[str, Tensor] = field(default_factory=dict)
    linear_at: dict[str, Tensor] | None = None
    exact: Any = None
    rows: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    status: Literal["done", "interrupted", "failed"] = "done"
    signal: int | None = None

    def on_cpu(self) -> Fit:
        """The same with all tensors in the machine's main memory."""
        return replace(self, **{f.name: _on_cpu(getattr(self, f.name)) for f in fields(self)})


def _on_cpu(value: Any) -> Any:
    """A tensor, or tensors by name, in the main memory; another value as it is."""
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    return value.cpu() if hasattr(value, "cpu") else value
