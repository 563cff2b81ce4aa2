"""Kills commands at random moments: nothing is lost, nothing goes on, and the rest is the same.

    python tests/bench/kills.py --out DIR [--kills 200] [--verbs nuts,svi,...] [--jobs 2]

A line of `DIR/kills.jsonl` for each kill: verb, seconds until SIGKILL of the command's own
process, what of its session ran two seconds later, and what differs in the end from a command that
nobody killed. Those that are there are not made again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

HOUSE = Path(__file__).parents[2]
sys.path.insert(0, str(HOUSE))


import zoo  # noqa: E402
from inference.storage.record import read_record  # noqa: E402
from models.contract import Fault  # noqa: E402

_NUTS = ["coin", "--method", "nuts", "--set", "draws=1500", "warmup=100", "chains=4"]
_SVI = [
    "linear",
    "--guide",
    "mvn",
    "--set",
    "steps=4000",
    "draws=200",
    "batch_size=100",
    "lr=0.02",
]
# Seconds after the death of a command at which nothing of it may run.
_GRACE = 2.0


def command(words: Sequence[str], folder: Path) -> subprocess.Popen:
    """A command of the zoo in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(HOUSE / "zoo.py"), *words],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(words: Sequence[str], folder: Path) -> int:
    """The exit code of a command that nobody kills."""
    process = command(words, folder)
    process.communicate()
    return process.returncode


def killed(words: Sequence[str], folder: Path, after: float) -> list[str]:
    """Kill a command after so many seconds; what of its session still runs a little later."""
    process = command(words, folder)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(_GRACE)
    return _of_session(process.pid)


def _of_session(session: int) -> list[str]:
    """Names of the processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue
        state, _, _, of = rest.split()[:4]
        if int(of) == session and state != "Z":
            found.append(name.partition("(")[2])
    return found


def folders(out: Path) -> list[Path]:
    """The runs of a folder, hidden ones of a writer that was killed left out."""
    return sorted(path for path in out.glob("[!.]*") if (path / "run.json").is_file())


def content(path: Path) -> dict[str, str]:
    """What must be the same of a saved run or calibration: numbers to their hash, pictures."""
    drawn = {f"picture {f.name}": "drawn" for f in path.glob("figures/*.png")}
    status = {"status": read_record(path)["status"]}
    if (path / "table.csv").exists():
        return drawn | status | {"table": _hash((path / "table.csv").read_bytes())}
    run = zoo.load(path)
    groups = {
        f"{group}.{name}": _hash(values.values.tobytes())
        for group in run.idata.groups()
        for name, values in run.idata[group].data_vars.items()
    }
    params = {f"param {name}": _hash(v.numpy().tobytes()) for name, v in run.params.items()}
    return drawn | status | groups | params | {"verdict": run.record["verdict"]["status"]}


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def resumed(out: Path) -> dict[str, dict[str, str]]:
    """What each run of a folder has when all that was cut short was resumed, by method."""
    for path in folders(out):
        if read_record(path)["status"] != "done":
            finished(["resume", str(path), "-q"], out)
    return {path.name.rpartition("-0-")[0]: content(path) for path in folders(out)}


# -- what is killed ----------------------------------------------------------------------------


class Verb(NamedTuple):
    """A command to kill.

    Attributes:
        prepare: lays out what it needs in a folder.
        words: the command, by that folder.
        result: carries on where that can be, and says what there is in the end.
    """

    prepare: Callable[[Path], None]
    words: Callable[[Path], list[str]]
    result: Callable[[Path], dict]


def _nothing(folder: Path) -> None:
    (folder / "runs").mkdir(parents=True)


def _run(words: Sequence[str]) -> Verb:
    return Verb(
        _nothing,
        lambda folder: ["run", *words, "-q", "--out", str(folder / "runs")],
        lambda folder: resumed(folder / "runs"),
    )


def _begun(words: Sequence[str], folder: Path) -> None:
    """A run that was killed on its way: once it has its folder, a second later."""
    _nothing(folder)
    process = command(["run", *words, "-q", "--out", str(folder / "runs")], folder)
    while not folders(folder / "runs") and process.poll() is None:
        time.sleep(0.02)
    time.sleep(1.0)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def _resume(words: Sequence[str]) -> Verb:
    def again(folder: Path) -> list[str]:
        return ["resume", *map(str, folders(folder / "runs")[:1]), "-q"]

    return Verb(partial(_begun, words), again, lambda folder: resumed(folder / "runs"))


def _without_pictures(found: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    return {
        name: {key: value for key, value in values.items() if not key.startswith("picture")}
        for name, values in found.items()
    }


def _some_runs(folder: Path) -> None:
    """Three runs that are done, three that failed, and files that are not the zoo's."""
    _nothing(folder)
    for seed in range(3):
        zoo.run("coin", method="laplace", data="HHT", seed=seed, out=folder / "runs")
        with suppress(Fault):
            zoo.run("linear", method="svi", seed=seed, lr=1e9, out=folder / "runs")
    (folder / "runs" / ".bashrc.partial-backup").write_text("mine")
    (folder / "old.html").write_text("an earlier report</html>")


def _copied(made: Path, folder: Path) -> None:
    if not made.exists():
        _some_runs(made)
    shutil.copytree(made, folder)


