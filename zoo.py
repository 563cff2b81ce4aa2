"""Bayes Zoo: models of Bayesian deep learning, every inference on every model, one result type.

The same verbs in Python and on the command line:

    import zoo
    run = zoo.run("coin", method="nuts", data="HH")
    run.verdict, run.summary(), run.idata, run.predict(), run.plot("marginals")

    python zoo.py run coin --method nuts --data HH
"""

from __future__ import annotations

import argparse
import errno
import inspect
import io
import json
import math
import os
import re
import secrets
import signal
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import inference
import models

if Path(models.__file__).parent.parent != Path(__file__).resolve().parent:
    raise ImportError(
        f"`models` was found in {Path(models.__file__).parent}, not beside zoo.py: another folder "
        "of that name shadows it; leave that folder, or rename it"
    )

from inference.core import settings as _settings
from inference.core.ambient import alone
from inference.core.arguments import checked, held, recordable
from inference.core.callbacks import Callback, Callbacks
from inference.core.plain_text import plain
from inference.core.problem import Context, Finding
from inference.core.settings import bound
from inference.core.zoo_warnings import ZooWarning, ours_alone
from inference.workflow.plan import Learned, Plan, name_of
from models.contract import (
    BadInput,
    BadSetting,
    CannotWrite,
    Fault,
    Interrupted,
    Locked,
    MissingInput,
    MissingRun,
    Refused,
    Stopped,
    UsageError,
    nearest,
)

if "ipykernel" in sys.modules:
    # Pyro imports this, and in a notebook without widgets it would warn of their absence.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tqdm.auto  # noqa: F401

if TYPE_CHECKING:
    import arviz as az
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

    from inference.checks.calibration import Calibration
    from inference.checks.check import Checked
    from inference.core.problem import Problem
    from inference.results.comparison import Table
    from inference.results.diagnostics import Verdict

__all__ = ["Callback", "Run", "ZooWarning"]
__all__ += ["BadInput", "BadSetting", "CannotWrite", "Fault", "Locked", "MissingInput"]
__all__ += ["MissingRun", "Refused", "UsageError"]
__all__ += ["calibrate", "check", "compare", "gradients", "load", "main", "report", "resume"]
__all__ += ["run"]

# -- the verbs in Python ----------------------------------------------------------------------


@dataclass(kw_only=True, repr=False)
class Run:
    """A finished run: the result, the verdict, and what is needed to predict and to draw.

    Attributes:
        record: what run.json holds: command, settings, data, versions, timing, metrics; `status`
            is `done`, or `interrupted` or `failed` for what was kept of a run cut short.
        idata: the result as ArviZ InferenceData.
        verdict: `pass`, `warn` or `fail`, with reasons.
        params: learned parameters, if any.
    """

    record: dict[str, Any]
    idata: az.InferenceData
    verdict: Verdict
    params: dict[str, Any] = field(default_factory=dict)
    _entry: models.Entry | None = None
    _data: models.Data | None = None
    _source: Any = None
    _guide: Any = None

    @property
    def metrics(self) -> dict[str, float]:
        """Metric name to value; what does not apply is absent."""
        return self.record["metrics"]

    @property
    def path(self) -> Path | None:
        """The run's folder; None if it was not saved."""
        return Path(self.record["run"]) if self.record.get("run") else None

    @cached_property
    def entry(self) -> models.Entry:
        """The model; read again from its file for a run that was loaded.

        Raises:
            Fault: it was given in Python, is gone, or is not the one that ran.
        """
        if self._entry is not None:
            return self._entry
        entry, _ = _entry(_model_of(self.record), self.record["data"]["asked"]["options"])
        _must_be_same("model", models.fingerprint(entry.model), self.record["model_sha256"])
        return entry

    @cached_property
    def data(self) -> models.Data:
        """The data set; read again from its source for a run that was loaded.

        Raises:
            Fault: it is gone, or not the one that the run had.
        """
        if self._data is not None:
            return self._data
        data = _data(self.entry, _source_of(self.record), self.record["data"]["asked"]["options"])
        _must_be_same(f"data ({data.source})", data.sha256, self.record["data"]["sha256"])
        return data

    @ours_alone()
    def summary(self) -> pd.DataFrame:
        """One row per scalar: mean, sd, HDI, Monte Carlo errors, ESS, R-hat; what applies."""
        from inference.results import inference_data

        table = inference_data.summary(self.idata)
        known = self.record["exact"]
        return inference_data.with_truth(table, known) if known else table

    @cached_property
    def exact(self) -> Any:
        """The exact truth; None where it is not known, or the model or the data are gone."""
        if "posterior" not in self.idata.groups():
            return None
        try:
            known = self.entry.exact
            return known(self.data, **self.record["options"]) if known is not None else None
        except Fault:
            return None

    def plots(self) -> list[str]:
        """The kinds that `plot` can draw for this run."""
        from inference.show import plots

        return [*plots.available(self.idata), *self._own_figures]

    @property
    def _own_figures(self) -> Mapping[str, Callable]:
        """The model's own figures, where the model is to be had."""
        try:
            return self.entry.results.figures
        except Fault:
            return {}

    @ours_alone()
    def plot(self, kind: str) -> Figure:
        """A figure: one of `plots()`.

        Raises:
            UsageError: no such figure, or one that this result cannot fill.
        """
        from inference.show import plots, style

        if kind not in self.plots():
            raise UsageError(f"there is no plot '{kind}' here; {nearest(kind, self.plots())}")
        if kind in self._own_figures:
            figure = self._own_figure(kind)
            if figure is None:
                raise UsageError(f"the plot '{kind}' is not for these data")
            return style.shown(figure)
        return plots.PLOTS[kind][0](self.idata, self.exact)

    def _own_figure(self, kind: str) -> Figure | None:
        """A figure of the model's own; None where it is not for these data."""
        from inference.results import inference_data

        options = self.record["options"]
        view = inference_data.view(self.data, self.idata, self.params, options, self.metrics)
        return self._own_figures[kind](view)

    @checked
    @alone()
    def predict(self, data: Any = None, *, rows: int = 1) -> pd.DataFrame:
        """Predictions for new rows: mean, sd and 94 % interval of each new observation.

        Args:
            data: as for `run`, without what is to be predicted (if given, it is not looked at).
            rows: number of new rows, for models whose only data is what they predict.

        Returns:
            A table with a row `y[0]`, `y[1]` ... each: mean, sd, hdi_low, hdi_high; of several
            classes label, probability, entropy, mutual_information, and the chance of each.

        Raises:
            Fault: data that the prediction needs are missing or cannot be coded as the run's.
            UsageError: a number of rows that is none.
        """
        _must_be_counts(1, rows=rows)
        return _predict(self, data, rows)

    @checked
    @alone()
    def evidence(
        self,
        data: Any = None,
        *,
        rows: int | None = None,
        particles: int = 5000,
        annealed: int = 0,
        gaps: int = 0,
        seed: int = 0,
        progress: bool = False,
    ) -> pd.DataFrame:
        """log p(x) of each row under an svi run whose guide has an encoder, and what that costs.

        Args:
            data: rows, as for `predict`; default those that the run held out.
            rows: the first so many (None: all).
            particles: draws of each row for importance sampling.
            annealed: so many of the first rows by annealed importance sampling too.
            gaps: for so many of the first rows what the ELBO falls short of log p(x) by: because
                of its normals, and because one encoder serves all rows.
            seed: of the draws.
            progress: whether to show progress bars.

        Returns:
            A row for each of the rows, nats: `log_p`, `error`, `elbo`, `khat`; where asked
            `annealed`, `annealed_error`, `elbo_normal`, `approximation`, `amortisation`.

        Raises:
            Refused: the rows of this model have no latents of their own, or no encoder.
            Fault: the run held no rows out, and none are given.
        """
        from inference.rows import evidence

        _must_be_counts(1, rows=rows)
        _must_be_counts(2, particles=particles)
        _must_be_counts(0, annealed=annealed, gaps=gaps)
        effort = evidence.Effort(particles=particles, annealed=annealed, gaps=gaps)
        context = Context(progress=progress)
        with _encoder_of(self, data, rows) as (problem, guide, some):
            return evidence.table(problem, guide, some, effort, seed=seed, context=context)

    @checked
    @alone()
    def encode(
        self, data: Any = None, *, rows: int | None = None, draws: int = 200, seed: int = 0
    ) -> pd.DataFrame:
        """The latents of each row, as the encoder of an svi run sees them: codes, and classes.

        Args:
            data: rows, as for `predict`; default those that the run held out.
            rows: the first so many (None: all).
            draws: of each row's latents, where the guide does not know means and sds itself.
            seed: of the draws.

        Returns:
            A row for each of the rows: `z[0]` (mean) and `sd z[0]` of each element of a latent;
            of a class that the encoder guesses (`guess`) the most probable, and `p[guess=0]`, ...

        Raises:
            Refused: the rows of this model have no latents of their own, or no encoder.
            Fault: the run held no rows out, and none are given.
        """
        from inference.rows import codes

        _must_be_counts(1, rows=rows)
        _must_be_counts(2, draws=draws)
        with _encoder_of(self, data, rows) as (problem, guide, some):
            return codes.table(problem, guide, some, draws=draws, seed=seed)

    @ours_alone()
    def loo(self) -> Any:
        """Leave-one-out as ArviZ's `ELPDData`, for `az.compare({"a": a.loo(), "b": b.loo()})`.

        `az.loo(run.idata)` weights the draws of an approximation as those of the posterior, and
        is NaN where a row is certain (all its log likelihoods are zero up to rounding).

        Returns:
            `elpd_loo`, `se` (over rows), `mcse` (of the draws; NaN where it is not known),
            `p_loo`, `loo_i` by row, `pareto_k` by row unless it is in closed form, `good_k`,
            `n_samples`, `n_data_points`, `scale`, `warning`.

        Raises:
            Refused: the run has none; says why.
        """
        from inference.results import loo

        if "loo" not in self.idata.groups():
            raise Refused(self.verdict.trust["loo"].because or "the run has no elpd_loo")
        return loo.elpd_data(self.idata, self.metrics)

    @checked
    @ours_alone()
    def save(self, out: str | Path = "runs") -> Path:
        """Write the run in a folder of its own under `out`, with its pictures; returns it."""
        from inference.results import inference_data
        from inference.storage import store

        given = self._source
        if given is None and self.path is not None:
            given = _data_kept(self.path)
        kept = store.arrays_of(given)
        with store.begin(Path(out), self.record["name"], self.record, kept) as place:
            self.record["run"] = str(place.path)
            place.write(
                self.record,
                netcdf=inference_data.netcdf(self.idata),
                params=self.params,
                pictures=True,
            )
            place.add_figures(self._pictures())
        return place.path

    def _pictures(self) -> dict[str, Figure]:
        """All pictures of a run that is done; one that cannot be drawn costs a warning."""
        pictures = {}
        for kind in self.plots() if self.record["status"] == "done" else ():
            try:
                own = kind in self._own_figures
                figure = self._own_figure(kind) if own else self.plot(kind)
                if figure is not None:
                    pictures[kind] = figure
            except Exception as error:
                what = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                warnings.warn(
                    f"the picture '{kind}' could not be drawn ({what})", ZooWarning, stacklevel=2
                )
        return pictures

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        kept = ("model", "method", "guide", "seed", "run", "verdict", "metrics", "timing")
        kept += ("point", "options", "settings")
        data = {key: self.record["data"][key] for key in ("source", "n", "sha256", "notes")}
        record = {key: self.record.get(key) for key in kept}
        return {**record, "data": data, "summary": _rows_of(self.summary())}

    @property
    def _title(self) -> str:
        words = (self.record[key] for key in ("model", "method", "guide"))
        name = " ".join(Path(word).stem for word in words if word)
        return f"{name}, {self.verdict.status}: {self.verdict.headline}"

    def __repr__(self) -> str:
        return "\n".join([self._title, *self.verdict.reasons, self.summary().to_string()])

    def _repr_html_(self) -> str:
        from inference.core.html import filled, frame

        template = "<p><b>{{ title }}</b></p><ul>{% for one in reasons %}<li>{{ one }}</li>"
        template += "{% endfor %}</ul>{{ summary }}"
        reasons, summary = self.verdict.reasons, frame(self.summary())
        return filled(template, title=self._title, reasons=reasons, summary=summary)


