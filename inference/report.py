"""Results as HTML: a comparison in a notebook, and the report of several runs in one file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import publish
from ._problem import Fault
from .terminal import layout, number

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from .compare import Comparison

# Of Okabe and Ito's palette, dark enough to be read on white.
COLOURS = {"pass": "#006B4E", "warn": "#8A5A00", "fail": "#B23A00", "refused": "#666"}
COLOURS |= {"failed": COLOURS["fail"], "interrupted": COLOURS["fail"]}
_GRAVEST = ("fail", "warn", "pass")
_MOST_ROWS = 40
_DPI = 100

_STYLE = """
body { font: 16px/1.45 system-ui, sans-serif; color: #1b1b1b; background: #fff;
       max-width: 1100px; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem;
     border-bottom: 2px solid #ddd; } h3 { font-size: 1.05rem; margin: 1.6rem 0 .3rem; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .88rem; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #e3e3e3;
         white-space: nowrap; font-variant-numeric: tabular-nums; }
th:first-child { text-align: left; }
.verdict { display: inline-block; min-width: 4.2em; text-align: center; font-size: .85rem; }
ul.runs { list-style: none; padding: 0; } ul.runs > li { margin: .6rem 0; }
ul.runs ul { margin: .1rem 0 0; padding-left: 6.2em; }
img { max-width: 100%; height: auto; display: block; margin: .6rem 0; }
p.small, dl { font-size: .85rem; color: #444; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 600px) { ul.runs ul { padding-left: 1.2em; } body { padding: .6rem; } }
@media print { body { max-width: none; font-size: 11pt; } h2, h3 { break-after: avoid; }
  img, tr, li { break-inside: avoid; } img { max-height: 23cm; width: auto; }
  section img { display: inline-block; width: 49%; vertical-align: top; }
  section { break-before: page; } .wide { overflow: visible; } table { font-size: 8pt; }
  th, td { white-space: normal; padding: .15rem .3rem; } }
"""


# -- a comparison -----------------------------------------------------------------------------


def comparison_html(table: Comparison) -> str:
    """The comparison as tables: verdicts and readings first, then the numbers."""
    rows = "".join(
        f"<tr><th>{escape(str(label))}</th><td>{_badge(row['verdict'])}</td>"
        f'<td style="text-align:left">{_readings(row)}</td></tr>'
        for label, row in table.iterrows()
    )
    return "\n".join(
        [_against(table), f'<div class="wide"><table>{rows}</table></div>', numbers_html(table)]
    )


def _readings(row: Mapping[str, Any]) -> str:
    """How it stands to the reference, and why its verdict is no pass."""
    return "<br>".join(escape(said) for said in (row["reading"], row["reason"]) if said)


def _against(table: Comparison) -> str:
    names = ", ".join(dict.fromkeys(table.references.values()))
    return f"<p>held against <b>{escape(names)}</b></p>"


def numbers_html(table: Comparison) -> str:
    """The numbers of a comparison, columns that are empty left out, and its notes."""
    parts = []
    for columns in layout(table):
        rows = [list(map(str, table.index)), *columns.values()]
        parts.append(_table(["", *columns], list(zip(*rows))))
    parts += [f"<p>{escape(note)}</p>" for note in table.notes]
    return "\n".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column names its rows, and that scrolls where it is too wide."""
    titles = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr><th>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    return f'<div class="wide"><table><tr>{titles}</tr>{body}</table></div>'


def _badge(verdict: str) -> str:
    """The verdict on its colour, which is written here: a notebook has no style of ours."""
    colour = COLOURS[verdict]
    style = f"background:{colour};color:#fff;padding:0 .5em;border-radius:.3em;font-weight:600"
    return f'<span class="verdict" style="{style}">{escape(verdict)}</span>'


# -- the report -------------------------------------------------------------------------------


def report(runs: Mapping[str, Any], tables: Sequence[Comparison]) -> str:
    """One self-contained page: verdicts first, then comparison, pictures, settings, versions.

    Args:
        runs: label to run (`zoo.Run`), of any models and data.
        tables: comparisons of those that saw the same data.
    """
    rows = {str(k): row for table in tables for k, row in table.iterrows()}
    statuses = {label: run.verdict.status for label, run in runs.items()}
    statuses |= {label: row["verdict"] for label, row in rows.items() if label in runs}
    ordered = sorted(runs, key=lambda label: _GRAVEST.index(statuses[label]))
    parts = [_opening(runs), "<h2>Verdicts, the gravest first</h2>", "<ul class='runs'>"]
    for label in ordered:
        reading = rows[label]["reading"] if label in rows else ""
        parts.append(_verdict(label, runs[label], statuses[label], reading))
    parts += ["</ul>", f"<p><b>{escape(publish.last_line(_answers(runs, tables)))}</b></p>"]
    for table in tables:
        parts += ["<h2>Side by side</h2>", _against(table), _LEGEND, numbers_html(table)]
        parts += [_image(table.figure(kind), kind) for kind in table.figures()]
    parts += [_section(label, runs[label]) for label in ordered]
    parts += ["<section><h2>Made with</h2>", _made_with(runs), "</section>"]
    return _page("Bayes Zoo report", "\n".join(parts))


_LEGEND = """<p class="small">Mean error: the largest difference of a parameter's mean from the
reference, in the reference's standard deviations, &plusmn; its Monte Carlo error. Sd ratio: range
of each parameter's sd over the reference's. Distance: sliced Wasserstein distance of the joint
draws in reference sds; below its noise it cannot be told from the reference. Gap: exact log
evidence less the ELBO, nats. k-hat below 0.7: the approximation covers the posterior. What does
not apply is empty.</p>"""


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{title}</title><style>{_STYLE}</style></head>'
        f"<body>\n{body}\n</body></html>\n"
    )


