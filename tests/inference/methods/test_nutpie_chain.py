"""One chain: its draws, its statistics, compiled and by Python, stopped."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch
from conftest import HOUSE, problem_of
from scipy import stats

from inference.methods.chains import Monitor
from inference.methods.nutpie_chain import NutpieChain
from inference.program.graphs import compiled
from inference.program.program import Program

SETTINGS = {"lowrank": False, "settings": {"target_accept": 0.9, "maxdepth": 8}}


def normal(u):
    """The log density of independent normals with sd 2, and its gradient."""
    return -0.125 * (u**2).sum(), -0.25 * u


def chain(draws=2000, warmup=400):
    starts = (torch.ones(3),) * 2
    return NutpieChain(normal, starts, 0, draws, warmup, **SETTINGS)


def test_its_draws_are_those_of_the_density_and_its_own():
    monitor = Monitor(2)
    first, second = (chain()(number, monitor) for number in (0, 1))
    assert not np.array_equal(first["u"], second["u"])
    assert first["u"].shape == (2000, 3) and monitor.steps[0] == 2400
    # Every fourth draw is about independent of the one before.
    assert stats.kstest(first["u"][::4, 0] / 2, "norm").pvalue > 1e-3


def test_each_draw_has_its_statistics():
    result = chain(draws=20, warmup=50)(0, Monitor(2))
    names = {"diverging", "energy", "lp", "tree_depth", "n_steps", "step_size", "acceptance_rate"}
    assert result.keys() == names | {"u", "left"}
    assert all(len(values) == 20 for values in result.values())
    np.testing.assert_allclose(result["lp"], -0.125 * (result["u"] ** 2).sum(1), rtol=1e-9)
    assert not result["left"].any()


def test_a_chain_that_is_told_to_stop_has_what_it_has():
    monitor = Monitor(2)
    monitor.stop()
    assert len(chain(draws=100_000)(0, monitor)["u"]) < 100_000


def test_compiled_it_draws_from_the_same_density_and_counts_its_steps():
    program = Program(problem_of("linear"))
    u = program.start()
    density = compiled(program.density_and_gradient, [(u,)])
    of_c = NutpieChain(density, (u, u), 0, 20, 20, **SETTINGS)
    assert of_c.is_native
    monitor = Monitor(2)
    result = of_c(1, monitor)
    assert list(monitor.steps) == [0, 40]
    values = [program.log_density(torch.tensor(point)).item() for point in result["u"]]
    np.testing.assert_allclose(result["lp"], values, rtol=1e-10)


def test_the_sampler_is_loaded_without_its_package_or_with_it():
    run = "import sys; from inference.methods.nutpie_chain import sampler_library as library; {}"
    alone = (
        "assert library().PySampler and 'arviz' not in sys.modules and 'nutpie' not in sys.modules"
    )
    later = "library(); import nutpie; assert nutpie._lib is library()"
    whole = "import importlib.util as u; u.find_spec = lambda name: None; " + later
    for words in (alone, later, whole):
        done = subprocess.run(
            [sys.executable, "-c", run.format(words)], cwd=HOUSE, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
