"""The README's commands, each begun as a user would, in an environment made by its first.

    python tests/readme.py FOLDER

Runs in FOLDER, where `runs` is made. A command that takes longer than some seconds is stopped as
by Ctrl-C, which is a good end too: what is shown is that nothing it wants is missing. Left out
are those on files of the user's own, and on machines of other kinds.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HOUSE = Path(__file__).resolve().parent.parent
_LONGEST, _PATIENCE = 15.0, 300.0  # seconds until it is stopped, and until it has then ended
_FINE = (0, 130, -signal.SIGINT)  # done, interrupted, stopped in its last moment
# Words of what is the user's own, of other machines and of further libraries.
_NOT_HERE = ("my", "new", "schools", "cuda", "flow")


def commands(readme: str) -> Iterator[str]:
    """The command lines of the zoo in the README, without their comments."""
    for line in readme.splitlines():
        if line.startswith("    python zoo.py "):
            yield line.partition("  #")[0].strip()


def is_here(command: str) -> bool:
    """Whether all that a command names is there without the user."""
    words = command.replace("=", " ").replace("_", " ").replace(".", " ").split()
    images = Path(os.environ.get("ZOO_DATA", "/"), "mnist").is_dir() or "mnist" not in command
    return images and not any(word in _NOT_HERE for word in words)


def arguments(command: str, folder: Path) -> list[str]:
    """The words after `zoo.py`, with the runs that `...` and `*` stand for; none without these."""
    found = []
    for word in shlex.split(command)[2:]:
        runs = sorted(folder.glob(word.replace("...", "*"))) if "runs/" in word else []
        if "runs/" in word and not runs:
            return []
        found += map(str, runs[-1:] if "..." in word else runs) if runs else [word]
    return found


def end_of(words: list[str], folder: Path) -> tuple[int, str]:
    """Exit code of a command that is stopped in time, and the last line that it said."""
    asked = [sys.executable, str(HOUSE / "zoo.py"), *words]
    with subprocess.Popen(
        asked, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            said, _ = process.communicate(timeout=_LONGEST)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            said = _rest_of(process)
    return process.returncode, (said.strip().splitlines() or [""])[-1]


def _rest_of(process: subprocess.Popen) -> str:
    """What a process says that was asked to end; it is killed if it does not."""
    try:
        return process.communicate(timeout=_PATIENCE)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return f"{process.communicate()[0]}\nwent on for {_PATIENCE:.0f} s after Ctrl-C"


def main(folder: Path) -> int:
    """How many commands ended badly."""
    folder.mkdir(parents=True, exist_ok=True)
    bad = 0
    for command in filter(is_here, commands((HOUSE / "README.md").read_text(encoding="utf-8"))):
        began, words = time.perf_counter(), arguments(command, folder)
        if not words:
            print(f" no run yet   {command}")
            continue
        code, said = end_of(words, folder)
        bad += code not in _FINE
        print(f"{code:4} {time.perf_counter() - began:5.1f} s  {command}", flush=True)
        if code not in _FINE:
            print(f"            {said}", flush=True)
    return bad


if __name__ == "__main__":
    sys.exit(min(main(Path(sys.argv[1])), 1))
