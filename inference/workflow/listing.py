"""What there is: models, methods, guides, data and runs; one model in words; making room."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import inference
import models
from models.contract import Entry

from ..core import settings
from .plan import entry_of, homes


def listed(
    kind: Literal["models", "methods", "guides", "data", "runs"] = "models",
    *,
    out: str | Path = "runs",
) -> dict[str, dict[str, Any]]:
    """What there is: models, methods, guides, data, runs.

    Args:
        kind: what to list.
        out: folder of runs.

    Returns:
        Name to `title`; of models also `methods` (method to None, or to why it is refused on the
        default data), of runs `status` and `verdict`.
    """
    if kind == "models":
        return {
            name: {"title": models.title(name), "methods": methods_of(name)}
            for name in models.names()
        }
    if kind == "runs":
        return _runs(Path(out))
    titles = {
        "methods": lambda: {name: inference.title(name) for name in inference.METHODS},
        "guides": _guide_titles,
        "data": lambda: {name: models.paragraph(name, "Data:") for name in models.names()},
    }[kind]()
    return {name: {"title": title} for name, title in titles.items()}


def lines_of(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What `listed` gives, as lines of text: of models a table of their methods, then reasons."""
    width = max(map(len, rows))
    if "methods" not in next(iter(rows.values())):
        yield from (f"{name:{width}}  {row['title']}".rstrip() for name, row in rows.items())
        return
    yield " ".join([" " * width, *(f"{method:^7}" for method in inference.METHODS)])
    reasons = []
    for name, row in rows.items():
        marks = [f"{'no' if reason else 'yes':^7}" for reason in row["methods"].values()]
        yield " ".join([f"{name:{width}}", *marks, row["title"]])
        reasons += [f"{name} {m}: {reason}" for m, reason in row["methods"].items() if reason]
    yield from ("", *reasons)


def methods_of(name: str) -> dict[str, str | None]:
    """Method to None where it runs on the default data, else to the reason."""
    reasons = dict(models.refused(name))
    if models.has_parameters(name):
        reason = "its networks have weights without priors, which only svi fits"
        fitted = {k for k, kind in inference.METHODS.items() if kind.takes_guide}
        reasons |= dict.fromkeys(inference.METHODS.keys() - fitted - {inference.EXACT}, reason)
    if not models.has_exact(name):
        reasons[inference.EXACT] = "no exact posterior is known"
    return {method: reasons.get(method) for method in inference.METHODS}


def _guide_titles() -> dict[str, str]:
    forms = inference.guide_forms()
    titles = {forms[name]: inference.title(name) for name in inference.GUIDES}
    titles["FILE.py"] = "a guide of yours: a Pyro function `guide` of the model's data keys"
    for model in models.names():
        own = models.own_guides(model)
        titles |= {f"{name} ({model})": "the model's own guide" for name in own}
    return titles


def _runs(out: Path) -> dict[str, dict[str, Any]]:
    from ..storage import saved

    rows = {}
    for record in saved.runs(out):
        row = {"status": record["status"], "verdict": record.get("verdict", {}).get("status")}
        rows[record["run"]] = {**row, "title": state_of(record)}
    return rows


def state_of(record: Mapping[str, Any]) -> str:
    """The state of a run in words: the verdict of one that is done."""
    from ..storage import saved
    from ..storage.record import DRAWING

    verdict, status = record.get("verdict", {}).get("status"), record["status"]
    if status in ("done", DRAWING):
        return verdict if status == "done" else f"{verdict}, its pictures are missing"
    if status in ("running", "interrupted"):
        return f"{status}, {saved.progress(Path(record['run']))}"
    reasons = record.get("verdict", {}).get("reasons") or [record.get("reason", "")]
    return f"{status}: {reasons[0]}"


def clean(
    *run: str | Path, out: str | Path = "runs", interrupted: bool = False, dry_run: bool = False
) -> Iterator[Path]:
    """Remove runs that failed.

    Args:
        run: folders of runs to remove, instead.
        out: folder of runs.
        interrupted: also those that were stopped.
        dry_run: only say what would go.

    Returns:
        Each folder or file as it is removed.

    Raises:
        MissingRun: one of the folders holds no run. Locked: it is being written.
    """
    from ..storage import saved
    from ..storage.record import read_record

    if run:
        folders, statuses, left = [Path(folder) for folder in run], None, []
        for folder in folders:
            read_record(folder)  # all of them are there
    else:
        statuses = ("failed", *(("interrupted", "running") if interrupted else ()))
        shown = [status for status in statuses if status != "running"]
        folders = [Path(r["run"]) for r in saved.runs(Path(out)) if r["status"] in shown]
        left = saved.partial_folders(Path(out))
    for folder in folders:
        if dry_run or saved.remove(folder, statuses):
            yield folder
    for path in left:
        if not dry_run:
            saved.remove_partial(path)
        yield path


# -- a model in words ---------------------------------------------------------------------------


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
