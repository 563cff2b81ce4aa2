"""Holds what commands of one checkout print against those of another, to the bit.

    python tests/bench/same.py record FOLDER OUT.json [NAME ...]
    python tests/bench/same.py compare BEFORE.json NOW.json [NAME ...] [--all]

`record` runs the commands of `same_commands.py` (or those named, and what these need) with the
`zoo.py` of the checkout FOLDER, one after the other on one core, each in a process of its own and
all in a scratch folder: a quarter of an hour. OUT.json has one entry each, written as they come:
words, exit code, standard output, last line of the errors, hashes of draws and of written files.
Commands on downloaded images are left out unless the variable `ZOO_DATA` names their folder.

`compare` prints a line for each command, and exits with 1 if any differ, with 65 if a file is no
record. Times, dates in names of runs, and line numbers of our own source may differ; nothing else.

To show that a change of the code changes nothing, record the commit before it and the one after
on the same machine with the same libraries, and compare:

    git worktree add ../before COMMIT
    python tests/bench/same.py record ../before before.json
    python tests/bench/same.py record . now.json
    python tests/bench/same.py compare before.json now.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from same_commands import COMMANDS, CUTS, DOWNLOADED, UNSEEDED, Cut, write_files

_LIBRARIES = ("torch", "pyro-ppl", "arviz", "nutpie", "numpy", "scipy", "scikit-learn", "zuko")
# Verbs that print JSON if they are asked to, and always are.
_WITH_JSON = ("run", "resume", "compare", "check", "predict", "evidence", "encode")
_PATIENCE = 600.0  # seconds until a command is killed


class NoRecord(Exception):
    """A file that `record` has not written."""


# -- recording --------------------------------------------------------------------------------


def record(folder: Path, out: Path, names: Sequence[str] = ()) -> None:
    """Run the commands with a checkout, and write what each printed, as they come.

    Args:
        folder: the checkout.
        out: the file to write.
        names: of commands; those that they need are run too. Default all.
    """
    commands = COMMANDS | DOWNLOADED
    entries: dict[str, Any] = {}
    whole = {
        "commit": _commit(folder),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "commands": entries,
    }
    with tempfile.TemporaryDirectory() as made:
        scratch = Path(made).resolve()
        write_files(scratch / "given")
        for name in _with_needs(names or commands, commands):
            began = time.perf_counter()
            entry = _entry(name, commands[name].split(), folder, scratch)
            entry["seconds"] = round(time.perf_counter() - began, 1)
            entries[name] = entry
            _write(out, whole)
            print(f"{entry.get('exit', '-'):4} {entry['seconds']:6} {name}", flush=True)


def _commit(folder: Path) -> str:
    """The commit of a checkout, and whether files of it were changed since."""
    asked = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def _write(out: Path, whole: Mapping[str, Any]) -> None:
    partial = out.with_name(f".{out.name}.partial")
    partial.write_text(json.dumps(whole, indent=1), encoding="utf-8")
    partial.replace(out)


def _with_needs(names: Sequence[str], commands: Mapping[str, str]) -> list[str]:
    """Commands in their order, with those whose folders the words of others name."""
    needed, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += re.findall(r"(?:@|\.\./(?!given))([\w-]+)", commands[name])
            waiting += [CUTS[name].whole] if name in CUTS else []
    return [name for name in commands if name in needed]


def _entry(name: str, words: list[str], folder: Path, scratch: Path) -> dict[str, Any]:
    """What a command printed, and what it left in its folder."""
    if name in DOWNLOADED and not os.environ.get("ZOO_DATA"):
        return {"words": words, "skipped": "ZOO_DATA is not set"}
    place = scratch / name
    place.mkdir()
    words = [_resolved(word, scratch) for word in words]
    words += ["--json"] if words[0] in _WITH_JSON else []
    process = subprocess.Popen(
        [sys.executable, str(folder / "zoo.py"), *words],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    if name in CUTS:
        return {"words": words, **_cut_short(process, place, CUTS[name])}
    plain = partial(_without_paths, folder=folder, scratch=scratch)
    out, error = map(plain, _ended(process))
    entry = {"words": words, "exit": process.returncode, "out": _read(out)}
    entry["said"] = (error.strip().splitlines() or [""])[-1]
    return {**entry, **_left(words, place, plain)}


def _resolved(word: str, scratch: Path) -> str:
    """A word of a command; for `@NAME` the folder of that command's run, if it has made one."""
    runs = scratch.glob(f"{word[1:]}/runs/*/run.json") if word.startswith("@") else ()
    return next((f"../{run.parent.relative_to(scratch)}" for run in runs), word)


def _ended(process: subprocess.Popen) -> tuple[str, str]:
    """Standard output and errors of a process that is killed if it takes too long."""
    try:
        return process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        out, error = process.communicate()
        return out, f"{error}\nkilled after {_PATIENCE:.0f} s"


