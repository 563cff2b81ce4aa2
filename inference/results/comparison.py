"""Runs side by side: one table with errors, each held against the best reference there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pandas as pd

from models.contract import Refused, UsageError, nearest

from ..core.html import filled, frame
from ..core.seeds import DRAWS, spawn
from . import inference_data, loo, publish
from .distance import Yardstick, noise_of_predictions, of_predictions

# Standard errors beyond which a difference is told from Monte Carlo noise, over all parameters.
_SURE = 4.0
# Differences below these are of no consequence: sds of the reference, and parts of a ratio.
_MEAN_MATTERS, _SD_MATTERS = 0.1, 0.05
# Standard errors (of means in sds, of sd ratios) with which nothing can be told.
_VAGUE = 0.08
_EXACT_DRAWS = 4000

# Columns in which the metrics of a run appear by their own names.
_METRICS = ("elbo", "elbo_se", "log_evidence", "khat", "elpd_loo", "elpd_loo_se", "elpd_test")
_SCORES = ("accuracy", "log_score", "brier", "ece", "entropy", "mutual_information")
# Times its noise beyond which a distance of predictions is told from none.
_BEYOND_NOISE = 1.5


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run of a comparison, or what kept it from running.

    Attributes:
        label: its name in the table.
        posterior: what posterior it approximates; runs of one key are held against one reference.
        record: the run's record; None where there is no run.
        idata: its result.
        reason: why there is no run.
        status: `refused`, `failed` or `interrupted`, where there is no run.
    """

    label: str
    posterior: str
    record: Mapping[str, Any] | None = None
    idata: az.InferenceData | None = None
    reason: str = ""
    status: str = ""

    @cached_property
    def summary(self) -> pd.DataFrame:
        """The run's summary by scalar, exact numbers in the place of averages where it knows them.

        Real scalars only: a discrete latent has no mean to be off by.
        """
        table = inference_data.summary(self.idata)
        if self.record["exact"]:
            table = inference_data.replaced(table, self.record["exact"])
        real = self.draws
        return table.loc[[name for name in table.index if name.partition("[")[0] in real]]

    @cached_property
    def draws(self) -> dict[str, np.ndarray]:
        """The draws of the real sites, (S, *shape)."""
        found = inference_data.draws_of(self.idata)
        if self.predictions is not None:
            found = {str(k): v.values for k, v in self.predictions.data_vars.items()}
            found = {k: v.reshape(-1, *v.shape[2:]) for k, v in found.items()}
        return {name: values for name, values in found.items() if values.dtype.kind == "f"}

    @property
    def predictions(self) -> Any:
        """What a network's draws predict, by which it is compared; None for other models."""
        return self.idata["predictions"] if "predictions" in self.idata.groups() else None

    @property
    def chains(self) -> bool:
        """Whether the draws are those of Markov chains."""
        groups = self.idata.groups()
        return "sample_stats" in groups and "diverging" in self.idata["sample_stats"]

    @property
    def ess(self) -> float:
        """Effective draws, by the poorest parameter; all of them where they are independent."""
        count = len(next(iter(self.draws.values()), ()))
        if not self.chains:
            return float(count)
        lowest = np.nanmin(self.summary[["ess_bulk", "ess_tail"]].to_numpy())
        return float(min(count, lowest))


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The posterior as well as it is known.

    Attributes:
        name: `exact`, or the label of the run it was taken from.
        moments: mean, sd, mcse_mean and mcse_sd by scalar name; errors are zero where known.
        draws: joint draws by site, (S, *shape).
        ess: effective number of them.
        log_evidence: exact log evidence, nats; None where unknown.
        predictions: of a network, what its draws predict.
    """

    name: str
    moments: pd.DataFrame
    draws: Mapping[str, np.ndarray]
    ess: float
    log_evidence: float | None = None
    predictions: Any = None


class Table(pd.DataFrame):
    """A DataFrame that knows its pictures and how to show itself in a notebook.

    Attributes:
        title: what it is of, `compare-coin`; part of its folder's name.
        runs: label to run.
        notes: what a reader should know of the whole.
        pictures: kind to function of no arguments that gives a Figure.
        signal: the signal that cut the study short; 0 if none did.
        html: gives a notebook's page from the table, where that is more than its rows and notes.
    """

    _metadata = ("title", "runs", "notes", "pictures", "signal", "html")

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.title, self.signal, self.html = "", 0, None
        self.runs, self.notes, self.pictures = {}, [], {}

    def figures(self) -> list[str]:
        """The kinds that `figure` can draw."""
        return list(self.pictures)

    def figure(self, kind: str) -> Any:
        """A matplotlib figure of all runs: one of `figures()`.

        Raises:
            UsageError: there is no such figure.
        """
        if kind not in self.pictures:
            raise UsageError(f"there is no figure '{kind}' here; {nearest(kind, self.pictures)}")
        return self.pictures[kind]()

    def to_json_object(self) -> dict[str, Any]:
        """Rows and notes as plain values; what does not apply is absent."""
        return {"rows": _plain(self), "notes": self.notes}

    def _repr_html_(self) -> str:
        if self.html is not None:
            return self.html(self)
        parts = {"values": frame(self), "notes": self.notes}
        return filled("{{ values }}{% for one in notes %}<p>{{ one }}</p>{% endfor %}", **parts)


class Comparison(Table):
    """A row per run; what does not apply is empty (NaN).

    Columns: verdict, and the gravest reason of one that is no pass; time_s (of the method alone);
    mean_error (the largest difference of a parameter's mean from the reference, in the
    reference's sds) with its Monte Carlo error
    mean_error_se and the parameter (worst); sd_low and sd_high (range of sd ratios) and sd_se;
    distance of the joint draws (of networks: of the predictions) and its noise floor
    (`distance.py`); elbo, log_evidence and gap
    (exact log evidence - ELBO), nats; khat; leave-one-out, and its difference from the best run's
    with the standard error over rows; held-out scores; smallest bulk ess and
    ess_per_s; log_bayes_factor against the largest evidence that the same method found (laplace's
    only where its k-hat allows); reading, in words.

    Attributes:
        references: posterior key to the name of what its runs were held against, or why not.
        parameters: a row per run and scalar: mean, sd, hdi_low, hdi_high, the reference's, and
            the differences.
        trust: label to purpose to `yes`, `no` or `not known`, the reference having the last word.
    """

    _metadata = (*Table._metadata, "references", "parameters", "trust")

    def to_json_object(self) -> dict[str, Any]:
        """Rows, parameters by run, references and notes as plain values."""
        parameters = {
            label: _plain(part.droplevel("run"))
            for label, part in self.parameters.groupby(level="run", sort=False)
        }
        shown = {"references": self.references, "parameters": parameters, "trust": self.trust}
        return {**super().to_json_object(), **shown}


def _plain(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Index to column to value, without what is empty."""
    finite = table.replace([np.inf, -np.inf], np.nan)
    return {str(key): row.dropna().to_dict() for key, row in finite.iterrows()}


def check_same_data(records: Mapping[str, Mapping[str, Any]]) -> None:
    """Runs can be compared only where they saw the same data.

    Raises:
        Refused: naming two runs and their data.
    """
    first_label, first = next(iter(records.items()), ("", {}))
    for label, record in records.items():
        ours, theirs = first["data"], record["data"]
        if ours["sha256"] != theirs["sha256"]:
            raise Refused(
                f"runs of different data cannot be compared: {first_label} has {_said(ours)}, "
                f"{label} has {_said(theirs)}; run both on the same data (source, split, units)"
            )


def _said(data: Mapping[str, Any]) -> str:
    rows = "" if data["n"] is None else f", n = {data['n']}"
    return f"{data['source']}{rows} (sha256 {data['sha256'][:8]})"


def compare(rows: Sequence[Row], exact: Mapping[str, Any], *, seed: int = 0) -> Comparison:
    """The table of all rows, each held against the reference of its posterior.

    Args:
        rows: runs, and what was refused.
        exact: posterior key to the model's `Exact` truth, where there is one.
        seed: seed of the reference's draws from an exact truth that no row sampled.

    Raises:
        Refused: the runs saw different data.
    """
    done = {row.label: row for row in rows if row.record is not None}
    check_same_data({label: row.record for label, row in done.items()})
    keys = list(dict.fromkeys(row.posterior for row in done.values()))
    references = {
        key: _reference([r for r in done.values() if r.posterior == key], exact.get(key), seed)
        for key in keys
    }
    yardsticks = {
        key: Yardstick(_stacked(r.draws, list(r.draws)), r.ess)
        for key, r in references.items()
        if r is not None and r.draws and r.predictions is None
    }
    parameters, lines, answers = [], {}, {}
    for row in rows:
        line: dict[str, Any] = {"verdict": row.status, "reason": "", "reading": row.reason}
        if row.record is not None:
            reference = references[row.posterior]
            each = _against(row.summary, reference)
            parameters.append(each.assign(run=row.label, parameter=each.index))
            line = _line(row, each, reference, yardsticks.get(row.posterior))
            found = answers[row.label] = publish.trust(row.record, line, each)
            own = row.record["verdict"].get("trust", {})
            line = publish.shown(publish.capped(line, found, own), found)
        lines[row.label] = line
    _add_bayes_factors(lines, done)
    _add_differences(lines, done)
    table = _table(lines, parameters, references)
    table.trust = answers
    records = {label: row.record for label, row in done.items()}
    table.notes = [*publish.hidden(records, answers), publish.last_line(answers)]
    return table


def _table(
    lines: Mapping[str, Mapping[str, Any]],
    parameters: Sequence[pd.DataFrame],
    references: Mapping[str, Reference | None],
) -> Comparison:
    numbers = [name for name in _COLUMNS if name not in _WORDS]
    plain = pd.DataFrame.from_dict(lines, orient="index", columns=_COLUMNS)
    table = Comparison(plain.astype(dict.fromkeys(numbers, float)))
    table.index.name = "run"
    table.parameters = (
        pd.concat(parameters).set_index(["run", "parameter"]) if parameters else pd.DataFrame()
    )
    table.references = {key: r.name if r else _NO_REFERENCE for key, r in references.items()}
    return table


_NO_REFERENCE = "none: no exact posterior is known, and no nuts run that passes is among them"

_WORDS = ("verdict", "reason", "worst", "reading")
_COLUMNS = [
    "verdict", "reason", "time_s", "mean_error", "mean_error_se", "worst", "sd_low", "sd_high",
    "sd_se", "distance", "distance_floor", "elbo", "elbo_se", "log_evidence", "gap",
    "log_bayes_factor", "khat", "elpd_loo", "elpd_loo_se", "elpd_diff",
    "elpd_diff_se", "elpd_test", *_SCORES, "ess",
    "ess_per_s", "reading",
]  # fmt: skip


# -- the reference ----------------------------------------------------------------------------


def _reference(rows: Sequence[Row], truth: Any, seed: int) -> Reference | None:
    """The exact posterior, else the NUTS run of most effective draws that passes, else None."""
    exact = next((row for row in rows if row.record["method"] == "exact"), None)
    if exact is not None:
        return _from_run(exact, log_evidence=exact.record["metrics"].get("log_evidence"))
    if truth is not None:
        return _from_truth(truth, rows[0].idata, seed)
    passing = [
        row
        for row in rows
        if row.record["method"] == "nuts" and row.record["verdict"]["status"] == "pass"
    ]
    return _from_run(max(passing, key=lambda row: row.ess)) if passing else None


def _from_run(row: Row, log_evidence: float | None = None) -> Reference:
    return Reference(
        name=row.label,
        moments=row.summary,
        draws=row.draws,
        ess=row.ess,
        log_evidence=log_evidence,
        predictions=row.predictions,
    )


def _from_truth(truth: Any, like: az.InferenceData, seed: int) -> Reference:
    """Draws of a closed form that no run has sampled."""
    draws = truth.sample(_EXACT_DRAWS, np.random.default_rng(spawn(seed, DRAWS)))
    draws = {name: np.asarray(values, dtype=float) for name, values in draws.items()}
    posterior = like["posterior"]
    sample = az.from_dict(
        posterior={name: values[None] for name, values in draws.items()},
        coords={d: posterior[d].values for d in posterior.dims if d not in ("chain", "draw")},
        dims={name: list(posterior[name].dims[2:]) for name in draws},
    )
    moments = inference_data.replaced(
        inference_data.summary(sample), inference_data.truth_of(truth)
    )
    return Reference(
        name="exact",
        moments=moments,
        draws=draws,
        ess=_EXACT_DRAWS,
        log_evidence=truth.log_evidence,
    )


# -- a run against it -------------------------------------------------------------------------


def _line(
    row: Row, each: pd.DataFrame, reference: Reference | None, yardstick: Yardstick | None
) -> dict[str, Any]:
    """The row's line of the table; `each` holds its scalars against the reference."""
    record, metrics = row.record, row.record["metrics"]
    line: dict[str, Any] = {name: metrics[name] for name in _METRICS + _SCORES if name in metrics}
    status, reasons = record["verdict"]["status"], record["verdict"]["reasons"]
    line |= {"verdict": status, "reason": "" if status == "pass" else reasons[0]}
    line["time_s"] = record["timing"]["fit_s"]
    if row.chains:
        line["ess"] = float(row.summary["ess_bulk"].min())
        line["ess_per_s"] = line["ess"] / line["time_s"]
    if reference is None:
        return line | {"reading": "nothing to hold it against"}
    if reference.log_evidence is not None and "elbo" in line:
        line["gap"] = reference.log_evidence - line["elbo"]
    if reference.name == row.label:
        return line | {"reading": "the reference"}
    if reference.predictions is not None:
        return line | _as_predicted(row, reference)
    line |= _worst(each) | _distance(row, reference, yardstick)
    return line | {"reading": _reading(line, each)}


def _as_predicted(row: Row, reference: Reference) -> dict[str, Any]:
    """A network beside another: how far what they predict is apart, and how sure they are."""
    ours, theirs = row.predictions, reference.predictions
    if ours is None or set(ours) != set(theirs):
        return {"reading": "nothing to hold it against"}
    apart, noise = of_predictions(ours, theirs), noise_of_predictions(theirs)
    said = f"predicts otherwise by {apart:.2g} (mean total variation, noise {noise:.2g})"
    if apart < _BEYOND_NOISE * noise:
        said = "predicts as the reference does"
    return {"distance": apart, "distance_floor": noise, "reading": said}


def _distance(row: Row, reference: Reference, yardstick: Yardstick) -> dict[str, float]:
    """The distance of the joint draws; none for a point, or where sites are missing."""
    names = list(reference.draws)
    if row.idata["posterior"].sizes["draw"] == 1 or not set(names) <= set(row.draws):
        return {}
    found = yardstick.measure(_stacked(row.draws, names), row.ess)
    return {} if found is None else {"distance": found.value, "distance_floor": found.floor}


def _stacked(draws: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """All scalars of the sites beside each other, (S, d)."""
    return np.concatenate([draws[k].reshape(len(draws[k]), -1) for k in names], axis=1)


def _against(summary: pd.DataFrame, reference: Reference | None) -> pd.DataFrame:
    """Mean and sd of each scalar, and how far they are from the reference, with errors."""
    kept = ["mean", "sd", "hdi_low", "hdi_high", "mcse_mean", "mcse_sd"]
    each = summary.reindex(columns=kept)
    if reference is None:
        return each
    other = reference.moments.reindex(index=each.index, columns=kept)
    # What the reference holds fixed, up to rounding, has no sd to measure by.
    sd = other["sd"].where(other["sd"] > 1e-10 * other["mean"].abs() + 1e-300)
    error = np.hypot(each["mcse_mean"].fillna(0), other["mcse_mean"].fillna(0))
    ratio = each["sd"] / sd
    relative = np.hypot(
        (each["mcse_sd"] / each["sd"]).fillna(0), (other["mcse_sd"] / sd).fillna(0)
    )
    return each.assign(
        reference_mean=other["mean"],
        reference_sd=sd,
        mean_error=(each["mean"] - other["mean"]) / sd,
        mean_error_se=error / sd,
        sd_ratio=ratio,
        sd_ratio_se=ratio * relative,
    )


def _worst(each: pd.DataFrame) -> dict[str, Any]:
    """The largest difference of a mean, and the range of the sd ratios."""
    line: dict[str, Any] = {}
    errors = each["mean_error"].abs().dropna()
    if len(errors):
        worst = errors.idxmax()
        line |= {"mean_error": errors[worst], "worst": worst}
        line["mean_error_se"] = each.loc[worst, "mean_error_se"]
    ratios = each["sd_ratio"].dropna()
    if len(ratios):
        line |= {"sd_low": ratios.min(), "sd_high": ratios.max()}
        line["sd_se"] = each["sd_ratio_se"].max()
    return line


def _reading(line: Mapping[str, Any], each: pd.DataFrame) -> str:
    """What the numbers say, in words; only differences beyond their errors are named."""
    said = []
    ratio, error = each["sd_ratio"], _SURE * each["sd_ratio_se"]
    narrow = ratio[(1 - ratio > _SD_MATTERS) & (1 - ratio > error)]
    wide = ratio[(ratio - 1 > _SD_MATTERS) & (ratio - 1 > error)]
    if len(narrow):
        said.append(f"narrower ({_parts(narrow, each)}, sd down to {narrow.min():.2g} of it)")
    if len(wide):
        said.append(f"wider ({_parts(wide, each)}, sd up to {wide.max():.3g} of it)")
    shift = each["mean_error"].abs()
    shifted = shift[(shift > _MEAN_MATTERS) & (shift > _SURE * each["mean_error_se"])]
    if len(shifted):
        said.append(f"shifted ({shifted.idxmax()} by {shifted.max():.3g} sd)")
    if not said and line.get("distance", 0) > 1.5 * line.get("distance_floor", np.inf):
        said.append("each parameter agrees, the joint does not (correlations or tails)")
    if said:
        return "; ".join(said)
    if max(line.get("mean_error_se", 0), line.get("sd_se", 0)) > _VAGUE:
        return "too few effective draws to tell it from the reference"
    if "sd_low" not in line and "mean_error" in line:
        return "a point near the reference mean, without an interval"
    return "agrees with the reference" if "mean_error" in line else ""


def _parts(names: pd.Series, each: pd.DataFrame) -> str:
    if len(names) == 1:
        return str(names.index[0])
    return "all parameters" if len(names) == len(each) else f"{len(names)} of {len(each)}"


def _add_bayes_factors(lines: Mapping[str, dict[str, Any]], done: Mapping[str, Row]) -> None:
    """log evidence less the largest one, where models differ and one method knows both."""
    keys = {done[label].posterior for label in done}
    if len(keys) < 2:
        return
    for method in ("exact", "laplace"):
        known = [
            label
            for label, row in done.items()
            if row.record["method"] == method
            and "log_evidence" in lines[label]
            and lines[label].get("khat", 0) < inference_data.KHAT_MAX
        ]
        if len({done[label].posterior for label in known}) < 2:
            continue
        best = max(lines[label]["log_evidence"] for label in known)
        for label in known:
            lines[label]["log_bayes_factor"] = lines[label]["log_evidence"] - best


def _add_differences(lines: Mapping[str, dict[str, Any]], done: Mapping[str, Row]) -> None:
    """elpd_loo less the largest one that is shown, of the same rows, with its standard error."""
    known = {k: done[k].idata["loo"]["elpd"].values for k in done if _is_shown(lines[k])}
    if len(known) < 2:
        return
    best = max(known, key=lambda label: lines[label]["elpd_loo"])
    for label, each in known.items():
        if label != best and len(each) == len(known[best]):
            found = loo.difference(each, known[best])
            lines[label]["elpd_diff"], lines[label]["elpd_diff_se"] = found


def _is_shown(line: Mapping[str, Any]) -> bool:
    return bool(np.isfinite(line.get("elpd_loo", np.nan)))


# -- names ------------------------------------------------------------------------------------


def labels(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A short name for each run: its method and guide, and by what it differs from the others."""
    several = len({record["model"] for record in records}) > 1
    bases = [
        f"{Path(record['model']).stem} {by(record)}" if several else by(record)
        for record in records
    ]
    described = [_described(record) for record in records]
    names = []
    for base, about in zip(bases, described):
        alike = [other for b, other in zip(bases, described) if b == base]
        differs = [k for k, v in about.items() if any(o.get(k) != v for o in alike)]
        names.append(" ".join([base, *(f"{k}={about[k]}" for k in differs[:4])]))
    return [
        f"{name} ({names[:i].count(name) + 1})" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]


def by(record: Mapping[str, Any]) -> str:
    """By what a run was made: its method and guide, `svi:mvn`."""
    guide = record.get("guide")
    return record["method"] + (f":{guide}" if guide else "")


def _described(record: Mapping[str, Any]) -> dict[str, Any]:
    """All by which two runs of one method on one model may differ."""
    data = Path(record["data"]["source"].partition(",")[0]).name
    return {"data": data, **record["options"], **record["settings"], "seed": record["seed"]}


def posterior_keys(records: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Label to what posterior the run approximates: the model, its options, and its source.

    Runs of models that bear one name but are not the same are told apart by the source's hash.
    """
    plain = {label: _posterior(record) for label, record in records.items()}
    sources = {label: record.get("model_sha256", "") for label, record in records.items()}
    keys = {}
    for label, key in plain.items():
        others = {sources[other] for other in plain if plain[other] == key}
        keys[label] = f"{key}, source {sources[label][:8]}" if len(others) > 1 else key
    return keys


def _posterior(record: Mapping[str, Any]) -> str:
    options = ", ".join(f"{k}={v}" for k, v in sorted(record["options"].items()))
    return f"{record['model']} ({options})" if options else record["model"]
