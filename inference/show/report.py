"""Results as HTML: a comparison in a notebook, and the report of several runs in one file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.contract import Fault

from ..core.html import filled, ours, table
from ..results import publish
from .terminal import layout, number

if TYPE_CHECKING:
    import pandas as pd
    from markupsafe import Markup
    from matplotlib.figure import Figure

    from ..results.comparison import Comparison

# Of Okabe and Ito's palette, dark enough to be read on white.
COLOURS = {"pass": "#006B4E", "warn": "#8A5A00", "fail": "#B23A00", "refused": "#666"}
COLOURS |= {"failed": COLOURS["fail"], "interrupted": COLOURS["fail"]}
_GRAVEST = ("fail", "warn", "pass")
_MOST_ROWS = 40
_DPI = 100
# Of pictures that were saved: a page holds many, and their colours are few.
_COLOURS, _MOST_PIXELS = 128, 50_000_000

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


def comparison_html(compared: Comparison) -> Markup:
    """The comparison as tables: verdicts and readings first, then the numbers."""
    rows = [
        (label, _badge(row["verdict"]), [said for said in (row["reading"], row["reason"]) if said])
        for label, row in compared.iterrows()
    ]
    parts = {"against": _against(compared), "rows": rows, "numbers": numbers_html(compared)}
    return filled(_COMPARISON, **parts)


# How each run stands to the reference, and why its verdict is no pass.
_COMPARISON = """{{ against }}
<div class="wide"><table>
{%- for label, badge, said in rows %}<tr><th>{{ label }}</th><td>{{ badge }}</td>
{#- #}<td style="text-align:left">
{%- for one in said %}{% if not loop.first %}<br>{% endif %}{{ one }}{% endfor %}</td></tr>
{%- endfor %}</table></div>
{{ numbers }}"""


def _against(compared: Comparison) -> Markup:
    names = ", ".join(dict.fromkeys(compared.references.values()))
    return filled("<p>held against <b>{{ names }}</b></p>", names=names)


def numbers_html(compared: Comparison) -> Markup:
    """The numbers of a comparison, columns that are empty left out, and its notes."""
    tables = [
        table(["", *columns], list(zip(compared.index, *columns.values())))
        for columns in layout(compared)
    ]
    return filled(_NUMBERS, tables=tables, notes=compared.notes)


_NUMBERS = """{% for table in tables %}{{ table }}
{% endfor %}{% for note in notes %}<p>{{ note }}</p>
{% endfor %}"""


def _badge(verdict: str) -> Markup:
    """The verdict on its colour, which is written here: a notebook has no style of ours."""
    return filled(_BADGE, verdict=verdict, colour=COLOURS[verdict])


_BADGE = """<span class="verdict" style="background:{{ colour }};color:#fff;padding:0 .5em;
{#- #}border-radius:.3em;font-weight:600">{{ verdict }}</span>"""


# -- the report -------------------------------------------------------------------------------


def report(
    runs: Mapping[str, Any],
    tables: Sequence[Comparison],
    pictures: Mapping[str, Sequence[Path]],
) -> str:
    """One self-contained page: verdicts first, then comparison, pictures, settings, versions.

    Args:
        runs: label to run (`zoo.Run`), of any models and data.
        tables: comparisons of those that saw the same data.
        pictures: label to the pictures that were saved with a run; without any they are drawn.
    """
    rows = {str(k): row for one in tables for k, row in one.iterrows()}
    statuses = {label: run.verdict.status for label, run in runs.items()}
    statuses |= {label: row["verdict"] for label, row in rows.items() if label in runs}
    ordered = sorted(runs, key=lambda label: _GRAVEST.index(statuses[label]))
    readings = {label: rows[label]["reading"] if label in rows else "" for label in ordered}
    parts = {
        "opening": _opening(runs),
        "verdicts": [_verdict(k, runs[k], statuses[k], readings[k]) for k in ordered],
        "published": publish.last_line(_answers(runs, tables)),
        "compared": [_side_by_side(one) for one in tables],
        "sections": [_section(label, runs[label], pictures.get(label, ())) for label in ordered],
        "made_with": _made_with(runs),
    }
    return str(filled(_PAGE, style=ours(_STYLE), **parts))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
{#- #}<meta name="viewport" content="width=device-width, initial-scale=1">
{#- #}<link rel="icon" href="data:,"><title>Bayes Zoo report</title><style>{{ style }}</style>
{#- #}</head><body>
{{ opening }}
<h2>Verdicts, the gravest first</h2>
<ul class='runs'>
{% for verdict in verdicts %}{{ verdict }}
{% endfor %}</ul>
<p><b>{{ published }}</b></p>
{% for one in compared %}{{ one }}
{% endfor %}{% for section in sections %}{{ section }}
{% endfor %}<section><h2>Made with</h2>
{{ made_with }}
</section>
</body></html>
"""


def _side_by_side(compared: Comparison) -> Markup:
    pictures = [_image(compared.figure(kind), kind) for kind in compared.figures()]
    parts = [_against(compared), ours(_LEGEND), numbers_html(compared), *pictures]
    return filled(_PARTS, head=ours("<h2>Side by side</h2>"), parts=parts)


_PARTS = """{{ head }}{% for part in parts %}
{{ part }}{% endfor %}"""


_LEGEND = """<p class="small">Mean error: the largest difference of a parameter's mean from the
reference, in the reference's standard deviations, &plusmn; its Monte Carlo error. Sd ratio: range
of each parameter's sd over the reference's. Distance: sliced Wasserstein distance of the joint
draws in reference sds; below its noise it cannot be told from the reference. Gap: exact log
evidence less the ELBO, nats. k-hat below 0.7: the approximation covers the posterior. What does
not apply is empty.</p>"""


def _opening(runs: Mapping[str, Any]) -> Markup:
    data = {
        (r.record["model"], r.record["data"]["sha256"]): r.record["data"] for r in runs.values()
    }
    said = [
        f"{Path(model).stem} on {about['source']}"
        + ("" if about["n"] is None else f", n = {about['n']}")
        + f" (sha256 {sha[:8]})"
        for (model, sha), about in data.items()
    ]
    count = f"{len(runs)} run{'s' if len(runs) != 1 else ''}"
    return filled(_OPENING, said=f"{count} of {'; '.join(said)}")


_OPENING = "<h1>Bayes Zoo report</h1><p>{{ said }}</p>"


def _answers(
    runs: Mapping[str, Any], tables: Sequence[Comparison]
) -> dict[str, Mapping[str, str]]:
    """Label to purpose to answer: the run's own, or what a comparison left of it."""
    own = {k: {p: one.answer for p, one in r.verdict.trust.items()} for k, r in runs.items()}
    return own | {label: found for table in tables for label, found in table.trust.items()}


def _verdict(label: str, run: Any, status: str, reading: str) -> Markup:
    reasons = [run.verdict.headline, *run.verdict.reasons]
    if reading:
        reasons.append(
            f"Against the reference: {reading}" if reading != "the reference" else reading
        )
    parts = {"badge": _badge(status), "label": label, "reasons": _items(reasons)}
    return filled("<li>{{ badge }} <b>{{ label }}</b>{{ reasons }}</li>", **parts)


def _items(words: Sequence[str]) -> Markup:
    """A list of sentences."""
    return filled("<ul>{% for one in words %}<li>{{ one }}</li>{% endfor %}</ul>", words=words)


def _section(label: str, run: Any, saved: Sequence[Path]) -> Markup:
    record, verdict = run.record, run.verdict
    pictures = [_kept(file, f"{label}: {file.stem}") for file in saved] or [
        _picture(run, kind, f"{label}: {kind}") for kind in run.plots()
    ]
    options = {**record["options"], **record["settings"], "seed": record["seed"]}
    parts = [
        _items(verdict.reasons),
        _summary(run.summary()),
        ours("<h3>Metrics and time</h3>"),
        _listed({**record["metrics"], **record["timing"]}),
        *pictures,
        ours("<h3>Options and settings</h3>"),
        _listed(options),
        _items(record["data"]["notes"]),
    ]
    head = filled("<h2>{{ badge }} {{ label }}</h2>", badge=_badge(verdict.status), label=label)
    return filled("<section>{{ all }}</section>", all=filled(_PARTS, head=head, parts=parts))


def _summary(summary: pd.DataFrame) -> Markup:
    shown = summary.head(_MOST_ROWS)
    rows = [[name, *(f"{value:.4g}" for value in row)] for name, row in shown.iterrows()]
    parts = {"rows": table(["", *summary.columns], rows), "more": len(summary) - len(shown)}
    return filled(_SUMMARY, **parts)


_SUMMARY = "{{ rows }}{% if more %}<p class='small'>... and {{ more }} more</p>{% endif %}"


def _listed(values: Mapping[str, Any]) -> Markup:
    said = {k: number(v) if isinstance(v, float) else str(v) for k, v in values.items()}
    return filled(_LISTED, said=list(said.items()))


_LISTED = "<dl>{% for k, v in said %}<dt>{{ k }}</dt><dd>{{ v }}</dd>{% endfor %}</dl>"


def _made_with(runs: Mapping[str, Any]) -> Markup:
    """Versions, and the command of each run."""
    versions: dict[str, str] = {}
    for run in runs.values():
        for name, version in run.record["versions"].items():
            seen = versions.get(name, version)
            versions[name] = seen if version in seen.split(" and ") else f"{seen} and {version}"
    commands = {label: " ".join(map(str, r.record["command"])) for label, r in runs.items()}
    parts = [ours("<h3>Commands</h3>"), _listed(commands)]
    return filled(_PARTS, head=_listed(versions), parts=parts)


def _picture(run: Any, kind: str, alt: str) -> Markup:
    """A picture of the run, or why there is none: some need the data, which may be gone."""
    try:
        return _image(run.plot(kind), alt)
    except (Fault, ValueError) as fault:
        missing = "<p class='small'>no picture {{ kind }}: {{ fault }}</p>"
        return filled(missing, kind=kind, fault=fault)


def _kept(file: Path, alt: str) -> Markup:
    """A picture that was saved with the run, in fewer colours, or why it cannot be shown."""
    from PIL import Image

    buffer = io.BytesIO()
    try:
        with Image.open(file, formats=["PNG"]) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise ValueError("it is too large")
            image.convert("RGB").quantize(_COLOURS).save(buffer, "PNG")
    except (OSError, ValueError, SyntaxError) as error:  # Pillow's word for a broken PNG
        missing = "<p class='small'>no picture {{ kind }}: {{ error }}</p>"
        return filled(missing, kind=file.stem, error=error)
    return _shown(buffer, alt)


def _image(figure: Figure, alt: str) -> Markup:
    """The figure as part of the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return _shown(buffer, alt)


def _shown(buffer: io.BytesIO, alt: str) -> Markup:
    data = base64.b64encode(buffer.getvalue()).decode()
    image = '<img alt="{{ alt }}" src="data:image/png;base64,{{ data }}">'
    return filled(image, alt=alt, data=data)