def _cut_short(process: subprocess.Popen, place: Path, cut: Cut) -> dict[str, Any]:
    """End a command as soon as its run has kept a part; whether it was still on its way."""
    until = time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < until:
        if any(place.glob(f"runs/*/{cut.once}")):
            os.killpg(process.pid, cut.signal)
            break
        time.sleep(0.02)
    _ended(process)
    statuses = [json.loads(run.read_text())["status"] for run in place.glob("runs/*/run.json")]
    return {"exit": process.returncode, "cut": statuses not in ([], ["done"])}


def _without_paths(text: str, folder: Path, scratch: Path) -> str:
    """Text in which the two folders have the same names on every machine."""
    return text.replace(str(folder), "HOUSE").replace(str(scratch), "SCRATCH")


def _read(out: str) -> Any:
    """JSON as what it says, other text as its lines."""
    try:
        return json.loads(out)
    except ValueError:
        return out.splitlines()


# -- what a command leaves --------------------------------------------------------------------


def _left(words: Sequence[str], place: Path, plain: Callable[[str], str]) -> dict[str, Any]:
    """Of each run that a command made or resumed hashes of its draws and names of its files.

    Of other files that it wrote their lines, as `plain` writes them.
    """
    resumed = [place / words[1]] if words[0] == "resume" else []
    runs = [*sorted(run.parent for run in place.glob("runs/*/run.json")), *resumed]
    loose = [path for path in _files(place) if path.relative_to(place).parts[0] != "runs"]
    left = {
        "draws": {run.name: _draws(run) for run in runs},
        "files": {run.name: [str(path.relative_to(run)) for path in _files(run)] for run in runs},
        "written": {path.name: _lines(path, plain) for path in loose},
    }
    return {key: value for key, value in left.items() if value}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _draws(run: Path) -> dict[str, str]:
    """A hash of each array of a run's `idata.nc` and of its learned parameters."""
    import h5py
    from safetensors.numpy import load_file

    hashes: dict[str, str] = {}

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            hashes[name] = _digest(item[()])

    if (run / "idata.nc").is_file():
        with h5py.File(run / "idata.nc") as file:
            file.visititems(add)
    if (run / "params.safetensors").is_file():
        learned = load_file(run / "params.safetensors")
        hashes |= {f"params/{name}": _digest(values) for name, values in learned.items()}
    return hashes


def _digest(values: Any) -> str:
    """Of an array with its type and shape; of words, which are objects, what they say."""
    content = repr(values.tolist()).encode() if values.dtype.hasobject else values.tobytes()
    return hashlib.sha256(f"{values.dtype} {values.shape}".encode() + content).hexdigest()[:16]


def _lines(path: Path, plain: Callable[[str], str]) -> list[str]:
    """Lines of a file that a command wrote; of a page its words, for it tells times and versions.

    (Those of the zoo are hashes of our source.)
    """
    text = plain(path.read_text(encoding="utf-8"))
    if path.suffix == ".html":
        text = re.sub(r"<[^>]*>", "\n", text)
        text = re.sub(r"\b[0-9a-f]{8,}\b|-?\d[\d.]*(e-?\d+)?", "N", text)
    return [line for line in text.splitlines() if line.strip()]


# -- comparing --------------------------------------------------------------------------------

# What no command repeats, nor has to.
_OF_TIME = ("timing", "time_s", "ess_per_s", "seconds")
_DATE = re.compile(r"-\d{8}-\d{6}(-\d+)?")
_PLACE = re.compile(r"(HOUSE/\S+\.py, line) \d+")


class Difference(NamedTuple):
    """One that two records have.

    Attributes:
        where: keys and places in lists on the way to it.
        before, now: the values; `...` where there is none.
    """

    where: str
    before: Any
    now: Any