def _opening(runs: Mapping[str, Any]) -> str:
    data = {
        (r.record["model"], r.record["data"]["sha256"]): r.record["data"] for r in runs.values()
    }
    said = [
        f"{escape(Path(model).stem)} on {escape(about['source'])}"
        + ("" if about["n"] is None else f", n = {about['n']}")
        + f" (sha256 {sha[:8]})"
        for (model, sha), about in data.items()
    ]
    count = f"{len(runs)} run{'s' if len(runs) != 1 else ''}"
    return f"<h1>Bayes Zoo report</h1><p>{count} of {'; '.join(said)}</p>"


def _answers(
    runs: Mapping[str, Any], tables: Sequence[Comparison]
) -> dict[str, Mapping[str, str]]:
    """Label to purpose to answer: the run's own, or what a comparison left of it."""
    own = {k: {p: one.answer for p, one in r.verdict.trust.items()} for k, r in runs.items()}
    return own | {label: found for table in tables for label, found in table.trust.items()}


def _verdict(label: str, run: Any, status: str, reading: str) -> str:
    reasons = [run.verdict.headline, *run.verdict.reasons]
    if reading:
        reasons.append(
            f"Against the reference: {reading}" if reading != "the reference" else reading
        )
    listed = "".join(f"<li>{escape(reason)}</li>" for reason in reasons)
    return f"<li>{_badge(status)} <b>{escape(label)}</b><ul>{listed}</ul></li>"


def _section(label: str, run: Any) -> str:
    record = run.record
    parts = [f"<section><h2>{_badge(run.verdict.status)} {escape(label)}</h2>"]
    parts.append("<ul>" + "".join(f"<li>{escape(r)}</li>" for r in run.verdict.reasons) + "</ul>")
    parts.append(_summary(run.summary()))
    parts.append("<h3>Metrics and time</h3>" + _listed({**record["metrics"], **record["timing"]}))
    parts += [_picture(run, kind, f"{label}: {kind}") for kind in run.plots()]
    parts.append("<h3>Options and settings</h3>")
    parts.append(_listed({**record["options"], **record["settings"], "seed": record["seed"]}))
    notes = "".join(f"<li>{escape(note)}</li>" for note in record["data"]["notes"])
    return "\n".join([*parts, f"<ul>{notes}</ul></section>"])


def _summary(table: pd.DataFrame) -> str:
    shown = table.head(_MOST_ROWS)
    rows = [[str(name), *(f"{value:.4g}" for value in row)] for name, row in shown.iterrows()]
    more = len(table) - len(shown)
    left = f"<p class='small'>... and {more} more</p>" if more else ""
    return _table(["", *map(str, table.columns)], rows) + left


def _listed(values: Mapping[str, Any]) -> str:
    said = {k: number(v) if isinstance(v, float) else str(v) for k, v in values.items()}
    pairs = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in said.items())
    return f"<dl>{pairs}</dl>"


def _made_with(runs: Mapping[str, Any]) -> str:
    """Versions, and the command of each run."""
    versions: dict[str, str] = {}
    for run in runs.values():
        for name, version in run.record["versions"].items():
            seen = versions.get(name, version)
            versions[name] = seen if version in seen.split(" and ") else f"{seen} and {version}"
    commands = {label: " ".join(map(str, r.record["command"])) for label, r in runs.items()}
    return _listed(versions) + "<h3>Commands</h3>" + _listed(commands)


def _picture(run: Any, kind: str, alt: str) -> str:
    """A picture of the run, or why there is none: some need the data, which may be gone."""
    try:
        return _image(run.plot(kind), alt)
    except (Fault, ValueError) as fault:
        return f"<p class='small'>no picture {escape(kind)}: {escape(str(fault))}</p>"


def _image(figure: Figure, alt: str) -> str:
    """The figure as part of the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
