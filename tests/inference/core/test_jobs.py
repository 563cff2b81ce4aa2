"""Several processes: each result comes, a death costs one, nothing outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import HOUSE

from inference.core.jobs import each
from inference.core.signals import Heard
from inference.storage.state import last_step
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


@pytest.mark.skipif(sys.platform != "linux", reason="forking is not safe there")
def test_forked_processes_have_what_cannot_be_sent_and_share_memory():
    lock, counts = threading.Lock(), multiprocessing.RawArray("q", 3)
    looks = []

    def count(i, shared):
        assert not lock.locked()  # it cannot be pickled
        shared[i] = os.getpid()
        return i * 10

    found = all_of(count, range(3), fork=True, shared=(counts,), meanwhile=lambda: looks.append(1))
    assert found == {0: 0, 1: 10, 2: 20} and looks
    assert len({*counts}) <= 2 and 0 not in counts and os.getpid() not in counts


def test_fresh_processes_share_memory_and_none_may_be_needed():
    counts = multiprocessing.get_context("spawn").RawArray("q", 3)

    def count(i, shared):
        shared[i] += 1 + i
        return os.getpid()

    assert os.getpid() not in all_of(count, range(3), shared=(counts,)).values()
    assert list(counts) == [1, 2, 3]
    here = dict(each(count, range(3), 0, Heard(), shared=(counts,)))
    assert here == dict.fromkeys(range(3), os.getpid()) and list(counts) == [2, 4, 6]


def test_a_task_that_does_not_end_when_it_is_asked_has_no_result():
    class Flag(Heard):
        told = 0

        def tell(self, process):
            self.told += 1

    heard, began = Flag(), time.monotonic()
    for number, _ in each(time.sleep, [0.0, 60.0, 60.0], 2, heard, patience=0.2):
        assert number == 0
        heard.signal = signal.SIGINT
    assert heard.told == 1 and time.monotonic() - began < 30


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
    until = time.monotonic() + 180
    while time.monotonic() < until:
        time.sleep(0.5)
        steps = map(last_step, tmp_path.glob("coin-nuts*/progress.jsonl"))
        if any(steps) and any(tmp_path.glob("coin-exact*/metrics.json")):
            break
    begun.send_signal(number)
    out, err = begun.communicate(timeout=90)
    time.sleep(1.5)
    assert processes(mark) == []
    if number != signal.SIGKILL:
        assert begun.returncode == 128 + number, err
        assert re.search(r"exact +PASS", out) and re.search(r"nuts +FAIL|nuts +.*interr", out)
        assert err.strip().splitlines()[-1].startswith("error: interrupted")
