"""A model in words: its card, its options, sites, methods and guides."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import inference
import models
from models.contract import Entry

from ..core import settings
from .listing import methods_of
from .plan import entry_of, homes


def described(model: str) -> Iterator[str]:
    """Lines on a model of the zoo, or of a file.

    Raises:
        UsageError: no model has that name; with the nearest.
        BadInput, MissingInput: a file that cannot be a model.
    """
    entry, name = entry_of(model, {})
    known = name in models.names()
    yield models.card(name) if known else (sys.modules[entry.model.__module__].__doc__ or name)
    yield f"\nSource: {models.place(entry.model)}"
    yield from _settings("Options of the model", settings.declared(entry.model))
    yield from _settings("Options of the data", settings.declared(entry.data))
    yield f"\nData keys: {', '.join(models.data_keys(entry.model))}"
    if known:
        yield from _sites(entry)
        yield from _methods(entry, methods_of(name))
    yield from _guides(entry)


def _settings(title: str, declared: Mapping[str, Any]) -> Iterator[str]:
    if declared:
        yield f"\n{title} (--set name=value)"
    for name, setting in declared.items():
        yield f"  {name:12} default {setting.default!s:10} {setting.range}".rstrip()


def _sites(entry: Entry) -> Iterator[str]:
    from ..core import machine
    from ..program import prepare

    options = {k: s.default for k, s in settings.declared(entry.model).items()}
    with machine.numbers():
        sites = prepare.program_of(entry, options, entry.data()).sites
    yield "\nSites (default data)"
    width = max(8, *map(len, sites))
    for site in sites.values():
        plates = f" in {', '.join(p.name for p in site.plates)}" if site.plates else ""
        kind = type(site.base).__name__
        yield f"  {site.name:{width}} {site.role:8} {kind}{plates} {site.shape}"


def _methods(entry: Entry, reasons: Mapping[str, str | None]) -> Iterator[str]:
    yield "\nMethods (on the default data)"
    for method, reason in reasons.items():
        yield f"  {method:8} {f'refused: {reason}' if reason else inference.title(method)}"
    yield from _method_settings(entry, [name for name in reasons if not reasons[name]])


def _method_settings(entry: Entry, methods: Sequence[str]) -> Iterator[str]:
    """The settings of each method with the values that this model gives them."""
    yield "\nSettings of the methods (--set name=value; none: see the docstring)"
    for method in methods:
        declared = homes(entry, inference.method(method))["method"]
        values = {name: setting.default for name, setting in declared.items()}
        values |= entry.inference.settings.get(method, {})
        words = " ".join(f"{k}={str(v).lower()}" for k, v in values.items())
        lines = textwrap.wrap(
            words, 88, initial_indent=f"  {method:8} ", subsequent_indent=" " * 11
        )
        yield "\n".join(lines)


def _guides(entry: Entry) -> Iterator[str]:
    yield "\nGuides for svi"
    for i, guide in enumerate(entry.inference.guides):
        whose = "the model's own" if i else "the model's own, the default"
        yield f"  {guide:20} {_title(entry, guide)} ({whose})".replace("  (", " (")
    forms = inference.guide_forms()
    for guide, kind in inference.GUIDES.items():
        if not entry.identified or not kind.of_networks:
            yield f"  {forms[guide]:20} {inference.title(guide)}"


def _title(entry: Entry, guide: str) -> str:
    """What a guide of the model's own is, or what it is trained by if that is its own too."""
    own = entry.inference.guides[guide]
    written = inspect.getdoc(own.objective or own.function) or ""
    return written.partition("\n")[0].rstrip(".")
