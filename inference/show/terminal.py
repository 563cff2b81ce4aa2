"""Results in words on the terminal: the verdict first, then the table.

Whatever is printed passes one console, which shows characters that would steer the terminal as
their codes; what is in brackets is a name, never a style.
"""

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

from .. import POINTS, about
from ..core.plain_text import plain

if TYPE_CHECKING:
    import pandas as pd

    from ..checks.calibration import Calibration
    from ..checks.checked import Checked
    from ..results.comparison import Comparison

_COLOURS = {"pass": "bold green", "warn": "bold yellow", "fail": "bold red"}
# Whether the terminal can show them, then: passed, failed, does not apply.
_MARKS = {
    True: {True: "✓", False: "✗", None: "-"},
    False: {True: "ok", False: "NO", None: "- "},
}
_MOST_ROWS = 40
_ROUNDING = 1e-12
_FORMATS = {"ess_bulk": "{:.0f}", "ess_tail": "{:.0f}", "r_hat": "{:.3f}"}
# What a point is the mode of, and who has the other one.
_MODES = {
    "unconstrained": "mode of the unconstrained density: {point} (map has the constrained one)",
    "constrained": "mode of the density in the constrained space (laplace has the other one)",
}


class _Console(Console):
    def render(self, *words: Any, **options: Any) -> Iterable[Segment]:
        """What is printed, all of which passes here, as characters that only print."""
        for segment in super().render(*words, **options):
            yield segment if segment.control else segment._replace(text=plain(segment.text))

    def on_broken_pipe(self) -> None:
        """Nobody reads on: for the command line to end in peace, where rich would exit with 1."""
        raise BrokenPipeError


def console() -> Console:
    """Standard output; wide enough for the table where it is no terminal."""
    options = {"markup": False, "emoji": False}  # what is in brackets is a name, not a style
    out = _Console(**options)
    return out if out.is_terminal else _Console(width=120, **options)


def _print_lines(out: Console, lines: Iterable[str]) -> None:
    """Sentences, each a line however long it is."""
    for line in lines:
        out.print(Text(line), soft_wrap=True)


