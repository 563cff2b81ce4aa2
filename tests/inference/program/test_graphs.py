"""Recorded graphs: equal to the function everywhere, random where it is, nothing superfluous."""

from __future__ import annotations

import pickle

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from conftest import problem_from, problem_of

import models
from inference.native import elementwise, operations
from inference.program import graphs
from inference.program.graphs import Recordings, compiled, faster, way_of
from inference.program.program import Program
from inference.program.record import Recorded, Unrecordable, record
from models.contract import Refused

U = torch.tensor([0.3, -0.7, 1.1])


def test_what_is_folded_twice_has_no_node():
    def function(u):
        return (u.sin() + torch.zeros_like(u).cos() + torch.zeros_like(u).exp(),)

    run = compiled(function, [(U,), (2 * U,)])
    assert isinstance(run, Recorded)
    torch.testing.assert_close(run(U), function(U), rtol=0, atol=0)


def test_random_draws_stay_random_and_are_those_of_the_function():
    def function(u):
        return (u + torch.randn(3),)

    run = compiled(function, [(U,)])
    assert isinstance(run, Recorded)
    assert not torch.equal(run(U)[0], run(U)[0])
    torch.manual_seed(3)
    ours = [run(U)[0] for _ in range(3)]
    torch.manual_seed(3)
    torch.testing.assert_close(ours, [function(U)[0] for _ in range(3)], rtol=0, atol=0)


def test_live_tensors_are_read_anew_in_each_call():
    weight = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)

    def function(u):
        value = (weight**2 * u).sum()
        return (value.detach(), *torch.autograd.grad(value, [weight]))

    run = compiled(function, [(U,)], live=[weight])
    with torch.no_grad():
        weight += 1.5
    value, slope = run(2 * U)
    assert value.item() == pytest.approx((weight.detach() ** 2 * 2 * U).sum().item(), rel=1e-12)
    torch.testing.assert_close(slope, 4 * weight.detach() * U)


def test_a_branch_on_a_value_runs_plainly_with_a_warning():
    def branching(u):
        return (u.sum() if u[0] > 0 else (2 * u).sum(),)

    with pytest.warns(UserWarning, match="runs untraced"):
        plain = compiled(branching, [(U,)])
    assert plain is branching
    with pytest.raises(Unrecordable, match=r"depends on a value, test_graphs.py, line \d+"):
        record(lambda u: (u[u > 0].sum(),), [U])


def test_a_graph_can_be_sent_to_another_process():
    run = compiled(lambda u: ((u**2).sum(), 2 * u), [(U,)])
    sent = pickle.loads(pickle.dumps(run))
    torch.testing.assert_close(sent(3 * U), run(3 * U), rtol=0, atol=0)


def mixture(y):
    weight = pyro.sample("weight", dist.Beta(2.0, 2.0))
    loc = pyro.sample("loc", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    with pyro.plate("row", len(y)):
        label = pyro.sample("label", dist.Bernoulli(weight))
        pyro.sample("y", dist.Normal(loc[label.long()], 1.0), obs=y)


class Network(pyro.nn.PyroModule):
    """A network with a prior on each weight."""

    def __init__(self):
        super().__init__()
        self.layer = pyro.nn.PyroModule[torch.nn.Linear](2, 1)
        self.layer.weight = pyro.nn.PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
        self.layer.bias = pyro.nn.PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

    def forward(self, x, y):
        logits = torch.tanh(self.layer(x)).squeeze(-1)
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


def problems():
    """Every model of the zoo, and structures that the zoo's have not."""
    rng = np.random.default_rng(0)
    yield from ((name, problem_of(name)) for name in models.names())
    y = torch.as_tensor(rng.normal(size=20))
    yield "mixture", problem_from(mixture, {"y": y})
    x = torch.as_tensor(rng.normal(size=(20, 2)))
    yield "PyroModule", problem_from(Network(), {"x": x, "y": (y > 0).double()})


@pytest.mark.parametrize("how", ["native", "traced"])
def test_the_density_is_pyros_on_every_model_tail_included(how):
    for name, problem in problems():
        program = Program(problem)
        torch.manual_seed(0)
        start = program.start()
        run = compiled(program.density_and_gradient, [(start,), (5 * start,)], how=how)
        assert run is not program.density_and_gradient
        for scale in (0.1, 1.0, 10.0):
            u = scale * torch.randn(program.size)
            value, gradient = run(u)
            expected, slope = program.density_and_gradient(u)
            assert value.item() == pytest.approx(expected.item(), rel=1e-10), name
            # Relative to the largest slope: a slope of zero is a difference of large ones.
            error = (gradient - slope).abs().max() / slope.abs().max()
            assert error < 1e-10, name


def test_the_gradient_is_that_of_the_log_density():
    program = Program(problem_of("linear"))
    u = torch.randn(program.size, generator=torch.Generator().manual_seed(0))
    _, slope = program.density_and_gradient(u)
    step = 1e-6 * torch.eye(program.size)
    central = [(program.log_density(u + e) - program.log_density(u - e)) / 2e-6 for e in step]
    torch.testing.assert_close(slope, torch.stack(central), rtol=1e-6, atol=1e-4)


def test_a_cache_that_others_may_write_to_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "bayeszoo").mkdir()
    (tmp_path / "bayeszoo").chmod(0o777)
    with pytest.raises(Refused, match="written by others"):
        compiled(lambda u: ((u**2).sum(), 2 * u), [(U,)], how="native")


