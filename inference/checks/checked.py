"""What `check` reports: its lines, each passed, failed with a fix, or a note."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from models.contract import Fault, Refused

from ..core import user_code
from ..core.html import filled

# Lines of one check that are shown, and names in one line.
MOST = 3


@dataclass(frozen=True)
class Check:
    """One line of the list.

    Attributes:
        name: of the check.
        ok: True if it passed, False if it failed, None where it does not apply or is a mere note.
        what: the problem, or what is so, with the line of the user's file where that is known.
        fix: what to do about a failed check.
        error: the exception behind a failed check, for those who want its traceback.
    """

    name: str
    ok: bool | None
    what: str
    fix: str = ""
    error: BaseException | None = field(default=None, compare=False, repr=False)

    @property
    def mark(self) -> str:
        """A tick, a cross, or a dash for what does not apply."""
        return {True: "✓", False: "✗", None: "-"}[self.ok]

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}" if self.fix else self.what


def failure(problem: str, line: str | None, fix: str, error: Exception | None = None) -> Check:
    """A failed check: the problem, the line of the user's file if it is known, and a fix."""
    return Check("", False, f"{problem}, {line}" if line else problem, fix, error)


def note(text: str) -> Check:
    """A line that neither passes nor fails."""
    return Check("", None, text)


def refused(refusal: Refused, line: str | None) -> Check:
    """A failed check in the words of a refusal, at a line of the user's file."""
    problem, _, fix = str(refusal).rpartition("; ")
    return failure(problem, line, fix)


def raised(problem: str, error: Exception, fix: str = "correct that line") -> Check:
    """A failed check of an exception: in the words of a fault, or else of the problem."""
    if isinstance(error, Fault):
        text, _, advice = str(error).rpartition("; ")
        return failure(text or advice, None, advice if text else fix, error)
    line = user_code.of_error(error)
    first = str(error).strip().partition("\n")[0].partition("  (Could this error")[0].rstrip(".:")
    fix = fix if line else "correct the model"
    return failure(f"{problem} ({type(error).__name__}: {first})", line, fix, error)


def listed(names: Sequence[str]) -> str:
    """The first few of many names, and how many more there are."""
    more = f" (and {len(names) - MOST} more)" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more


@dataclass(frozen=True, repr=False)
class Checked:
    """What was checked of a model, line by line.

    Attributes:
        checks: the lines, in order.
        model: name of the model.
        data: where its data came from.
    """

    checks: tuple[Check, ...]
    model: str = ""
    data: str = ""

    @property
    def failed(self) -> list[Check]:
        """The lines of the checks that failed, the most telling first."""
        return [check for check in self.checks if check.ok is False]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failure(self) -> str:
        """How many checks failed, and the first cause; empty where none did."""
        failed = len({check.name for check in self.failed})
        judged = len({check.name for check in self.checks if check.ok is not None})
        return f"{failed} of {judged} checks failed: {self.failed[0]}" if failed else ""

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        lines = [{"name": c.name, "ok": c.ok, "what": c.what, "mend": c.fix} for c in self.checks]
        return {"model": self.model, "data": self.data, "checks": lines}

    def __repr__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        lines = [f"{check.mark} {check.name:{width}}  {check}" for check in self.checks]
        return "\n".join([f"{self.model}   data: {self.data}", *lines])

    def _repr_html_(self) -> str:
        return filled(_HTML, model=self.model, data=self.data, checks=self.checks)


_HTML = """<p><b>{{ model }}</b> data: {{ data }}</p><table>
{%- for check in checks %}<tr><td>{{ check.mark }}</td><td>{{ check.name }}</td>
{#- #}<td style='text-align:left'>{{ check }}</td></tr>{% endfor %}</table>"""