def _print_table(
    out: Console, headings: Iterable[str], rows: Iterable[Sequence], left: Sequence[int] = (0,)
) -> None:
    """Print a table without lines.

    Args:
        out: where.
        headings: of its columns.
        rows: cells that are text already, but for the first, which names the row.
        left: columns that begin on the left; numbers end on the right.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i in left else "right")
    for name, *cells in rows:
        table.add_row(Text(str(name)), *cells)
    out.print(table)


# -- a run -------------------------------------------------------------------------------------


def show_run(record: Mapping[str, Any], table: pd.DataFrame) -> None:
    """Print a run: what ran, verdict with reasons, summary table, metrics, notes.

    Args:
        record: of the run.
        table: its summary, a row per scalar.
    """
    from ..results.comparison import data_in_words

    out = console()
    run = [record["model"], record["method"], record["guide"] or "", f"seed {record['seed']}"]
    out.print(Text(" ".join(filter(None, run)) + f"   data: {data_in_words(record['data'])}"))
    show_verdict(out, record["verdict"])
    identified = record.get("identified", True)
    if identified:  # a network's rows are many, and its scores tell more
        show_table(out, table)
    _show_metrics(out, record["metrics"])
    mode_of = about(record["method"]).mode_of
    if mode_of is not None and identified:
        point = ", ".join(f"{k} = {number(v)}" for k, v in record["point"].items())
        out.print(Text(_MODES[mode_of].format(point=point)))
    for note in record["data"]["notes"]:
        out.print(Text(f"note: {note}"))


def show_verdict(out: Console, verdict: Mapping[str, Any]) -> None:
    """Print `PASS`, `WARN` or `FAIL`, the headline if there is one, and the reasons, one a line.

    Args:
        out: where.
        verdict: status, headline, reasons, as in a record.
    """
    status = verdict["status"]
    head = Text(status.upper(), style=_COLOURS[status])
    out.print(head + Text(f"  {verdict['headline']}" if "headline" in verdict else ""))
    _print_lines(out, (f"  - {reason}" for reason in verdict["reasons"]))


def show_table(out: Console, table: pd.DataFrame) -> None:
    """Print a summary, long and wide ones cut with a word on what is left out.

    Args:
        out: where.
        table: numbers; NaN is what does not apply.
    """
    shown = table.head(_MOST_ROWS)
    cells = {c: [_cell_of(c, v) for v in shown[c]] for c in table.columns}
    columns = _fitting(cells, out.width - max(map(len, map(str, shown.index))))
    rows = zip(shown.index, *(cells[column] for column in columns))
    _print_table(out, ["", *columns], rows)
    _print_rest(out, table)
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


def _print_rest(out: Console, table: pd.DataFrame) -> None:
    """How many rows are not shown."""
    if len(table) > _MOST_ROWS:
        out.print(Text(f"... and {len(table) - _MOST_ROWS} more (--json has all)"))


def _cell_of(column: str, value: float) -> str:
    """A number of a summary; empty where it does not apply."""
    if isinstance(value, float) and value != value:
        return ""
    usual = "{:.2f}" if column.startswith("p[") else "{:.4g}"
    return _FORMATS.get(column, usual).format(value)


def number(value: Any) -> str:
    """A number, or nested list of them, short enough to read."""
    if isinstance(value, list):
        return "[" + ", ".join(number(v) for v in value) + "]"
    return f"{value:.6g}"


def _show_metrics(out: Console, metrics: Mapping[str, float]) -> None:
    """One to a line; those of several things (`layers[mode]`, `accuracy[mode]`) in a table."""
    import pandas as pd

    parts = {name: name.removesuffix("]").partition("[") for name in metrics}
    keys_of: dict[str, list[str]] = {}
    for kind, bracket, key in parts.values():
        keys_of.setdefault(kind, []).extend([key] if bracket else [])
    columns = [kind for kind, keys in keys_of.items() if len(keys) > 1]
    single = {name: value for name, value in metrics.items() if parts[name][0] not in columns}
    width = max(map(len, single), default=0)
    for name, value in single.items():
        out.print(Text(f"{name:{width}}  {value:.6g}"))
    if columns:
        values = {(parts[k][2], parts[k][0]): v for k, v in metrics.items() if k not in single}
        rows = {
            key or "predictive": [values.get((key, kind), math.nan) for kind in columns]
            for key in dict.fromkeys(key for key, _ in values)
        }
        show_table(out, pd.DataFrame.from_dict(rows, orient="index", columns=columns))


# -- a check, a calibration --------------------------------------------------------------------


def show_checks(report: Checked) -> None:
    """Print what was checked: whether it passed, failed or does not apply, and words for it."""
    out = console()
    _print_lines(out, [f"{report.model}   data: {report.data}"])
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


def show_calibration(table: Calibration) -> None:
    """Print the verdict on a calibration, then a row for each quantity, the worst first.

    z is the place of the truth among the draws, as a normal score: of right posteriors its mean
    is 0 and that of its square 1; the p-value is corrected for the number of quantities (Holm).
    """
    out = console()
    out.print(Text(table.title.replace("-", " ")))
    show_verdict(out, {"status": table.verdict.status, "reasons": table.verdict.reasons})
    headings = ("mean z", "mean z\N{SUPERSCRIPT TWO}", "99 % of right ones", "p (Holm)")
    ordered = table.sort_values(["p_holm", "p_z2"]).head(_MOST_ROWS)
    rows = (
        (
            name,
            f"{row['mean_z']:+.2f} ± {row['se_z']:.2f}",
            f"{row['mean_z2']:.2f}",
            f"{row['z2_low']:.2f} .. {row['z2_high']:.2f}",
            f"{row['p_holm']:.2g}",
            row["says"],
        )
        for name, row in ordered.iterrows()
    )
    _print_table(out, ["", *headings, ""], rows, left=(0, 5))
    _print_rest(out, table)
    _print_lines(out, table.notes)


def show_gradients(table: pd.DataFrame) -> None:
    """Print variance (and bias) of each estimator's gradient, a row for each layer.

    Args:
        table: of `gradients.variances`, or `gradients.biases`, and its notes.
    """
    out = console()
    headings = {"variance": "variance", "variance_se": "standard error"}
    headings |= {"times_local": "times local", "norm": "exact norm", "bias": "distance of mean"}
    headings |= {"bias_of_noise": "by noise alone"}
    shown = [column for column in headings if column in table]
    rows = (
        # Where there is no noise, rounding leaves some 1e-23.
        (*names, *(f"{0 if abs(row[c]) < _ROUNDING else row[c]:.4g}" for c in shown))
        for names, row in table.sort_index(level=0, sort_remaining=False).iterrows()
    )
    _print_table(out, ["layer", "estimator", *map(headings.get, shown)], rows, left=(0, 1))
    _print_lines(out, table.notes)


# -- a study -----------------------------------------------------------------------------------


def show_growth(table: pd.DataFrame, notes: Sequence[str]) -> None:
    """Print the estimates of growing data, a column each.

    Args:
        table: columns n, estimate, parameter, value.
        notes: what a reader should know of the whole.
    """
    estimates = table.assign(estimate=table["estimate"].replace("predictive", "posterior"))
    wide = estimates.pivot_table(
        index=["parameter", "n"], columns="estimate", values="value", sort=False
    )
    wide = wide.reindex(columns=[c for c in (*POINTS, "posterior") if c in wide.columns])
    wide.index = [f"{parameter}, n = {n}" for parameter, n in wide.index]
    out = console()
    show_table(out, wide)
    _print_lines(out, notes)


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


def show_evidence(summary: pd.DataFrame, reasons: Sequence[str]) -> None:
    """Print means over rows, nats, with their errors, and what speaks against them.

    Args:
        summary: of `encoder.summary`: mean, mcse, se and rows of each column.
        reasons: of `encoder.concerns`.
    """
    out = console()
    rows = (
        (
            _OF_ROWS[name],
            f"{row['mean']:.3f}",
            *("" if row[k] != row[k] else f"+- {row[k]:.2g}" for k in ("mcse", "se")),
            f"{row['rows']:.0f}",
        )
        for name, row in summary.iterrows()
    )
    _print_table(out, ("nats a row", "mean", "of draws", "of rows", "rows"), rows)
    _print_lines(out, (f"  - {reason}" for reason in reasons))


# -- a comparison ------------------------------------------------------------------------------


def show_comparison(table: Comparison) -> None:
    """Print verdicts and readings by run, then the numbers, columns that are empty left out."""
    out = console()
    out.print(Text(f"compared with {', '.join(dict.fromkeys(table.references.values()))}"))
    width = max(map(len, table.index))
    for label, row in table.iterrows():
        line = Text(f"{label:{width}}  ")
        line.append(f"{row['verdict'].upper():7}", style=_COLOURS.get(row["verdict"], "dim"))
        out.print(line.append(f"  {row['reading']}"), soft_wrap=True)
        if row["reason"]:
            _print_lines(out, [f"  - {row['reason']}"])
    for columns in layout(table):
        out.print()
        _print_table(out, ["", *columns], zip(table.index, *columns.values()))
    _print_lines(out, table.notes)


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
    tables = []
    for group in _CELLS:
        columns = {
            heading: [_cell(row, names) for _, row in table.iterrows()]
            for heading, names in group.items()
        }
        filled = {heading: cells for heading, cells in columns.items() if any(cells)}
        tables += [filled] if filled else []
    return tables


def _cell(row: pd.Series, names: Sequence[str]) -> str:
    """A value, a value with its standard error, or a range; empty where it does not apply.

    Errors are shown to two digits, and values as far as their errors, four decimals at most.
    """
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