def _of_runs(folder: Path) -> dict:
    """What runs that nothing may change hold, byte by byte, and what else lies there."""
    done = [path for path in folders(folder / "runs") if read_record(path)["status"] == "done"]
    files = {
        str(file.relative_to(folder)): _hash(file.read_bytes())
        for path in done
        for file in path.rglob("*")
        if file.is_file() and file.name != ".lock"
    }
    return files | {"foreign": (folder / "runs" / ".bashrc.partial-backup").read_text()}


def _reported(folder: Path) -> dict:
    """A report is the old one or a whole one, and another try makes it."""
    if not (folder / "old.html").read_text().rstrip().endswith("</html>"):
        return {"report": "cut off"}
    code = finished(_report(folder), folder)
    stray = [path.name for path in folder.glob(".*")]
    return _of_runs(folder) | {"code": str(code), "stray": str(stray)}


def _report(folder: Path) -> list[str]:
    done = [path for path in folders(folder / "runs") if read_record(path)["status"] == "done"]
    return ["report", *map(str, done), "--out", str(folder / "old.html")]


def _cleaned(folder: Path) -> dict:
    finished(["clean", "--out", str(folder / "runs")], folder)
    left = sorted(path.name for path in (folder / "runs").iterdir())
    return _of_runs(folder) | {"left": str(left)}


def verbs(out: Path) -> dict[str, Verb]:
    """All that is killed, by name; `out` keeps what several of them begin with."""
    made = partial(_copied, out / "made")
    sbc = ["check", "coin", "--sbc", "24", "--method", "laplace", "--jobs", "2", "-q"]
    compared = ["compare", "linear", "--methods", "laplace,svi:normal,svi:mvn", "-q"]
    return {
        "nuts": _run(_NUTS),
        "svi": _run(_SVI),
        "resume nuts": _resume(_NUTS),
        "resume svi": _resume(_SVI),
        "compare": Verb(
            _nothing,
            lambda folder: [*compared, "--jobs", "2", "--out", str(folder / "runs")],
            lambda folder: _without_pictures(resumed(folder / "runs")),  # resume draws them
        ),
        "sbc": Verb(
            _nothing,
            lambda folder: [*sbc, "--out", str(folder / "runs")],
            lambda folder: resumed(folder / "runs"),
        ),
        "report": Verb(made, _report, _reported),
        "clean": Verb(
            made, lambda folder: ["clean", "--out", str(folder / "runs")], _cleaned
        ),
    }  # fmt: skip


# -- the kills ---------------------------------------------------------------------------------


def whole(verb: Verb, folder: Path) -> tuple[float, dict]:
    """How long a command takes that nobody kills, and what it makes."""
    verb.prepare(folder)
    began = time.monotonic()
    finished(verb.words(folder), folder)
    return time.monotonic() - began, verb.result(folder)


def kill(verb: Verb, folder: Path, seed: int, seconds: float, expected: dict) -> dict:
    """One kill: when, what ran on, and what is different.

    A run that was killed before its folder was there has left nothing to compare.
    """
    shutil.rmtree(folder, ignore_errors=True)
    verb.prepare(folder)
    after = random.Random(seed).uniform(0.0, 1.05 * seconds)
    running = killed(verb.words(folder), folder, after)
    found = verb.result(folder)
    each = {name: _differs(value, expected.get(name)) for name, value in found.items()}
    different = {name: how for name, how in each.items() if how}
    shutil.rmtree(folder)
    return {"after": round(after, 2), "running": running, "different": different, "n": len(found)}


def _differs(found: Any, expected: Any) -> list[str] | bool:
    """Which entries are not what they should be; of a plain value whether it is not."""
    if not isinstance(found, dict) or expected is None:
        return found != expected
    return [key for key in {*found, *expected} if found.get(key) != expected.get(key)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--kills", type=int, default=200, help="of all verbs together")
    parser.add_argument("--verbs", help="names, separated by commas")
    parser.add_argument("--jobs", type=int, default=2, help="at once")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    file, known = given.out / "kills.jsonl", verbs(given.out.resolve())
    names = given.verbs.split(",") if given.verbs else list(known)
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    there = {(line["verb"], line["seed"]) for line in lines}
    for name in names:
        seconds, expected = whole(known[name], given.out.resolve() / f"whole {name}")
        shutil.rmtree(given.out / f"whole {name}")

        def one(seed: int, name: str = name, of: tuple = (seconds, expected)) -> dict:
            folder = given.out.resolve() / f"{name} {seed}"
            return {"verb": name, "seed": seed, **kill(known[name], folder, seed, *of)}

        left = [s for s in range(-(-given.kills // len(names))) if (name, s) not in there]
        with ThreadPoolExecutor(given.jobs) as pool, file.open("a") as out:
            for line in pool.map(one, left):
                print(json.dumps(line), file=out, flush=True)
                lines.append(line)
    print(table(lines))


def table(lines: Sequence[dict]) -> str:
    """Kills of each verb, and those after which something ran on, or was different."""
    told = []
    for name, count in Counter(line["verb"] for line in lines).items():
        of = [line for line in lines if line["verb"] == name]
        wrong, on = (sum(bool(line[key]) for line in of) for key in ("different", "running"))
        last = max(line["after"] for line in of)
        told.append(f"{name}: {count} kills up to {last} s, {wrong} differ, {on} ran on")
    return "\n".join(told)


if __name__ == "__main__":
    main()
