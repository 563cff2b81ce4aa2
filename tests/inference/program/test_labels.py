"""How discrete latents are summed out: proved right, or refused; against brute force in NumPy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import check_mean, run_case
from conftest import problem_from
from scipy import special, stats

from inference.program import discrete, labels
from inference.program.program import Program
from models.contract import Refused

MU = 0.4


@dataclass
class Made:
    """A small model: labels in one or two plates, one continuous latent, one observed site.

    Attributes:
        latents: name, plate, number of values, and the label that its prior looks at, if any.
        sizes: plate to its size.
        use: what the observed site makes of the labels.
        group: rows to elements of the first plate, of a lookup.
        order: whether the labels' plates stand at another dimension than the rows'.
    """

    latents: list[tuple[str, str, int, str | None]]
    sizes: dict[str, int]
    use: str
    group: np.ndarray
    y: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def cells(self) -> int:
        return math.prod(k ** self.sizes[plate] for _, plate, k, _ in self.latents)

    def location(self, z: dict, lib) -> object:
        """What is added to mu at each observation; the same words in NumPy and torch."""
        first = [z[name] for name, plate, _, _ in self.latents if plate == "a"]
        weighed = sum((i + 1) * value for i, value in enumerate(first))
        if self.use == "alone":
            return weighed
        if self.use == "lookup":
            return weighed[..., self.group]
        if self.use == "cumsum":
            return lib.cumsum(weighed, -1)
        if self.use == "sort":
            return lib.sort(weighed, -1)[0] if lib is torch else np.sort(weighed, -1)
        if self.use == "roll":
            rolled = lib.roll(weighed, 1, -1)
            return weighed * rolled
        total = sum((i + 1) * z[name].sum(-1) for i, (name, *_) in enumerate(self.latents))
        return total[..., None] if self.use == "sum_keepdim" else total

    @property
    def rows(self) -> int:
        sizes = {"sum": 0, "sum_keepdim": 1, "lookup": len(self.group)}
        return sizes.get(self.use, self.sizes["a"])

    def prior(self, k: int, parent, lib):
        """Weights of k values, larger for larger ones where the parent's label is; (..., k)."""
        tilt = 0.3 if parent is None else 0.3 - 0.5 * parent
        if lib is torch:
            tilt = torch.as_tensor(tilt, dtype=torch.float64)
            return torch.arange(k, dtype=torch.float64) * tilt[..., None] + 0.1
        return np.arange(k) * np.asarray(tilt)[..., None] + 0.1

    def model(self, y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        z = {}
        plates = {name: pyro.plate(name, size) for name, size in self.sizes.items()}
        plates["row"] = pyro.plate("row", max(self.rows, 1))
        for name, plate, k, parent in self.latents:
            with plates[plate]:
                logits = self.prior(k, z.get(parent), torch)
                z[name] = pyro.sample(name, dist.Categorical(logits=logits))
        loc = mu + self.location(z, torch)
        if self.use == "sum":
            pyro.sample("y", dist.Normal(loc, 0.7), obs=y)
        else:
            plate = "a" if self.use in ("alone", "cumsum", "sort", "roll") else "row"
            with plates[plate]:
                pyro.sample("y", dist.Normal(loc, 0.7), obs=y)

    def by_hand(self) -> float:
        """The log joint of y and mu, summed over all labels one by one."""
        shapes = [self.sizes[plate] for _, plate, _, _ in self.latents]
        kinds = [range(k) for _, plate, k, _ in self.latents for _ in range(self.sizes[plate])]
        every = np.array(list(itertools.product(*kinds)))  # (cells, all labels)
        parts = np.split(every, np.cumsum(shapes)[:-1], axis=1)
        z = {name: part for (name, *_), part in zip(self.latents, parts)}
        total = np.zeros(len(every))
        for name, _, k, parent in self.latents:
            weights = self.prior(k, z.get(parent), np)
            logs = weights - special.logsumexp(weights, axis=-1, keepdims=True)
            logs = np.broadcast_to(logs, (*z[name].shape, k))
            total += np.take_along_axis(logs, z[name][..., None], -1)[..., 0].sum(1)
        loc = MU + self.location(z, np)
        seen = stats.norm.logpdf(self.y, loc, 0.7)
        total += seen.reshape(len(every), -1).sum(1)
        return float(special.logsumexp(total) + stats.norm.logpdf(MU))


def made(seed: int) -> Made:
    rng = np.random.default_rng(seed)
    count, plates = rng.integers(2, 4), rng.integers(1, 3)
    sizes = {"a": int(rng.integers(2, 5)), "b": int(rng.integers(2, 4))}
    latents: list[tuple[str, str, int, str | None]] = []
    for i in range(count):
        plate = "a" if i == 0 or plates == 1 or rng.random() < 0.5 else "b"
        before = [name for name, p, _, _ in latents if p == plate]
        parent = str(rng.choice(before)) if before and rng.random() < 0.4 else None
        latents.append((f"z{i}", plate, int(rng.integers(2, 4)), parent))
    uses = ["alone", "sum", "sum_keepdim", "lookup", "cumsum", "sort", "roll"]
    use = uses[seed % len(uses)]
    group = rng.integers(0, sizes["a"], size=int(rng.integers(2, 7)))
    one = Made(latents, sizes, use, group)
    one.y = rng.normal(2, 2, size=() if use == "sum" else one.rows)
    return one


def density(model: Callable, y: np.ndarray) -> float:
    program = Program(problem_from(model, {"y": torch.as_tensor(y)}))
    return program.log_joint({"mu": torch.tensor(MU)}).item()


_PARTS = [pytest.param(part, marks=pytest.mark.slow if part > 1 else ()) for part in range(8)]


@pytest.mark.parametrize("part", _PARTS)
def test_random_models_equal_brute_force_or_are_refused(part):
    """Of 200 models none of a table of 100,000 cells or fewer is refused."""
    refused = 0
    for seed in range(25 * part, 25 * part + 25):
        one = made(seed)
        try:
            found = density(one.model, one.y)
        except Refused:
            refused += 1
            assert one.cells > 100_000, one
            continue
        if one.cells <= 2_000_000:
            assert found == pytest.approx(one.by_hand(), rel=1e-9), one
    assert refused <= 2  # of 25


# -- lookups, and what cannot be ---------------------------------------------------------------


def grouped(y, group):
    """A kind of each group, looked up by its rows: more groups than a joint table could hold."""
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    share = pyro.sample("share", dist.Beta(2.0, 2.0))
    with pyro.plate("groups", 60):
        kind = pyro.sample("kind", dist.Bernoulli(share))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(loc + 2 * kind[..., group], 1.0), obs=y)


