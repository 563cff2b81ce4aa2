"""Several processes: each result comes, a death costs one, nothing outlives its parent."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import HOUSE

from inference.core.jobs import each
from inference.core.signals import Heard
from models.contract import Died


def square(x):
    return x * x


def all_of(function, tasks, **more):
    return dict(each(function, tasks, 2, Heard(), **more))


def test_results_come_by_number_and_what_is_raised_is_one():
    found = all_of(lambda x: 1 / x, [1.0, 0.0, 4.0])
    assert found[0] == 1.0 and found[2] == 0.25 and isinstance(found[1], ZeroDivisionError)


def test_a_worker_that_dies_costs_its_own_task_alone(tmp_path):
    def once(x):
        if x == 2 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    found = all_of(once, range(5))
    assert isinstance(found[2], Died) and "signal 9" in str(found[2])
    assert [found[i] for i in (0, 1, 3, 4)] == [0, 1, 3, 4]
    (tmp_path / "died").unlink()
    assert all_of(once, range(5), tries=2) == {i: i for i in range(5)}


def test_after_a_signal_nothing_more_is_begun(tmp_path):
    heard, begun = Heard(), []
    for number, _ in each(square, range(20), 2, heard):
        begun.append(number)
        heard.signal = signal.SIGINT
    assert len(begun) < 4


def processes(mark):
    """Processes whose environment has a mark: those that a command has begun too."""
    found = []
    for folder in os.listdir("/proc"):
        if folder.isdigit() and int(folder) != os.getpid():
            try:
                with open(f"/proc/{folder}/environ", "rb") as file:
                    named = mark.encode() in file.read()
                with open(f"/proc/{folder}/stat") as file:
                    dead = file.read().rpartition(")")[2].split()[0] == "Z"
            except OSError:
                continue
            found += [int(folder)] if named and not dead else []
    return found


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="processes are looked up in /proc")
@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL],
)
def test_a_comparison_that_is_stopped_shows_what_is_done(number, tmp_path):
    mark = f"ZOO_MARK={tmp_path.name}-{number}"
    words = ["compare", "coin", "--methods", "exact,nuts", "--jobs", "2"]
    words += ["--set", "warmup=1000000", "--out", str(tmp_path)]
    begun = subprocess.Popen(
        [sys.executable, str(HOUSE / "zoo.py"), *words],
        env={**os.environ, "ZOO_MARK": mark.partition("=")[2]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    while not list(tmp_path.glob("coin-nuts*/state")) and time.monotonic() < until:
        time.sleep(0.2)
    begun.send_signal(number)
    out, err = begun.communicate(timeout=90)
    time.sleep(1.5)
    assert processes(mark) == []
    if number != signal.SIGKILL:
        assert begun.returncode == 128 + number, err
        assert re.search(r"exact +PASS", out) and re.search(r"nuts +FAIL|nuts +.*interr", out)
        assert err.strip().splitlines()[-1].startswith("error: interrupted")