def _rows_of(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    return {
        str(k): {c: float(v) for c, v in row.items() if math.isfinite(v)}
        for k, row in table.iterrows()
    }


@checked
@alone()
def run(
    model: str | Path | Callable | models.Entry,
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
        model: a model's name, the path of a file with a Pyro function `model`, or such a function.
        method: one of `inference.METHODS`; default nuts, or svi where a guide is given.
        guide: a guide's name (`lowrank:5` with its argument), the path of a file with a Pyro
            function `guide`, or such a function; for svi.
        data: a data set's name, a file, a DataFrame, or a mapping of data keys to values; where
            the model needs one key (the coin), a list or array will do. Default the model's.
        target: column of a table that is the target.
        features: columns of a table that are the features: a list, or separated by commas.
        seed: seed of all that is random, except the data.
        out: folder to save the run in; None does not save.
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
    """
    started = time.perf_counter()
    how = _How(progress=progress, callbacks=_checked(callbacks))
    plan = _plan(
        model,
        method=method,
        guide=guide,
        data=data,
        columns=_columns(target, features),
        seed=seed,
        device=device,
        settings=settings,
        init=init,
    )
    return _carried_out(plan, how, started, out)


@checked
@alone()
def resume(
    folder: str | Path,
    *,
    model: str | Path | Callable | models.Entry | None = None,
    guide: str | Path | Callable | None = None,
    data: Any = None,
    progress: bool = False,
    callbacks: Sequence[Callback] = (),
    jobs: int = 1,
) -> Run | Calibration:
    """Continue a run that was interrupted, killed or failed: to the draws it would have had.

    Chains of nuts that had come to their end are kept, svi goes on from its last window, a
    calibration from its last fit. What is done is loaded.

    Args:
        folder: the run's folder.
        model: the model, where it was given in Python; it must be the same.
        guide: the guide, likewise.
        data: the data, where they were given in Python and are not kept.
        progress, callbacks: as for `run`.
        jobs: fits at once, of a calibration.

    Raises:
        Fault: no run there, or a damaged one; another model, other data or other libraries than
        the run's; it is running. Otherwise as `run`.
    """
    how = _How(progress=progress, callbacks=_checked(callbacks), jobs=jobs)
    return _resumed(Path(folder), {"model": model, "guide": guide, "data": data}, how)


@checked
@alone()
def compare(
    *what: str | Path | Callable | models.Entry | Run,
    methods: str | Sequence[Any] | None = None,
    vary: str | Mapping[str, Sequence[Any]] | None = None,
    sizes: str | Sequence[int] | None = None,
    data: Any = None,
    target: str | None = None,
    features: str | Sequence[str] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "cpu",
    init: str | Path | Run | None = None,
    progress: bool = False,
    jobs: int = 1,
    **settings: Any,
) -> Table:
    """Several methods on one model, or runs that are there, in one table.

    The same data, split and seed for all. Each is held against the exact posterior, or else the
    NUTS run that passes its verdict. What is refused is a row with its reason.

    Args:
        what: a model as for `run`; or runs: `Run` objects, or folders of saved ones.
        methods: such as `map,svi:mvn,nuts`, or a list, in which (`svi`, a Pyro function) will do;
            default `mle,map,laplace,svi:normal,svi:mvn,nuts,exact`.
        vary: a setting and its values, `prior_scale=0.1,1,10`: prior sensitivity.
        sizes: numbers of rows, `2,10,100`: the estimates as data grow, instead of the comparison.
        data, target, features, seed, device, init, progress: as for `run`.
        out: folder in which the runs and the comparison are saved; None saves nothing.
        jobs: runs at once; above 1 they disturb each other's times.
        settings: as for `run`; each method takes those that it knows.

    Returns:
        A DataFrame: a `Comparison`, or, with sizes, a row for each estimate of each parameter.

    Raises:
        UsageError, Fault: as `run`, for what concerns all methods; different data.
    """
    from inference.workflow import study

    common = {"data": data, "columns": _columns(target, features)}
    common |= {"seed": seed, "device": device, "settings": settings}
    if any(isinstance(one, Run) or _is_run(one) for one in what):
        idle = {"methods": methods, "vary": vary, "sizes": sizes, "data": data, "init": init}
        idle |= settings
        _must_be_idle(idle, "runs that are there are compared as they are")
        return _kept(_runs_compared(_loaded(what)), out)
    if len(what) != 1:
        raise UsageError("compare takes one model, or folders of runs; see `zoo.py list runs`")
    if sizes is not None:
        _must_be_idle({"vary": vary, "init": init}, "--sizes shows estimates as the data grow")
        return _kept(_grown(what[0], sizes, methods, common, progress), out)
    common["init"] = init
    table = _methods_compared(what[0], study.jobs(methods, vary), common, progress, out, jobs)
    return _kept(table, out)


@checked
@alone()
def check(
    model: str | Path | Callable | models.Entry,
    *,
    guide: str | Path | Callable | None = None,
    data: Any = None,
    target: str | None = None,
    features: str | Sequence[str] | None = None,
    seed: int = 0,
    **settings: Any,
) -> Checked:
    """Is the model sound? Shapes, plates, priors, density, gradient, guide and predictions.

    Args:
        model, data, target, features: as for `run`.
        guide: a guide to check, as for `run`; default the model's own.
        seed: seed of the draws at which the model is looked at.
        settings: options of model and data by name.

    Returns:
        The list of checks: `.ok`, `.checks`, `.crosses`; each cross says what, where and a mend.

    Raises:
        UsageError, Fault: as `run`, for a model, data or settings that cannot be read.
    """
    from inference.checks import check
    from inference.core import machine
    from inference.program import prepare

    entry, name = _entry(model, settings)
    homes = _homes(entry)
    shares = _settings.share_out(settings, homes)
    options = {k: s.default for k, s in homes["model"].items()} | shares["model"]
    columns = _columns(target, features)
    given = _data(entry, data, shares["data"] | {k: v for k, v in columns.items() if v})
    asked = entry.identified and "dtype" not in shares["data"]
    with machine.numbers("float64" if asked else given.dtype):
        chosen = None if guide is None else _guide(entry, guide, options, given.dtype)
        found = check.check(prepare.unprepared(entry, options, given), seed=seed, guide=chosen)
    return replace(found, model=name, data=given.source)


@checked
@alone()
def gradients(
    model: str | Path | Callable | models.Entry,
    *,
    draws: int = 1000,
    data: Any = None,
    target: str | None = None,
    features: str | Sequence[str] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = False,
    **settings: Any,
) -> Table:
    """How noisy a network's gradients are: REINFORCE, baseline, reparameterised, local.

    Their variance by layer, at the same parameters (a mean field trained for `steps`) and for the
    same batch. Of a model whose own guides estimate one bound (`resnet`), these, with their bias.

    Args:
        model, data, target, features, seed, out, progress: as for `compare`.
        draws: gradients of each estimator.
        settings: options of model and data, and of svi (`steps`, `lr`, `batch_size`).

    Returns:
        A DataFrame, a row for each layer and estimator; its figure is `gradients`.

    Raises:
        UsageError, Fault: as `run`; Refused: the model has no layers.
    """
    from inference.workflow import execute

    if draws < 10:
        raise UsageError(f"--gradients {draws} tells no variance; give 10 or more, such as 1000")
    columns = _columns(target, features)
    entry, _ = _entry(model, settings)
    plan = _plan(
        model,
        method="svi",
        guide=[*entry.inference.estimators, "local"][0],
        data=data,
        columns=columns,
        seed=seed,
        device="cpu",
        settings={"steps": _GRADIENT_STEPS, **settings},
    )
    return _kept(execute.gradients(plan, Context(progress=progress), draws), out)


# Steps of training before gradients are looked at, where none are asked for.
_GRADIENT_STEPS = 2000


@checked
@ours_alone()
def report(*runs: str | Path | Run, out: str | Path | None = None) -> str:
    """One HTML page of several runs: verdicts first, then comparison, pictures, settings.

    Args:
        runs: `Run` objects, or folders of saved ones; those of the same data are compared. What
            has no result (yet), or is no single run, is left out.
        out: file to write, `.html`; None writes nothing.

    Returns:
        The page; it needs no other file and no network.

    Raises:
        UsageError: no runs, or a file of another kind. Fault: a run that cannot be read.
    """
    from inference.results import comparison
    from inference.show import report
    from inference.storage import store

    if not runs:
        raise UsageError("a report needs runs; see `zoo.py list runs`")
    if out is not None and Path(out).suffix not in (".html", ".htm"):
        raise UsageError(f"--out {out} is no .html; name it so")
    if out is not None:
        store.check_folder(Path(out).absolute().parent)
    loaded = _loaded([one for one in runs if not _has_no_result(one)])
    if not loaded:
        raise UsageError("none of these is a run with a result; see `zoo.py list runs`")
    named = dict(zip(comparison.labels([run.record for run in loaded]), loaded))
    alike: dict[str, dict[str, Run]] = {}
    for label, run in named.items():
        if _has_posterior(run):
            alike.setdefault(run.record["data"]["sha256"], {})[label] = run
    tables = [_compared(part) for part in alike.values() if len(part) > 1]
    pictures = {label: store.pictures(run.path) for label, run in named.items()}
    page = report.report(named, tables, pictures)
    if out is not None:
        store.write_text(Path(out), page)
    return page


@checked
def load(
    folder: str | Path,
    *,
    model: str | Path | Callable | models.Entry | None = None,
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
    """
    from inference.results import inference_data
    from inference.results.diagnostics import Answer, Verdict
    from inference.storage import store

    folder = Path(folder)
    record = store.record(folder)
    findings = [
        Finding(**{k: tuple(v) if isinstance(v, list) else v for k, v in finding.items()})
        for finding in record["findings"]
    ]
    given = {purpose: Answer(*found) for purpose, found in record.get("given", {}).items()}
    asked = record["data"]["asked"]["options"]
    entry = None if model is None else _entry(model, asked)[0]
    if entry is not None:
        _must_be_same("model", models.fingerprint(entry.model), record["model_sha256"])
    for what, one in (("model", model), ("guide", guide)):
        _must_be_of(what, one, record)
    return Run(
        record=record,
        idata=inference_data.read(folder / "idata.nc"),
        verdict=Verdict(record["verdict"]["status"], tuple(findings), given),
        params=store.read_params(folder),
        _entry=entry,
        _guide=guide,
    )


# -- a run in its folder ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _How:
    """What a run shows while it goes on, and what it leaves out; none of it changes its numbers.

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


def _checked(callbacks: Sequence[Callback]) -> Sequence[Callback]:
    for one in callbacks:
        if not isinstance(one, Callback):
            raise UsageError(f"{type(one).__name__} is no callback; derive it from zoo.Callback")
    return callbacks


def _carried_out(plan: Plan, how: _How, started: float, out: str | Path | None) -> Run:
    """The planned run, in a folder of its own if `out` is given."""
    from inference.storage import store

    record = _begun(plan)
    if out is None:
        context, told = _context(plan, how)
        with _ending(told) as ended:
            ended.append(_executed(plan, context, record, started))
        return ended[0]
    kept = store.arrays_of(plan.asked["source"])
    with store.begin(Path(out), record["name"], record, kept) as place:
        return _in_place(plan, how, started, place)


def _context(plan: Plan, how: _How, place: Any = None) -> tuple[Context, Callbacks]:
    """Where the run computes, and all that is told of it."""
    told = Callbacks([*([place.journal] if place else []), *how.callbacks])
    state = {"state": place.state} if place else {}
    context = Context(progress=how.progress, device=plan.device, callbacks=told, **state)
    return context, told


def _executed(plan: Plan, context: Context, record: Mapping[str, Any], started: float) -> Run:
    from inference.workflow import execute

    found = execute.execute(plan, context, record, started)
    source = plan.asked["source"]
    return Run(**found._asdict(), _entry=plan.entry, _data=plan.data, _source=source)


def _in_place(plan: Plan, how: _How, started: float, place: Any) -> Run:
    """The planned run in its folder: computed, saved, shown, and last its pictures."""
    from inference.results import inference_data

    context, told = _context(plan, how, place)
    with _ending(told) as ended:
        run = _executed(plan, context, place.record, started)
        run.record["run"] = str(place.path)
        if place.spent:
            run.record["timing"]["fit_s"] += place.spent
            run.record["timing"]["earlier_s"] = place.spent
        ended.append(run)
        try:
            netcdf = inference_data.netcdf(run.idata)
            place.write(run.record, netcdf=netcdf, params=run.params, pictures=how.figures)
        finally:
            how.show(run)  # also where there is no room to save it
        if how.figures:
            place.add_figures(run._pictures())
    return run


@contextmanager
def _ending(told: Callbacks) -> Iterator[list[Run]]:
    """Tells of the end, with the run if there is one by then."""
    ended: list[Run] = []
    try:
        yield ended
    finally:
        told.on_end(ended[0] if ended else None)


def _resumed(folder: Path, given: Mapping[str, Any], how: _How) -> Run | Calibration:
    """The run or the calibration of a folder, carried to its end."""
    from inference.storage import store

    begun = store.begun(folder)
    calibration = "calibration" in begun
    if begun["status"] != "done":
        with store.reopen(folder) as place:
            if place.record["status"] == store.DRAWING:
                return _drawn(place, given, how)
            if place.record["status"] != "done":  # nor did another process end it meanwhile
                again = _calibration_resumed if calibration else _run_resumed
                return again(place, given, how)
    if calibration:
        return _calibration_of(folder)
    run = load(folder, model=given["model"], guide=given["guide"])
    how.show(run)
    return run


def _drawn(place: Any, given: Mapping[str, Any], how: _How) -> Run:
    """The run of a folder that has all but its pictures, drawn."""
    run = load(place.path, model=given["model"], guide=given["guide"])
    how.show(run)
    run.record["status"] = "done"
    place.add_figures(run._pictures())
    return run


def _run_resumed(place: Any, given: Mapping[str, Any], how: _How) -> Run:
    started = time.perf_counter()
    plan, fresh = _same_plan(place.record, _asked_of(place.record, given))
    place.record |= {name: fresh[name] for name in _FILES_OF_RECORD}
    return _in_place(plan, how, started, place)


# What of a record may be another when it goes on: the same file may lie elsewhere.
_FILES_OF_RECORD = ("model", "model_in_python", "guide", "guide_in_python", "files_of")


def _same_plan(record: Mapping[str, Any], asked: Mapping[str, Any]) -> tuple[Plan, dict[str, Any]]:
    """What a run was asked for, planned again, and its record; it must be the same run.

    Raises:
        Fault: model, guide, data or libraries are not those of the run, naming both.
    """
    from inference.core import machine

    for name, now in machine.versions(machine.OF_DRAWS).items():
        if record["versions"].get(name) != now:
            raise BadInput(
                f"the run was begun with {name} {record['versions'].get(name)}, here is {now}: "
                "its draws would not be those of either; install that one, or run it again"
            )
    plan = _plan(**asked)
    fresh = _begun(plan)
    files, then = fresh["files_of"], record.get("files_of", fresh["files_of"])
    for what in ("model", "guide"):
        _must_be_same(what, fresh[f"{what}_sha256"], record[f"{what}_sha256"])
        _must_be_same(what, files.get(what), then.get(what))
    _must_be_same(f"data ({plan.data.source})", plan.data.sha256, record["data"]["sha256"])
    if record.get("init"):
        _must_be_same("run of --init", fresh["init"]["sha256"], record["init"]["sha256"])
    return plan, fresh


def _asked_of(record: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What `_plan` was asked for, by a run's record and what is given in place of it."""
    options = dict(record["data"]["asked"]["options"])
    columns = {name: options.pop(name, None) for name in ("target", "features")}
    kept = {"model": _model_of, "guide": _guide_of, "data": _source_of}
    return {
        **{k: given[k] if given[k] is not None else of(record) for k, of in kept.items()},
        "method": record["method"],
        "columns": columns,
        "seed": record["seed"],
        "device": record["device"],
        "settings": {**options, **record["options"], **record["settings"]},
        "init": (record.get("init") or {}).get("run"),
    }


def _must_be_same(what: str, now: Any, then: Any) -> None:
    """Refuse what is not the run's own, by hashes, or by files and theirs.

    Raises:
        Fault: naming what differs.
    """
    if now != then:
        raise BadInput(
            f"the {what} changed since the run ({_differing(now, then)}); "
            "put the old back, or run it again"
        )


def _must_be_of(what: str, given: Any, record: Mapping[str, Any]) -> None:
    """Refuse a file that says something else than the run's did; older records say nothing."""
    if "files_of" in record and isinstance(given, str | Path) and str(given).endswith(".py"):
        _must_be_same(what, models.trees(given), record["files_of"].get(what))


def _differing(now: Any, then: Any) -> str:
    """What differs, in words: the files, or both hashes."""
    if isinstance(now, Mapping) and isinstance(then, Mapping):
        return ", ".join(sorted(k for k in {*now, *then} if now.get(k) != then.get(k)))
    return f"sha256 {str(now)[:8]}, the run's {str(then)[:8]}"


def _model_of(record: Mapping[str, Any]) -> str:
    if record["model_in_python"]:
        raise BadInput(
            f"the model of this run ({record['model']}) was given in Python; give it again: "
            "model=..."
        )
    return _trusted(record, "model")


def _guide_of(record: Mapping[str, Any]) -> str | None:
    if record["guide_in_python"]:
        raise BadInput(
            f"the guide of this run ({record['guide']}) was given in Python; give it again: "
            "guide=..."
        )
    return _trusted(record, "guide")


def _trusted(record: Mapping[str, Any], what: str) -> str | None:
    """The model or guide that a record names; a file only as this user has run it.

    Whoever wrote the record chose the file, and importing it runs it.

    Raises:
        BadInput: the run is another's, or the file, or one beside it, has changed.
    """
    name = record[what]
    if name is None or not name.endswith(".py"):
        return name
    if not record.get("signed"):
        raise BadInput(
            f"the run was not made by you here, and its {what} {name} would run on your machine; "
            f"if you know that file, name it: --{what} {name}"
        )
    _must_be_of(what, name, record)
    return name


def _data_kept(folder: Path) -> dict[str, Any] | None:
    """Data that were given in Python, name to number or array; None if none are kept.

    Raises:
        BadInput: the file is damaged, or would not fit into memory.
    """
    from inference.storage import store
    from models.data.columns import read_columns

    path = folder / store.DATA
    columns = read_columns(path) if path.is_file() else None
    return columns and {k.removeprefix(store.KEY): value for k, value in columns.items()}


def _source_of(record: Mapping[str, Any]) -> Any:
    """What the data of a run are read from: their source, or the run's folder."""
    asked = record["data"]["asked"]
    if not asked["in_python"]:
        return asked["source"]
    kept = _data_kept(Path(record["run"])) if record.get("run") else None
    if kept is None:
        raise BadInput(
            "the data of this run were given in Python and are not kept; give them again: data=..."
        )
    return kept


# -- many runs --------------------------------------------------------------------------------


def _is_run(one: Any) -> bool:
    from inference.storage import store

    named = isinstance(one, str | Path) and (Path(one) / "run.json").is_file()
    return named and not (Path(one) / store.FITS).exists()


def _is_study(one: Any) -> bool:
    """Whether it is the folder of a comparison or a calibration, which lie among the runs."""
    from inference.storage import store

    if not isinstance(one, str | Path) or _is_run(one):
        return False
    return any((Path(one) / name).is_file() for name in ("table.csv", store.FITS))


def _has_no_result(one: Any) -> bool:
    """Whether it is the folder of a run that failed, or was stopped, before it had a result."""
    from inference.storage import store

    return not isinstance(one, Run) and _is_run(one) and "verdict" not in store.begun(Path(one))


def _loaded(what: Sequence[Any]) -> list[Run]:
    return [one if isinstance(one, Run) else load(one) for one in what if not _is_study(one)]


def _has_posterior(run: Run) -> bool:
    return "posterior" in run.idata.groups()


def _must_be_idle(options: Mapping[str, Any], why: str) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise UsageError(f"{why}, {given[0]} would have no effect; leave it out")


def _runs_compared(runs: Sequence[Run]) -> Table:
    from inference.results import comparison

    for run in runs:
        if not _has_posterior(run):
            raise UsageError("a run of the prior gives no posterior to compare; leave it out")
    return _compared(dict(zip(comparison.labels([run.record for run in runs]), runs)))


def _methods_compared(
    model: Any,
    jobs: Sequence[Any],
    common: Mapping[str, Any],
    progress: bool,
    save_in: str | Path | None,
    workers: int,
) -> Table:
    """Every job on one model; all plans are made before the first is run."""
    from inference.results import comparison
    from inference.show import overlays
    from inference.workflow import study

    asked = _asked(model, jobs, common)
    plans = {label: _planned(one) for label, one in asked.items()}
    sound = {label: plan for label, plan in plans.items() if isinstance(plan, Plan)}
    comparison.check_same_data({k: {"data": _data_said(plan.data)} for k, plan in sound.items()})
    if workers == 1:
        begin = partial(_begin, progress=progress, save_in=save_in)
        done = study.attempt(plans, begin, progress=progress)
    else:
        done = _at_once(asked, plans, save_in, workers)
    runs = {label: one for label, one in done.items() if isinstance(one, Run)}
    stopped = study.stopped_by(done.values())
    if not runs and stopped:
        raise Stopped(stopped)
    if not runs:
        raise Refused(f"no method ran, the first because: {next(iter(done.values()))}")
    table = _compared(done)
    table.signal = stopped
    shown = study.sensitivity(table.parameters, jobs, runs)
    if len(shown):
        table.notes += study.moved(shown)
        table.pictures["sensitivity"] = partial(overlays.sensitivity, shown)
    return table


def _data_said(data: models.Data) -> dict[str, Any]:
    return {"source": data.source, "n": data.n, "sha256": data.sha256}


def _at_once(
    asked: Mapping[str, Any], plans: Mapping[str, Any], save_in: Any, workers: int
) -> dict[str, Any]:
    """Label to run or fault, several at once: each is planned anew in a process of its own."""
    from importlib import import_module

    from inference.core.jobs import each
    from inference.core.signals import listening

    # By the module's name: what belongs to `__main__` is not known in another process.
    remote = partial(import_module("zoo")._remote, save_in=save_in)
    labels, done = list(plans), {}
    with listening() as heard:
        for i, one in each(remote, asked.values(), workers, heard):
            plan = plans[labels[i]]
            made = isinstance(one, dict)
            done[labels[i]] = Run(**one, _entry=plan.entry, _data=plan.data) if made else one
    left = Interrupted("not run, or interrupted before it had a result; run it again")
    left.signal = heard.signal
    if heard.signal:
        done = {k: v for k, v in done.items() if isinstance(v, Run | Refused)}
    return {label: done.get(label, left) for label in labels}


@alone()
def _remote(asked: Mapping[str, Any], save_in: Any) -> Any:
    """What makes up the run, without the functions that another process would not know."""
    from inference.workflow import study

    plan = _planned(asked)
    (run,) = study.attempt({"": plan}, partial(_begin, progress=False, save_in=save_in)).values()
    if not isinstance(run, Run):
        return run
    return {name: getattr(run, name) for name in ("record", "idata", "verdict", "params")}


def _begin(plan: Plan, *, progress: bool, save_in: str | Path | None = None) -> Run:
    """One of many runs; its pictures are left to the comparison."""
    how = _How(progress=progress, figures=False)
    return _carried_out(plan, how, time.perf_counter(), save_in)


def _asked(
    model: Any, jobs: Sequence[Any], common: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """What `_plan` is asked for by each job: of the settings, those that its method knows.

    Raises:
        BadSetting: a setting that no method knows, or one to vary that a method does not know.
    """
    given, (entry, name) = common["settings"], _entry(model, common["settings"])
    homes = {job.method: _homes(entry, _method(job.method)) for job in jobs}
    known = {m: {k for home in h.values() for k in home} for m, h in homes.items()}
    anywhere = sorted(set().union(*known.values()))
    for key in given:
        if key not in anywhere:
            near = nearest(key, anywhere)
            raise BadSetting(f"there is no setting '{key}' here; {near}")
    for job in jobs:
        for key in set(job.varied) - known[job.method]:
            if key not in anywhere:
                near = nearest(key, anywhere)
                raise BadSetting(f"{name} has no setting '{key}' to vary; {near}")
            having = ",".join(method for method, names in known.items() if key in names)
            raise BadSetting(
                f"{job.method} on {name} has no setting '{key}' to vary; choose --methods {having}"
            )
    asked = {}
    for job in jobs:
        own = {k: v for k, v in given.items() if k in known[job.method]} | dict(job.varied)
        chosen = {"model": model, "method": job.method, "guide": job.guide, "settings": own}
        asked[job.label] = {**common, **chosen}
    return asked


def _planned(asked: Mapping[str, Any]) -> Any:
    """The plan, or the refusal."""
    try:
        return _plan(**asked)
    except Refused as refusal:
        return refusal


def _compared(done: Mapping[str, Any]) -> Table:
    """The table and the pictures of runs, or of the faults that kept them from running."""
    from inference.core import machine
    from inference.results import comparison
    from inference.show import overlays, report, uncertainty

    runs = {label: one for label, one in done.items() if isinstance(one, Run)}
    keys = comparison.posterior_keys({label: run.record for label, run in runs.items()})
    rows = [_row(label, one, keys.get(label, "")) for label, one in done.items()]
    exact = dict.fromkeys(keys.values())
    for label, run in runs.items():
        exact[keys[label]] = exact[keys[label]] or _exact_of(run)
    with machine.numbers():
        table = comparison.compare(rows, exact, seed=next(iter(runs.values())).record["seed"])
    table.runs, table.html = dict(runs), report.comparison_html
    table.title = f"compare-{Path(next(iter(runs.values())).record['model']).stem}"
    results = {label: run.idata for label, run in runs.items()}
    truth = exact[next(iter(keys.values()))] if len(set(keys.values())) == 1 else None
    if all(run.record.get("identified", True) for run in runs.values()):
        table.pictures |= {
            "forest": partial(overlays.forest, results, truth),
            "overlay": partial(overlays.overlay, results, truth),
        }
    if any("held_out" in idata.groups() for idata in results.values()):
        table.pictures["calibration"] = partial(overlays.calibration, results)
    for kind in dict.fromkeys(k for idata in results.values() for k in uncertainty.kinds(idata)):
        table.pictures[kind] = partial(uncertainty.PICTURES[kind], results)
    return table


def _row(label: str, one: Any, key: str) -> Any:
    from inference.results import comparison

    if isinstance(one, Run):
        return comparison.Row(label=label, posterior=key, record=one.record, idata=one.idata)
    status = "refused" if isinstance(one, Refused) else "failed"
    status = "interrupted" if isinstance(one, Interrupted) else status
    return comparison.Row(label=label, posterior=key, reason=str(one), status=status)


def _exact_of(run: Run) -> Any:
    """The exact truth where it can be had: a run loaded may have lost its data."""
    try:
        return run.exact
    except Fault:
        return None


def _kept(table: Table, out: str | Path | None) -> Table:
    """The table, with its pictures saved under `out`, if that is given."""
    from inference.storage import store

    if out is None:
        return table
    stamp = time.strftime("%Y%m%d-%H%M%S")
    tables = {"table": table, "parameters": getattr(table, "parameters", None)}
    figures = {kind: table.figure(kind) for kind in table.figures()}
    kept = {k: t for k, t in tables.items() if t is not None}
    path = store.save_tables(Path(out), f"{table.title}-{stamp}", kept, figures)
    table.notes.append(f"saved in {path}")
    return table


def _grown(
    model: Any, sizes: Any, methods: Any, common: Mapping[str, Any], progress: bool
) -> Table:
    """The estimates from the first n rows of one sequence, and what each predicts of the next."""
    from inference.show import overlays
    from inference.workflow import study

    entry, name = _entry(model, common["settings"])
    whole = _sequence(entry, name, common, study.sizes(sizes, None)[-1])
    counts = study.sizes(sizes, whole.n)
    rows, notes = [], []
    for n in counts:
        part = _first_rows(whole, n)
        chosen = study.estimators(methods) or _estimators(entry, common["settings"], part)
        for job in study.jobs(chosen, None):
            (asked,) = _asked(model, [job], {**common, "data": part}).values()
            plan = {job.label: _planned(asked)}
            (run,) = study.attempt(plan, partial(_begin, progress=progress)).values()
            if study.stopped_by([run]):
                raise Stopped(study.stopped_by([run]))
            if isinstance(run, Run):
                rows += study.estimates(n, job.method, run.summary())
                rows += _next(run, whole, counts[-1])
            else:
                notes.append(f"n = {n}: {run}")
    table = study.growth(rows, notes)
    table.title = f"sizes-{Path(name).stem}"
    table.pictures["asymptopia"] = partial(overlays.asymptopia, table)
    return table


def _sequence(
    entry: models.Entry, name: str, common: Mapping[str, Any], largest: int
) -> models.Data:
    """All rows of a study of growing data, simulated unless they are given, and one more."""
    declared = _settings.declared(entry.data)
    given = {k: v for k, v in common["settings"].items() if k in declared}
    options = {k: _settings.check(declared[k], v) for k, v in given.items()}
    options |= {k: v for k, v in common["columns"].items() if v is not None}
    source = "simulate" if common["data"] is None else common["data"]
    if isinstance(source, str) and source == "simulate":
        if "n" not in declared:
            raise UsageError(f"{name} simulates no data that could grow; give --data")
        options["n"] = largest + 1
    whole = _data(entry, source, options)
    if whole.n is None:
        raise UsageError(f"the data of {name} have no rows that could grow; leave --sizes out")
    return whole


def _first_rows(data: models.Data, n: int) -> models.Data:
    tensors = {**data.tensors, **{key: data.tensors[key][:n] for key in data.rows.keys}}
    return replace(data, tensors=tensors, test=None, source=f"{data.source}, first {n} rows")


def _estimators(entry: models.Entry, settings: Mapping[str, Any], data: models.Data) -> list[str]:
    """MLE, MAP and the posterior, exact where the model knows it."""
    declared = _settings.declared(entry.model)
    options = {k: s.default for k, s in declared.items()}
    options |= {k: _settings.check(declared[k], v) for k, v in settings.items() if k in declared}
    known = entry.exact is not None and entry.inference.refuses("exact", options, data) is None
    return ["mle", "map", "exact" if known else "nuts"]


def _next(run: Run, whole: models.Data, at: int) -> list[dict[str, Any]]:
    """What the run predicts of the row after the sequence; none if it has no such row."""
    import torch

    from inference.core import machine
    from inference.program import prepare
    from inference.results import inference_data
    from inference.workflow import execute, study

    predicted = run.record["data"]["predicted"]
    if set(whole.rows.keys) <= set(predicted):
        at = 0  # any row: nothing of it is looked at
    if at >= whole.n or len(predicted) != 1:
        return []
    row = {key: whole.tensors[key][at : at + 1] for key in whole.rows.keys}
    known = run.exact.predictive.get(predicted[0]) if run.record["method"] == "exact" else None
    if known is not None:
        found = (float(known.mean()), math.nan, math.nan)
    else:
        draws = {k: torch.as_tensor(v) for k, v in inference_data.draws_of(run.idata).items()}
        with machine.numbers(run.data.dtype):
            problem = prepare.problem_of(run.entry, run.record["options"], run.data)
            problem = execute.fitted(problem, run.record, run.params)
            found = inference_data.next_row(problem, row, draws, run.record["seed"])
    return study.prediction(run.data.n, run.record["method"], predicted[0], found)


# -- is the inference calibrated --------------------------------------------------------------


@checked
@alone()
def calibrate(
    model: str | Path | Callable | models.Entry,
    sbc: int = 500,
    *,
    method: str | None = None,
    guide: str | Path | Callable | None = None,
    data: Any = None,
    target: str | None = None,
    features: str | Sequence[str] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = False,
    jobs: int = 1,
    **settings: Any,
) -> Calibration:
    """Simulation-based calibration: does the truth lie anywhere among the draws, equally often?

    Args:
        model, method, guide, target, features, seed, progress, settings: as for `run`.
        sbc: data sets to simulate and fit; what they show does not depend on `jobs`.
        data: the design: its covariates and rows are kept, what is observed is simulated. With
            the setting `n`, default the simulated data of that many rows, else the model's.
        out: folder to keep it in from the first fit on, so that `resume` can go on; None keeps
            nothing.
        jobs: fits at once.

    Raises:
        UsageError, Fault: as `run`; Refused: improper priors, or nothing to infer.
    """
    from inference.checks import calibration
    from inference.storage import store

    if sbc < calibration.FEWEST:
        raise UsageError(f"sbc={sbc}: {calibration.FEWEST} fits at least; some 500 tell something")
    asked = {
        "model": model,
        "method": method,
        "guide": guide,
        "data": _design(model, data, settings),
        "columns": _columns(target, features),
        "seed": seed,
        "device": "cpu",
        "settings": settings,
    }
    plan = _plan(**asked)
    if plan.method in ("prior", "mle", "map"):
        raise UsageError(f"{plan.method} gives no draws of a posterior; take another method")
    study = _Study(asked, plan, sbc, jobs, progress)
    if out is None:
        return _calibrated(study)
    begun = _begun(plan)
    record = {**begun, "name": f"calibration-{begun['name']}", "calibration": sbc}
    kept = store.arrays_of(asked["data"])
    with store.begin(Path(out), record["name"], record, kept) as place:
        return _calibrated_in(place, study)


@dataclass(frozen=True)
class _Study:
    """A calibration: what `_plan` is asked for, which another process plans anew, and how."""

    asked: Mapping[str, Any]
    plan: Plan
    n: int
    jobs: int = 1
    progress: bool = False


def _design(model: Any, data: Any, settings: Mapping[str, Any]) -> Any:
    """The source of the design: simulated rows where their number `n` is asked for."""
    entry, _ = _entry(model, settings)
    if data is None and "n" in settings and "n" in _settings.declared(entry.data):
        return "simulate"
    return data


def _calibrated_in(place: Any, study: _Study) -> Calibration:
    """A calibration in its folder, which goes on from the fits that are there."""
    from inference.storage import store

    began = time.perf_counter()
    found = {fit["i"]: fit for fit in store.lines(place.path / store.FITS)}
    place.restart(store.FITS, found.values())  # without a line that a kill cut short
    done = len(found)

    def keep(fit: Mapping[str, Any]) -> None:
        nonlocal done
        place.append(store.FITS, fit)
        done += 1
        place.journal.on_step({"step": done, "of": study.n})

    place.journal.on_start(place.record)
    table = _calibrated(study, found=found, keep=keep)
    verdict = {"status": table.verdict.status, "reasons": table.verdict.reasons}
    status = "interrupted" if table.signal else "done"
    timing = {"total_s": time.perf_counter() - began, "fits": done - len(found)}
    record = {**place.record, "status": status, "verdict": verdict, "timing": timing}
    place.write_tables(record, {"table": table}, {k: table.figure(k) for k in table.figures()})
    table.notes.append(f"saved in {place.path}")
    return table


def _calibrated(study: _Study, **kept: Any) -> Calibration:
    """The verdict on the method of a plan, over simulated data sets.

    Args:
        study: what to calibrate.
        kept: `found` and `keep` of `simulated.run`.
    """
    from importlib import import_module

    from inference.checks import calibration, simulated
    from inference.workflow import execute

    one, token = execute.simulated(study.plan).fit, str(time.time_ns())
    if study.jobs > 1:
        # By the module's name: what belongs to `__main__` is not known in another process.
        one = partial(import_module("zoo")._remote_fit, token, study.asked)
    fits, stopped = simulated.run(
        one, study.n, workers=study.jobs, progress=study.progress, **kept
    )
    if stopped and sum("rank" in fit for fit in fits) < calibration.FEWEST:
        raise Stopped(stopped)
    plan = study.plan
    names = {"model": plan.name, "method": plan.method, "guide": plan.guide}
    return _judged(names, plan.data.source, fits, study.n, stopped)


def _calibration_resumed(place: Any, given: Mapping[str, Any], how: _How) -> Calibration:
    _must_be_idle({"callbacks": how.callbacks or None}, "a calibration tells nobody")
    asked = _asked_of(place.record, given)
    plan, _ = _same_plan(place.record, asked)
    study = _Study(asked, plan, place.record["calibration"], how.jobs, how.progress)
    return _calibrated_in(place, study)


def _calibration_of(folder: Path) -> Calibration:
    """A calibration that is saved, judged again from its fits."""
    from inference.storage import store

    record = store.record(folder)
    names = {key: record[key] for key in ("model", "method", "guide")}
    fits = store.lines(folder / store.FITS)
    return _judged(names, record["data"]["source"], fits, record["calibration"], 0)


def _judged(
    names: Mapping[str, str | None],
    design: str,
    fits: Sequence[Mapping[str, Any]],
    n: int,
    stopped: int,
) -> Calibration:
    """The fits of a calibration as a table with its verdict and its picture."""
    from inference.checks import calibration
    from inference.show import overlays

    table = calibration.judge(fits, n)
    words = [Path(names["model"]).stem, names["method"], *_in_folder(names["guide"])]
    table.title, table.signal = "-".join(["calibration", *words]), stopped
    table.notes.append(f"design: {design}")
    table.pictures["ranks"] = partial(overlays.ranks, table, " ".join(words))
    return table


# In a worker process: the study that it works on, under the token of its call.
_studies: dict[str, Any] = {}


@alone()
def _remote_fit(token: str, asked: Mapping[str, Any], i: int) -> dict[str, Any] | None:
    """The i-th fit, in another process, which plans and records once for all of its fits."""
    from inference.workflow import execute

    if token not in _studies:
        _studies.clear()
        _studies[token] = execute.simulated(_plan(**asked))
    return _studies[token].fit(i)


# -- from what was asked to a result ----------------------------------------------------------


@checked
def _plan(
    model: str | Path | Callable | models.Entry,
    *,
    method: str | None,
    guide: str | Callable | None,
    data: Any,
    columns: Mapping[str, str | None],
    seed: int,
    device: str,
    settings: Mapping[str, Any],
    init: str | Path | Run | None = None,
) -> Plan:
    """What `run` was asked for.

    Raises:
        UsageError, Fault: as `run`.
    """
    from inference.core import machine

    entry, name = _entry(model, settings)
    method, guide = _first(entry, method, guide)
    function = _method(method)
    earlier = None if init is None else _earlier(init, entry)
    if earlier is not None:
        data, settings = _as_earlier(earlier, data, settings)
    shares = _share_out(entry, method, guide, function, settings)
    if earlier is not None:
        _must_have_options(earlier, shares["model"])
    options = shares["data"] | {k: v for k, v in columns.items() if v is not None}
    data = models.given(entry.model, data)
    given = _data(entry, data, options)
    placed = machine.device(device, method)
    reason = entry.inference.refuses(method, shares["model"], given)
    if reason:
        raise Refused(f"{method} is refused for {name}: {reason}")
    if "guide" in _settings.declared(function):
        shares["method"]["guide"] = _guide(entry, guide, shares["model"], given.dtype)
    elif guide is not None:
        raise UsageError(f"{method} takes no guide; leave --guide out, or use --method svi")
    return Plan(
        entry=entry,
        name=name,
        method=method,
        options=shares["model"],
        settings=shares["method"],
        data=given,
        asked={"source": data, "options": options},
        seed=seed,
        device=placed,
        model_in_python=not isinstance(model, str | Path),
        init=earlier and Learned(run=_folder_of(earlier), params=earlier.params),
    )


def _earlier(init: str | Path | Run, entry: models.Entry) -> Run:
    """The run whose parameters the next one takes; it must be of the same model."""
    run = init if isinstance(init, Run) else load(init)
    fresh = models.fingerprint(entry.model)
    _must_be_same("model", fresh, run.record["model_sha256"])
    return run


def _folder_of(run: Run) -> str | None:
    return None if run.path is None else str(run.path.resolve())


def _as_earlier(run: Run, data: Any, settings: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Data and settings; what is not given is that of an earlier run."""
    asked, own = run.record["data"]["asked"], dict(run.record["options"])
    if data is None:
        data, own = _source_of(run.record), {**asked["options"], **own}
    return data, {**own, **settings}


def _must_have_options(run: Run, options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        old = run.record["options"].get(name)
        if old != value:
            raise UsageError(
                f"{name}={value}, but the run of --init has {name}={old}; leave it out"
            )


def _first(
    entry: models.Entry, method: str | None, guide: str | Path | Callable | None
) -> tuple[str, Any]:
    """Method and guide, where they are not named those of the model's own choice."""
    first, _, own = entry.inference.first.partition(":")
    if method is None:
        method = first if guide is None else "svi"
    if guide is None and method == first and own:
        guide = own
    return method, guide


def _entry(
    model: str | Path | Callable | models.Entry, settings: Mapping[str, Any]
) -> tuple[models.Entry, str]:
    """The model and its name; a file is imported in the number type of the run (`dtype`)."""
    if isinstance(model, models.Entry):
        return model, Path(models.place(model.model).partition(",")[0]).stem
    if callable(model):
        entry = models.wrap(model)
        return entry, name_of(entry.model)
    name = str(model)
    if name not in models.names() and not name.endswith(".py"):
        known = nearest(name, models.names())
        raise UsageError(f"there is no model '{name}'; {known} (a file of yours ends in .py)")
    return models.load(name, settings.get("dtype", "float64")), name


def _method(name: str) -> Callable:
    if name not in inference.METHODS:
        raise UsageError(f"there is no method '{name}'; {nearest(name, inference.METHODS)}")
    return inference.method(name)


def _guide(
    entry: models.Entry,
    guide: str | Path | Callable | None,
    options: Mapping[str, Any],
    dtype: str,
) -> str | Callable:
    from inference.methods import guides

    if guide is None:
        return [*entry.inference.guides, *inference.GUIDES][0]
    if isinstance(guide, Path) or (isinstance(guide, str) and guide.endswith(".py")):
        keys = models.data_keys(entry.model)
        own = bound(models.load_guide(str(guide), keys, dtype), options)
        own.__name__ = str(guide)  # what the record says
        return own
    if isinstance(guide, str):
        guides.parse(guide, entry.inference.guides)  # a wrong name is told now
    return guide


def _homes(entry: models.Entry, function: Callable | None = None) -> dict[str, dict[str, Any]]:
    """Where a setting may belong: the model's options, the data's, the method's."""
    homes = {
        "model": _settings.declared(entry.model),
        "data": _settings.declared(entry.data),
        "method": _settings.declared(function) if function else {},
    }
    if entry.identified:
        homes["method"] = {k: s for k, s in homes["method"].items() if not s.of_networks}
    apart = {"data": ("target", "features"), "method": ("guide",)}
    return {
        home: {k: v for k, v in declared.items() if k not in apart.get(home, ())}
        for home, declared in homes.items()
    }


def _share_out(
    entry: models.Entry,
    method: str,
    guide: str | Path | Callable | None,
    function: Callable,
    given: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """What belongs to model, data and method; what is not given is the model's or the default."""
    homes = _homes(entry, function)
    shares = _settings.share_out(given, homes)
    shares["model"] = {k: s.default for k, s in homes["model"].items()} | shares["model"]
    defaults = {k: s.default for k, s in homes["method"].items()}
    for name in (method, f"{method}:{str(guide).partition(':')[0]}"):
        defaults |= entry.inference.settings.get(name, {})
    shares["method"] = defaults | shares["method"]
    return shares


def _columns(target: str | None, features: str | Sequence[str] | None) -> dict[str, str | None]:
    """The columns that are asked for, as they are recorded."""
    if isinstance(features, Iterable) and not isinstance(features, Set):
        features = features if isinstance(features, str) else models.join_names(features)
    elif features is not None:
        raise UsageError(f"features={features} are no names of columns; give such as ['a', 'b']")
    return {"target": None if target is None else str(target), "features": features}


def _data(entry: models.Entry, source: Any, options: Mapping[str, Any]) -> Any:
    known = _settings.declared(entry.data)
    for name in options:
        if name not in known:
            raise UsageError(f"this model's data take no --{name}; leave it out")
    if isinstance(source, models.Data):
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


def _begun(plan: Plan) -> dict[str, Any]:
    """What run.json holds of a run before it begins: how it is made, and made again."""
    from inference.core import machine

    stamp, stem = time.strftime("%Y%m%d-%H%M%S"), Path(plan.name).stem
    guide, given = plan.guide, plan.settings.get("guide")
    known = plan.entry.inference.guides.get(guide)
    own = given if callable(given) else known and known.function
    in_file = guide is not None and guide.endswith(".py")
    model_sha256, of_model = models.identity(plan.entry.model)
    guide_sha256, of_guide = models.identity(own) if callable(own) else (None, [])
    return {
        "id": secrets.token_hex(8),
        "name": "-".join([stem, plan.method, *_in_folder(guide), str(plan.seed), stamp]),
        "model": str(Path(plan.name).resolve()) if plan.name.endswith(".py") else plan.name,
        "model_sha256": model_sha256,
        "model_in_python": plan.model_in_python,
        "method": plan.method,
        "guide": str(Path(guide).resolve()) if in_file else guide,
        "guide_sha256": guide_sha256,
        "guide_in_python": callable(given) and not in_file,
        "unhashed": {"model": of_model, "guide": of_guide},
        "files_of": {
            **({"model": models.trees(plan.name)} if plan.name.endswith(".py") else {}),
            **({"guide": models.trees(guide)} if in_file else {}),
        },
        "seed": plan.seed,
        "device": plan.device,
        "options": recordable(plan.options),
        "settings": recordable({k: v for k, v in plan.settings.items() if k != "guide"}),
        "data": _data_asked(plan.data, plan.asked),
        "init": plan.init and {"run": plan.init.run, "sha256": plan.init.sha256},
        "versions": machine.versions(),
        "command": sys.argv,
    }


def _in_folder(guide: str | None) -> list[str]:
    """The guide as part of a folder's name: not every system allows a colon there."""
    return [Path(guide).stem.replace(":", "")] if guide else []


def _data_asked(data: models.Data, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a run as they were asked for."""
    source, in_python = asked["source"], not isinstance(asked["source"], str | Path | None)
    if data.source == str(source) and os.path.isfile(source):
        source = os.path.abspath(source)  # read again from wherever the run is loaded
    return {
        "source": data.source,
        "n": data.n,
        "sha256": data.sha256,
        "dtype": data.dtype,
        "notes": list(data.notes),
        "asked": {
            "source": None if in_python or source is None else str(source),
            "in_python": in_python,
            "options": recordable(asked["options"]),
        },
    }


def _predict(run: Run, source: Any, rows: int) -> pd.DataFrame:
    """The predictive distribution of new rows, summarised."""
    from inference.core import machine
    from inference.program import prepare
    from inference.workflow import execute

    _, keys = run.record["data"]["rows"] or (None, ())
    with machine.numbers(run.record["data"].get("dtype", "float64")):
        tensors = {}
        if any(key not in keys for key in run.record["data"]["shapes"]):
            tensors = {k: v for k, v in run.data.tensors.items() if k not in keys}
        if source is not None:
            tensors |= _new_rows(run, source)
        given = run.data if inspect.isclass(run.entry.model) else None
        model = prepare.instance(run.entry.model, given, run.record["options"])
        found = execute.Result(run.record, run.idata, run.verdict, run.params)
        return execute.predict(model, run.record, found, tensors, rows)


def _must_be_counts(least: int, **counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and not isinstance(count, Integral):
            raise UsageError(f"{name}={count} is no whole number; give {least} or more")
        if count is not None and count < least:
            raise UsageError(f"{name}={count} is too few; give {least} or more")


@contextmanager
def _encoder_of(
    run: Run, source: Any, rows: int | None
) -> Iterator[tuple[Problem, Any, dict[str, Tensor]]]:
    """The problem of a saved run, its guide, and rows for it; numbers are those of the run."""
    from inference.core import machine
    from inference.workflow import execute

    if run.record["method"] != "svi":
        raise UsageError(
            f"this is a run of {run.record['method']}, which has no encoder; give one of svi"
        )
    with machine.numbers(run.record["data"].get("dtype", "float64")):
        problem = execute.problem_of(run.entry, run.record["options"], run.data)
        problem = execute.fitted(problem, run.record, run.params)
        given = problem.test if source is None else _new_rows(run, source)
        if given is None:
            raise BadInput("the run held no rows out; give some (--data)")
        some = {key: given[key][:rows] for key in problem.rows[1]} if problem.rows else {}
        asked = run.record["options"], run.data.dtype
        guide = _guide_of(run.record) if run._guide is None else run._guide
        yield problem, _guide(run.entry, guide, *asked), some


def _new_rows(run: Run, source: Any) -> Mapping[str, Any]:
    """New data coded as the run's were; a built-in set's name, a file, or given in Python."""
    source = models.given(run.entry.model, source)
    if run.data.new_rows is not None:
        return dict(run.data.new_rows(source))
    return run.entry.data(source, **run.record["data"]["asked"]["options"]).tensors


# -- the command line -------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever called
            setattr(sys, name, io.StringIO())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows ASCII only
    try:
        os.getcwd()
    except FileNotFoundError:  # libraries end the process on this, with messages of their own
        return _fail("the current folder is gone; change to another", 66, False)
    with warnings.catch_warnings(), ours_alone(), _heeding(signal.SIGTERM, heed=_stop):
        warnings.showwarning = _warn
        return _guarded(argv)


@contextmanager
def _heeding(*numbers: int, heed: Callable[[int, Any], None]) -> Iterator[None]:
    """Signals are heeded so; only the main thread is told of any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, heed) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _: Any) -> NoReturn:
    raise Stopped(number)


def _leave(number: int, _: Any) -> NoReturn:
    """End on the spot: an import that is cut short by an exception ends in odd errors."""
    print("error: interrupted, nothing was saved; run it again", file=sys.stderr, flush=True)
    os._exit(128 + number)


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as a user of the command line reads it."""
    _say(f"warning: {message}", file=sys.stderr)


def _guarded(argv: list[str] | None) -> int:
    """The exit code of a command; what goes wrong in it becomes one line."""
    verbose = False
    try:
        arguments = _parsed(argv)
        verbose = arguments.verbose
        code = arguments.command(arguments) or 0
        sys.stdout.flush()
        return code
    except Fault as fault:
        return _fail(str(fault), fault.exit_code, verbose)
    except KeyboardInterrupt as stop:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another one now would end in a traceback
        what = str(stop) or "interrupted, nothing was saved; run it again"
        return _fail(what, 128 + getattr(stop, "signal", 2), verbose)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        return _fail(*_of_system(error), verbose)
    except Exception as error:
        what = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        return _fail(f"{what}; run with -v for the traceback", 70, verbose)


def _of_system(error: OSError) -> tuple[str, int]:
    """What the system says, with what to do about it, and the exit code."""
    full = error.errno in (errno.EMFILE, errno.ENFILE)
    where = error.filename or ("this process" if full else "standard output")
    what = f"{error.strerror or error}, {where}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{what}; make room", 74
    if full:
        return f"{what}; close some, or allow more (ulimit -n)", 74
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return f"{what}; check the name", 66
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{what}; name a folder that you may write to (--out, XDG_CACHE_HOME)", 73
    if str(error.filename).startswith(str(inference.core.caches.root())):
        return f"{what}; set XDG_CACHE_HOME to a folder that you may write to", 73
    return f"{what}; check the place", 74


class _Parser(argparse.ArgumentParser):
    """One that tells what is wrong in one line, as all else does."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def _parsed(argv: list[str] | None) -> argparse.Namespace:
    arguments, unknown = _parser().parse_known_args(argv)
    if unknown:
        options = [o for o in arguments.parser._option_string_actions if o.startswith("--")]
        known = nearest(unknown[0], options)
        raise UsageError(f"{arguments.verb} takes no {unknown[0]}; {known}")
    vars(arguments).update(held(vars(arguments)))
    return arguments


def _say(*words: str, file: Any = None, sep: str = " ") -> None:
    """Words for a person, of which none steers the terminal."""
    print(plain(sep.join(words)), file=file)


def _fail(message: str, code: int, verbose: bool) -> int:
    if verbose and sys.exc_info()[0] is not None:
        import traceback

        _say(traceback.format_exc(), file=sys.stderr)
    _say(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="zoo", description="Models of Bayesian deep learning, every inference on every model."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_looking(commands)
    _add_computing(commands)
    _add_using(commands)
    return parser


def _add_looking(commands: Any) -> None:
    """The commands that look around."""
    one = _command(commands, "list", _list, "what there is: models, methods, guides, data, runs")
    kinds = ("models", "methods", "guides", "data", "runs")
    one.add_argument("what", nargs="?", choices=kinds, default="models")
    one.add_argument("--out", default="runs", metavar="DIR", help="folder of runs")
    one.add_argument("--json", action="store_true", help="one JSON object on stdout")

    one = _command(commands, "show", _show, "a model's maths, options and methods, or a saved run")
    one.add_argument("name", metavar="MODEL|RUN")


def _add_computing(commands: Any) -> None:
    """The commands that infer."""
    one = _command(commands, "run", _run, "infer a model by a method")
    one.add_argument("model", metavar="MODEL", help="a name (see list) or a file of yours (.py)")
    one.add_argument(
        "--method", metavar="M", help=f"{', '.join(inference.METHODS)} (default nuts)"
    )
    one.add_argument("--guide", metavar="G", help="guide of svi (see list guides), or a file")
    one.add_argument("--init", metavar="RUN", help="take the model's own parameters from this run")
    _add_asked(one)
    one.add_argument("--strict", action="store_true", help="exit with 3 if the verdict is fail")

    one = _command(commands, "resume", _resume, "continue a run that was stopped or killed")
    one.add_argument("folder", metavar="RUN", help="the run's folder")
    _add_files(one, "model", "guide")
    one.add_argument("--strict", action="store_true", help="exit with 3 if the verdict is fail")
    one.add_argument("--jobs", type=int, default=1, metavar="W", help="fits at once, of check")
    _add_shown(one)

    one = _command(
        commands, "compare", _compare, "methods on one model, or saved runs, in a table"
    )
    one.add_argument("what", nargs="+", metavar="MODEL|RUN", help="one model, or folders of runs")
    one.add_argument("--methods", metavar="A,B:GUIDE,...", help="such as map,svi:mvn,nuts,exact")
    one.add_argument("--vary", metavar="KEY=A,B,...", help="a setting at several values")
    one.add_argument("--sizes", metavar="N,N,...", help="estimates as the data grow, instead")
    one.add_argument("--init", metavar="RUN", help="take the model's own parameters from this run")
    one.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once (default 1)")
    _add_asked(one)

    one = _command(
        commands, "check", _check, "is a model sound; with --sbc, is its inference calibrated"
    )
    one.add_argument("model", metavar="MODEL", help="a name (see list) or a file of yours (.py)")
    one.add_argument("--guide", metavar="G", help="a guide (see list guides), or a file")
    one.add_argument("--sbc", type=int, metavar="N", help="fit --method to N simulated data sets")
    one.add_argument("--method", metavar="M", help="method of --sbc (default nuts)")
    one.add_argument("--jobs", type=int, default=1, metavar="W", help="fits of --sbc at once")
    one.add_argument(
        "--gradients", type=int, metavar="N", help="noise and bias of gradients, by N draws"
    )
    one.add_argument("--out", default="runs", metavar="DIR", help="folder for what is found")
    _add_problem(one)
    _add_shown(one)


def _add_using(commands: Any) -> None:
    """The commands that use what is there, or make room."""
    one = _command(commands, "predict", _predict_command, "new rows under a saved run")
    one.add_argument("folder", metavar="RUN", help="the run's folder")
    _add_files(one, "model")
    one.add_argument("--data", metavar="D", help="a file with the new rows")
    one.add_argument("--rows", type=int, default=1, metavar="N", help="new rows, if no data say")
    one.add_argument("--out", metavar="FILE", help="write the table to a .csv or .json file")
    one.add_argument("--json", action="store_true", help="one JSON object on stdout")

    one = _command(commands, "encode", _encode_command, "the latents of rows, by a run's encoder")
    one.add_argument(
        "folder", metavar="RUN", help="the folder of a run whose guide has an encoder"
    )
    _add_files(one, "model", "guide")
    one.add_argument("--data", metavar="D", help="rows (default: those that the run held out)")
    one.add_argument("--rows", type=int, metavar="N", help="the first so many (default all)")
    one.add_argument("--out", metavar="FILE", help="write the table to a .csv or .json file")
    one.add_argument("--json", action="store_true", help="one JSON object on stdout")

    one = _command(commands, "evidence", _evidence_command, "log p(x) of rows under a saved run")
    one.add_argument(
        "folder", metavar="RUN", help="the folder of a run whose guide has an encoder"
    )
    _add_files(one, "model", "guide")
    one.add_argument("--data", metavar="D", help="rows (default: those that the run held out)")
    one.add_argument("--rows", type=int, metavar="N", help="the first so many (default all)")
    one.add_argument(
        "--particles", type=int, default=5000, metavar="K", help="draws of each row, default 5000"
    )
    one.add_argument(
        "--annealed", type=int, default=0, metavar="N", help="so many rows by annealing too"
    )
    one.add_argument(
        "--gaps", type=int, default=0, metavar="N", help="for so many rows what the ELBO lacks"
    )
    one.add_argument("--seed", type=_seed, default=0, metavar="S", help="default 0")
    one.add_argument("--out", metavar="FILE", help="write all rows to a .csv or .json file")
    one.add_argument("--json", action="store_true", help="one JSON object on stdout")
    one.add_argument("-q", "--quiet", action="store_true", help="no progress")

    one = _command(commands, "report", _report, "several saved runs on one page")
    one.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs")
    one.add_argument("--out", default="report.html", metavar="FILE", help="default report.html")

    one = _command(commands, "clean", _clean, "remove runs that failed")
    one.add_argument("runs", nargs="*", metavar="RUN", help="folders of runs to remove, instead")
    one.add_argument("--out", default="runs", metavar="DIR", help="folder of runs")
    one.add_argument("--interrupted", action="store_true", help="also those that were stopped")
    one.add_argument("-n", "--dry-run", action="store_true", help="only say what would go")

    one = _command(commands, "new", _new, "a model file and its test from a template")
    one.add_argument("name", metavar="NAME", help="name of a model of the zoo, or FOLDER/NAME.py")


def _add_files(one: argparse.ArgumentParser, *what: str) -> None:
    """Files that a run names, and that run only if they are named by the user too."""
    for name in what:
        one.add_argument(f"--{name}", metavar="FILE", help=f"the {name}'s file, of another's run")


def _add_asked(one: argparse.ArgumentParser) -> None:
    """What `run` and `compare` are asked with alike."""
    _add_problem(one)
    one.add_argument("--out", default="runs", metavar="DIR", help="folder for the run's folder")
    one.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    _add_shown(one)


def _add_shown(one: argparse.ArgumentParser) -> None:
    """What a command that computes shows."""
    one.add_argument("--json", action="store_true", help="one JSON object on stdout")
    one.add_argument("-q", "--quiet", action="store_true", help="no progress")


def _add_problem(one: argparse.ArgumentParser) -> None:
    """Data, seed and settings."""
    one.add_argument("--data", metavar="D", help="a data set of the model, or a file")
    one.add_argument("--target", metavar="COL", help="column of a file that is the target")
    one.add_argument("--features", metavar="A,B", help="columns of a file that are features")
    one.add_argument("--seed", type=_seed, default=0, metavar="S", help="default 0")
    one.add_argument(
        "--set",
        dest="settings",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="options of model, data and method (see show MODEL)",
    )


def _command(commands: Any, name: str, function: Callable, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(command=function, verb=name, parser=command)
    command.add_argument("-v", "--verbose", action="store_true", help="traceback of an error")
    return command


def _seed(text: str) -> int:
    try:
        return int(text if text.isdecimal() else "")
    except ValueError:  # also of thousands of digits
        what = f"{text:.40} is no seed; give a whole number from 0 to 2**64 - 1"
        raise argparse.ArgumentTypeError(what) from None


def _pairs(words: list[str]) -> dict[str, str]:
    """`key=value` words, also several in one word divided by commas, as a dictionary."""
    pairs = {}
    for word in words:
        for pair in re.split(r",(?=\s*\w+=)", word.strip().rstrip(",")):
            name, equals, value = pair.strip().partition("=")
            if not equals:
                raise UsageError(f"--set {word} has no '='; write --set {name}=VALUE")
            pairs[name] = value
    return pairs


def _run(arguments: argparse.Namespace) -> int:
    started = time.perf_counter()
    with _heeding(signal.SIGINT, signal.SIGTERM, heed=_leave):
        plan = _plan(
            arguments.model,
            method=arguments.method,
            guide=arguments.guide,
            data=arguments.data,
            columns=_columns(arguments.target, arguments.features),
            seed=arguments.seed,
            device=arguments.device,
            settings=_settings_of(arguments),
            init=arguments.init,
        )
    if arguments.method is None and not arguments.json:
        guided = f" --guide {plan.guide}" if plan.guide and not arguments.guide else ""
        _say(f"no --method given: {plan.method}{guided}", file=sys.stderr)
    result = _carried_out(plan, _how(arguments), started, arguments.out)
    return _ended(result, arguments)


def _resume(arguments: argparse.Namespace) -> int:
    from inference.storage import store

    if store.begun(Path(arguments.folder))["status"] == "done":
        _say(f"{arguments.folder} was done already, this is its result", file=sys.stderr)
    given = {"model": arguments.model, "guide": arguments.guide, "data": None}
    done = _resumed(Path(arguments.folder), given, _how(arguments))
    return (_ended if isinstance(done, Run) else _calibration_ended)(done, arguments)


def _how(arguments: argparse.Namespace) -> _How:
    """What a run of the command line shows."""
    progress = not arguments.quiet and sys.stderr.isatty()
    show = _show_json if arguments.json else _show_result
    return _How(progress=progress, show=show, jobs=getattr(arguments, "jobs", 1))


def _show_result(run: Run) -> None:
    from inference.show import terminal

    with suppress(BrokenPipeError):  # nobody reads on: the run is saved all the same
        terminal.show_run(run.record, run.summary())
        sys.stdout.flush()  # the answer is there; the pictures take a while


def _show_json(run: Run) -> None:
    print(json.dumps(run.to_json()))


def _ended(run: Run, arguments: argparse.Namespace) -> int:
    """The last words and the exit code of a run on the command line."""
    if not arguments.json:
        _say(f"saved in {run.path}")
    if run.record["status"] != "done":
        return _cut_short(run, arguments.verbose)
    return 3 if arguments.strict and run.verdict.status == "fail" else 0


def _compare(arguments: argparse.Namespace) -> int:
    from inference.show import terminal
    from inference.storage import store

    store.check_folder(Path(arguments.out))
    table = compare(
        *arguments.what,
        methods=arguments.methods,
        vary=arguments.vary,
        sizes=arguments.sizes,
        out=arguments.out,
        device=arguments.device,
        init=arguments.init,
        progress=not arguments.quiet and sys.stderr.isatty(),
        jobs=arguments.jobs,
        **_problem_of(arguments),
    )
    if arguments.json:
        print(json.dumps(table.to_json_object()))
    elif arguments.sizes:
        terminal.show_growth(table, table.notes)
    else:
        terminal.show_comparison(table)
    if table.signal:
        return _fail("interrupted; what was done is saved", 128 + table.signal, False)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from inference.show import terminal

    if arguments.sbc is not None:
        return _check_calibration(arguments)
    if arguments.gradients is not None:
        return _check_gradients(arguments)
    if arguments.method is not None:
        raise UsageError("--method asks whether it is calibrated; say by --sbc N how many fits")
    found = check(
        arguments.model,
        guide=arguments.guide,
        **_problem_of(arguments),
    )
    if arguments.json:
        print(json.dumps(found.to_json()))
    else:
        terminal.show_checks(found)
    if arguments.verbose:
        terminal.show_tracebacks(found)
    return 0 if found.ok else _fail(found.failure, 65, False)


def _check_gradients(arguments: argparse.Namespace) -> int:
    from inference.show import terminal

    table = gradients(
        arguments.model,
        draws=arguments.gradients,
        out=arguments.out,
        progress=not arguments.quiet and sys.stderr.isatty(),
        **_problem_of(arguments),
    )
    if arguments.json:
        print(json.dumps(table.to_json_object()))
    else:
        terminal.show_gradients(table)
    return 0


def _check_calibration(arguments: argparse.Namespace) -> int:
    table = calibrate(
        arguments.model,
        arguments.sbc,
        method=arguments.method,
        guide=arguments.guide,
        out=arguments.out,
        progress=not arguments.quiet and sys.stderr.isatty(),
        jobs=arguments.jobs,
        **_problem_of(arguments),
    )
    return _calibration_ended(table, arguments)


def _calibration_ended(table: Calibration, arguments: argparse.Namespace) -> int:
    """A calibration as the command line shows it, and its exit code."""
    from inference.show import terminal

    if arguments.json:
        print(json.dumps(table.to_json_object()))
    else:
        terminal.show_calibration(table)
    if table.signal:
        return _fail("interrupted; resume it to go on", 128 + table.signal, False)
    return 0 if table.verdict.status == "pass" else _fail(table.verdict.reasons[0], 65, False)


def _cut_short(result: Run, verbose: bool) -> int:
    """The line and the exit code of a run that was interrupted or failed on the way."""
    what = str(next(f.what for f in result.verdict.findings if f.level == "fail"))
    code = 70 if result.record["status"] == "failed" else 128 + result.record["signal"]
    mend = f"continue it with `zoo.py resume {result.path}`"
    return _fail(f"{what}, in {result.path}; {mend}", code, verbose)


def _problem_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Data, seed and settings, as the verbs in Python take them."""
    names = ("data", "target", "features", "seed")
    return {name: getattr(arguments, name) for name in names} | _settings_of(arguments)


def _settings_of(arguments: argparse.Namespace) -> dict[str, str]:
    pairs = _pairs(arguments.settings)
    for name in pairs:
        verb = {"check": calibrate, "compare": compare, "run": run}[arguments.verb]
        if name in inspect.signature(verb).parameters:
            raise UsageError(f"{name} is no setting of --set; write --{name} {pairs[name]}")
    return pairs


def _table_file(name: str | None) -> Path | None:
    """Where a table is to be written.

    Raises:
        UsageError: neither .csv nor .json.
    """
    out = Path(name) if name else None
    if out is not None and out.suffix not in (".csv", ".json"):
        raise UsageError(f"--out {out} is neither .csv nor .json; name it so")
    return out


def _write_table(out: Path | None, table: pd.DataFrame) -> None:
    from inference.storage import store

    if out is not None:
        text = table.to_csv() if out.suffix == ".csv" else json.dumps(_rows_of(table), indent=1)
        store.write_text(out, text)
        _say(f"wrote {len(table)} rows to {out}", file=sys.stderr)


def _evidence_command(arguments: argparse.Namespace) -> None:
    from inference.rows import evidence
    from inference.show import terminal

    out = _table_file(arguments.out)
    names = ("data", "rows", "particles", "annealed", "gaps", "seed")
    asked = {name: getattr(arguments, name) for name in names}
    table = _loaded_by(arguments).evidence(**asked, progress=not arguments.quiet)
    _write_table(out, table)
    summary, doubts = evidence.summary(table), evidence.doubts(table)
    if arguments.json:
        print(json.dumps({"summary": _rows_of(summary), "doubts": doubts}))
    else:
        terminal.show_evidence(summary, doubts)


def _encode_command(arguments: argparse.Namespace) -> None:
    _tell(_loaded_by(arguments).encode, arguments)


def _predict_command(arguments: argparse.Namespace) -> None:
    _tell(_loaded_by(arguments).predict, arguments)


def _loaded_by(arguments: argparse.Namespace) -> Run:
    return load(arguments.folder, model=arguments.model, guide=getattr(arguments, "guide", None))


def _tell(of_rows: Callable[..., pd.DataFrame], arguments: argparse.Namespace) -> None:
    """What a run says of rows, on the terminal and in a file."""
    out = _table_file(arguments.out)
    table = of_rows(arguments.data, rows=arguments.rows)
    _write_table(out, table)
    if arguments.json:
        print(json.dumps(_rows_of(table)))
    else:
        from inference.show import terminal

        terminal.show_table(terminal.console(), table)


def _report(arguments: argparse.Namespace) -> None:
    report(*arguments.runs, out=arguments.out)
    for of, why in ((_is_study, "being no single runs"), (_has_no_result, "without a result")):
        left_out = [Path(one).name for one in arguments.runs if of(one)]
        if left_out:
            _say(f"left out, {why}: {', '.join(left_out)}", file=sys.stderr)
    _say(f"wrote {arguments.out}")


def _list(arguments: argparse.Namespace) -> None:
    rows = {
        "models": _list_models,
        "methods": lambda _: {m: {"title": inference.title(m)} for m in inference.METHODS},
        "guides": lambda _: {g: {"title": t} for g, t in _guide_rows().items()},
        "data": lambda _: {n: {"title": models.paragraph(n, "Data:")} for n in models.names()},
        "runs": _list_runs,
    }[arguments.what](arguments)
    if arguments.json:
        print(json.dumps(rows))
    elif arguments.what == "models":
        _print_models(rows)
    else:
        width = max(map(len, rows), default=0)
        for name, row in rows.items():
            _say(f"{name:{width}}  {row['title']}".rstrip())
        if not rows:
            _say(f"no {arguments.what} yet")


def _guide_rows() -> dict[str, str]:
    own = {n: models.own_guides(n) for n in models.names()}
    forms = inference.guide_forms()
    rows = {forms[name]: inference.title(name) for name in inference.GUIDES}
    rows["FILE.py"] = "a guide of yours: a Pyro function `guide` of the model's data keys"
    for model, names in own.items():
        rows |= {f"{name} ({model})": "the model's own guide" for name in names}
    return rows


def _list_models(_: argparse.Namespace) -> dict[str, dict[str, Any]]:
    return {
        name: {"title": models.title(name), "methods": _methods_of(name)}
        for name in models.names()
    }


def _methods_of(name: str) -> dict[str, str | None]:
    """Method to None where it runs on the default data, else to the reason."""
    reasons = dict(models.refused(name))
    if not models.has_exact(name):
        reasons["exact"] = "no exact posterior is known"
    return {method: reasons.get(method) for method in inference.METHODS}


def _print_models(rows: Mapping[str, dict[str, Any]]) -> None:
    width = max(map(len, rows))
    _say(" " * width, *(f"{m:^7}" for m in inference.METHODS))
    notes = []
    for name, row in rows.items():
        marks = []
        for method, reason in row["methods"].items():
            notes += [f"{name} {method}: {reason}"] if reason else []
            marks.append(f"{'no' if reason else 'yes':^7}")
        _say(f"{name:{width}}", *marks, row["title"])
    _say(*(f"\n{note}" for note in notes), sep="")


def _list_runs(arguments: argparse.Namespace) -> dict[str, dict[str, str]]:
    from inference.storage import store

    rows = {}
    for record in store.runs(Path(arguments.out)):
        row = {"status": record["status"], "verdict": record.get("verdict", {}).get("status")}
        rows[record["run"]] = {**row, "title": _state_of(record)}
    return rows


def _state_of(record: Mapping[str, Any]) -> str:
    """The state of a run in words: the verdict of one that is done."""
    from inference.storage import store

    verdict, status = record.get("verdict", {}).get("status"), record["status"]
    if status in ("done", store.DRAWING):
        return verdict if status == "done" else f"{verdict}, its pictures are missing"
    if status in ("running", "interrupted"):
        return f"{status}, {store.progress(Path(record['run']))}"
    reasons = record.get("verdict", {}).get("reasons") or [record.get("reason", "")]
    return f"{status}: {reasons[0]}"


def _clean(arguments: argparse.Namespace) -> None:
    from inference.storage import store

    out, verb = Path(arguments.out), "would remove" if arguments.dry_run else "removed"
    if arguments.runs:
        folders, statuses, left = [Path(run) for run in arguments.runs], None, []
        for folder in folders:
            store.begun(folder)  # all of them are there
    else:
        statuses = ("failed", *(("interrupted", "running") if arguments.interrupted else ()))
        shown = [status for status in statuses if status != "running"]
        folders = [Path(r["run"]) for r in store.runs(out) if r["status"] in shown]
        left = store.leftovers(out)
    for folder in folders:
        if arguments.dry_run or store.remove(folder, statuses):
            _say(f"{verb} {folder}")
    for path in left:
        if not arguments.dry_run:
            store.remove_leftover(path)
        _say(f"{verb} {path}")
    if not folders and not left:
        _say("there is nothing to remove")


def _show(arguments: argparse.Namespace) -> None:
    from inference.show import terminal
    from inference.storage import store

    folder = Path(arguments.name)
    if (folder / "run.json").is_file():
        record = store.begun(folder)
        if "verdict" not in record:
            _say(_state_of({**record, "status": store.status(folder, record)}))
            _say(f"continue it with `zoo.py resume {folder}`")
            return
        if "calibration" in record:
            terminal.show_calibration(_calibration_of(folder))
            return
        result = load(folder)
        terminal.show_run(result.record, result.summary())
        return
    entry, name = _entry(arguments.name, {})
    known = name in models.names()
    _say(models.card(name) if known else (sys.modules[entry.model.__module__].__doc__ or name))
    _say(f"\nSource: {models.place(entry.model)}")
    _show_settings("Options of the model", _settings.declared(entry.model))
    _show_settings("Options of the data", _settings.declared(entry.data))
    _say(f"\nData keys: {', '.join(models.data_keys(entry.model))}")
    if known:
        _show_sites(entry)
        _say("\nMethods (on the default data)")
        reasons = _methods_of(name)
        for method, reason in reasons.items():
            text = f"refused: {reason}" if reason else inference.title(method)
            _say(f"  {method:8} {text}")
        _show_method_settings(entry, [method for method in reasons if not reasons[method]])
    _say("\nGuides for svi")
    for i, guide in enumerate(entry.inference.guides):
        whose = "the model's own" if i else "the model's own, the default"
        _say(f"  {guide:20} {_own_guide(entry, guide)} ({whose})".replace("  (", " ("))
    forms = inference.guide_forms()
    for guide, kind in inference.GUIDES.items():
        if not entry.identified or not kind.of_networks:
            _say(f"  {forms[guide]:20} {inference.title(guide)}")


def _own_guide(entry: models.Entry, guide: str) -> str:
    """What a guide of the model's own is, or what it is trained by if that is its own too."""
    own = entry.inference.guides[guide]
    doc = inspect.getdoc(own.objective or own.function) or ""
    return doc.partition("\n")[0].rstrip(".")


def _show_settings(title: str, declared: Mapping[str, Any]) -> None:
    if declared:
        _say(f"\n{title} (--set name=value)")
    for name, setting in declared.items():
        _say(f"  {name:12} default {setting.default!s:10} {setting.range}".rstrip())


def _show_method_settings(entry: models.Entry, methods: Sequence[str]) -> None:
    """The settings of each method with the values that this model gives them."""
    _say("\nSettings of the methods (--set name=value; none: see the docstring)")
    for method in methods:
        declared = _homes(entry, inference.method(method))["method"]
        values = {name: setting.default for name, setting in declared.items()}
        values |= entry.inference.settings.get(method, {})
        told = " ".join(f"{k}={str(v).lower()}" for k, v in values.items())
        lines = textwrap.wrap(
            told, 88, initial_indent=f"  {method:8} ", subsequent_indent=" " * 11
        )
        _say("\n".join(lines))


def _show_sites(entry: models.Entry) -> None:
    from inference.core import machine
    from inference.program import prepare
    from inference.program.program import Program

    options = {k: s.default for k, s in _settings.declared(entry.model).items()}
    with machine.numbers():
        sites = Program(prepare.problem_of(entry, options, entry.data())).sites
    _say("\nSites (default data)")
    width = max(8, *map(len, sites))
    for site in sites.values():
        plates = f" in {', '.join(p.name for p in site.plates)}" if site.plates else ""
        _say(
            f"  {site.name:{width}} {site.role:8} {type(site.base).__name__}{plates} {site.shape}"
        )


def _new(arguments: argparse.Namespace) -> None:
    from models.users import template

    for path in template.write(arguments.name):
        _say(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
