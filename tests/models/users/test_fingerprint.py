"""A model is another one when its code, or anything that it holds or names, is another."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroSample
from torch import nn

import zoo
from models import fingerprint, identity, wrap
from models.users.fingerprint import trees, without_comments

PRIOR = dist.Normal(0.0, 1.0)
TABLE, RNG, PLACE = pd.DataFrame({"a": [1.0]}), np.random.default_rng(0), Path("data")


def plain(y):
    pyro.sample("y", PRIOR, obs=y)


class Net(PyroModule):
    def __init__(self, scale=1.0):
        super().__init__()
        self.line = PyroModule[nn.Linear](2, 1)
        self.line.bias = PyroSample(dist.Normal(0.0, scale).expand([1]).to_event(1))

    def forward(self, x):
        return self.line(x)


class Called:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, y):
        self.last = pyro.sample("y", dist.Normal(0.0, self.scale), obs=y)

    def method(self, y):
        return self(y)


def module(shift=0.0, scale=1.0):
    torch.manual_seed(0)
    net = Net(scale)
    with torch.no_grad():
        net.line.weight += shift
    return net


def enclosing(prior):
    def model(y):
        pyro.sample("y", prior, obs=y)

    return model


def categorical(*chances):
    return dist.Categorical(torch.tensor(chances))


PAIRS = {
    "scale": lambda a: poutine.scale(plain, scale=a),
    "decorator": lambda a: poutine.scale(scale=a)(plain),
    "mask": lambda a: poutine.mask(poutine.scale(plain, scale=2.0), mask=torch.tensor(a > 0.15)),
    "condition": lambda a: pyro.condition(plain, data={"y": torch.tensor(a)}),
    "reparam": lambda a: poutine.reparam(plain, config={"y": LocScaleReparam(a)}),
    "partial": lambda a: partial(plain, y=a),
    "weights": lambda a: module(shift=a),
    "prior of a module": lambda a: module(scale=a),
    "under a handler": lambda a: poutine.scale(module(shift=a), scale=2.0),
    "object": Called,
    "method": lambda a: Called(a).method,
    "closure": lambda a: enclosing(dist.Normal(0.0, a)),
    "closure of a handler": lambda a: enclosing(dist.Normal(0.0, a).expand([2]).to_event(1)),
    "shares": lambda a: enclosing(categorical(a, 1 - a)),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_what_a_model_holds_counts(kind):
    made = PAIRS[kind]
    known = {number: fingerprint(wrap(made(number)).model) for number in (0.1, 0.2)}
    assert known[0.1] == fingerprint(wrap(made(0.1)).model) != known[0.2]


def test_layers_of_the_same_function_are_different_models():
    models = [plain, poutine.scale(plain, scale=2.0), poutine.mask(plain, mask=True)]
    models.append(poutine.scale(models[1], scale=2.0))
    assert len({fingerprint(wrap(model).model) for model in models}) == 4


def test_a_value_that_is_named_counts(monkeypatch):
    before = fingerprint(plain)
    monkeypatch.setitem(globals(), "PRIOR", dist.Normal(0.0, 2.0))
    assert fingerprint(plain) != before


def test_running_a_model_does_not_make_it_another():
    prior = categorical(0.3, 0.7)
    called, net, function = Called(1.0), module(), enclosing(prior)
    models = [wrap(model).model for model in (called, net, function)]
    before = [fingerprint(model) for model in models]
    with pyro.condition(data={}):
        copy.deepcopy(models[0])(y=torch.zeros(2))
        copy.deepcopy(models[1])(x=torch.ones(2, 2))
        function(torch.tensor(1))
    assert prior.logits is not None and prior.mean is not None  # computed when they are asked for
    assert [fingerprint(model) for model in models] == before


def test_training_a_module_that_is_named_does_not_make_it_another_model():
    net = nn.Linear(2, 1)

    def model(x):
        return pyro.module("net", net)(x)

    before = fingerprint(model)
    with torch.no_grad():
        net.weight += 1
    assert fingerprint(model) == before
    net.requires_grad_(False)
    frozen = fingerprint(model)
    net.weight += 1
    assert frozen != fingerprint(model)


def test_values_that_it_does_not_know_are_named_and_recorded():
    def model(y):
        assert PLACE and RNG
        pyro.sample("y", dist.Normal(TABLE["a"][0], np.exp(0.0)), obs=y)

    names = ["RNG (numpy.random._generator.Generator)", "TABLE (pandas.DataFrame)"]
    assert [name.replace("core.frame.", "") for name in identity(model)[1]] == names
    assert identity(plain) == (fingerprint(plain), [])
    run = zoo.run(model, method="prior", data={"y": 0.5}, draws=10)
    assert run.record["unhashed"] == {"model": identity(model)[1], "guide": []}


def test_trees_are_of_all_files_beside_and_of_what_they_say(tmp_path):
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("from . import two\nimport json\n")
    (package / "two.py").write_text("from .sub.three import f\n")
    (package / "sub").mkdir()
    (package / "sub" / "__init__.py").write_text("")
    (package / "sub" / "three.py").write_text('def f():\n    "It is one."\n    return 1\n')
    found = trees(package / "one.py")
    files = {"one.py", "two.py", "__init__.py", "sub/__init__.py", "sub/three.py"}
    assert set(found) == {f"pack/{file}" for file in files}
    (package / "sub" / "three.py").write_text("def f():\n    return 1  # one\n")
    assert trees(package / "one.py") == found
    (package / "sub" / "three.py").write_text("def f():\n    return 2\n")
    assert trees(package / "one.py") != found


def test_what_cannot_be_parsed_is_as_it_is(tmp_path):
    (tmp_path / "odd.py").write_text("def (:\n")
    assert list(trees(tmp_path / "odd.py")) == ["odd.py"]
    assert without_comments("x = lambda: (") == "x = lambda: ("
    one, other = "    def f():  # a comment\n        return 1\n", "def f(): return 1"
    assert without_comments(one) == without_comments(other)
