"""From a request to a finished run, in a folder of its own; and a saved run read back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from models.contract import Entry, UsageError

from ..core.ambient import alone
from ..core.arguments import checked
from ..core.callbacks import Callback, Callbacks
from ..core.problem import Context
from . import imports, origin
from .plan import Plan, Request, columns, entry_of, planned
from .result import Run

if TYPE_CHECKING:
    from ..storage.run_folder import RunFolder


# -- the verbs ----------------------------------------------------------------------------------


@checked
@alone()
def run(
    model: str | Path | Callable | Entry,
    *,
    method: str | None = None,
    guide: str | Path | Callable | None = None,
    data: Any = None,
    target: str | None = None,
    features: str | Sequence[str] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "cpu",
    init: str | Path | Run | None = None,
    progress: bool = False,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> Run:
    """Infer a model by a method.

    Ctrl-C ends nuts and svi with what they have: a run whose verdict says so. With `out` the run
    has its folder from the beginning, and `resume` continues what was cut short.

    Args:
        model: a model's name (see list), the path of a file with a Pyro function `model` (.py),
            or such a function.
        method: its name (see list methods); default nuts, or svi where a guide is given.
        guide: a guide's name (`lowrank:5` with its argument, see list guides), the path of a file
            with a Pyro function `guide`, or such a function; for svi.
        data: a data set's name, a file, a DataFrame, or a mapping of data keys to values; where
            the model needs one key (the coin), a list or array will do. Default the model's.
        target: column of a table that is the target.
        features: columns of a table that are the features: a list, or separated by commas.
        seed: seed of all that is random, except the data.
        out: folder in which the run's folder is made; in Python without one nothing is saved.
        device: `cuda` computes svi and nuts on the GPU, `auto` does so where there is one.
        init: an earlier run, whose parameters of the model's own (a decoder) are taken as they
            are; a guide that shares some with it (an encoder) begins with these. What is not given
            of options and data is that run's.
        progress: whether to show a progress bar.
        callbacks: `zoo.Callback` objects, told of the start, of steps and of the end.
        settings: model options, data options and method settings by name.

    Raises:
        UsageError: an unknown model, method or guide. Fault (of models or inference): bad data,
        bad settings, a refusal or a failure, in one line with what to do.

    Examples:
        >>> import zoo
        >>> coin = zoo.run("coin", method="exact", data="HHT", alpha=2.0)
        >>> coin.verdict.status, f'{coin.summary().loc["pi", "mean"]:.3f}'
        ('pass', '0.667')
    """
    started = time.perf_counter()
    watch = Watch(progress=progress, callbacks=checked_callbacks(callbacks))
    request = Request(
        model=model,
        method=method,
        guide=guide,
        data=data,
        columns=columns(target, features),
        seed=seed,
        device=device,
        settings=settings,
        init=init,
    )
    return carried_out(plan_of(request), watch, started, out)


@checked
def load(
    folder: str | Path,
    *,
    model: str | Path | Callable | Entry | None = None,
    guide: str | Path | Callable | None = None,
) -> Run:
    """A saved run. Nothing of it is run: what its numbers and pictures need is in its folder.

    Args:
        folder: the run's folder.
        model: the model, where it is to predict or to draw and was given in Python, or is a file
            and the run another's: only a file that is named runs.
        guide: the guide, likewise, where it is to encode.

    Raises:
        Fault: no run there, or one that is damaged or not done; another model.

    Examples:
        >>> import tempfile, zoo
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     coin = zoo.run("coin", method="laplace", data="HHT", out=folder)
        ...     zoo.load(coin.path).metrics == coin.metrics
        True
    """
    from ..results import inference_data
    from ..results.diagnostics import Answer, Verdict
    from ..storage import saved
    from ..storage.record import findings_of

    folder = Path(folder)
    record = saved.read_result(folder)
    given = {purpose: Answer(*answer) for purpose, answer in record.get("given", {}).items()}
    entry = None
    if model is not None:
        entry, _ = entry_of(model, record["data"]["asked"]["options"])
        origin.check_same_model(entry.model, record)
    for part, named in (("model", model), ("guide", guide)):
        origin.check_same_file(part, named, record)
    return Run(
        record=dict(record),
        groups=inference_data.read(folder / "idata.nc"),
        verdict=Verdict(record["verdict"]["status"], findings_of(record), given),
        params=saved.read_params(folder),
        _entry=entry,
        _guide=guide,
    )


# -- from a request to a run --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What is shown of a run while it goes on; none of it changes its numbers.

    Attributes:
        progress: whether to show a progress bar.
        callbacks: told of start, steps and end.
        show: what to do with the result before its pictures are drawn.
        figures: whether to draw pictures.
        jobs: fits at once, of a calibration.
    """

    progress: bool = False
    callbacks: Sequence[Callback] = ()
    show: Callable[[Run], None] = lambda _: None
    figures: bool = True
    jobs: int = 1


