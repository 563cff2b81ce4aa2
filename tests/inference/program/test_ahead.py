"""A compiled density without Python: the same draws' posterior, steps counted, chains stopped."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from conftest import QUIET, problem_of
from scipy import stats

from inference.methods.chains import Monitor
from inference.methods.nuts import nuts
from inference.program import ahead
from inference.program.graphs import _AheadOfTime
from inference.program.program import Program
from inference.program.record import record

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler"),
]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_its_values_are_those_of_the_graph():
    program = Program(problem_of("linear"))
    u = program.start()
    density = _AheadOfTime(record(program.density_and_gradient, [u]), [u], [])
    monitor = Monitor(2)
    model = ahead.nutpie_model(
        density.package, program.size, lambda _: u.numpy(), monitor.steps, 1
    )
    # What nutpie stores of its first draws are the density's own values there.
    import nutpie

    trace = nutpie.sample(model, draws=20, tune=20, chains=1, cores=1, seed=1, progress_bar=False)
    value = program.log_density(_tensor(trace["posterior"]["u"].values[0, -1]))
    assert trace["sample_stats"]["logp"].values[0, -1] == pytest.approx(value.item(), rel=1e-10)
    assert list(monitor.steps) == [0, 40]


def test_what_changes_is_read_where_it_lies():
    import nutpie

    problem = problem_of("linear", "simulate", noise=0.7)
    program, y = Program(problem), problem.tensors["y"]
    u = program.start()
    density = _AheadOfTime(record(program.density_and_gradient, [u], [y]), [u], [y])
    monitor = Monitor(1)
    for shift in (0.0, 3.0):
        y += shift
        model = ahead.nutpie_model(
            density.package, program.size, lambda _: u.numpy(), monitor.steps, 0, density.live
        )
        trace = nutpie.sample(
            model, draws=20, tune=20, chains=1, cores=1, seed=1, progress_bar=False
        )
        value = program.log_density(_tensor(trace["posterior"]["u"].values[0, -1]))
        assert trace["sample_stats"]["logp"].values[0, -1] == pytest.approx(
            value.item(), rel=1e-10
        )


def _tensor(values):
    import torch

    return torch.as_tensor(values)


def test_it_samples_the_posterior():
    problem = problem_of("coin", "HHHT")
    fit = nuts(Program(problem), seed=0, context=QUIET, compile="aot", draws=1000)
    pi, truth = fit.draws["pi"].numpy(), stats.beta(4, 2)
    assert fit.stats["lp"].shape == (4, 1000)
    assert abs(pi.mean() - truth.mean()) < 5 * truth.std() / np.sqrt(800)
    assert abs(pi.std() / truth.std() - 1) < 0.1
