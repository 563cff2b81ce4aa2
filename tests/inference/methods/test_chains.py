"""Chains: order, and what becomes of a run that is cut short."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from conftest import HOUSE, QUIET, problem_of

import zoo
from inference.methods import chains
from inference.methods.nuts import nuts
from inference.program.program import Program
from models.contract import Fault


def counting(chain, monitor):
    """Ten steps, each its number."""
    for _ in range(10):
        monitor.steps[chain] += 1
    return {"u": np.arange(10.0)[:, None] + chain}


def run(chain, count, workers=0, draws=10):
    """Chains of so many draws, without a warm-up."""
    return chains.run(chain, count, draws=draws, warmup=0, workers=workers, context=QUIET)


def until_stopped(chain, monitor):
    """As many steps as it is let."""
    done = 0
    while not monitor.stopping:
        time.sleep(0.01)
        done += 1
    return {"u": np.zeros((done, 1))}


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_the_order_of_the_chains(workers):
    results, stopped = run(counting, 5, workers)
    assert [result["u"][0, 0] for result in results] == [0, 1, 2, 3, 4]
    assert stopped == {}


def test_a_chain_that_is_killed_ends_the_others_with_what_they_have():
    def chain(number, monitor):
        if number == 1:
            time.sleep(0.3)  # the others have begun
            os.kill(os.getpid(), signal.SIGKILL)
        return until_stopped(number, monitor)

    began = time.monotonic()
    results, stopped = run(chain, 3, 3)
    assert time.monotonic() - began < 2
    assert len(results) in (1, 2) and len(results[0]["u"]) > 3
    assert stopped["findings"][0].what.startswith("chain 2 died (signal 9); kept are ")
    assert (stopped["status"], stopped["signal"]) == ("failed", None)


def test_the_first_signal_keeps_what_is_done_the_second_does_not():
    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
    results, stopped = run(until_stopped, 2, 2)
    assert (stopped["status"], stopped["signal"]) == ("interrupted", signal.SIGINT)
    assert all(len(result["u"]) > 10 for result in results)

    for after in (0.3, 0.6):
        threading.Timer(after, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        run(lambda *_: time.sleep(60), 2, 2)


def test_what_a_chain_raises_is_raised():
    def chain(number, monitor):
        raise ValueError("no such thing")

    with pytest.raises(Fault, match=r"chain 1 failed \(ValueError: no such thing\)"):
        run(chain, 1)


def test_draws_are_equal_for_any_number_of_workers_and_after_other_runs():
    problem = problem_of("linear")
    settings = {"seed": 3, "context": QUIET, "chains": 4, "draws": 20, "warmup": 60}
    first = nuts(Program(problem), **settings, workers=1)
    nuts(Program(problem_of("coin")), **settings)
    for workers in (1, 2, 4):
        again = nuts(Program(problem), **settings, workers=workers)
        for name, value in first.draws.items():
            assert torch.equal(value, again.draws[name]), (name, workers)


def test_unequal_chains_are_cut_to_the_largest_table():
    lengths = [1000, 900, 5, 0]
    results = [{"u": np.zeros((n, 1)), "lp": np.zeros(n)} for n in lengths]
    whole, stopped = chains._equally_long(results, 4, 1000, None, 2)
    assert [result["u"].shape for result in whole] == [(900, 1), (900, 1)]
    assert stopped["findings"][0].what.endswith("kept are 900 of 1000 draws of 2 of 4 chains")
    assert stopped["status"] == "interrupted"


@pytest.mark.slow
def test_where_processes_cannot_be_forked_the_draws_are_the_same(tmp_path):
    script = tmp_path / "spawned.py"
    script.write_text(
        "import zoo\n"
        "from inference.core import jobs\n"
        "if __name__ == '__main__':\n"
        "    jobs._CAN_FORK = False\n"
        "    run = zoo.run('coin', method='nuts', seed=1, draws=50, chains=2)\n"
        "    print(run.idata['posterior']['pi'].values.sum().hex())\n"
        "    plain = zoo.run('coin', method='nuts', draws=20, chains=2, compile='plain')\n"
        "    assert plain.idata['posterior'].sizes['chain'] == 2\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(HOUSE)}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    here = zoo.run("coin", method="nuts", seed=1, draws=50, chains=2)
    assert done.stdout.split()[0] == here.idata["posterior"]["pi"].values.sum().hex()


LARGE = """
import os, signal, sys, time
import numpy as np
from inference.core.callbacks import Callback
from inference.core.problem import Context
from inference.methods import chains

def chain(number, monitor):
    with open(sys.argv[1], "a") as file:
        file.write(f"{os.getpid()}\\n")
    monitor.steps[number] += 1
    return {"u": np.zeros(10**6)}  # far more than a pipe holds

class Kill(Callback):
    def on_step(self, step):
        time.sleep(1)  # the chains are at their pipes, nobody reads
        os.kill(os.getpid(), signal.SIGKILL)

context = Context(callbacks=Kill())
chains.run(chain, 3, draws=1, warmup=0, workers=3, context=context)
"""


def test_chains_that_are_sending_end_with_a_parent_that_is_killed(tmp_path):
    written = tmp_path / "pids"
    subprocess.run([sys.executable, "-c", LARGE, str(written)], cwd=HOUSE, check=False)
    pids = [int(line) for line in written.read_text().split()]
    assert len(pids) == 3
    waited = time.monotonic() + 5
    while any(alive(pid) for pid in pids) and time.monotonic() < waited:
        time.sleep(0.05)
    assert not [pid for pid in pids if alive(pid)]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
