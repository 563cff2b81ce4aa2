"""Results in words on the terminal: the verdict first, then the table."""

from __future__ import annotations

import itertools
import math
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ..core.plain_text import plain

if TYPE_CHECKING:
    import pandas as pd

    from ..checks.calibration import Calibration
    from ..checks.checked import Checked
    from ..results.comparison import Comparison

_COLOURS = {"pass": "bold green", "warn": "bold yellow", "fail": "bold red"}
# Whether the terminal can show them, then tick, cross, and does not apply.
_MARKS = {
    True: {True: "✓", False: "✗", None: "-"},
    False: {True: "ok", False: "NO", None: "- "},
}
_MOST_ROWS = 40
_ROUNDING = 1e-12
_FORMATS = {"ess_bulk": "{:.0f}", "ess_tail": "{:.0f}", "r_hat": "{:.3f}"}


class _Console(Console):
    def render(self, *words: Any, **options: Any) -> Iterable[Segment]:
        """What is printed, all of which passes here, as characters that only print."""
        for one in super().render(*words, **options):
            yield one if one.control else one._replace(text=plain(one.text))

    def on_broken_pipe(self) -> None:
        """Nobody reads on: for the command line to end in peace, where rich would exit with 1."""
        raise BrokenPipeError


def console() -> Console:
    """Standard output; wide enough for the table where it is no terminal."""
    options = {"markup": False, "emoji": False}  # what is in brackets is a name, not a style
    out = _Console(**options)
    return out if out.is_terminal else _Console(width=120, **options)


def show_run(record: Mapping[str, Any], table: pd.DataFrame) -> None:
    """Print a run: what ran, verdict with reasons, summary table, metrics, where it is kept."""
    out = console()
    who = [record["model"], record["method"], record["guide"] or "", f"seed {record['seed']}"]
    data = record["data"]
    rows = "" if data["n"] is None else f", n = {data['n']}"
    out.print(Text(" ".join(filter(None, who)) + f"   data: {data['source']}{rows}"))
    show_verdict(out, record["verdict"])
    if record.get("identified", True):  # a network's rows are many, and its scores tell more
        show_table(out, table)
    _show_metrics(out, record["metrics"])
    if record["point"] and record["method"] == "laplace":
        spots = ", ".join(f"{k} = {number(v)}" for k, v in record["point"].items())
        out.print(
            Text(f"mode of the unconstrained density: {spots} (map has the constrained one)")
        )
    if record["method"] == "map" and record.get("identified", True):
        out.print(Text("mode of the density in the constrained space (laplace has the other one)"))
    for note in record["data"]["notes"]:
        out.print(Text(f"note: {note}"))


def _show_metrics(out: Console, metrics: Mapping[str, float]) -> None:
    """One to a line; those of several things (`layers[mode]`, `accuracy[mode]`) in a table."""
    import pandas as pd

    parts = {name: name.removesuffix("]").partition("[") for name in metrics}
    of: dict[str, list[str]] = {}
    for what, bracket, key in parts.values():
        of.setdefault(what, []).extend([key] if bracket else [])
    alike = {what for what, keys in of.items() if len(keys) > 1}
    single = {name: value for name, value in metrics.items() if parts[name][0] not in alike}
    width = max(map(len, single), default=0)
    for name, value in single.items():
        out.print(Text(f"{name:{width}}  {value:.6g}"))
    columns = [what for what in of if what in alike]
    if columns:
        values = {(parts[k][2], parts[k][0]): v for k, v in metrics.items() if k not in single}
        keys = dict.fromkeys(key for key, _ in values)
        rows = {
            key or "predictive": [values.get((key, what), math.nan) for what in columns]
            for key in keys
        }
        show_table(out, pd.DataFrame.from_dict(rows, orient="index", columns=columns))


def show_checks(report: Checked) -> None:
    """Print what was checked: a tick, a cross or a dash each, or words for them."""
    out = console()
    out.print(Text(f"{report.model}   data: {report.data}"), soft_wrap=True)
    colours = {True: "green", False: "bold red", None: "dim"}
    width = max(len(check.name) for check in report.checks)
    for check in report.checks:
        line = Text(_MARKS[out.encoding.startswith("utf")][check.ok], style=colours[check.ok])
        line.append(f" {check.name:{width}}  {check}", style="dim" if check.ok is None else "none")
        out.print(line, soft_wrap=True)


def show_tracebacks(report: Checked) -> None:
    """Print on standard error where the exceptions behind the failed checks arose."""
    for check in report.failed:
        if check.error is not None:
            whole = "".join(traceback.format_exception(check.error))
            print(plain(f"{check.name}:\n{whole}"), end="", file=sys.stderr)


