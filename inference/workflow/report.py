"""Several runs on one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.contract import UsageError

from ..core.arguments import checked
from ..core.zoo_warnings import ours_alone
from . import study
from .compare import has_posterior, loaded, table_of
from .result import Run


@checked
@ours_alone()
def report(*run: str | Path | Run, out: str | Path | None = None) -> str:
    """One HTML page of several runs: verdicts first, then comparison, pictures, settings.

    Args:
        run: `Run` objects, or folders of saved ones; those of the same data are compared. What
            has no result (yet), or is no single run, is left out.
        out: file to write, `.html`; None writes nothing.

    Returns:
        The page; it needs no other file and no network.

    Raises:
        UsageError: no runs, or a file of another kind. Fault: a run that cannot be read.

    Examples:
        >>> import zoo
        >>> zoo.report(zoo.run("coin", method="exact", data="HHT"))[:15]
        '<!doctype html>'
    """
    from ..results import comparison
    from ..show import report
    from ..storage import files, saved

    if not run:
        raise UsageError("a report needs runs; see `zoo.py list runs`")
    if out is not None and Path(out).suffix not in (".html", ".htm"):
        raise UsageError(f"--out {out} is no .html; name it so")
    if out is not None:
        files.check_writable(Path(out).absolute().parent)
    runs = loaded([given for given in run if not has_no_result(given)])
    if not runs:
        raise UsageError("none of these is a run with a result; see `zoo.py list runs`")
    named = dict(zip(comparison.labels([one.record for one in runs]), runs))
    alike: dict[str, dict[str, Run]] = {}
    for label, one in named.items():
        if has_posterior(one):
            alike.setdefault(one.record["data"]["sha256"], {})[label] = one
    tables = [table_of(part) for part in alike.values() if len(part) > 1]
    pictures = {label: saved.pictures(one.path) for label, one in named.items()}
    page = report.report(named, tables, pictures)
    if out is not None:
        files.write_text(Path(out), page)
    return page


def has_no_result(given: Any) -> bool:
    """Whether it is the folder of a run that failed, or was stopped, before it had a result."""
    from ..storage.record import read_record

    if isinstance(given, Run) or not study.is_run(given):
        return False
    return "verdict" not in read_record(Path(given))
