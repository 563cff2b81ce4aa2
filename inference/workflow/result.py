"""A finished run: its result, its verdict, and what can be drawn and predicted from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.contract import Data, Entry, Fault, Refused, UsageError, nearest

from ..core.ambient import alone
from ..core.arguments import checked
from ..core.zoo_warnings import ours_alone
from . import origin
from .plan import entry_of, read_data

if TYPE_CHECKING:
    import arviz as az
    import pandas as pd
    from matplotlib.figure import Figure

    from ..results.diagnostics import Verdict
    from ..results.inference_data import InferenceData
    from .predict import Fitted


@dataclass(kw_only=True, repr=False)
class Run:
    """A finished run: the result, the verdict, and what is needed to predict and to draw.

    Attributes:
        record: what run.json holds: command, settings, data, versions, timing, metrics; `status`
            is `done`, or `interrupted` or `failed` for what was kept of a run cut short.
        groups: the result as groups of arrays; from the first look at `idata` on ArviZ's own.
        verdict: `pass`, `warn` or `fail`, with reasons.
        params: learned parameters, if any.
    """

    record: dict[str, Any]
    groups: InferenceData | az.InferenceData
    verdict: Verdict
    params: dict[str, Any] = field(default_factory=dict)
    _entry: Entry | None = None
    _data: Data | None = None
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

    @property
    def idata(self) -> az.InferenceData:
        """The result as ArviZ InferenceData."""
        from ..results import inference_data

        if isinstance(self.groups, inference_data.InferenceData):
            self.groups = inference_data.as_arviz(self.groups)
        return self.groups

    @cached_property
    def entry(self) -> Entry:
        """The model; read again from its file for a run that was loaded.

        Raises:
            Fault: it was given in Python, is gone, or is not the one that ran.
        """
        if self._entry is not None:
            return self._entry
        options = self.record["data"]["asked"]["options"]
        entry, _ = entry_of(origin.model_of(self.record), options)
        origin.check_same_model(entry.model, self.record)
        return entry

    @cached_property
    def data(self) -> Data:
        """The data set; read again from its source for a run that was loaded.

        Raises:
            Fault: it is gone, or not the one that the run had.
        """
        if self._data is not None:
            return self._data
        seen = self.record["data"]
        data = read_data(self.entry, origin.source_of(self.record), seen["asked"]["options"])
        origin.check_same(f"data ({data.source})", data.sha256, seen["sha256"])
        return data

    @ours_alone()
    def summary(self) -> pd.DataFrame:
        """One row per scalar: mean, sd, HDI, Monte Carlo errors, ESS, R-hat; what applies."""
        from ..results import inference_data, reference

        table = inference_data.summary(self.groups)
        known = self.record["exact"]
        return reference.with_truth(table, known) if known else table

    @cached_property
    def exact(self) -> Any:
        """The exact truth; None where it is not known, or the model or the data are gone."""
        if "posterior" not in self.groups.groups():
            return None
        try:
            known = self.entry.exact
            return known(self.data, **self.record["options"]) if known is not None else None
        except Fault:
            return None

    # -- pictures -----------------------------------------------------------------------------

    def plots(self) -> list[str]:
        """The kinds that `plot` can draw for this run."""
        from ..show import plots

        return [*plots.available(self.groups), *self._own_figures]

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
        from ..show import plots, style

        if kind not in self.plots():
            raise UsageError(f"there is no plot '{kind}' here; {nearest(kind, self.plots())}")
        if kind in self._own_figures:
            figure = self._own_figure(kind)
            if figure is None:
                raise UsageError(f"the plot '{kind}' is not for these data")
            return style.shown(figure)
        return plots.PLOTS[kind](self.groups, self.exact if kind in plots.OF_TRUTH else None)

    def _own_figure(self, kind: str) -> Figure | None:
        """A figure of the model's own; None where it is not for these data."""
        from ..results import inference_data

        options = self.record["options"]
        view = inference_data.view(self.data, self.groups, self.params, options, self.metrics)
        return self._own_figures[kind](view)

    def pictures(self, first: Callable[[], None] = lambda: None) -> dict[str, bytes]:
        """The PNG files of a run that is done, by kind; one that fails costs a warning.

        Args:
            first: what else there is to do, while other processes draw.
        """
        from ..show import drawing, plots

        if self.record["status"] != "done":
            first()
            return {}
        own = self._own_figures
        kinds = [kind for kind in plots.available(self.groups) if kind not in own]

        def draw(kind: str) -> Figure | None:
            return self._own_figure(kind) if kind in own else self.plot(kind)

        # The truth takes long to import.
        kinds.sort(key=lambda kind: kind not in plots.OF_TRUTH)
        return drawing.files(draw, kinds, list(own), first)

    # -- rows ---------------------------------------------------------------------------------

    @property
    def fitted(self) -> Fitted:
        """The run with its model and data, as predictions need it.

        Raises:
            Fault: as `entry` and `data`.
        """
        from .predict import Fitted

        return Fitted(
            record=self.record,
            idata=self.groups,
            params=self.params,
            entry=self.entry,
            data=self.data,
            guide=self._guide,
        )

    @checked
    @alone()
    def predict(self, data: Any = None, *, rows: int = 1) -> pd.DataFrame:
        """Predictions for new rows: mean, sd and 94 % interval of each new observation.

        Args:
            data: the new rows, as for `run`; what is to be predicted is not looked at.
            rows: number of new rows, for models whose only data is what they predict.

        Returns:
            A table with a row `y[0]`, `y[1]` ... each: mean, sd, hdi_low, hdi_high; of several
            classes label, probability, entropy, mutual_information, and the chance of each.

        Raises:
            Fault: data that the prediction needs are missing or cannot be coded as the run's.
            UsageError: a number of rows that is none.

        Examples:
            >>> import zoo
            >>> zoo.run("coin", method="exact", data="HHT").predict(rows=2).shape
            (2, 4)
        """
        from .predict import predictions

        _check_counts(1, rows=rows)
        return predictions(self.fitted, data, rows)

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
            data: rows, as for `run`; default those that the run held out.
            rows: the first so many; default all.
            particles: draws of each row for importance sampling.
            annealed: also check the first N rows by annealed importance sampling.
            gaps: for the first N rows the approximation gap (Gaussian q) and the amortisation gap
                (one encoder for all rows).
            seed: seed of the draws.
            progress: whether to show progress bars.

        Returns:
            A row for each of the rows, nats: `log_p`, `error`, `elbo`, `khat`; where asked
            `annealed`, `annealed_error`, `elbo_normal`, `approximation`, `amortisation`.

        Raises:
            Refused: the rows of this model have no latents of their own, or no encoder.
            Fault: the run held no rows out, and none are given.
        """
        from ..rows.encoder import Effort
        from .predict import evidence_table

        _check_counts(1, rows=rows)
        _check_counts(2, particles=particles)
        _check_counts(0, annealed=annealed, gaps=gaps)
        effort = Effort(particles=particles, annealed=annealed, gaps=gaps)
        return evidence_table(self.fitted, data, rows, effort, seed=seed, progress=progress)

    @checked
    @alone()
    def encode(
        self, data: Any = None, *, rows: int | None = None, draws: int = 200, seed: int = 0
    ) -> pd.DataFrame:
        """The latents of each row, as the encoder of an svi run sees them: codes, and classes.

        Args:
            data: rows, as for `run`; default those that the run held out.
            rows: the first so many; default all.
            draws: of each row's latents, where the guide does not know means and sds itself.
            seed: seed of the draws.

        Returns:
            A row for each of the rows: `z[0]` (mean) and `sd z[0]` of each element of a latent;
            of a class that the encoder guesses (`guess`) the most probable, and `p[guess=0]`, ...

        Raises:
            Refused: the rows of this model have no latents of their own, or no encoder.
            Fault: the run held no rows out, and none are given.
        """
        from .predict import code_table

        _check_counts(1, rows=rows)
        _check_counts(2, draws=draws)
        return code_table(self.fitted, data, rows, draws=draws, seed=seed)

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
        from ..results import loo

        if "loo" not in self.groups.groups():
            raise Refused(self.verdict.trust["loo"].because or "the run has no elpd_loo")
        return loo.elpd_data(self.groups, self.metrics)

    # -- on disk and on screen ----------------------------------------------------------------

    @checked
    @ours_alone()
    def save(self, out: str | Path = "runs") -> Path:
        """Write the run in a folder of its own under `out`, with its pictures; returns it."""
        from ..results import inference_data
        from ..storage import run_folder

        source = self._source
        if source is None and self.path is not None:
            source = origin.data_kept(self.path)
        arrays, netcdf = run_folder.arrays_of(source), inference_data.netcdf(self.groups)
        with run_folder.begin(Path(out), self.record["name"], self.record, arrays) as place:
            self.record["run"] = str(place.path)
            place.write(self.record, netcdf=netcdf, params=self.params, pictures=True)
            place.add_figures(self.pictures())
        return place.path

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        names = ("model", "method", "guide", "seed", "run", "verdict", "metrics", "timing")
        names += ("point", "options", "settings")
        data = {key: self.record["data"][key] for key in ("source", "n", "sha256", "notes")}
        record = {key: self.record.get(key) for key in names}
        return {**record, "data": data, "summary": rows_of(self.summary())}

    @property
    def _title(self) -> str:
        words = (self.record[key] for key in ("model", "method", "guide"))
        name = " ".join(Path(word).stem for word in words if word)
        return f"{name}, {self.verdict.status}: {self.verdict.headline}"

    def __repr__(self) -> str:
        return "\n".join([self._title, *self.verdict.reasons, self.summary().to_string()])

    def _repr_html_(self) -> str:
        from ..core.html import filled, frame

        template = "<p><b>{{ title }}</b></p><ul>{% for one in reasons %}<li>{{ one }}</li>"
        template += "{% endfor %}</ul>{{ summary }}"
        reasons, summary = self.verdict.reasons, frame(self.summary())
        return filled(template, title=self._title, reasons=reasons, summary=summary)


def rows_of(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """A table as plain values: index to column to number; what is not finite is absent."""
    return {
        str(k): {c: float(v) for c, v in row.items() if math.isfinite(v)}
        for k, row in table.iterrows()
    }


def _check_counts(least: int, **counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and not isinstance(count, Integral):
            raise UsageError(f"{name}={count} is no whole number; give {least} or more")
        if count is not None and count < least:
            raise UsageError(f"{name}={count} is too few; give {least} or more")