def test_labels_of_groups_are_summed_out_group_by_group():
    rng = np.random.default_rng(3)
    group, y = torch.as_tensor(rng.integers(0, 60, 200)), torch.as_tensor(rng.normal(1, 2, 200))
    program = Program(problem_from(grouped, {"y": y, "group": group}))
    assert not program.summed.joint
    values = {"loc": torch.tensor(0.3), "share": torch.tensor(0.4)}
    expected = stats.norm.logpdf(0.3) + stats.beta.logpdf(0.4, 2, 2)
    ones = np.zeros(60)
    for g in range(60):
        rows = y.numpy()[group.numpy() == g]
        parts = [np.log(p) + stats.norm.logpdf(rows, 0.3 + 2 * k, 1).sum()
                 for k, p in enumerate((0.6, 0.4))]  # fmt: skip
        expected += special.logsumexp(parts)
        ones[g] = np.exp(parts[1] - special.logsumexp(parts))
    assert program.log_joint(values).item() == pytest.approx(expected, rel=1e-10)
    torch.manual_seed(0)
    draws = program.complete({k: v.expand(20_000) for k, v in values.items()})["kind"]
    error = 5 * np.sqrt(ones * (1 - ones) / 20_000) + 1e-4
    assert (np.abs(draws.mean(0).numpy() - ones) < error).all()


