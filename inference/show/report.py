"""Results as HTML: a comparison in a notebook, and the report of several runs in one file.

What is shown is put together here; how it is shown is said in `report.html`, which escapes it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.contract import Fault

from ..core.html import macros, table
from ..results.comparison import data_in_words
from ..results.differences import THE_REFERENCE, last_line
from . import style
from .terminal import layout, number

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

    from ..results.comparison import Comparison

_GRAVEST = ("fail", "warn", "pass")
_MOST_ROWS = 40
_DPI = 100
# Of pictures that were saved: a page holds many, and their colours are few.
_COLOURS, _MOST_PIXELS = 128, 50_000_000
_TEMPLATE = Path(__file__).with_suffix(".html")


def comparison_html(compared: Comparison) -> Markup:
    """The comparison as tables for a notebook: verdicts and readings first, then the numbers."""
    return macros(_TEMPLATE).comparison(_comparison(compared))


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
    rows = {str(label): row for compared in tables for label, row in compared.iterrows()}
    statuses = {label: run.verdict.status for label, run in runs.items()}
    statuses |= {label: row["verdict"] for label, row in rows.items() if label in runs}
    ordered = sorted(runs, key=lambda label: _GRAVEST.index(statuses[label]))
    trust = {k: {p: own.answer for p, own in r.verdict.trust.items()} for k, r in runs.items()}
    for compared in tables:  # they have the last word
        trust |= compared.trust
    page = {
        "opening": _opening(runs),
        "verdicts": [
            {"label": label, "status": statuses[label], "sentences": _sentences(run, row)}
            for label, run, row in ((label, runs[label], rows.get(label)) for label in ordered)
        ],
        "publishable": last_line(trust),
        "comparisons": [_side_by_side(compared) for compared in tables],
        "sections": [_section(label, runs[label], pictures.get(label, ())) for label in ordered],
        "versions": _versions(runs),
        "commands": [(k, " ".join(map(str, run.record["command"]))) for k, run in runs.items()],
    }
    return str(macros(_TEMPLATE).report(page))


# -- what is shown -----------------------------------------------------------------------------


def _opening(runs: Mapping[str, Any]) -> str:
    """How many runs of what."""
    records = [run.record for run in runs.values()]
    data = {(each["model"], each["data"]["sha256"]): each["data"] for each in records}
    named = [
        f"{Path(model).stem} on {data_in_words(about)} (sha256 {sha[:8]})"
        for (model, sha), about in data.items()
    ]
    return f"{len(runs)} run{'s' if len(runs) != 1 else ''} of {'; '.join(named)}"


def _sentences(run: Any, row: Any) -> list[str]:
    """Headline and reasons of a run, and how it stands to the reference.

    Args:
        run: the run.
        row: its row of a comparison; None where it was not compared.
    """
    reading = "" if row is None else row["reading"]
    if reading and reading != THE_REFERENCE:
        reading = f"Compared with the reference: {reading}"
    return [run.verdict.headline, *run.verdict.reasons, *([reading] if reading else [])]


def _comparison(compared: Comparison) -> dict[str, Any]:
    """A comparison's references, verdicts with readings and reasons, numbers and notes."""
    return {
        "references": ", ".join(dict.fromkeys(compared.references.values())),
        "rows": [
            (label, row["verdict"], [text for text in (row["reading"], row["reason"]) if text])
            for label, row in compared.iterrows()
        ],
        "tables": [
            table(["", *columns], list(zip(compared.index, *columns.values())))
            for columns in layout(compared)
        ],
        "notes": compared.notes,
    }


def _side_by_side(compared: Comparison) -> dict[str, Any]:
    """The same with its pictures."""
    kinds = compared.figures()
    pictures = [_picture(partial(_drawn, compared.figure, kind), kind, kind) for kind in kinds]
    return _comparison(compared) | {"pictures": pictures}


def _section(label: str, run: Any, saved: Sequence[Path]) -> dict[str, Any]:
    """All of one run: its verdict, summary, metrics, pictures, options and notes.

    Args:
        label: its name on the page.
        run: the run.
        saved: the pictures that were saved with it; without any they are drawn.
    """
    record, summary = run.record, run.summary()
    shown = summary.head(_MOST_ROWS)
    rows = [[name, *(f"{value:.4g}" for value in row)] for name, row in shown.iterrows()]
    options = {**record["options"], **record["settings"], "seed": record["seed"]}
    draws = {file.stem: partial(_saved, file) for file in saved}
    draws = draws or {kind: partial(_drawn, run.plot, kind) for kind in run.plots()}
    return {
        "label": label,
        "status": run.verdict.status,
        "reasons": run.verdict.reasons,
        "summary": table(["", *shown.columns], rows),
        "more": len(summary) - len(shown),
        "metrics": _pairs({**record["metrics"], **record["timing"]}),
        "pictures": [_picture(draw, kind, f"{label}: {kind}") for kind, draw in draws.items()],
        "options": _pairs(options),
        "notes": record["data"]["notes"],
    }


def _pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values, numbers short enough to read."""
    return [(k, number(v) if isinstance(v, float) else str(v)) for k, v in values.items()]


def _versions(runs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Libraries and their versions, all of them where runs were made with several."""
    versions: dict[str, list[str]] = {}
    for run in runs.values():
        for name, version in run.record["versions"].items():
            seen = versions.setdefault(name, [])
            seen += [version] if version not in seen else []
    return [(name, " and ".join(seen)) for name, seen in versions.items()]


# -- pictures ----------------------------------------------------------------------------------


def _picture(draw: Callable[[], bytes], kind: str, alt: str) -> dict[str, Any]:
    """A picture as a part of the page, or why there is none.

    Args:
        draw: gives the content of a PNG file; some need the data, which may be gone.
        kind: name of the picture.
        alt: words for who does not see it.
    """
    try:
        png = draw()
    except (Fault, OSError, ValueError, SyntaxError) as fault:  # the last of a broken PNG
        return {"data": "", "kind": kind, "fault": fault}
    return {"alt": alt, "data": base64.b64encode(png).decode()}


def _drawn(plot: Callable[[str], Figure], kind: str) -> bytes:
    """A picture that is drawn now, as PNG."""
    return style.png(plot(kind), dpi=_DPI)


def _saved(file: Path) -> bytes:
    """A picture that was saved with the run, as PNG in fewer colours."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(file, formats=["PNG"]) as image:
        if image.width * image.height > _MOST_PIXELS:
            raise ValueError("it is too large")
        image.convert("RGB").quantize(_COLOURS).save(buffer, "PNG")
    return buffer.getvalue()
