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
from inference.core.problem import Guide
from inference.methods.guides import resolve
from inference.methods.svi import svi
from inference.methods.training import batch_of, store
from inference.program import batching
from inference.program.handlers import Batch
from inference.program.prepare import program_of
from inference.program.program import Program
from models.contract import Refused

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
    return svi(Program(problem), seed=0, context=QUIET, **short | asked)


# -- the two cases -----------------------------------------------------------------------------


def case(name):
    entry = models.load(str(HERE / name / "model.py"))
    return program_of(entry, {}, entry.data(str(HERE / name / "d.json"))).problem


def averaged(problem, values, size):
    """The mean of the density over all batches of one pass."""
    rows = [problem.tensors[key] for key in problem.rows[1]]
    parts = zip(*(tensor.split(size) for tensor in rows))
    program = Program(problem)
    return torch.stack(
        [program.log_joint(values, batch_of(problem, list(part))) for part in parts]
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
        self.values = {
            k: rng.normal(size=shapes[k]) for k in shapes if k in {"a", "b", *self.parts}
        }

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
            batch = batch_of(problem, [problem.tensors[key][rows] for key in keys])
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


# -- what is planted is caught -----------------------------------------------------------------


def regression(x, y):
    a = latent("a")
    with pyro.plate("row", len(y)):
        normal("y", y, a * x)


def mixture(y):
    a = latent("a")
    with pyro.plate("row", len(y)):
        label = pyro.sample("label", dist.Bernoulli(0.3))
        normal("y", y, a + 2 * label)


def two_plates(y, x):
    a = latent("a")
    with pyro.plate("row", len(y)):
        normal("y", y, a)
    with pyro.plate("other", len(x)):
        normal("x", x, latent("b"))


PLANTED = {
    "no weight": lambda self, node: 1.0,
    "the weight of all rows": lambda self, node: self.weight,
    "another plate": lambda self, node: (
        1.0 if any(f.name == self.plate for f in node["cond_indep_stack"]) else self.weight
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
@pytest.mark.parametrize("model", [regression, mixture, two_plates])
def test_a_wrong_weight_is_caught(monkeypatch, model, planted):
    data = {"y": Y} if model is mixture else {"x": X, "y": Y}
    problem = problem_from(model, data)
    fit(problem)
    monkeypatch.setattr(Batch, "weigh", PLANTED[planted])
    with pytest.raises(Refused, match=r"density of batches of 4 rows .* times as much"):
        fit(problem)


def test_a_wrong_sum_over_labels_is_caught(monkeypatch):
    right = Program.log_joint
    monkeypatch.setattr(
        Program,
        "log_joint",
        lambda self, values, batch=None, **more: (
            right(self, values, batch, **more) * (1.001 if batch else 1.0)
        ),
    )
    with pytest.raises(Refused, match="what is summed out"):
        fit(problem_from(mixture, {"y": Y}))


# -- models that batches are refused to --------------------------------------------------------


def mean_in_the_prior(y):
    a = pyro.sample("a", dist.Normal(y.mean(), 1.0))
    with pyro.plate("row", len(y)):
        normal("y", y, a)


def products_of_rows(x, y):
    precision = torch.stack([x, y]) @ torch.stack([x, y]).T
    w = pyro.sample("w", dist.MultivariateNormal(torch.zeros(2), precision_matrix=precision))
    with pyro.plate("row", len(y)):
        normal("y", y, w[0] * x)


def standardised_inside(x, y):
    a = latent("a")
    with pyro.plate("row", len(y)):
        normal("y", y, a * (x - x.mean()) / x.std())


def seen_twice(y):
    a = latent("a")
    with pyro.plate("row", len(y)):
        normal("y", y, a)
    with pyro.plate("other", len(y)):
        normal("again", y)


def weighed_by_hand(y):
    a = latent("a")
    with poutine.scale(scale=N / len(y)), pyro.plate("row", len(y)):
        normal("y", y, a)


def of_a_fixed_size(y):
    a = latent("a")
    with pyro.plate("row", N):
        normal("y", y, a)


def as_many_groups_as_are_seen(y, group):
    with pyro.plate("groups", len(group.unique())):
        shift = latent("shift")
    with pyro.plate("row", len(y)):
        normal("y", y, shift[group % len(shift)])


def factor(y):
    a = latent("a")
    pyro.factor("penalty", -((y - a) ** 2).sum())
    with pyro.plate("row", len(y)):
        normal("y", y, a)


def one_label_for_all(y):
    a = latent("a")
    label = pyro.sample("label", dist.Categorical(torch.ones(3)))
    with pyro.plate("row", len(y)):
        normal("y", y, a + label)


def no_plate_of_the_rows(y):
    pyro.sample("y", dist.Normal(latent("a"), 1.0).expand(y.shape).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("model", "data", "reason"),
    [
        (mean_in_the_prior, {"y": Y}, "'a' lies outside of 'row', and looks at which rows"),
        (products_of_rows, {"x": X, "y": Y}, "'w' lies outside of 'row', and looks at which"),
        (standardised_inside, {"x": X, "y": Y}, "'y' in a row looks at other rows"),
        (seen_twice, {"y": Y}, "'again' lies in 'other', another plate as long as the rows"),
        (weighed_by_hand, {"y": Y}, "'y' weighs 36 times as much as among all rows, not 6"),
        (of_a_fixed_size, {"y": Y}, "the plate 'row' has 24 rows where a batch has 4"),
        (as_many_groups_as_are_seen, {"y": Y, "group": torch.arange(N)}, "'shift' has shape"),
        (factor, {"y": Y}, "'penalty' lies outside of 'row'"),
        (one_label_for_all, {"y": Y}, "'y' depends on 'label', which is summed out over all"),
        (no_plate_of_the_rows, {"y": Y}, "no rows to take batches of"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_batches_are_refused_and_all_rows_are_not(model, data, reason):
    problem = problem_from(model, data)
    with pytest.raises(Refused, match=f"{reason}.*leave batch_size out"):
        fit(problem)
    program = Program(problem)
    assert program.log_joint(program.constrain(program.start())).isfinite()


def test_a_refusal_names_the_densities_and_the_line():
    with pytest.raises(Refused) as refusal:
        fit(problem_from(seen_twice, {"y": Y}))
    said = str(refusal.value)
    assert "test_batching.py, line" in said and "of batches of 4 rows averages to" in said
    assert "\n" not in said


def test_a_sum_over_rows_may_stand_outside_of_their_plate():
    """It is linear in the rows, so that batches do average to it: the penalty of the mean."""

    def model(y):
        a = latent("a")
        pyro.factor("penalty", a * y.mean())
        with pyro.plate("row", len(y)):
            normal("y", y, a)

    assert len(fit(problem_from(model, {"y": Y})).trace) == 2


# -- guides of rows ----------------------------------------------------------------------------


def coded(y):
    with pyro.plate("row", len(y)):
        normal("y", y, latent("z"))


def encoder(y, *, loc=lambda y: y, plate="row"):
    slope = pyro.param("slope", torch.tensor(0.5))
    scale = pyro.param("scale", torch.tensor(0.7), constraints.positive)
    with pyro.plate(plate, len(y)):
        pyro.sample("z", dist.Normal(slope * loc(y), scale))


def without_a_plate(y):
    slope = pyro.param("slope", torch.tensor(0.5))
    pyro.sample("z", dist.Normal(slope * y, 0.7).to_event(1))


def points(y, *, loc=lambda y: y):
    with pyro.plate("row", len(y)):
        pyro.sample("z", dist.Delta(pyro.param("slope", torch.tensor(0.5)) * loc(y)))


class Normed(nn.Module):
    """An encoder with a layer of torch's between data and code."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.scale = layer.double(), nn.Parameter(torch.tensor(0.7))

    def forward(self, y):
        pyro.module("encoder", self)
        loc = self.layer(y[:, None].expand(-1, 2)).mean(1)
        with pyro.plate("row", len(y)):
            pyro.sample("z", dist.Normal(loc, self.scale.abs()))


def centred(y):
    return y - y.mean()


@pytest.mark.parametrize(
    ("guide", "reason"),
    [
        (encoder, None),
        (points, None),
        (Normed(nn.Dropout(0.5)), None),
        (Normed(nn.Tanh()), None),
        (partial(encoder, loc=centred), "'z' in a row looks at other rows"),
        (partial(points, loc=centred), "gives 'z' other values on batches of 4 rows"),
        (Normed(nn.BatchNorm1d(2)), "'z' in a row looks at other rows"),
        (partial(encoder, plate="code"), "'z' lies in 'code', another plate"),
        (without_a_plate, "draws 'z' outside of the plate 'row'"),
        (partial(encoder, loc=lambda y: torch.rand(())), "is another in each run"),
    ],
)
def test_a_guide_of_rows_looks_at_each_by_itself(guide, reason):
    problem = problem_from(coded, {"y": Y})
    if reason is None:
        fit(problem, guide=guide)
        assert not isinstance(guide, nn.Module) or guide.training  # as it was given
    else:
        with pytest.raises(Refused, match=f"{reason}.*batch_size out"):
            fit(problem, guide=guide)


def test_a_guide_of_all_rows_is_not_another_for_each_batch():
    def guide(x, y):
        pyro.sample("a", dist.Normal(pyro.param("loc", torch.tensor(0.1)) + y.mean(), 1.0))

    problem = problem_from(regression, {"x": X, "y": Y})
    with pytest.raises(Refused, match=r"log q of batches of 4 rows.*'a' lies outside of 'row'"):
        fit(problem, guide=guide)


def test_rows_that_look_at_each_other_are_not_encoded_apart():
    program = Program(problem_from(coded, {"y": Y}))
    assert batching.apart(program, encoder)
    assert not batching.apart(program, partial(encoder, loc=centred))


# -- where it is proved ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 5, 13, 23])
def test_a_batch_of_any_size_is_proved(size):
    problem = problem_from(regression, {"x": X, "y": Y})
    batching.prove(Program(problem), NO_GUIDE, size)
    with pytest.raises(Refused):
        batching.prove(Program(problem_from(mean_in_the_prior, {"y": Y})), NO_GUIDE, size)


def test_the_proof_leaves_nothing_behind_and_sees_few_rows():
    seen = []

    def model(y):
        seen.append(len(y))
        with pyro.plate("row", len(y)):
            normal("y", y, pyro.param("loc", lambda: torch.randn(())) + latent("z"))

    program = Program(problem_from(model, {"y": torch.zeros(10_000)}))
    for size in (1, 100, 5000):
        seen.clear()
        torch.manual_seed(0)
        batching.prove(program, NO_GUIDE, size)
        assert max(seen) <= 256 and len(seen) < 200
    found = torch.rand(())
    torch.manual_seed(0)
    assert found == torch.rand(()) and sorted(pyro.get_param_store()) == []


def test_many_fits_are_proved_once(monkeypatch):
    from inference.core.problem import Context
    from inference.program.graphs import Recordings

    proved = []
    monkeypatch.setattr(batching, "prove", lambda *_: proved.append(1))
    problem = problem_from(regression, {"x": X, "y": Y})
    context = Context(graphs=Recordings([problem.tensors["y"]]))
    for _ in range(3):
        svi(Program(problem), seed=0, context=context, steps=2, draws=2, batch_size=4)
    assert len(proved) == 1


@pytest.mark.parametrize("method", ["map", "mle", "laplace"])
def test_networks_are_proved_too(monkeypatch, method):
    """Their weights are climbed on batches."""
    import inference

    monkeypatch.setattr(Batch, "weigh", lambda self, node: 1.0)
    problem = problem_named("bnn", "moons", hidden="3")
    with pytest.raises(Refused, match="'y' weighs 1 times as much"):
        inference.method(method)(Program(problem), seed=0, context=QUIET, steps=2, batch_size=20)


@pytest.mark.parametrize(
    ("name", "guide"),
    [
        ("logistic", "normal"),
        ("heteroscedastic", "mvn"),
        ("bnn", "local"),
        ("bnn", "ensemble"),
        ("vae", "own"),
        ("vae", "flow"),
        ("ssvae", "own"),
        ("stochastic_layer", "many"),
        ("resnet", "enumerated"),
        ("resnet", "same_marginal"),
    ],
)
def test_the_zoos_own_models_pass(name, guide):
    problem = problem_named(name)
    program = Program(problem)
    with store():
        chosen = resolve(guide, program)
        chosen.guide(**problem.tensors)
        batching.prove(program, chosen, 100)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_rows_that_look_at_others_at_some_values_alone_are_refused(sign):
    def model(x, y):
        slope = latent("slope")
        with pyro.plate("row", len(y)):
            normal("y", y, torch.relu(sign * slope) * x.mean() + slope * x)

    with pytest.raises(Refused, match="'y' in a row looks at other rows"):
        batching.prove(Program(problem_from(model, {"x": X, "y": Y})), NO_GUIDE, 4)
