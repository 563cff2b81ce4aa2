"""Which way the discrete latents of a model are summed out: the first one that is proved right.

Side by side is cheap, and wrong where the labels of a plate are looked at together (a sum, a sort,
a product of matrices). So each way is proved before it is used: at drawn labels the plain log
joint of the model must equal what the sum, restricted to these labels, says. The ways, in order:

1. all latents side by side;
2. the same with lookups (`loc[label[group]]`): each element of a factor depends on one label at
   most, and is added up where that label stands;
3. some latents jointly, all labels of their plates at once, the others side by side.

Of the ways that are right the one with the fewest joint values is taken; a few of them are better
than a contraction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, combinations, cycle, islice
from typing import Any

import pyro
import torch
from torch import Tensor

from models.contract import Refused

from ..core.machine import tolerance
from .discrete import Parallel, Summed, all_labels, cells_of
from .sampling import over_draws, vectorises
from .sites import Site, Values
from .traced import TracedModel

# Joint values of labels that are summed out one by one: so many if one run of the model can take
# all at once, else (a model that branches on a label) as many runs.
MOST_CELLS, _MOST_RUNS = 131_072, 1024
# Numbers that all these runs may hold at once.
_MOST_HELD = 500_000_000
# Labels drawn from the prior and uniformly; all of them where there are few, and where one run can
# take all at once.
_PRIOR, _UNIFORM, _ALL, _ALL_AT_ONCE = 8, 16, 64, 1024
# Values of all labels equal; evaluations of a joint way, those of a model that branches on labels,
# and the fewest labels it is tried at.
_EQUAL, _EVALUATIONS, _BRANCHED, _FEWEST = 8, 20_000, 250, 4
# Rows on which a way is proved where a run on all of them is long.
_ROWS = 32
# How far from zero the continuous latents are, in turn.
_WIDTHS = (1, 1, 1, 3)
# Labels of a plate, and numbers, whose dependence is looked at one by one.
_MOST_FLIPS, _MOST_NUMBERS = 4000, 30_000_000
# Labels of which each is changed to see what depends on it.
_BASES = 3
# Runs of the model that take as long as a contraction.
_CONTRACTED = 64
# Latents of which all subsets are tried.
_MOST_LATENTS = 6


def summed(program: TracedModel) -> Summed | None:
    """The discrete latents of a program summed out; None where it has none.

    Proved once for a model and its data, aside of torch's random numbers.

    Raises:
        Refused: no way is right, naming the site that looks at labels together.
    """
    if not program.of("discrete"):
        return None
    if program.prototype.summed is None:
        store = pyro.get_param_store().scope()
        with torch.random.fork_rng(devices=[]), torch.no_grad(), store:
            torch.manual_seed(0)
            program.prototype.summed = _chosen(program)
    return program.prototype.summed


def share(way: Summed | None, some: TracedModel) -> None:
    """Sum the labels out in a program of some of the rows as in that of all, without a proof.

    Not where labels are looked up: rows have other homes among some.
    """
    if way is not None and not way.parallel.homes:
        some.prototype.summed = _way(some, list(way.joint))


def _chosen(program: TracedModel) -> Summed:
    """The cheapest way that is right; of a large model, that is right on its first rows.

    Raises:
        Refused: no way is right.
    """
    if program.is_large and program.n > _ROWS:
        some = program.first(_ROWS)
        if (way := _proved(some, Drawn(some))) is not None and not way.parallel.homes:
            return _way(program, list(way.joint))
    drawn = Drawn(program)
    way = _proved(program, drawn)
    if way is None:
        raise Refused(_reason(program, drawn))
    return way


def _proved(program: TracedModel, drawn: Drawn) -> Summed | None:
    """The first way that is right at the points drawn; None where none is."""
    return next((way for way in _ways(program, drawn) if agrees(program, way, drawn)), None)


def _way(program: TracedModel, joint: Sequence[str], homes: Values | None = None) -> Summed:
    """One way to sum the labels out.

    Args:
        program: of which they are.
        joint: names of the latents that are summed out jointly; the others are side by side.
        homes: of the others, where their labels are looked up (see `Parallel`).
    """
    latents = program.of("discrete")
    beside = [site for site in latents if site.name not in joint]
    parallel = Parallel(program.model, beside, program.max_plate_nesting, homes)
    return Summed(parallel, [site for site in latents if site.name in joint])


def _ways(program: TracedModel, drawn: Drawn) -> Iterator[Summed]:
    """All ways in the order of their cost, each with lookups where it has any."""
    ways = [_way(program, joint) for joint in _subsets(program)]
    # Runs of the model at once; a contraction is slow, and its labels are drawn one by one.
    for way in sorted(ways, key=lambda w: w.cells * (1 if w.parallel.tabular else _CONTRACTED)):
        yield way
        homes = _homes(drawn, way)
        if homes:
            yield _way(program, list(way.joint), homes)


def _subsets(program: TracedModel) -> list[list[str]]:
    """The latents that can be summed out jointly: none, some, or all of them."""
    latents = program.of("discrete")
    most = max(1, min(MOST_CELLS, _MOST_HELD // program.elements_of_run))
    sizes = range(len(latents) + 1) if len(latents) <= _MOST_LATENTS else (0, 1, len(latents))
    subsets = chain.from_iterable(combinations(latents, size) for size in sizes)
    return [[site.name for site in some] for some in subsets if cells_of(some) <= most]


# -- proof -------------------------------------------------------------------------------------


class Drawn:
    """Points at which a model is looked at, and its plain log joint there.

    Labels may be looked at together at some values of the continuous latents alone, so each point
    has its own, as far as the density is finite there.

    Attributes:
        u: the continuous latents of each point, unconstrained (K, d).
        labels: discrete latent to its labels (K, *shape).
        plain: the log joint of the model at the points, (K,).
    """

    def __init__(self, program: TracedModel):
        self.program = program
        self.sites = program.of("discrete")
        for scale in (1, 1, 1, 1, 1, 2, 4, 8, 8, 8):
            u = program.random_start() * scale
            prior = [self._from_prior(u) for _ in range(_PRIOR)]
            self.labels = {k: torch.stack([draw[k] for draw in prior]) for k in prior[0]}
            self.u = u.expand(_PRIOR, -1)
            if self.at_all(program.log_joint_at).isfinite().any():
                break
        more = self._further()
        self.labels = {k: torch.cat([v, more[k].to(v)]) for k, v in self.labels.items()}
        widths = islice(cycle(_WIDTHS), len(self.labels[self.sites[0].name]))
        self.u = torch.stack([program.random_start() * width for width in widths])
        finite = self.at_all(program.log_joint_at).isfinite()
        self.u = self.u.where(finite[:, None], u)
        self.plain = self.at_all(program.log_joint_at)

    def _from_prior(self, u: Tensor) -> dict[str, Tensor]:
        """Labels drawn from their priors at `u` (d,).

        Raises:
            Refused: which values a latent can have depends on other latents.
        """
        nodes = self.program.trace_at(u).nodes
        for site in self.sites:
            values = nodes[site.name]["fn"].enumerate_support(expand=False)
            if values.numel() != site.choices.numel():
                raise Refused(
                    f"the values that {site.name} ~ {type(site.base).__name__} can take depend on "
                    "other latents; give it a fixed list of values (Categorical)"
                )
        return {site.name: nodes[site.name]["value"] for site in self.sites}

    def _further(self) -> dict[str, Tensor]:
        """Further labels of each latent, (K, *shape).

        Uniformly drawn ones, and all equal; all there are, where these are few.
        """
        two = {name: value[:2] for name, value in self.labels.items()}
        at_once = vectorises(partial(self.program.log_joint_at, self.u[0]), two)
        small = self.program.elements_of_run * _ALL_AT_ONCE <= _MOST_NUMBERS
        most = _ALL_AT_ONCE if at_once and small else _ALL
        if (cells := cells_of(self.sites)) <= most:
            every, times = all_labels(self.sites), -(-_UNIFORM // cells)
            return {name: torch.cat([labels] * times) for name, labels in every.items()}
        further = {}
        for site in self.sites:
            values = site.choices
            index = torch.randint(len(values), (_UNIFORM, *site.batch_shape))
            equal = site.everywhere(torch.arange(_EQUAL) % len(values))
            further[site.name] = torch.cat([values[index], equal])
        return further

    def at_all(
        self,
        function: Callable[[Tensor, Values], Any],
        u: Tensor | None = None,
        labels: Values | None = None,
    ) -> Any:
        """A function of continuous latents (d,) and labels at all points, which come first.

        Args:
            function: gives a tensor or a tree of tensors.
            u: continuous latents (K, d) in the place of those drawn.
            labels: labels (K, *shape) in the place of those drawn.
        """
        points = self.u if u is None else u, self.labels if labels is None else labels
        return over_draws(lambda point: function(*point), points)


def agrees(program: TracedModel, way: Summed, drawn: Drawn) -> bool:
    """Whether a way, restricted to drawn labels, gives the plain log joint there.

    A joint way is looked at in fewer points, as each takes a run for every cell; where one run
    cannot take all cells, the way is made to take them one by one.
    """

    def restricted(u: Tensor, labels: Values) -> Tensor:
        return program.log_joint_at(u, labels, way)

    try:
        if not way.joint:
            return _near(drawn.at_all(restricted), drawn.plain)
        most = _EVALUATIONS if way.vectorised else _BRANCHED
        few = min(_PRIOR + _UNIFORM + _EQUAL, max(_FEWEST, most // way.cells))
        for i in range(0, len(drawn.plain), -(-len(drawn.plain) // few)):
            labels = {name: value[i] for name, value in drawn.labels.items()}
            if not _near(restricted(drawn.u[i], labels), drawn.plain[i]):
                return False
        return True
    except Exception:  # the model cannot take its labels in this way
        if not way.joint or not way.vectorised or way.cells > _MOST_RUNS:
            return False
        way.vectorised = False
        return agrees(program, way, drawn)


def _near(restricted: Tensor, plain: Tensor) -> bool:
    """Whether log densities are equal but for rounding; those that are infinite do not count."""
    same = (restricted - plain).abs() <= tolerance(plain.dtype) * (1 + plain.abs())
    return bool((same | ~(plain.isfinite() | restricted.isfinite())).all())


# -- dependence --------------------------------------------------------------------------------


def _homes(drawn: Drawn, way: Summed) -> dict[str, Tensor] | None:
    """Factor to the label that each of its elements depends on; None where one needs several.

    Labels are counted through the plates in which all latents stand.
    """
    latents = list(way.parallel.latents.values())
    if not latents or not way.parallel.tabular or not latents[0].plates:
        return None
    changes = _changes(drawn, latents)
    if any((changed.sum(0) > 1).any() for changed in changes.values()):
        return None
    return {name: changed.int().argmax(0) for name, changed in changes.items()}


def _changes(drawn: Drawn, latents: Sequence[Site]) -> dict[str, Tensor]:
    """Factor to whether a label of an element of the plates changes its elements, (E, *factor).

    E is the number of elements of the plates, in which all latents stand. Factors that no label
    changes are left out; where there is too much to look at, all.
    """
    program = drawn.program
    count = math.prod(latents[0].batch_shape)
    if count > _MOST_FLIPS or count * program.elements_of_run > _MOST_NUMBERS:
        return {}
    changes: dict[str, Tensor] = {}
    for i in range(-_BASES, 0):
        base = {name: value[i] for name, value in drawn.labels.items()}
        flipped = {name: value.expand(count, *value.shape) for name, value in base.items()}
        flipped |= {site.name: _flipped(site, base[site.name], count) for site in latents}
        before = program.factors_at(drawn.u[i], base)
        after = drawn.at_all(program.factors_at, drawn.u[i].expand(count, -1), flipped)
        for name, value in before.items():
            near = tolerance(value.dtype)  # in another order of sums the last bits are others
            changed = ~torch.isclose(after[name], value, rtol=near, atol=near, equal_nan=True)
            if changed.any():
                changes[name] = changes.get(name, torch.tensor(False)) | changed
    return changes


def _flipped(site: Site, labels: Tensor, count: int) -> Tensor:
    """Labels (*shape), each time another one of all `count` changed, (count, *shape)."""
    values = site.choices
    flat = labels.reshape(count, *values.shape[1:])
    index = (flat[:, None] == values).reshape(count, len(values), -1).all(-1).int().argmax(1)
    step = torch.randint(1, max(len(values), 2), (count,))
    each = flat.expand(count, *flat.shape).clone()
    each[torch.arange(count), torch.arange(count)] = values[(index + step) % len(values)]
    return each.reshape(count, *labels.shape)


# -- refusal -----------------------------------------------------------------------------------


def _reason(program: TracedModel, drawn: Drawn) -> str:
    """Why no way is right, in words with what to do about it."""
    names = ", ".join(site.name for site in drawn.sites)
    u = drawn.u[:1].expand_as(drawn.u)
    for name, values in drawn.at_all(program.constrain, u).items():
        if not torch.equal(values, values[:1].expand_as(values)):
            return (
                f"the support of {name} depends on the discrete latents ({names}), which cannot "
                "be summed out then; give it one that holds for all their values"
            )
    cells = cells_of(drawn.sites)
    problem = _coupled(drawn) or f"the labels of {names} are looked at together"
    if cells > MOST_CELLS:
        many = f"{cells:.2g}" if cells > 10**6 else str(cells)
        return (
            f"{problem}, and their joint table would have {many} cells, more than {MOST_CELLS}; "
            "use fewer labels, or sum them out by hand (a factor)"
        )
    return (
        f"{problem}, and the model cannot be run at all their {cells} joint values at once; "
        "write it without branches on values"
    )


def _coupled(drawn: Drawn) -> str | None:
    """That a site looks at several labels of a latent in a plate; None where none is seen to."""
    for latent in drawn.sites:
        for name, changed in _changes(drawn, [latent]).items() if latent.plates else ():
            if (changed.sum(0) > 1).any():
                plates = " and ".join(plate.name for plate in latent.plates)
                labels = f"the labels of {latent.name} in the plate {plates}"
                return f"{labels} are looked at together by {name}"
    return None