def checked_callbacks(callbacks: Sequence[Callback]) -> Sequence[Callback]:
    """The callbacks, if that is what they are.

    Raises:
        UsageError: another object.
    """
    for callback in callbacks:
        if not isinstance(callback, Callback):
            kind = type(callback).__name__
            raise UsageError(f"{kind} is no callback; derive it from zoo.Callback")
    return callbacks


def plan_of(request: Request) -> Plan:
    """The plan of a request, the run of its `init` loaded.

    What the request does not give of options and data is that run's.

    Raises:
        Fault: as `plan.planned`; the run of `init` is of another model.
    """
    if request.init is None:
        return planned(request)
    earlier = request.init if isinstance(request.init, Run) else load(request.init)
    entry, _ = entry_of(request.model, request.settings)
    origin.check_same_model(entry.model, earlier.record)
    own = dict(earlier.record["options"])
    if request.data is None:
        own = {**earlier.record["data"]["asked"]["options"], **own}
        request = replace(request, data=origin.source_of(earlier.record))
    return planned(replace(request, settings={**own, **request.settings}), earlier)


def carried_out(plan: Plan, watch: Watch, started: float, out: str | Path | None) -> Run:
    """The planned run, in a folder of its own if `out` is given."""
    from ..storage import run_folder

    record = origin.begun(plan)
    if out is None:
        context, callbacks = _context(plan, watch)
        with _ending(callbacks) as ended:
            ended.append(_executed(plan, context, record, started))
        return ended[0]
    arrays = run_folder.arrays_of(plan.source)
    with run_folder.begin(Path(out), record["name"], record, arrays) as place:
        return in_place(plan, watch, started, place)


def in_place(plan: Plan, watch: Watch, started: float, place: RunFolder) -> Run:
    """The planned run in its folder: computed, saved, shown, and last its pictures."""
    context, callbacks = _context(plan, watch, place)
    with _ending(callbacks) as ended:
        done = _executed(plan, context, dict(place.record), started)
        done.record["run"] = str(place.path)
        if place.spent:
            done.record["timing"]["fit_s"] += place.spent
            done.record["timing"]["earlier_s"] = place.spent
        ended.append(done)
        still = [partial(_kept, done, watch, place)]

        def keep() -> None:
            if still:
                still.pop()()

        try:
            pictures = done.pictures(keep) if watch.figures else {}
        finally:
            keep()  # also where nothing can be drawn
        if watch.figures:
            place.add_figures(pictures)
    return done


def _kept(done: Run, watch: Watch, place: RunFolder) -> None:
    """A result in its folder, and shown."""
    from ..results import inference_data

    try:
        netcdf = inference_data.netcdf(done.groups)
        place.write(done.record, netcdf=netcdf, params=done.params, pictures=watch.figures)
    finally:
        watch.show(done)  # also where there is no room to save it


def _context(
    plan: Plan, watch: Watch, place: RunFolder | None = None
) -> tuple[Context, Callbacks]:
    """Where the run computes, and all that is told of it."""
    callbacks = Callbacks([*([place.journal] if place else []), *watch.callbacks])
    state = {"state": place.state} if place else {}
    how = {"progress": watch.progress, "device": plan.device, "beside": imports.beforehand}
    context = Context(callbacks=callbacks, **how, **state)
    return context, callbacks


def _executed(plan: Plan, context: Context, record: Mapping[str, Any], started: float) -> Run:
    from .execute import execute

    result = execute(plan, context, record, started)
    return Run(**result._asdict(), _entry=plan.entry, _data=plan.data, _source=plan.source)


@contextmanager
def _ending(callbacks: Callbacks) -> Iterator[list[Run]]:
    """Tells of the end, with the run if there is one by then."""
    ended: list[Run] = []
    try:
        yield ended
    finally:
        callbacks.on_end(ended[0] if ended else None)