def read(path: Path) -> dict[str, Any]:
    """What `record` has written.

    Raises:
        NoRecord: the file cannot be read, or says something else.
    """
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        sound = all(isinstance(entry, dict) for entry in whole["commands"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NoRecord(f"{path}: {type(error).__name__}: {error}") from None
    if not sound:
        raise NoRecord(f"{path}: an entry is no object")
    return whole


def compare(
    before: Mapping[str, Any], now: Mapping[str, Any], names: Sequence[str] = ()
) -> dict[str, list[Difference] | None]:
    """The differences of each command; None where one of the records has left it out.

    Args:
        before, now: two records, as `read` gives them.
        names: of commands. Default all.
    """
    old, new = before["commands"], now["commands"]
    differing: dict[str, list[Difference] | None] = {
        "libraries": list(differences(before.get("libraries"), now.get("libraries")))
    }
    for name in names or {**old, **new}:
        pair = old.get(name, ...), new.get(name, ...)
        skipped = any(one is not ... and "skipped" in one for one in pair)
        numbers = name not in UNSEEDED
        pair = [comparable(one, numbers) for one in pair]
        differing[name] = None if skipped else list(differences(*pair))
    for cut, of in CUTS.items():
        name = f"{cut}-resume"
        if differing.get(name) is not None:
            differing[name] += [*_resumed(old, name, of), *_resumed(new, name, of)]
    return differing


def _resumed(entries: Mapping[str, Any], name: str, of: Cut) -> Iterator[Difference]:
    """Where a resumed run of one record has other draws than the run that nobody stopped."""
    runs = [entries.get(one, {}).get("draws") for one in (of.whole, name)]
    if all(runs):
        whole, resumed = (next(iter(draws.values())) for draws in runs)
        yield from differences(whole, resumed, f"resumed, beside {of.whole}")


def comparable(value: Any, numbers: bool = True) -> Any:
    """A value without times, dates of runs, places in our own source, and numbers if so asked."""
    if isinstance(value, str):
        return _PLACE.sub(r"\1 N", _DATE.sub("-DATE", value))
    if isinstance(value, list):
        return [comparable(one, numbers) for one in value]
    if not isinstance(value, dict):
        return value if numbers or not isinstance(value, float) else "a number"
    kept: dict[str, Any] = {}
    for key, one in value.items():
        if key not in _OF_TIME:
            name = comparable(key)
            while name in kept:  # runs that only their dates tell apart
                name += ", next"
            kept[name] = comparable(one, numbers)
    return kept


def differences(before: Any, now: Any, where: str = "") -> Iterator[Difference]:
    """Where two values of JSON differ, to the last bit of a number."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            at = f"{where}.{key}" if where else key
            yield from differences(before.get(key, ...), now.get(key, ...), at)
    elif isinstance(before, list) and isinstance(now, list):
        yield from _in_lists(before, now, where)
    elif _said(before) != _said(now):
        yield Difference(where, before, now)


def _in_lists(before: list, now: list, where: str) -> Iterator[Difference]:
    """In lists of one length entry by entry, in others what was put in, removed or replaced."""
    if len(before) == len(now):
        for i, pair in enumerate(zip(before, now)):
            yield from differences(*pair, f"{where}[{i}]")
        return
    matcher = SequenceMatcher(None, [*map(_said, before)], [*map(_said, now)], autojunk=False)
    for kind, i, j, k, n in matcher.get_opcodes():
        if kind != "equal":
            yield Difference(f"{where}[{i}:{j}]", before[i:j], now[k:n])


def _said(value: Any) -> str:
    return "..." if value is ... else json.dumps(value, sort_keys=True, ensure_ascii=False)


def line(name: str, differing: Sequence[Difference] | None, whole: bool = False) -> str:
    """What is said of a command: the first of its differences, or the whole of all."""
    if not differing:
        return f"{'skipped' if differing is None else 'same':8} {name}"
    shown, width = (len(differing), None) if whole else (_SHOWN, _WIDTH)
    parts = [
        f"{where}: {_said(before)[:width]} -> {_said(now)[:width]}"
        for where, before, now in differing[:shown]
    ]
    parts += [f"and {len(differing) - shown} more"] if len(differing) > shown else []
    return f"{'differs':8} {name}: {'; '.join(parts)}"


_SHOWN, _WIDTH = 4, 70  # differences of a command, and letters of a value


# -- the command line -------------------------------------------------------------------------


def _command(text: str) -> str:
    if text not in COMMANDS | DOWNLOADED:
        raise argparse.ArgumentTypeError(f"{text} is no command of same_commands.py")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("record", help="run the commands with a checkout")
    one.add_argument("folder", type=Path, metavar="FOLDER")
    one.add_argument("out", type=Path, metavar="OUT.json")
    one.add_argument("names", nargs="*", type=_command, metavar="NAME")
    one = verbs.add_parser("compare", help="hold two records against each other")
    one.add_argument("before", type=Path, metavar="BEFORE.json")
    one.add_argument("now", type=Path, metavar="NOW.json")
    one.add_argument("names", nargs="*", type=_command, metavar="NAME")
    one.add_argument("--all", action="store_true", help="all differences, and all of each")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Record or compare; the exit code."""
    given = _parser().parse_args(argv)
    if given.verb == "record":
        if not (given.folder / "zoo.py").is_file():
            print(f"{given.folder} has no zoo.py; name a checkout", file=sys.stderr)
            return 66
        record(given.folder.resolve(), given.out, given.names)
        return 0
    try:
        commands = compare(read(given.before), read(given.now), given.names)
    except NoRecord as error:
        print(error, file=sys.stderr)
        return 65
    for name, differing in commands.items():
        print(line(name, differing, given.all))
    return int(any(commands.values()))


if __name__ == "__main__":
    sys.exit(main())
