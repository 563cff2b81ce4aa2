"""Batches stand for all rows, by NumPy's sums, or are refused for the reason that is true."""

from __future__ import annotations

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import HERE, run_case
from conftest import QUIET, problem_from
from conftest import problem_of as problem_named
from pyro import poutine
from pyro.distributions import constraints
from scipy import stats
from torch import nn

import models
from inference import batching, svi
from inference._problem import Guide, Refused
from inference.prepare import problem_of
from inference.program import Batch, Program

N = 24
_DRAWN = torch.Generator().manual_seed(0)
Y, X = torch.randn(2, N, generator=_DRAWN, dtype=torch.float64)
GROUP = torch.randint(4, (N,), generator=_DRAWN)
NO_GUIDE = Guide(lambda **_: None)


def normal(name, value, loc=0.0):
    return pyro.sample(name, dist.Normal(loc, 1.0), obs=value)


def latent(name):
    return pyro.sample(name, dist.Normal(0.0, 1.0))


def fit(problem, **asked):
    short = {"steps": 2, "draws": 2, "batch_size": 4}
    return svi.svi(problem, seed=0, context=QUIET, **short | asked)


# -- the two cases -----------------------------------------------------------------------------


def case(name):
    entry = models.load(str(HERE / name / "model.py"))
    return problem_of(entry, {}, entry.data(str(HERE / name / "d.json")))


def averaged(problem, values, size):
    """The mean of the density over all batches of one pass."""
    rows = [problem.tensors[key] for key in problem.rows[1]]
    parts = zip(*(tensor.split(size) for tensor in rows))
    program = Program(problem)
    return torch.stack(
        [program.log_joint(values, svi.batch_of(problem, list(part))) for part in parts]
    ).mean()


def test_a_second_plate_as_long_as_the_rows_is_not_cut():
    problem = case("two_plates_same_length")
    assert problem.rows == ("control", ("before",))
    values = {"a": torch.tensor(1.0), "b": torch.tensor(2.0)}
    before, after = (problem.tensors[key].numpy() for key in ("before", "after"))
    whole = stats.norm.logpdf([1.0, 2.0], 0, 10).sum()
    whole += stats.norm.logpdf(before, 1).sum() + stats.norm.logpdf(after, 2).sum()
    assert averaged(problem, values, 2).item() == pytest.approx(whole, rel=1e-10)


@pytest.mark.parametrize("asked", [{}, {"batch_size": 4}], ids=["all rows", "batches"])
def test_two_plates_against_the_conjugate_posterior(asked):
    table = run_case("two_plates_same_length", method="svi", **asked).summary()
    assert table["mean"].to_numpy() == pytest.approx([1.1989, 2.9950], abs=0.05)
    assert table["sd"].to_numpy() == pytest.approx([0.1581, 0.1581], rel=0.1)


def test_a_table_as_long_as_the_rows_is_not_cut():
    problem = case("lookup_same_length")
    assert problem.rows == ("house", ("y", "county"))
    y, county, uranium = (problem.tensors[key].numpy() for key in ("y", "county", "uranium"))
    design = np.column_stack([uranium[county], np.ones(12)])
    precision = design.T @ design + np.eye(2) / 25
    mean = np.linalg.solve(precision, design.T @ y)
    runs = [run_case("lookup_same_length", method="svi", **a) for a in ({}, {"batch_size": 4})]
    for run in runs:
        table = run.summary()
        sd = np.diag(precision) ** -0.5  # of the best mean field
        assert table["mean"].to_numpy() == pytest.approx(mean, abs=0.1 * sd.max())
        assert table["sd"].to_numpy() == pytest.approx(sd, rel=0.1)
    error = 5 * np.hypot(*(run.metrics["elbo_se"] for run in runs)) + 0.01
    assert runs[1].metrics["elbo"] == pytest.approx(runs[0].metrics["elbo"], abs=error)


# -- two plates at random ----------------------------------------------------------------------


