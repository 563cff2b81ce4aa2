"""HTML from templates: what is put into one is escaped, unless it came out of one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from .plain_text import plain

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Environment, Template


def filled(template: str, **values: Any) -> Markup:
    """A template of Jinja with these values; text among them, and in them, is escaped."""
    return Markup(_template(template).render(values))


@cache
def macros(path: Path) -> Any:
    """The macros of a file of our source, to be called as functions; each escapes what it gets."""
    return _template(path.read_text(encoding="utf-8")).module


def ours(html: str) -> Markup:
    """HTML that is written in our source, to be left as it is; never what a record holds."""
    return Markup(html)


def table(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> Markup:
    """A table whose first column names its rows, and that scrolls where it is too wide."""
    return filled(_TABLE, head=head, rows=rows)


def frame(values: pd.DataFrame) -> Markup:
    """A DataFrame as a table: numbers short enough to read, nothing where one is missing."""
    rows = [[name, *map(_short, row)] for name, *row in values.itertuples(name=None)]
    return table(["", *values.columns], rows)


def _short(value: Any) -> Any:
    """A number of four digits, empty if it is NaN or None; another value as it is."""
    if isinstance(value, float):
        return "" if value != value else f"{value:.4g}"
    return "" if value is None else value


_TABLE = """<div class="wide"><table><tr>
{%- for cell in head %}<th>{{ cell }}</th>{% endfor %}</tr>
{%- for row in rows %}<tr><th>{{ row[0] }}</th>
{%- for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table></div>"""


def _finalized(value: Any) -> Any:
    """Text as it may stand in a page; HTML that is ours is left alone."""
    return value if isinstance(value, Markup) else plain(str(value))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, StrictUndefined

    return Environment(autoescape=True, undefined=StrictUndefined, finalize=_finalized)


@cache
def _template(text: str) -> Template:
    return _environment().from_string(text)
