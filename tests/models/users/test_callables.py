"""Models of every kind seen as functions: parameters, code, copies."""

from __future__ import annotations

import copy
import functools
import inspect
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroSample
from torch import nn

from inference.core import machine
from models.contract import BadInput, data_keys, takes_any
from models.users import callables
from models.users.callables import Model, as_function, heart, signature


def plain(x, y=None, *, scale=1.0):
    """The function that most of the others hold."""
    return pyro.sample("y", dist.Normal(x, scale), obs=y)


def wrapped(function):
    @functools.wraps(function)
    def inside(*args, **keywords):
        return function(*args, **keywords)

    return inside


class Net(PyroModule):
    def __init__(self, *, width=2):
        super().__init__()
        self.line = PyroModule[nn.Linear](width, 1)

    def forward(self, x, y=None):
        return plain(self.line(x), y)

    @poutine.scale(scale=2.0)
    def scaled(self, x, y=None):
        return self(x, y)


class Called:
    def __call__(self, x, y=None, *, scale=1.0):
        return plain(x, y, scale=scale)

    @wrapped
    def method(self, x, y=None, *, scale=1.0):
        return self(x, y, scale=scale)


KINDS = {
    "function": plain,
    "scaled": poutine.scale(plain, scale=2.0),
    "decorated": poutine.scale(scale=2.0)(plain),
    "stacked": poutine.mask(mask=True)(poutine.reparam(config={})(pyro.condition(data={})(plain))),
    "traced": poutine.trace(plain),
    "reparam": poutine.reparam(plain, config={"y": LocScaleReparam()}),
    "enumerated": config_enumerate(plain),
    "configured": poutine.infer_config(plain, config_fn=lambda site: {}),
    "wrapped": wrapped(poutine.scale(scale=2.0)(wrapped(plain))),
    "partial": poutine.scale(partial(plain, scale=1.0), scale=2.0),
    "object": Called(),
    "method": Called().method,
}


@pytest.mark.parametrize("kind", KINDS)
def test_layers_do_not_hide_the_parameters(kind):
    model = as_function(KINDS[kind])
    assert list(data_keys(model)) == ["x", "y"]
    assert data_keys(model)["y"].default is None
    assert inspect.signature(model).parameters["scale"].default == 1.0
    assert inspect.unwrap(model).__code__ == heart(KINDS[kind]).__code__
    held = KINDS[kind]
    assert heart(held) in (plain, Called.__call__, Called.__dict__["method"].__wrapped__)
    trace = poutine.trace(model).get_trace(x=torch.zeros(2), y=torch.ones(2))
    assert trace.nodes["y"]["value"].tolist() == [1, 1]


def test_a_function_and_a_class_stay_what_they_are():
    assert as_function(plain) is plain and as_function(Net) is Net
    assert as_function(Net(), whole=True).__class__ is Net
    assert list(data_keys(Net)) == ["x", "y"] and heart(Net) is Net.forward
    for bad in (int, BadInput):
        with pytest.raises((BadInput, ValueError)):
            signature(bad)


def test_what_is_bound_is_asked_for_no_more():
    def model(x, sigma, y, *, scale=1.0, table=()):
        """Data, a constant, and options."""

    left = signature(partial(model, sigma=2.0, scale=3.0, table=torch.ones(2))).parameters
    assert list(left) == ["x", "y", "scale"] and left["scale"].default == 3.0
    assert list(data_keys(partial(model, sigma=2.0))) == ["x", "y"]
    assert list(data_keys(partial(model, torch.ones(1)))) == ["sigma", "y"]
    assert list(data_keys(poutine.scale(partial(model, y=1), scale=2.0))) == ["x", "sigma"]


def test_keyword_only_parameters_without_a_default_are_data():
    def model(*, x, y, scale=1.0):
        """No positional parameter."""

    assert list(data_keys(model)) == ["x", "y"]


def test_parameters_without_a_name_are_told():
    with pytest.raises(
        BadInput, match=r"takes \*rows, .*test_callables.py, line \d+, and data come"
    ):
        data_keys(lambda *rows: rows)
    assert data_keys(lambda *a, **k: 0) == {} and takes_any(lambda x, **k: 0)
    with pytest.raises(BadInput, match="parameters of the model are not known"):
        data_keys(getattr)
    with pytest.raises(BadInput, match=r"it makes objects of Net, and is none: call it"):
        data_keys(partial(Net, width=3))


def test_a_plain_module_becomes_one_whose_parts_have_names():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = PyroModule[nn.Linear](1, 1), nn.Linear(1, 1)
            self.first.weight = PyroSample(dist.Normal(torch.zeros(1, 1), 1.0).to_event(2))

        def forward(self, x):
            return self.second(self.first(x))

    outer = Outer()
    outer(torch.ones(2, 1))  # parts that ran have names by then, and get others
    trace = poutine.trace(Model(outer)).get_trace(x=torch.ones(2, 1))
    assert {"first.weight", "first.bias", "second.weight", "second.bias"} <= set(trace.nodes)
    assert type(outer) is Outer and type(outer.second) is nn.Linear


def test_each_run_has_a_copy_of_an_object_in_its_number_type():
    net = Net()
    model = as_function(poutine.scale(net, scale=2.0))
    kept = net.line.weight.clone()
    with machine.numbers("float32"):
        fresh = copy.deepcopy(model)
    held = callables.object_of(fresh)
    assert held.line.weight.dtype == torch.float32 and net.line.weight.dtype == torch.float64
    with torch.no_grad():
        held.line.weight.zero_()
    assert torch.equal(net.line.weight, kept)
    assert torch.equal(callables.object_of(copy.deepcopy(model)).line.weight, kept)


def test_the_object_of_a_method_is_found_and_what_is_bound_is_none():
    net, called = Net(), Called()
    assert callables.object_of(net.scaled) is net and callables.object_of(called.method) is called
    assert callables.object_of(poutine.scale(partial(plain, torch.ones(2)), scale=2.0)) is None