def show_comparison(table: Comparison) -> None:
    """Print verdicts and readings by run, then the numbers, columns that are empty left out."""
    out = console()
    out.print(Text(f"held against {', '.join(dict.fromkeys(table.references.values()))}"))
    width = max(map(len, table.index))
    for label, row in table.iterrows():
        line = Text(f"{label:{width}}  ")
        line.append(f"{row['verdict'].upper():7}", style=_COLOURS.get(row["verdict"], "dim"))
        out.print(line.append(f"  {row['reading']}"), soft_wrap=True)
        if row["reason"]:
            out.print(Text(f"  - {row['reason']}"), soft_wrap=True)
    for columns in layout(table):
        out.print()
        drawn = Table(box=None, pad_edge=False, header_style="bold")
        drawn.add_column("")
        for heading in columns:
            drawn.add_column(heading, justify="right")
        for label, cells in zip(table.index, zip(*columns.values())):
            drawn.add_row(Text(str(label)), *cells)
        out.print(drawn)
    for note in table.notes:
        out.print(Text(note), soft_wrap=True)


def show_calibration(table: Calibration) -> None:
    """Print the verdict on a calibration, then a row for each quantity, the worst first."""
    out = console()
    out.print(Text(table.title.replace("-", " ")))
    verdict = {"status": table.verdict.status, "reasons": table.verdict.reasons}
    show_verdict(out, verdict)
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    drawn.add_column("")
    for heading in ("mean z", "mean z\N{SUPERSCRIPT TWO}", "99 % of right ones", "p (Holm)"):
        drawn.add_column(heading, justify="right")
    drawn.add_column("")
    ordered = table.sort_values(["p_holm", "p_z2"])
    for name, row in ordered.head(_MOST_ROWS).iterrows():
        z = f"{row['mean_z']:+.2f} ± {row['se_z']:.2f}"
        band = f"{row['z2_low']:.2f} .. {row['z2_high']:.2f}"
        cells = (z, f"{row['mean_z2']:.2f}", band, f"{row['p_holm']:.2g}", row["says"])
        drawn.add_row(Text(str(name)), *cells)
    out.print(drawn)
    _say_rest(out, table)
    for note in table.notes:
        out.print(Text(note), soft_wrap=True)


def show_growth(table: pd.DataFrame, notes: Sequence[str]) -> None:
    """Print the estimates of growing data, a column each."""
    said = table.assign(estimate=table["estimate"].replace("predictive", "posterior"))
    wide = said.pivot_table(
        index=["parameter", "n"], columns="estimate", values="value", sort=False
    )
    wide = wide.reindex(columns=[c for c in ("mle", "map", "posterior") if c in wide.columns])
    wide.index = [f"{parameter}, n = {n}" for parameter, n in wide.index]
    out = console()
    show_table(out, wide)
    for note in notes:
        out.print(Text(note), soft_wrap=True)


def show_evidence(summary: pd.DataFrame, doubts: Sequence[str]) -> None:
    """Print means over rows, nats, with their errors, and what speaks against them."""
    out = console()
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("nats a row", "mean", "of draws", "of rows", "rows"):
        drawn.add_column(heading, justify="left" if heading == "nats a row" else "right")
    for name, row in summary.iterrows():
        errors = ("" if row[k] != row[k] else f"+- {row[k]:.2g}" for k in ("mcse", "se"))
        drawn.add_row(_OF_ROWS[name], f"{row['mean']:.3f}", *errors, f"{row['rows']:.0f}")
    out.print(drawn)
    for doubt in doubts:
        out.print(Text(f"  - {doubt}"), soft_wrap=True)


# What the columns of an evidence are.
_OF_ROWS = {
    "log_p": "log p(x), importance sampling",
    "elbo": "ELBO, the encoder's",
    "annealed": "log p(x), annealing",
    "apart": "importance sampling less annealing, same rows",
    "elbo_normal": "ELBO, normals fitted to each row",
    "approximation": "gap: posteriors are no independent normals",
    "amortisation": "gap: one encoder for all rows",
}


def show_gradients(table: pd.DataFrame) -> None:
    """Print variance (and bias) of each estimator's gradient, a row for each layer."""
    out = console()
    headings = {"variance": "variance", "variance_se": "standard error"}
    headings |= {"times_local": "times local", "norm": "exact norm", "bias": "distance of mean"}
    headings |= {"bias_of_noise": "by noise alone"}
    shown = {column: heading for column, heading in headings.items() if column in table}
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("layer", "estimator", *shown.values()):
        drawn.add_column(heading, justify="left" if heading in ("layer", "estimator") else "right")
    for (layer, estimator), row in table.sort_index(level=0, sort_remaining=False).iterrows():
        # Where there is no noise, rounding leaves some 1e-23.
        texts = (f"{0 if abs(row[c]) < _ROUNDING else row[c]:.4g}" for c in shown)
        drawn.add_row(layer, estimator, *texts)
    out.print(drawn)
    for note in table.notes:
        out.print(Text(note), soft_wrap=True)


