"""A run in words on the terminal: the verdict first, then the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import pandas as pd

_COLOURS = {"pass": "bold green", "warn": "bold yellow", "fail": "bold red"}
_MOST_ROWS = 40
_FORMATS = {"ess_bulk": "{:.0f}", "ess_tail": "{:.0f}", "r_hat": "{:.3f}"}


def console() -> Console:
    """Standard output; wide enough for the table where it is no terminal."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=120)


def show_run(record: Mapping[str, Any], table: pd.DataFrame) -> None:
    """Print a run: what ran, verdict with reasons, summary table, metrics, where it is kept."""
    out = console()
    who = [record["model"], record["method"], record["guide"] or "", f"seed {record['seed']}"]
    data = record["data"]
    rows = "" if data["n"] is None else f", n = {data['n']}"
    out.print(Text(" ".join(filter(None, who)) + f"   data: {data['source']}{rows}"))
    show_verdict(out, record["verdict"])
    show_table(out, table)
    for name, value in record["metrics"].items():
        out.print(Text(f"{name:14} {value:.6g}"))
    if record["point"] and record["method"] == "laplace":
        spots = ", ".join(f"{k} = {number(v)}" for k, v in record["point"].items())
        out.print(
            Text(f"mode of the unconstrained density: {spots} (map has the constrained one)")
        )
    if record["method"] == "map":
        out.print(Text("mode of the density in the constrained space (laplace has the other one)"))
    for note in record["data"]["notes"]:
        out.print(Text(f"note: {note}"))
    if record.get("run"):
        out.print(Text(f"saved in {record['run']}"))


def show_verdict(out: Console, verdict: Mapping[str, Any]) -> None:
    """Print `PASS`, `WARN` or `FAIL` and the reasons, one a line."""
    status = verdict["status"]
    out.print(Text(status.upper(), style=_COLOURS[status]))
    for reason in verdict["reasons"]:
        out.print(Text(f"  - {reason}"), soft_wrap=True)


def show_table(out: Console, table: pd.DataFrame) -> None:
    """Print a summary, long ones cut with a word on how many rows are left out."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    drawn.add_column("")
    for column in table.columns:
        drawn.add_column(column, justify="right")
    for name, row in table.head(_MOST_ROWS).iterrows():
        drawn.add_row(
            Text(str(name)), *(_FORMATS.get(c, "{:.4g}").format(row[c]) for c in table.columns)
        )
    out.print(drawn)
    if len(table) > _MOST_ROWS:
        out.print(Text(f"... and {len(table) - _MOST_ROWS} more (--json has all)"))


def number(value: Any) -> str:
    """A number, or nested list of them, short enough to read."""
    if isinstance(value, list):
        return "[" + ", ".join(number(v) for v in value) + "]"
    return f"{value:.6g}"
