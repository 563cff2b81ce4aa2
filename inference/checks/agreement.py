"""How far two samples of the posterior are apart in what they predict of the rows."""

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..program.prepare import observed_keys
from ..program.program import Program
from ..program.sampling import over_draws
from ..results.predictive import class_probabilities, is_classes, of_rows, row_tensors

# Rows that are looked at; the fewest and most draws of each sample, whose densities are so many
# numbers in all; draws where each is computed apart.
_ROWS, _FEWEST, _MOST, _NUMBERS, _APART = 200, 256, 8192, 250_000, 128
# Observations that are drawn, of all rows together, at so many draws at least.
_VALUES, _REPLICATES = 400, 32


class Apart(NamedTuple):
    """Total variation of two predictive distributions, mean over rows, 0 to 1.

    Attributes:
        seen: as it was seen, with what Monte Carlo noise adds.
        noise: how much that is.
    """

    seen: float
    noise: float

    @property
    def surely(self) -> float:
        """What is no noise."""
        return self.seen - self.noise

    @property
    def likely(self) -> float:
        """What is seen, less half of the noise: a real difference hides the other half."""
        return self.seen - self.noise / 2


def total_variation(
    program: Program,
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    *,
    few: bool = False,
) -> Apart | None:
    """Mean over rows of the total variation of two predictive distributions.

    Of classes half the sum of the differences of their probabilities. Of other observations the
    mean of |p - q| / (p + q) over values drawn from both, p and q the densities of the mixtures
    over draws.

    Args:
        program: the model and its rows, of which at most 200 are looked at.
        ours, theirs: latents (S, *shape), the continuous ones.
        few: whether draws are computed one by one, so that few of them must do.

    Returns:
        None where observations cannot be drawn, or are no data that were given. Those that are
        not, such as of what was censored, are left out.
    """
    program = _of_some_rows(program)
    numbers = max(1, sum(site.value.numel() for site in program.of("observed")))
    classes = is_classes(program)
    values = 1 if classes or few else max(2, min(40, -(-_VALUES // numbers)))
    most = _APART if few else max(_FEWEST, min(_MOST, _NUMBERS // (numbers * values)))
    ours, theirs = (_some(part, most) for part in (ours, theirs))
    if classes:
        return _of_classes(program, ours, theirs)
    keys = observed_keys(program.sites, program.problem.tensors)
    if not keys or set(keys) & set(program.undrawn):
        return None
    return _of_values(program, keys, ours, theirs, values)


def _of_some_rows(program: Program) -> Program:
    """The program of some rows, where rows stand for themselves; any order may have a period."""
    problem = program.problem
    if problem.rows is None or problem.n <= _ROWS or any(s.plates for s in program.of("latent")):
        return program
    pick = torch.randperm(problem.n, generator=torch.Generator().manual_seed(0))[:_ROWS]
    return of_rows(program, {key: value[pick] for key, value in row_tensors(problem).items()})


def _some(draws: Mapping[str, Tensor], most: int) -> dict[str, Tensor]:
    """At most so many draws, evenly chosen, in the run's number type."""
    count = len(next(iter(draws.values())))
    pick = torch.linspace(0, count - 1, min(count, most)).round().long()
    return {name: value[pick].to(torch.get_default_dtype()) for name, value in draws.items()}


def _of_classes(
    program: Program, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> Apart:
    """Of classes: half the sum of the differences of their probabilities (S, rows, classes)."""
    at_draw = partial(class_probabilities, program)
    p, q = (over_draws(at_draw, part, program.elements) for part in (ours, theirs))
    noise = 0.5 * (q[::2].mean(0) - q[1::2].mean(0)).abs().sum(-1).mean()
    gap = 0.5 * (p.mean(0) - q.mean(0)).abs().sum(-1).mean()
    return Apart(float(gap), float(noise) * _share_of_noise(p))


def _share_of_noise(ours: Tensor) -> float:
    """How much two samples differ by chance, as a share of how much the halves of one do.

    A half has twice the variance of a whole, and there are two halves; a point has none.
    """
    return math.sqrt(0.5) if len(ours) > 1 else 0.5


def _of_values(
    program: Program,
    keys: Mapping[str, str],
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    count: int,
) -> Apart:
    """Of other observations: by the densities of values that are drawn from both.

    Args:
        program: the model of some rows.
        keys: observed site to its data key.
        ours, theirs: latents (S, *shape).
        count: values that each draws of every observation.
    """
    gaps, noises = [], []
    for part in (ours, theirs):
        for values in _predicted(program, part, count):
            tensors = {**program.problem.tensors, **{key: values[k] for k, key in keys.items()}}
            p, q = (_log_density(program, sample, tensors, keys) for sample in (ours, theirs))
            means = (log.logsumexp(0) - math.log(len(log)) for log in (p, q))
            gaps.append(_apart(*means))
            noises.append(_apart(q[::2].logsumexp(0), q[1::2].logsumexp(0)))
    noise = float(torch.stack(noises).mean()) * _share_of_noise(p)
    return Apart(float(torch.stack(gaps).mean()), noise)


def _apart(log_p: Tensor, log_q: Tensor) -> Tensor:
    """|p - q| / (p + q) = |tanh((log p - log q) / 2)|, mean over observations."""
    return (0.5 * (log_p - log_q)).tanh().abs().nan_to_num(0.0).mean()


def _predicted(
    program: Program, draws: Mapping[str, Tensor], count: int
) -> list[dict[str, Tensor]]:
    """So many replicated data sets, each row at another draw."""
    replicates = max(count, _REPLICATES)
    some = _some(draws, replicates)
    if len(next(iter(some.values()))) < replicates:  # a point
        some = {k: v[:1].expand(replicates, *v.shape[1:]) for k, v in some.items()}
    values = over_draws(program.predictive, some, program.elements)
    rows = {site.name: len(site.batch_shape) for site in program.of("observed")}
    return [{k: _mixed(v, i, rows[k] > 0) for k, v in values.items()} for i in range(count)]


def _mixed(values: Tensor, first: int, rows: bool) -> Tensor:
    """Of values (replicates, *shape) one for each row of the first dimension, if it is of rows."""
    if not rows:
        return values[first]
    pick = (torch.arange(values.shape[1]) + first) % len(values)
    return values[pick, torch.arange(values.shape[1])]


def _log_density(
    program: Program, draws: Mapping[str, Tensor], tensors: Mapping, sites: Iterable[str]
) -> Tensor:
    """Log density of each observation of some sites at each draw (S, observations)."""
    densities = over_draws(lambda v: program.log_likelihood(v, tensors), draws, program.elements)
    return torch.cat([densities[name].reshape(len(densities[name]), -1) for name in sites], 1)