class TwoPlates:
    """A random model of two plates, in Pyro and in NumPy.

        a, b ~ Normal(0, 1)              shift_j ~ Normal(0, 1)        second plate, or not there
        z_i ~ Normal(0, 1)               k_i ~ Bernoulli(0.3)          first plate, or not there
        y_i ~ Normal(a x_i + z_i + k_i + table[index_i] + shift[at_i], 1)
        y2_j ~ Normal(b x2_j + shift_j, 1), or not there

    The second plate is as long as the first, or shorter, and so is the table; which parts there
    are, and which plate is observed first, is drawn from the seed. One in twenty observes y in
    the second plate, too.
    """

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.n = int(rng.integers(4, 13))
        self.m = self.n if rng.random() < 0.6 else 3
        length = self.n if rng.random() < 0.6 else 3
        chances = {"x": 0.5, "z": 0.3, "k": 0.3, "table": 0.5, "shift": 0.6, "at": 0.4, "y2": 0.8}
        self.parts = {name for name, chance in chances.items() if rng.random() < chance}
        self.parts -= set() if "shift" in self.parts else {"at"}
        self.parts |= {"index"} if "table" in self.parts else set()
        self.parts |= {"x2"} if "y2" in self.parts else set()
        self.second_first, again = rng.random() < 0.3, rng.random() < 0.05
        data = {
            "y": rng.normal(size=self.n),
            "x": rng.normal(size=self.n),
            "table": rng.normal(size=length),
            "index": rng.integers(length, size=self.n),
            "at": rng.integers(self.m, size=self.n),
            "x2": rng.normal(size=self.m),
            "y2": rng.normal(size=self.m),
        }
        self.data = {k: data[k] for k in rng.permutation(sorted(data)) if k in {"y", *self.parts}}
        self.seen = "y" if again and self.m == self.n and "y2" in self.parts else "y2"
        shapes = {"a": (), "b": (), "z": self.n, "shift": self.m}
        self.values = {k: rng.normal(size=shapes[k]) for k in shapes if k in {"a", "b", *self.parts}}

    def loc(self, data, values, k):
        """The mean of y."""
        loc = values["a"] * data.get("x", 1.0) + values.get("z", 0.0) + k
        loc = loc + (data["table"][data["index"]] if "table" in data else 0.0)
        return loc + (values["shift"][data["at"]] if "at" in data else 0.0)

    def model(self, **data):
        values = {"a": latent("a"), "b": latent("b")}
        second = pyro.plate("second", len(data[self.seen]) if "y2" in data else self.m)
        if "shift" in self.parts:
            with second:
                values["shift"] = latent("shift")
        if self.second_first:
            self.second(second, data, values)
        self.first(data, values)
        if not self.second_first:
            self.second(second, data, values)

    def first(self, data, values):
        with pyro.plate("first", len(data["y"])):
            if "z" in self.parts:
                values = values | {"z": latent("z")}
            labelled = "k" in self.parts
            k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.3))) if labelled else 0.0
            normal("y", data["y"], self.loc(data, values, k))

    def second(self, plate, data, values):
        if "y2" in data:
            with plate:
                loc = values["b"] * data["x2"] + values.get("shift", 0.0)
                normal("y2", data[self.seen], loc)

    def log_joint(self):
        """By NumPy, the labels summed out."""
        total = sum(stats.norm.logpdf(value).sum() for value in self.values.values())
        by_label = [
            np.log(weight) + stats.norm.logpdf(self.data["y"], self.loc(self.data, self.values, k))
            for k, weight in ((0, 0.7), (1, 0.3))
        ]
        only = stats.norm.logpdf(self.data["y"], self.loc(self.data, self.values, 0.0))
        total += (np.logaddexp(*by_label) if "k" in self.parts else only).sum()
        if "y2" in self.data:
            loc = self.values["b"] * self.data["x2"] + self.values.get("shift", 0.0)
            total += stats.norm.logpdf(self.data[self.seen], loc).sum()
        return total

    def averaged(self, problem, size):
        """The mean of the density over batches, one pass of them."""
        (plate, keys), n = problem.rows, problem.n
        of_rows = {"first": "z", "second": "shift"}[plate]
        program, found = Program(problem), []
        for rows in torch.arange(n - n % size).split(size):
            values = {k: torch.as_tensor(v) for k, v in self.values.items()}
            values |= {of_rows: values[of_rows][rows]} if of_rows in values else {}
            batch = svi.batch_of(problem, [problem.tensors[key][rows] for key in keys])
            found.append(program.log_joint(values, batch).item())
        return np.mean(found)


def test_fifty_random_models_of_two_plates_by_batches():
    """Averaged over a pass the density is NumPy's of all rows, or batches are refused."""
    refused = []
    for seed in range(50):
        case = TwoPlates(seed)
        problem = problem_from(case.model, {k: torch.as_tensor(v) for k, v in case.data.items()})
        size = next(size for size in (2, 3, 1) if problem.n % size == 0)
        try:
            batching.prove(Program(problem), NO_GUIDE, size)
        except Refused as refusal:
            refused.append(f"{seed}: {refusal}")
            continue
        assert case.averaged(problem, size) == pytest.approx(case.log_joint(), rel=1e-9), seed
    assert len(refused) <= 5, refused
    print(refused)