def test_without_a_compiler_torch_runs_graphs_and_one_note_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    graphs._tell_once.cache_clear()
    with pytest.warns(
        UserWarning, match="no C compiler: models run by torch.*install gcc"
    ) as said:
        runs = [compiled(lambda u: ((u**2).sum(), 2 * u), [(U,)]) for _ in range(2)]
    graphs._tell_once.cache_clear()
    assert len(said) == 1 and way_of(runs[0]) == "traced"
    torch.testing.assert_close(runs[1](U)[1], 2 * U)


def test_a_resume_keeps_to_the_way_a_run_was_begun():
    native, traced = (compiled(lambda u: (u**2,), [(U,)], how=how) for how in ("native", "traced"))
    assert way_of(native) == "native" and way_of(traced, "traced") == "traced"
    assert way_of(lambda u: (u,)) == "plain"
    with pytest.raises(Refused, match="begun with compile=native, and here the model runs traced"):
        way_of(traced, "native")


def test_other_values_in_c_are_found_and_not_used(monkeypatch):
    wrong = elementwise._formula("exp@@({0}) * 1.01")
    monkeypatch.setitem(operations.OPERATIONS, torch.ops.aten.exp.default, wrong)
    with pytest.warns(UserWarning, match="gave other values than torch"):
        run = compiled(lambda u: (u.exp(),), [(U,)])
    torch.testing.assert_close(run(U)[0], U.exp(), rtol=1e-6, atol=0)


# -- for many fits ----------------------------------------------------------------------------


def test_gradients_of_convolutions_are_recorded():
    torch.manual_seed(0)
    weights = [torch.randn(4, 1, 3, 3), torch.randn(4, 4, 3, 3), torch.randn(4, 2, 3, 3)]
    for weight in weights:
        weight.requires_grad_()

    def gradient(x):
        h = F.conv2d(x, weights[0], stride=2, padding=1)
        h = F.conv2d(F.relu(h), weights[1], torch.ones(4), padding=1)
        value = F.conv_transpose2d(F.relu(h), weights[2], stride=2).square().mean()
        return value.detach(), *torch.autograd.grad(value, weights)

    x = torch.randn(5, 1, 8, 8)
    run = faster(gradient, [[x], [x]], live=weights)
    other = torch.randn(5, 1, 8, 8)
    for one in (run, pickle.loads(pickle.dumps(run))):
        for found, truth in zip(one(other), gradient(other), strict=True):
            torch.testing.assert_close(found, truth)


def test_a_graph_serves_other_values_of_its_live_tensors():
    y, u = torch.tensor([1.0, 2.0]), torch.tensor([0.3])
    recordings = Recordings([y])

    def function(u):
        return (u * y).sum(), u.exp()

    first = recordings.compiled(function, [(u,)])
    y.copy_(torch.tensor([5.0, -1.0]))
    state = torch.get_rng_state()
    assert recordings.compiled(function, [(u,)]) is first
    assert torch.equal(torch.get_rng_state(), state)
    assert first(u)[0].item() == pytest.approx(1.2)


def test_a_graph_that_does_not_follow_is_recorded_again():
    hidden, u = torch.tensor(1.0), torch.tensor([0.3])
    recordings = Recordings([])

    def function(u):
        return (u * hidden,)

    first = recordings.compiled(function, [(u,)])
    hidden.fill_(2.0)
    again = recordings.compiled(function, [(u,)])
    assert again is not first and again(u)[0].item() == pytest.approx(0.6)


def test_what_cannot_be_recorded_is_told_once_and_runs_as_it_is():
    recordings, u = Recordings([]), torch.tensor([0.3])

    def function(u):
        return (u * 2 if u.sum() > 0 else u,)

    with pytest.warns(UserWarning, match="untraced"):
        recordings.compiled(function, [(u,)])
    assert recordings.compiled(function, [(u,)]) is function


def test_parameters_stay_in_the_memory_of_the_first():
    recordings = Recordings([])
    first = recordings.memory("parameters", torch.tensor([1.0, 2.0]))
    second = recordings.memory("parameters", torch.tensor([3.0, 4.0]))
    assert second is first and first.tolist() == [3.0, 4.0]
    assert recordings.memory("parameters", torch.zeros(3)).shape == (3,)
