"""Which data keys are of the rows, found by running the model on some of the rows.

A key is of the rows if a slice of it reaches the sites of the row plate and nothing else. The test
is on densities: with all latents fixed, those of the rows cut alike, the log density of a row is
the same whether the model sees all rows or some of them, and so is that of every site outside of
the row plate. A table that is looked up, or the data of another plate, fails it, however long.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import combinations, islice

import pyro
import torch
from pyro import poutine
from torch import Tensor

from models.contract import Rows

from ..core.machine import tolerance
from ..core.seeds import FIT, seeded
from .handlers import Factors, condition, factors, graphless, run
from .program import Program
from .sites import Message, Plate, Trace, Values

# Rows on which a model is run to be compared with the run on all of them.
_FEW = 64
# Choices among the keys that reach no density at all, as constant columns, that are tried.
_TRIES = 16


def find(program: Program) -> Rows | None:
    """The row plate and its keys: of the plates of what is observed the first that can be cut.

    Where none can (a mean over the rows is part of the model, a plate has a size of its own), the
    rightmost plate of the first observed site and all keys as long as it: they name what there
    is, and batches of them are refused (`batching.prove`).
    """
    plates = [p for site in program.of("observed") for p in reversed(site.plates)]
    with aside():
        experiment = _Experiment(program)
        for plate in dict.fromkeys(plates):
            if keys := experiment.keys(plate):
                return Rows(plate.name, keys)
    for plate in [plate for plate in plates if plate.dim == -1][:1]:
        if keys := _as_long(program, plate):
            return Rows(plate.name, keys)
    return None


@contextmanager
def aside() -> Iterator[None]:
    """Runs of a model that leave nothing behind: no parameter, random number or warning."""
    store, quiet = pyro.get_param_store().scope(), warnings.catch_warnings(action="ignore")
    with seeded(0, FIT), poutine.block(), store, quiet:
        yield


def fixed(program: Program) -> dict[str, Tensor]:
    """A value of each latent, also of the discrete ones: those of the program's first run."""
    return {site.name: site.value for site in program.of("latent", "discrete")}


def cut(program: Program, values: Values, plate: str, rows: Tensor) -> dict[str, Tensor]:
    """The values of latents, those in the row plate for some of the rows alone.

    Args:
        program: of which the latents are.
        values: site to value (*batch_shape, *event_shape).
        plate: name of the row plate.
        rows: their numbers (B,).
    """
    dims = {name: program.sites[name].dim_of(plate) for name in values}
    return {name: rows_of(value, dims[name], rows) for name, value in values.items()}


def rows_of(value: Tensor, dim: int | None, rows: Tensor) -> Tensor:
    """Some rows of a tensor, which lie in one of its dimensions; itself where it has none."""
    return value if dim is None else value.index_select(dim, rows.to(value.device))


def scored(trace: Trace) -> Factors:
    """The sites of a run that have a density, each scored under its key `log_prob`."""
    nodes = factors(trace).items()
    return {name: node for name, node in nodes if not node["infer"].get("_deterministic")}


def dim_of(node: Message, plate: str) -> int | None:
    """The dimension that a plate has in a site's density; None outside of the plate."""
    frames = (f for f in node["cond_indep_stack"] if f.name == plate and f.vectorized)
    return next((frame.dim for frame in frames), None)


def differs(first: Tensor, second: Tensor) -> Tensor:
    """Which elements differ by more than rounding, of tensors of one shape.

    Rounding is relative to the largest finite element: a small one may be a difference of large
    ones.
    """
    finite = first[first.isfinite()].abs()
    near = tolerance(first.dtype) * (1 + (finite.max() if len(finite) else 0.0))
    same = (first == second) | ((first - second).abs() <= near)
    return ~(same | (first.isnan() & second.isnan()))


def _as_long(program: Program, plate: Plate) -> tuple[str, ...]:
    """The data keys as long as a plate."""
    tensors = {k: v for k, v in program.tensors.items() if isinstance(v, Tensor)}
    return tuple(k for k, v in tensors.items() if v.ndim and len(v) == plate.size)


