"""A network of classes and its draws, by NumPy too: what tests of predictions and scores share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from conftest import perceptron, problem_from
from scipy import special

from inference.core.problem import Fit

RNG = np.random.default_rng(0)
ROWS, OTHERS, CLASSES, DRAWS = 9, 14, 3, 6
SHAPES = {"w0": (2, 4), "b0": (4,), "w1": (4, CLASSES)}


def tensor(values):
    return torch.as_tensor(values)


TRAIN = {"x": tensor(RNG.normal(size=(ROWS, 2))), "y": tensor(RNG.integers(3, size=ROWS))}
TEST = {"x": tensor(RNG.normal(size=(OTHERS, 2))), "y": tensor(RNG.integers(3, size=OTHERS))}
VALUES = {name: tensor(RNG.normal(size=(DRAWS, *shape))) for name, shape in SHAPES.items()}


def network(x, y):
    weights = {
        name: pyro.sample(name, dist.Normal(torch.zeros(shape), 1.0).to_event(len(shape)))
        for name, shape in SHAPES.items()
    }
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Categorical(logits=perceptron(x, **weights)), obs=y)


def problem_of(model=network, train=TRAIN, test=TEST, identified=False, **more):
    return replace(problem_from(model, train), test=test, identified=identified, **more)


def fit_of(values=VALUES, chains=1):
    draws = {name: value.unflatten(0, (chains, -1)) for name, value in values.items()}
    return Fit(draws=draws, kind="independent")


def forward(x, i):
    """Probabilities of the classes at draw i, by NumPy."""
    w0, b0, w1 = (VALUES[name][i].numpy() for name in SHAPES)
    return special.softmax(np.tanh(x.numpy() @ w0 + b0) @ w1, 1)


def each_of(x):
    return np.stack([forward(x, i) for i in range(DRAWS)])