def test_a_model_that_branches_on_a_label_is_run_once_for_each():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        side = pyro.sample("side", dist.Bernoulli(0.3))
        loc = mu + 1 if side.item() else mu - 1
        pyro.sample("y", dist.Normal(loc, 1.0), obs=y)

    found = density(model, np.array(0.8))
    parts = np.log([0.7, 0.3]) + stats.norm.logpdf(0.8, [MU - 1, MU + 1])
    assert found == pytest.approx(special.logsumexp(parts) + stats.norm.logpdf(MU), rel=1e-10)


def test_too_many_labels_that_are_looked_at_together_are_refused_by_name():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("item", 40):
            z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("y", dist.Normal(mu + z.sum(-1), 1.0), obs=y)

    with pytest.raises(
        Refused, match=r"labels of z in the plate item are looked at .* by y.*1\.1e"
    ):
        density(model, np.array(3.0))


def test_a_support_that_depends_on_a_label_is_refused():
    def model(y):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        mu = pyro.sample("mu", dist.Uniform(0.0, 1.0 + z))
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    with pytest.raises(Refused, match="the support of mu depends on a discrete latent"):
        density(model, np.array(0.8))


def test_values_that_depend_on_another_label_are_refused():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        n = pyro.sample("n", dist.Categorical(torch.ones(6)))
        k = pyro.sample("k", dist.Binomial(n.to(mu.dtype), 0.5))
        pyro.sample("y", dist.Normal(mu + k, 1.0), obs=y)

    with pytest.raises(Refused, match=r"k ~ Binomial can take depend"):
        density(model, np.array(0.8))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_labels_that_are_looked_at_together_at_some_values_alone(sign):
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("item", len(y)):
            z = pyro.sample("z", dist.Bernoulli(0.4))
            shared = torch.relu(sign * mu) * z.sum(-1, keepdim=True)
            pyro.sample("y", dist.Normal(z + shared, 1.0), obs=y)

    y = np.array([0.3, 1.8, -0.4])
    program = Program(problem_from(model, {"y": torch.as_tensor(y)}))
    for mu in (-0.7, 0.7):
        parts = [
            stats.bernoulli.logpmf(z, 0.4).sum()
            + stats.norm.logpdf(y, np.array(z) + max(sign * mu, 0) * sum(z)).sum()
            for z in itertools.product((0, 1), repeat=3)
        ]
        found = program.log_joint({"mu": torch.tensor(mu)}).item()
        assert found == pytest.approx(stats.norm.logpdf(mu) + special.logsumexp(parts), rel=1e-10)


def test_a_pattern_of_labels_that_is_one_among_256_is_seen():
    y, pattern = np.linspace(-1, 2, 8), np.array([1, 0, 1, 0, 1, 1, 0, 1])

    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("item", 8):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            hit = (z == torch.as_tensor(pattern)).all(-1, keepdim=True)
            pyro.sample("y", dist.Normal(mu + z + 5 * hit, 1.0), obs=y)

    parts = [
        stats.norm.logpdf(y, MU + np.array(z) + 5 * (z == pattern).all()).sum()
        for z in itertools.product((0, 1), repeat=8)
    ]
    expected = stats.norm.logpdf(MU) + special.logsumexp(parts) - 8 * np.log(2)
    assert density(model, y) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("dim", [-1, -2])