class _Experiment:
    """A model at fixed latents, run on its data and on changed data.

    Args:
        program: the model and its data.
    """

    def __init__(self, program: Program):
        self.program, self.values = program, fixed(program)
        self._mixed: dict[str, tuple[Factors | None, Tensor]] = {}

    def run(self, changed: Values, values: Values) -> Factors | None:
        """The factors with some data changed; None where the model cannot run on them."""
        data, at = {**self.program.tensors, **changed}, condition(values)
        try:
            return graphless(lambda: scored(run(self.program.model, data, at)))
        except Exception:  # whatever a model raises on data it was not written for
            return None

    @cached_property
    def whole(self) -> Factors:
        """The factors of all rows; none where the model cannot run."""
        return self.run({}, self.values) or {}

    def keys(self, plate: Plate) -> tuple[str, ...]:
        """The keys that are cut with a plate; none where it cannot be cut.

        All that are as long, but for those that reach other rows; and where that will not do, but
        for some more, of those that reach nothing first.
        """
        among = _as_long(self.program, plate)
        if not among or not self.whole:
            return ()
        if self._is_cut(plate, among):
            return among
        reaches = {key: self._reaches(plate, key) for key in among}
        possible = [key for key in among if reaches[key] is not False]
        unused_first = sorted(possible, key=lambda key: reaches[key] is not None)
        drops = (d for n in range(len(possible)) for d in combinations(unused_first, n))
        for dropped in islice(drops, _TRIES):
            keys = tuple(key for key in possible if key not in dropped)
            if keys != among and self._is_cut(plate, keys):
                return keys
        return ()

    def _is_cut(self, plate: Plate, keys: tuple[str, ...]) -> bool:
        """Whether some rows of the keys have the densities that they have among all rows."""
        rows = torch.randperm(plate.size)[: min(_FEW, plate.size - 1)]
        rows = rows if len(rows) else torch.zeros(2, dtype=torch.long)  # the only one, twice
        values = cut(self.program, self.values, plate.name, rows)
        part = self.run({key: self.program.tensors[key][rows] for key in keys}, values)
        if part is None or part.keys() != self.whole.keys():
            return False
        known = False
        for name, node in self.whole.items():
            expected, log_prob = node["log_prob"], part[name]["log_prob"]
            dim = dim_of(node, plate.name)
            if dim is not None:
                if not _has(expected, dim, plate.size):
                    return False
                expected = expected.index_select(dim, rows)
                known |= bool(expected.isfinite().any())
            if log_prob.shape != expected.shape or differs(expected, log_prob).any():
                return False
        return known

    def _reaches(self, plate: Plate, key: str) -> bool | None:
        """Whether a key's rows reach their own rows of the plate alone; None if nothing at all."""
        if key not in self._mixed:
            self._mixed[key] = self._mix(key)
        mixed, others = self._mixed[key]
        if mixed is None or mixed.keys() != self.whole.keys():
            return None
        reached = False
        for name, node in self.whole.items():
            before, after = node["log_prob"], mixed[name]["log_prob"]
            if before.shape != after.shape:
                return False
            changed = differs(before, after)
            if changed.any():
                dim, reached = dim_of(node, plate.name), True
                if dim is None or not _has(before, dim, plate.size):
                    return False
                if changed.index_select(dim, others).any():
                    return False
        return reached or None

    def _mix(self, key: str) -> tuple[Factors | None, Tensor]:
        """The factors where half of a key's rows have the values of others, and the other half."""
        value = self.program.tensors[key]
        order, source = torch.randperm(len(value)), torch.arange(len(value))
        mixed, others = order[: len(value) // 2], order[len(value) // 2 :]
        source[mixed] = torch.randperm(len(value))[: len(mixed)]
        return self.run({key: value[source]}, self.values), others


def _has(log_prob: Tensor, dim: int, size: int) -> bool:
    """Whether a density has the dimension of a plate."""
    return log_prob.ndim >= -dim and log_prob.shape[dim] == size
