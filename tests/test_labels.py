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

from inference import discrete, labels
from inference._problem import Refused
from inference.program import Program

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


@pytest.mark.parametrize("part", range(8))
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