@pytest.mark.parametrize("leading", [True, False])
def test_labels_of_items_looked_up_by_annotations(dim, leading):
    """Dawid and Skene (1979): 50 items, 200 annotations; the index written either way."""
    rng = np.random.default_rng(5)
    item, who, said = (rng.integers(0, n, 200) for n in (50, 5, 3))

    def model(said, item, who):
        share = pyro.sample("share", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("annotator", 5, dim=dim):
            table = pyro.sample("table", dist.Dirichlet(torch.ones(3, 3)).to_event(1))
        with pyro.plate("items", 50, dim=-1):
            z = pyro.sample("z", dist.Categorical(share))
        looked_up = z[item] if leading else z[..., item]
        with pyro.plate("row", len(said)):
            chances = table.reshape(5, 3, 3)[who, looked_up]
            pyro.sample("said", dist.Categorical(chances), obs=said)

    data = {"said": said, "item": item, "who": who}
    program = Program(problem_from(model, {k: torch.as_tensor(v) for k, v in data.items()}))
    values = {k: v.detach() for k, v in program.constrain(program.random_start()).items()}
    share, table = values["share"].numpy(), values["table"].numpy().reshape(5, 3, 3)
    logs = np.tile(np.log(share), (50, 1))
    np.add.at(logs, item, np.log(table[who, :, said]))
    expected = special.logsumexp(logs, 1).sum() + 16 * math.lgamma(3)
    assert program.log_joint(values).item() == pytest.approx(expected, rel=1e-10)
    torch.manual_seed(0)
    draws = program.complete({k: v.expand(4000, *v.shape) for k, v in values.items()})["z"]
    chance = special.softmax(logs, 1)[:, 2]
    error = 5 * np.sqrt(chance * (1 - chance) / 4000) + 1e-3
    assert (np.abs((draws == 2).double().mean(0).numpy() - chance) < error).all()


def test_dimensions_without_a_plate_are_no_labels():
    x = np.arange(12.0).reshape(4, 3) / 10

    def model(y):
        pyro.sample("mu", dist.Normal(0.0, 1.0))
        on = pyro.sample("on", dist.Bernoulli(torch.tensor([0.2, 0.5, 0.7])))
        pyro.sample("y", dist.Normal(torch.as_tensor(x) @ on, 1.0).to_event(1), obs=y)

    y = np.array([0.3, 1.8, -0.4, 1.0])
    parts = [
        stats.bernoulli.logpmf(z, [0.2, 0.5, 0.7]).sum() + stats.norm.logpdf(y, x @ z).sum()
        for z in itertools.product((0, 1), repeat=3)
    ]
    expected = stats.norm.logpdf(MU) + special.logsumexp(parts)
    assert density(model, y) == pytest.approx(expected, rel=1e-10)


def test_labels_under_to_event_are_refused_with_the_reason():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        on = pyro.sample("on", dist.Bernoulli(0.5 * torch.ones(3)).to_event(1))
        pyro.sample("y", dist.Normal(mu + on.sum(-1), 1.0), obs=y)

    with pytest.raises(Refused, match=r"on ~ Bernoulli stands under to_event.* in a plate"):
        density(model, np.array(0.8))


# -- the proof catches errors that are planted -------------------------------------------------


def mixture(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        pyro.sample("y", dist.Normal(mu + z, 1.0), obs=y)


def switch(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    z = pyro.sample("z", dist.Bernoulli(0.3))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu + z, 1.0), obs=y)


def nested(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("group", 2, dim=-2):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        with pyro.plate("row", y.shape[-1], dim=-1):
            pyro.sample("y", dist.Normal(mu + z, 1.0), obs=y)


def chain(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    z = 0
    for t in pyro.markov(range(y.numel())):
        z = pyro.sample(f"z_{t}", dist.Categorical(torch.tensor([[0.7, 0.3], [0.2, 0.8]])[z]))
        pyro.sample(f"y_{t}", dist.Normal(mu + z.to(y.dtype), 1.0), obs=y.flatten()[t])


def side_by_side(model) -> tuple[Program, discrete.Summed, labels.Drawn]:
    y = torch.tensor([[0.3, 1.8, -0.4], [1.0, 0.2, 2.2]], dtype=torch.float64)
    program = Program(problem_from(model, {"y": y if model is nested else y.flatten()}))
    parallel = discrete.Parallel(program.model, program.of("discrete"), program.max_plate_nesting)
    torch.manual_seed(0)
    with torch.no_grad():
        return program, discrete.Summed(parallel), labels.Drawn(program)


def _drops_the_last(self, nodes, batch=None):
    return _TABLE(self, list(nodes)[:-1], batch)


def _drops_in_contraction(self, trace):
    observed = [k for k, n in trace.nodes.items() if n["type"] == "sample" and n["is_observed"]]
    trace.nodes[observed[-1]]["log_prob"] = 0 * trace.nodes[observed[-1]]["log_prob"]
    return _CONTRACT(self, trace)


def _takes_all_plates_for_its_own(self, nodes, batch=None):
    frames = [frame for node in nodes for frame in node["cond_indep_stack"] if frame.vectorized]
    self.plates |= {frame.name: None for frame in frames}
    return _TABLE(self, nodes, batch)


_TABLE, _CONTRACT = discrete.Parallel._table, discrete.Parallel._contract


@pytest.mark.parametrize("model", [mixture, switch, nested, chain])
def test_what_is_right_is_proved(model):
    program, way, drawn = side_by_side(model)
    assert labels.agrees(program, way, drawn)


@pytest.mark.parametrize("model", [mixture, switch, nested, chain])
def test_a_factor_that_is_dropped_is_caught(model, monkeypatch):
    monkeypatch.setattr(discrete.Parallel, "_table", _drops_the_last)
    monkeypatch.setattr(discrete.Parallel, "_contract", _drops_in_contraction)
    program, way, drawn = side_by_side(model)
    assert not labels.agrees(program, way, drawn)


def square(y):
    """As many rows as labels, side by side in another plate: the shapes happen to fit."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("item", len(y)):
        z = pyro.sample("z", dist.Bernoulli(0.3))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu + z.flip(-1), 1.0), obs=y)


@pytest.mark.parametrize("model", [switch, nested, square])
def test_a_plate_that_is_taken_for_another_is_caught(model, monkeypatch):
    monkeypatch.setattr(discrete.Parallel, "_table", _takes_all_plates_for_its_own)
    program, way, drawn = side_by_side(model)
    assert not labels.agrees(program, way, drawn)


def test_labels_are_drawn_so_that_rare_ones_are_seen():
    program = Program(problem_from(mixture, {"y": torch.zeros(30)}))
    drawn = labels.Drawn(program).labels["z"]
    assert (drawn.sum(1) == 0).any() and (drawn.sum(1) == 30).any()
    assert len(drawn) >= 24


# -- cases -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", ["sum_of_labels", pytest.param("sum_keepdim", marks=pytest.mark.slow)]
)
def test_case_sum_of_labels(case):
    run = run_case(case)
    check_mean(run, "p", 0.6083, 0.1713)
    share = run.idata["posterior"]["z"].values.mean((0, 1))
    assert np.abs(share - 0.7165).max() < 5 * 0.45 / np.sqrt(2000)
    assert run.verdict.status == "pass"


@pytest.mark.slow
def test_case_group_label_indexed():
    run = run_case("group_label_indexed")
    check_mean(run, "p", 0.4909, 0.198)
    summary = run.summary()
    for name, mean in (("loc[0]", -0.737), ("loc[1]", 1.010)):
        row = summary.loc[name]
        assert abs(row["mean"] - mean) < 5 * row["mcse_mean"] + 0.01


def test_case_sequential_enumeration():
    run = run_case("sequential_enumeration", draws=500)
    check_mean(run, "p", 0.5745, 0.2108)
    top = run.idata["posterior"]["top"].values.mean()
    assert abs(top - 0.8723) < 5 * 0.334 / np.sqrt(1500)


SPIKES = {
    "spike_slab_plate": ((1.000, 0.115, 0.123), (2.054, -0.021, 0.022), (0.600, 0.423, 0.425)),
    "spike_slab_square": (
        (0.890, 0.553, 0.384, 0.959),
        (1.575, 0.776, -0.357, -1.408),
        (0.578, 0.511, 0.477, 0.592),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SPIKES)
def test_case_spike_and_slab(case):
    on, weights, shares = SPIKES[case]
    run = run_case(case, draws=500)
    table = run.summary()
    for name, truth in (("on", on), ("w", weights), ("pi", shares)):
        for i, value in enumerate(truth):
            row = table.loc[f"{name}[{i}]"]
            assert abs(row["mean"] - value) < 5 * row["mcse_mean"] + 0.005, (name, i, row["mean"])


def test_case_discrete_exact():
    run = run_case("discrete_exact", "exact")
    assert run.metrics["log_evidence"] == pytest.approx(-0.8021, abs=1e-4)
    for name, share in (("rain", 0.3577), ("sprinkler", 0.6467)):
        found = run.idata["posterior"][name].values.mean()
        assert abs(found - share) < 5 * np.sqrt(share * (1 - share) / 4000)
    for method in ("nuts", "map", "svi", "laplace", "mle"):
        with pytest.raises(Refused, match="use exact"):
            run_case("discrete_exact", method)
