"""A folder with bad input and an earlier run in it, commands run there, and a table of them.

Every command is judged against the contract, and told to pytest as a property of its test, which
also reaches the first process from the others of xdist; `table` makes one table of all.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults import FILES, ROWS

import zoo
from inference.core.plain_text import plain

HOUSE = Path(__file__).parent.parent
Done = subprocess.CompletedProcess
# prctl's number for taking a right from a process and its children, and the rights of root to
# write and read where the permissions forbid it.
_DROP, _OVERRIDE = 24, (1, 2)


@dataclass
class Scene:
    """A folder in which commands are run.

    Attributes:
        folder: where they are run; the files of `FILES` lie in it.
        earlier: a run made before, in `runs/`, which all must leave alone.
        tell: takes a name and what is to be told of the test.
        capture: gives what was printed in this process.
        others: what has a name as a half-written file, and is none.
    """

    folder: Path
    earlier: Path
    tell: Callable[[str, Any], None]
    capture: Callable[[], Any]
    others: set[Path] = field(default_factory=set)

    def __post_init__(self):
        self.before = contents(self.earlier)

    # -- running -----------------------------------------------------------------------------

    def here(self, *words: str) -> Done:
        """A command in this process."""
        try:
            code = zoo.main(list(words))
        except SystemExit as left:
            code = left.code
        said = self.capture()
        return Done(["here", *words], code, said.out, said.err)

    def run(self, *words: str, before: Callable[[], None] | None = None, **more: Any) -> Done:
        """A command as a process of its own; `before` is called in it before it starts."""
        process = self.start(*words, before=before, **more)
        return finished(process)

    def start(
        self,
        *words: str,
        before: Callable[[], None] | None = None,
        stdout: Any = subprocess.PIPE,
        **environment: str,
    ) -> subprocess.Popen:
        """A command under way; Ctrl-C reaches it, also where the tests run in the background."""

        def begin() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if before is not None:
                before()

        return subprocess.Popen(
            [sys.executable, str(HOUSE / "zoo.py"), *words],
            cwd=self.folder,
            env={**os.environ, **environment},
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=begin,
        )

    def shell(self, line: str) -> Done:
        """A line of a shell, in which `$zoo` is the program and `$few` a small run's settings."""
        program = shlex.join([sys.executable, str(HOUSE / "zoo.py")])
        few = "--method exact --set draws=50 -q"
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=self.folder,
            env={**os.environ, "zoo": program, "few": few},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )

    # -- judging -----------------------------------------------------------------------------

    def judge(
        self,
        row: str,
        done: Done,
        code: int,
        message: str,
        *,
        leaves: int | None = None,
        what: str = "",
    ) -> None:
        """Hold what a command did against the contract, tell it, and fail if it is not so.

        Args:
            row: key of `ROWS`.
            done: the command.
            code: exit code that it must have.
            message: part of its one line on stderr; of what it prints where the code is 0.
            leaves: how many run folders it must leave beside the earlier; None: any number.
            what: what was done to it, where the command does not say.
        """
        said = _flat(done.stdout) if code == 0 else _last(done.stderr)
        said = said.replace(f"{self.folder}/", "")
        message = message.replace(f"{self.folder}/", "")
        real = done.args[0] != "here"
        reads = self.earlier_reads() if real else self.earlier_is_the_same()
        wrong = [] if done.returncode == code else [f"exit code {done.returncode}, not {code}"]
        wrong += [] if message in said else [f"it does not say {message!r}"]
        wrong += _not_as_a_fault(done) if code else []
        wrong += _not_as_text(done)
        wrong += [] if reads else ["the earlier run was touched"]
        left = set(self.folder.rglob("*.partial-*")) - self.others
        wrong += [f"{path.name} is left over" for path in left]
        if leaves is not None and len(self.new_runs()) != leaves:
            wrong.append(f"{len(self.new_runs())} runs were left, not {leaves}")
        shown = _around(said, message) if code == 0 else said
        self.tell(
            "fault",
            {
                "row": row,
                "command": self._short(done.args),
                "real": real,
                "what": what,
                "line": shown,
                "code": done.returncode,
                "earlier": reads,
                "wrong": "; ".join(wrong),
            },
        )
        assert not wrong, f"{wrong}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"

    def _short(self, args: Sequence[str]) -> str:
        words = [str(word).replace(f"{self.folder}/", "") for word in args[1:]]
        words = words[-1:] if args[0] == "bash" else words
        words = [word for word in words if not word.endswith("zoo.py")]
        return " ".join(word if len(word) < 60 else f"{word[:20]}..." for word in words)

    def earlier_is_the_same(self) -> bool:
        """Whether the earlier run has the bytes that it had."""
        return contents(self.earlier) == self.before

    def earlier_reads(self) -> bool:
        """Whether it has, and can be loaded."""
        return self.earlier_is_the_same() and zoo.load(self.earlier).record["status"] == "done"

    def new_runs(self) -> list[Path]:
        """The run folders beside the earlier one."""
        return sorted(p for p in self.earlier.parent.glob("[!.]*") if p != self.earlier)

    def new_run(self) -> Path:
        """The run folder that a command made."""
        (path,) = self.new_runs()
        return path

    # -- runs that are damaged or cut short --------------------------------------------------

    def copy(self) -> Path:
        """A copy of the earlier run, to be damaged."""
        return Path(shutil.copytree(self.earlier, self.folder / "copy" / self.earlier.name))

    def killed(self, *words: str) -> Path:
        """The folder of a run that was killed by SIGKILL as soon as it was there."""
        process = self.start("run", *words, "-q")
        deadline = time.monotonic() + 60
        while not (began := [p for p in self.new_runs() if (p / "run.json").is_file()]):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "the run has no folder"
            time.sleep(0.02)
        still = process.poll() is None
        process.kill()
        process.communicate()
        assert still, "it was done before it could be killed"
        return began[0]


