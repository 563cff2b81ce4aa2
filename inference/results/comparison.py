"""Runs side by side: one table with errors, each compared with the best reference there is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from models.contract import Refused, UsageError, nearest

from ..core.html import filled, frame
from . import differences, loo, reference
from .psis import KHAT_MAX
from .reference import Row

_WORDS = ("verdict", "reason", "worst", "reading")
_COLUMNS = [
    "verdict", "reason", "time_s", "mean_error", "mean_error_se", "worst", "sd_low", "sd_high",
    "sd_se", "distance", "distance_floor", "elbo", "elbo_se", "log_evidence", "gap",
    "log_bayes_factor", "khat", "elpd_loo", "elpd_loo_se", "elpd_diff",
    "elpd_diff_se", "elpd_test", *differences.SCORES, "ess",
    "ess_per_s", "reading",
]  # fmt: skip
_NO_REFERENCE = "none: no exact posterior is known, and no nuts run that passes is among them"
# Options by which a label tells runs of one method apart, at most.
_MOST_OPTIONS = 4


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

    _metadata: ClassVar = ["title", "runs", "notes", "pictures", "signal", "html"]

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
        return filled("{{ values }}{% for note in notes %}<p>{{ note }}</p>{% endfor %}", **parts)


class Comparison(Table):
    """A row per run; what does not apply is empty (NaN).

    Columns: verdict, and the gravest reason of one that is no pass; time_s (of the method alone);
    mean_error (the largest difference of a parameter's mean from the reference, in the
    reference's sds) with its Monte Carlo error mean_error_se and the parameter (worst); sd_low and
    sd_high (range of sd ratios) and sd_se; distance of the joint draws (of networks: of the
    predictions) and its noise floor (`reference.py`); elbo, log_evidence and gap (exact log
    evidence - ELBO), nats; khat; leave-one-out, and its difference from the best run's with the
    standard error over rows; held-out scores; smallest bulk ess and ess_per_s; log_bayes_factor
    against the largest evidence that the same method found (laplace's only where its k-hat
    allows), nats; reading, in words.

    Attributes:
        references: posterior key to the name of what its runs were compared with, or why none.
        parameters: a row per run and scalar: mean, sd, hdi_low, hdi_high, the reference's, and
            the differences.
        trust: label to purpose to `yes`, `no` or `not known`, the reference having the last word.
    """

    _metadata: ClassVar = [*Table._metadata, "references", "parameters", "trust"]

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
                f"runs of different data cannot be compared: {first_label} has {_named(ours)}, "
                f"{label} has {_named(theirs)}; run both on the same data (source, split, units)"
            )


def data_in_words(data: Mapping[str, Any]) -> str:
    """The data of a record, `diabetes, n = 442`."""
    return data["source"] + ("" if data["n"] is None else f", n = {data['n']}")


def _named(data: Mapping[str, Any]) -> str:
    """The same with the hash by which data are told apart."""
    return f"{data_in_words(data)} (sha256 {data['sha256'][:8]})"


def compare(rows: Sequence[Row], exact: Mapping[str, Any], *, seed: int = 0) -> Comparison:
    """The table of all rows, each compared with the reference of its posterior.

    Args:
        rows: runs, and what was refused.
        exact: posterior key to the model's `Exact` truth, where there is one.
        seed: seed of the reference's draws from an exact truth that no row sampled.

    Raises:
        Refused: the runs saw different data.
    """
    done = {row.label: row for row in rows if row.record}
    records = {label: row.record for label, row in done.items()}
    check_same_data(records)
    references = {
        key: reference.best([r for r in done.values() if r.posterior == key], exact.get(key), seed)
        for key in dict.fromkeys(row.posterior for row in done.values())
    }
    lines: dict[str, dict[str, Any]] = {}
    parameters, trust = {}, {}
    for row in rows:
        if not row.record:
            lines[row.label] = {"verdict": row.status, "reason": "", "reading": row.reason}
            continue
        known = references[row.posterior]
        each = differences.scalars(row.summary, known)
        line = differences.line(row, each, known)
        answers = differences.trust(row.record, line, each)
        line = differences.capped(line, answers, row.record["verdict"].get("trust", {}))
        lines[row.label] = differences.shown(line, answers)
        parameters[row.label], trust[row.label] = each, answers
    _add_bayes_factors(lines, done)
    _add_differences(lines, done)
    table = _table(lines, parameters)
    table.references = {k: row.label if row else _NO_REFERENCE for k, row in references.items()}
    table.trust = trust
    table.notes = [*differences.hidden(records, trust), differences.last_line(trust)]
    return table


def _table(lines: dict[str, dict[str, Any]], parameters: Mapping[str, pd.DataFrame]) -> Comparison:
    """The lines as a table; scalars of all runs, indexed by run and parameter, beside it."""
    numbers = [name for name in _COLUMNS if name not in _WORDS]
    plain = pd.DataFrame.from_dict(lines, orient="index", columns=_COLUMNS)
    table = Comparison(plain.astype(dict.fromkeys(numbers, float)))
    table.index.name = "run"
    names = ["run", "parameter"]
    table.parameters = pd.concat(parameters, names=names) if parameters else pd.DataFrame()
    return table


def _add_bayes_factors(lines: Mapping[str, dict[str, Any]], done: Mapping[str, Row]) -> None:
    """log evidence less the largest one, where models differ and one method knows both."""
    for name in dict.fromkeys(
        r.record["method"] for r in done.values() if r.method.states_evidence
    ):
        known = [
            label
            for label, row in done.items()
            if row.record["method"] == name
            and "log_evidence" in lines[label]
            and lines[label].get("khat", 0) < KHAT_MAX
        ]
        if len({done[label].posterior for label in known}) < 2:
            continue
        best = max(lines[label]["log_evidence"] for label in known)
        for label in known:
            lines[label]["log_bayes_factor"] = lines[label]["log_evidence"] - best


def _add_differences(lines: Mapping[str, dict[str, Any]], done: Mapping[str, Row]) -> None:
    """elpd_loo less the largest one that is shown, of the same rows, with its standard error."""
    known = {
        label: row.idata["loo"]["elpd"].values
        for label, row in done.items()
        if np.isfinite(lines[label].get("elpd_loo", np.nan))
    }
    best = max(known, key=lambda label: lines[label]["elpd_loo"], default="")
    for label, each in known.items():
        if label != best and len(each) == len(known[best]):
            difference = loo.difference(each, known[best])
            lines[label]["elpd_diff"], lines[label]["elpd_diff_se"] = difference


# -- names ------------------------------------------------------------------------------------


def labels(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A short name for each run: its method and guide, and by what it differs from the others."""
    several = len({record["model"] for record in records}) > 1
    stems = [f"{Path(record['model']).stem} " if several else "" for record in records]
    bases = [stem + by(record) for stem, record in zip(stems, records)]
    described = [_described(record) for record in records]
    names = []
    for base, about in zip(bases, described):
        alike = [other for b, other in zip(bases, described) if b == base]
        differs = [k for k, v in about.items() if any(o.get(k) != v for o in alike)]
        names.append(" ".join([base, *(f"{k}={about[k]}" for k in differs[:_MOST_OPTIONS])]))
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