# Heading to the columns of a comparison that make up a cell: a value, one with its error (`_se`),
# or the two ends of a range.
_CELLS: tuple[dict[str, tuple[str, ...]], ...] = (
    {
        "time, s": ("time_s",),
        "mean error, sd": ("mean_error", "mean_error_se"),
        "sd ratio": ("sd_low", "sd_high"),
        "distance": ("distance",),
        "its noise": ("distance_floor",),
        "k-hat": ("khat",),
        "min ESS": ("ess",),
        "ESS/s": ("ess_per_s",),
    },
    {
        "ELBO": ("elbo", "elbo_se"),
        "log evidence": ("log_evidence",),
        "gap": ("gap",),
        "log Bayes factor": ("log_bayes_factor",),
        "elpd_loo": ("elpd_loo", "elpd_loo_se"),
        "less best": ("elpd_diff", "elpd_diff_se"),
        "elpd_test": ("elpd_test",),
        "accuracy": ("accuracy",),
        "log_score": ("log_score",),
        "brier": ("brier",),
        "ece": ("ece",),
        "entropy": ("entropy",),
        "mutual inf.": ("mutual_information",),
    },
)


def layout(table: pd.DataFrame) -> list[dict[str, list[str]]]:
    """The tables that a comparison is shown as: heading to cells; empty columns are left out."""
    shown = []
    for group in _CELLS:
        columns = {
            heading: [_cell(row, names) for _, row in table.iterrows()]
            for heading, names in group.items()
        }
        filled = {heading: cells for heading, cells in columns.items() if any(cells)}
        if filled:
            shown.append(filled)
    return shown


def _cell(row: pd.Series, names: Sequence[str]) -> str:
    """A value, a value with its standard error, or a range; empty where it does not apply."""
    value = row[names[0]]
    if not math.isfinite(value):
        return ""
    if names[0] in ("ess", "ess_per_s"):
        return f"{value:.0f}"
    if names[-1].endswith("_se") and math.isfinite(row[names[-1]]) and row[names[-1]] > 0:
        error = row[names[-1]]
        decimals = min(max(0, 1 - math.floor(math.log10(error))), 4)
        return f"{value:.{decimals}f} ± {error:.{decimals}f}"
    if len(names) == 2 and not names[-1].endswith("_se"):
        return f"{value:.2f} .. {row[names[1]]:.2f}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.2f}"


def show_verdict(out: Console, verdict: Mapping[str, Any]) -> None:
    """Print `PASS`, `WARN` or `FAIL` and the reasons, one a line."""
    status = verdict["status"]
    head = Text(status.upper(), style=_COLOURS[status])
    out.print(head + Text(f"  {verdict['headline']}" if "headline" in verdict else ""))
    for reason in verdict["reasons"]:
        out.print(Text(f"  - {reason}"), soft_wrap=True)


def show_table(out: Console, table: pd.DataFrame) -> None:
    """Print a summary, long and wide ones cut with a word on what is left out."""
    cells = {c: [_number(c, v) for v in table[c].head(_MOST_ROWS)] for c in table.columns}
    columns = _fitting(cells, out.width - max(map(len, map(str, table.index[:_MOST_ROWS]))))
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    drawn.add_column("")
    for column in columns:
        drawn.add_column(column, justify="right")
    for i, name in enumerate(table.index[:_MOST_ROWS]):
        drawn.add_row(Text(str(name)), *(cells[column][i] for column in columns))
    out.print(drawn)
    _say_rest(out, table)
    if "hdi_low" in columns and table["hdi_low"].notna().any():
        from ..results.inference_data import HDI_PROB

        out.print(Text(f"hdi: the shortest interval that holds {HDI_PROB:.0%}", "dim"))
    if len(table.columns) > len(columns):
        more = len(table.columns) - len(columns)
        out.print(Text(f"... and {more} more columns (--json has all)"))


def _fitting(cells: Mapping[str, Sequence[str]], room: int) -> list[str]:
    """The first columns that this many letters have room for, one at least."""
    widths = [2 + max(map(len, (column, *texts))) for column, texts in cells.items()]
    count = sum(width <= room for width in itertools.accumulate(widths))
    return list(cells)[: max(count, 1)]


def _say_rest(out: Console, table: pd.DataFrame) -> None:
    if len(table) > _MOST_ROWS:
        out.print(Text(f"... and {len(table) - _MOST_ROWS} more (--json has all)"))


def _number(column: str, value: float) -> str:
    if isinstance(value, float) and value != value:
        return ""
    usual = "{:.2f}" if column.startswith("p[") else "{:.4g}"
    return _FORMATS.get(column, usual).format(value)


def number(value: Any) -> str:
    """A number, or nested list of them, short enough to read."""
    if isinstance(value, list):
        return "[" + ", ".join(number(v) for v in value) + "]"
    return f"{value:.6g}"