def finished(process: subprocess.Popen) -> Done:
    """What a process that is under way said and ended with."""
    out, error = process.communicate(timeout=300)
    return Done(process.args, process.returncode, out or "", error)


def children(process: subprocess.Popen, count: int) -> list[int]:
    """The process ids of its chains, once there are so many of them."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(found := path.read_text().split()) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return [int(word) for word in found]


def wait_for(process: subprocess.Popen, seen: Callable[[], bool]) -> None:
    """Until something is seen of a process that is still running."""
    deadline = time.monotonic() + 90
    while not seen():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def contents(folder: Path) -> dict[str, str]:
    """The hashes of all files below a folder, but for locks, which are empty."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"]
    return {str(p.relative_to(folder)): _hash(p.read_bytes()) for p in files}


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def forge(folder: Path, files: Mapping[str, bytes] | None = None, **changes: Any) -> None:
    """Change files of a run or its record, and all hashes with them, as a forger would."""
    from inference.storage import seals

    path = folder / "run.json"
    record = json.loads(path.read_text())
    for name, content in (files or {}).items():
        (folder / name).write_bytes(content)
        record["files"][name] = _hash(content)
    record.update(changes)
    signature = record.pop("signature", None)  # which a forger cannot make
    if record.pop("sha256", None) is not None:
        record = {"sha256": seals.seal_of(record), "signature": signature, **record}
    path.write_text(json.dumps(record))


def as_a_plain_user() -> None:
    """In a new process: no rights of root to write where the permissions forbid it."""
    if os.getuid() == 0:
        libc = ctypes.CDLL(None)
        for right in _OVERRIDE:
            libc.prctl(_DROP, right, 0, 0, 0)


def _not_as_a_fault(done: Done) -> list[str]:
    """What is wrong with the way an error is told: one line with what, where, what to do."""
    lines = done.stderr.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    wrong = []
    if len(errors) != 1 or lines[-1] != errors[0]:
        wrong.append("not one line of error at the end of stderr")
    elif "; " not in errors[0]:
        wrong.append("the error does not say what to do")
    return wrong


def _not_as_text(done: Done) -> list[str]:
    """What is printed and should not be, whatever the exit code."""
    wrong = ["a traceback"] if "Traceback" in done.stderr else []
    steers = [text for text in (done.stdout, done.stderr) if plain(text) != text]
    return wrong + (["control characters"] if steers else [])


def _flat(text: str) -> str:
    return " ".join(text.split())


def _last(text: str) -> str:
    return (text.splitlines() or [""])[-1]


def _around(text: str, message: str) -> str:
    """The message and the words around it."""
    at = text.find(message)
    if at < 0:
        return text[:120]
    return f"... {text[max(at - 40, 0) : at + len(message) + 40]} ..."


# -- the table ---------------------------------------------------------------------------------


def table(told: Iterable[Mapping[str, Any]]) -> str:
    """All commands that were judged, as a Markdown table in the order of the contract.

    Of the same command run several times that counts which was a process of its own, or did wrong.
    """
    found: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for one in told:
        key = one["row"], one["what"], one["command"]
        if key not in found or _rank(one) > _rank(found[key]):
            found[key] = one
    order = {row: i for i, row in enumerate(ROWS)}
    lines = [_row_of(one) for one in sorted(found.values(), key=lambda one: order[one["row"]])]
    wrong = sum(bool(one["wrong"]) for one in found.values())
    missing = [ROWS[row] for row in ROWS if row not in {key[0] for key in found}]
    head = f"{len(found)} commands, {wrong} not as required.\n"
    head += "".join(f"\nNo scenario was run for: {row}\n" for row in missing)
    title = "| row of the contract | command | what happened | exit code | earlier run reads "
    return f"{head}\n{title}| as required |\n|---|---|---|---|---|---|\n" + "".join(lines)


def _rank(one: Mapping[str, Any]) -> tuple[bool, str]:
    """Larger for what counts more."""
    return one["real"], one["wrong"]


def _row_of(one: Mapping[str, Any]) -> str:
    required = f"**no**: {one['wrong']}" if one["wrong"] else "yes"
    command = f"`{one['command']}`" + ("" if one["real"] else " (in the test's process)")
    command = f"{one['what']}: {command}" if one["what"] else command
    reads = "yes" if one["earlier"] else "**no**"
    cells = [ROWS[one["row"]], command, one["line"], str(one["code"]), reads, required]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def furnish(folder: Path, earlier: Path) -> Path:
    """Put the files and a copy of the earlier run in a folder; the copy's place."""
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return Path(shutil.copytree(earlier, folder / "runs" / earlier.name))
