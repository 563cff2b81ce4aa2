"""Do batches stand for all rows? Proved where a fit on batches begins, or refused.

The objective of a batch is an unbiased estimate of that of all rows only if the density is a sum
over rows, each known from its own slice of the data (Hoffman, Blei, Wang and Paisley 2013,
Stochastic variational inference, section 2.2). So at fixed latents the density of the batches of
one pass, each weighed as all rows, must average to that of all of them; and so must log q of a
guide at one draw from it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from models.contract import Fault, Refused

from ..core import user_code
from ..core.machine import tolerance
from ..core.problem import Guide
from . import labels
from .handlers import Batch, Weighted, graphless, run
from .program import Program
from .row_keys import Factors, aside, cut, differs, dim_of, fixed, scored
from .sampling import base_of
from .sites import Site

# Rows and batches on which it is seen, at most.
_MOST_ROWS, _MOST_BATCHES = 256, 16
# Further values of the latents, how far from zero, where a run of the model is quick: it has few
# numbers, and (as a network) few products of latents and rows.
_WIDTHS, _LARGE, _PRODUCTS = (1.0, 1.0, 1.0, 3.0), 100_000, 1_000_000
# Values of a label that are tried.
_MOST_VALUES = 16

Values = Mapping[str, Tensor]


def prove(program: Program, chosen: Guide, size: int) -> None:
    """Refuse batches of so many rows unless they stand for all rows.

    Args:
        program: the model and its data, of which the rows are known.
        chosen: a guide that has been run on all rows.
        size: rows of a batch.

    Raises:
        Refused: with both densities, and the site in which they differ.
    """
    with aside():
        with _runs_on_some("model"):
            seen = _pass(program, size)
            _prove_model(seen)
        with _runs_on_some("guide"):
            _prove_guide(seen, chosen)


def apart(program: Program, guide: Callable) -> bool:
    """Whether each row can be looked at without the others, in the model and in a guide."""
    n = program.problem.n
    try:
        if n > 1:
            prove(program, Guide(guide), n // 2)
    except Fault:
        return False
    return True


@contextmanager
def _runs_on_some(what: str) -> Iterator[None]:
    """What a model or guide raises on some of the rows, as a refusal."""
    try:
        yield
    except Fault:
        raise
    except Exception as error:
        said, line = str(error).partition("\n")[0], user_code.of_error(error)
        raise Refused(
            f"the {what} cannot run on some of the rows ({type(error).__name__}: {said})"
            f"{f', {line}' if line else ''}; leave batch_size out"
        ) from error


@dataclass(frozen=True)
class _Pass:
    """Some rows of a problem, as if they were all, and the batches of one pass over them.

    Attributes:
        program: the model and these rows.
        whole: their data, as one batch.
        rows: of each batch.
        batches: their data.
        lines: where the sites are written.
    """

    program: Program
    whole: Batch
    rows: list[Tensor]
    batches: list[Batch]
    lines: user_code.Lines = field(default_factory=user_code.Lines)

    def at(self, function: Callable, batch: Batch, values: Values) -> Factors:
        """The sites of a model or guide at given values, weighed as the batch is.

        Raises:
            Refused: the row plate is not as long as the batch is, or a value does not fit a site.
        """

        def found() -> Factors:
            handlers = poutine.condition(data=dict(values)), Weighted(batch), self.lines
            trace = run(function, batch.tensors, *handlers)
            self._check_sizes(trace, batch, values)
            return scored(trace)

        return graphless(found)

    def _check_sizes(self, trace: poutine.Trace, batch: Batch, values: Values) -> None:
        rows = round(self.program.problem.n / batch.weight)
        frames = (f for node in trace.nodes.values() for f in node.get("cond_indep_stack", ()))
        for size in (int(frame.size) for frame in frames if frame.name == batch.plate):
            if size != rows:
                raise Refused(
                    f"the plate '{batch.plate}' has {size} rows where a batch has {rows}"
                    f"{self.lines.of(batch.plate)}; give it the length of the data, or leave "
                    "batch_size out"
                )
        for name in values.keys() & trace.nodes.keys():
            shape, value = trace.nodes[name]["fn"].shape(), values[name].shape
            if any(a != b and 1 not in (a, b) for a, b in zip(shape[::-1], value[::-1])):
                raise Refused(
                    f"'{name}' has shape {tuple(value)} among all rows, and {tuple(shape)} among "
                    f"some{self.lines.of(name)}; leave batch_size out"
                )

    def refusal(self, what: str, mean: Tensor, whole: Tensor, why: str) -> Refused:
        """In words."""
        return Refused(
            f"{what} of batches of {len(self.rows[0])} rows averages to {mean:.6g}, that of all "
            f"{self.program.problem.n} of them is {whole:.6g}: {why}; leave batch_size out"
        )


def _pass(program: Program, size: int) -> _Pass:
    problem = program.problem
    most = min(problem.n, _MOST_ROWS)
    size = min(size, most // 2)  # of several batches, whatever was asked for
    some = torch.randperm(problem.n)[: min(most // size, _MOST_BATCHES) * size]
    tensors = {key: _rows_of(problem.tensors[key], 0, some) for key in problem.rows[1]}
    problem = replace(problem, tensors={**problem.tensors, **tensors})
    rows = list(torch.randperm(len(some)).split(size))
    parts = [{key: _rows_of(value, 0, at) for key, value in tensors.items()} for at in rows]
    whole, *batches = (Batch.of(problem, {**problem.tensors, **part}) for part in ({}, *parts))
    seen = Program(problem)
    labels.share(program, seen)
    return _Pass(seen, whole, rows, batches)


def _rows_of(value: Tensor, dim: int | None, rows: Tensor) -> Tensor:
    return value if dim is None else value.index_select(dim, rows.to(value.device))


# -- the model ---------------------------------------------------------------------------------


def _prove_model(seen: _Pass) -> None:
    """The density at several values of the latents: rows may look at others at some alone."""
    program, values = seen.program, fixed(seen.program)
    if not graphless(lambda: program.log_joint(values)).isfinite():
        values |= program.constrain(program.start())
    _prove_model_at(seen, values)
    products = program.size * (program.problem.n or 1)
    quick = program.elements_of_run <= _LARGE and products <= _PRODUCTS
    for width in _WIDTHS if quick else ():
        nodes = program.trace_at(program.random_start() * width).nodes
        values = {name: nodes[name]["value"].detach() for name in values}
        if graphless(lambda values=values: program.log_joint(values)).isfinite():
            _prove_model_at(seen, values)


def _prove_model_at(seen: _Pass, values: Values) -> None:
    """The density of each site at one value of the latents; of all, discrete ones summed out."""
    program = seen.program
    whole = graphless(lambda: program.log_joint(values))
    sites = seen.at(program.model, seen.whole, values)
    parts = [cut(program, values, seen.whole.plate, rows) for rows in seen.rows]
    _prove_sites(seen, "the density", program.model, sites, parts)
    for site in program.of("discrete"):
        if dim_of(sites[site.name], seen.whole.plate) is None:
            _prove_apart(seen, site, sites, values)
    each = [
        graphless(lambda batch=batch, part=part: program.log_joint(part, batch))
        for batch, part in zip(seen.batches, parts)
    ]
    mean = torch.stack(each).mean()
    if not _near(mean, whole, sum(node["log_prob"].abs().sum() for node in sites.values())):
        raise seen.refusal(
            "the density", mean, whole, "what is summed out is not that of the rows"
        )


def _prove_apart(seen: _Pass, site: Site, sites: Factors, values: Values) -> None:
    """Refuse a label that is not of the rows, and reaches them.

    The log of a sum over its values is no sum over rows: log sum_k p(k) prod_i p(y_i | k).
    """
    support = site.fn.enumerate_support(expand=False).reshape(-1, *site.fn.event_shape)
    for value in support[:: -(-len(support) // _MOST_VALUES)]:
        other = {**values, site.name: value.expand(site.shape).to(site.value)}
        found = seen.at(seen.program.model, seen.whole, other)
        for name, node in sites.items():
            of_rows = dim_of(node, seen.whole.plate) is not None
            if of_rows and differs(node["log_prob"], found[name]["log_prob"]).any():
                raise Refused(
                    f"'{name}' depends on '{site.name}', which is summed out over all rows "
                    "together, so that the density of batches does not average to that of all "
                    f"rows{seen.lines.of(name)}; leave batch_size out"
                )


def _near(mean: Tensor, whole: Tensor, size: Tensor) -> bool:
    """Whether two sums of terms are equal but for rounding; `size` sums their absolute values."""
    return bool(mean == whole) or bool((mean - whole).abs() <= tolerance(whole.dtype) * size)


def _prove_sites(
    seen: _Pass,
    what: str,
    function: Callable,
    whole: Factors,
    parts: Sequence[Values],
) -> list[Factors]:
    """Each site of a model or guide by itself, given those on all rows and the batches' values.

    Returns:
        The sites on each batch.
    """
    found = [seen.at(function, batch, part) for batch, part in zip(seen.batches, parts)]
    for name, node in whole.items():
        each = [part[name]["log_prob"].sum() for part in found if name in part]
        size = node["log_prob"].abs().sum()
        complete = len(each) == len(found)
        if complete and _near(torch.stack(each).mean(), node["log_prob"].sum(), size):
            continue
        why = _why(seen, name, node, found[0].get(name)) + seen.lines.of(name)
        mean = torch.stack([_total(part) for part in found]).mean()
        raise seen.refusal(what, mean, _total(whole), why)
    return found


def _total(factors: Factors) -> Tensor:
    return torch.stack([node["log_prob"].sum() for node in factors.values()]).sum()


def _why(seen: _Pass, name: str, node: Mapping[str, Any], part: Mapping[str, Any] | None) -> str:
    """In what a site on the first batch is not what it is among all rows."""
    if part is None:
        return f"'{name}' is not there on some of the rows"
    plate, inside = seen.whole.plate, dim_of(node, seen.whole.plate) is not None
    ratio = torch.as_tensor(part["scale"] / torch.as_tensor(node["scale"])).max()
    asked = seen.batches[0].weight if inside else 1.0
    if abs(ratio / asked - 1) > tolerance(torch.float32):
        return f"'{name}' weighs {ratio:g} times as much as among all rows, not {asked:g} times"
    if inside:
        return f"'{name}' in a row looks at other rows"
    for one, other in zip(node["cond_indep_stack"], part["cond_indep_stack"]):
        if one.size != other.size:
            return f"'{name}' lies in '{one.name}', another plate as long as the rows"
    if _dim_of_rows(seen, name, node) is not None:
        return f"the guide draws '{name}' outside of the plate '{plate}'"
    return f"'{name}' lies outside of '{plate}', and looks at which rows there are"


# -- the guide ---------------------------------------------------------------------------------


def _prove_guide(seen: _Pass, chosen: Guide) -> None:
    """log q of each site at one draw; an objective of its own may use that of rows alone."""
    guide, module = chosen.guide, inspect.unwrap(chosen.guide)
    drawn = seen.at(guide, seen.whole, {})
    dims = {name: _dim_of_rows(seen, name, node) for name, node in drawn.items()}
    if chosen.objective is not None and not any(dims.values()):
        return
    points = [name for name, node in drawn.items() if isinstance(base_of(node["fn"]), dist.Delta)]
    values = {name: node["value"] for name, node in drawn.items() if name not in points}
    whole = seen.at(guide, seen.whole, values)
    if _random(drawn, whole) and _random(whole, seen.at(guide, seen.whole, values)):
        if isinstance(module, nn.Module) and module.training:  # what it drops in training alone
            module.eval()
            try:
                return _prove_guide(seen, chosen)
            finally:
                module.train()
        raise Refused(
            "log q of the guide at given values is another in each run, so that nothing shows "
            "whether batches stand for all rows; draw what is random by pyro.sample, or leave "
            "batch_size out"
        )
    parts = [{k: _rows_of(v, dims[k], rows) for k, v in values.items()} for rows in seen.rows]
    found = _prove_sites(seen, "log q", guide, whole, parts)
    for name in points:
        for rows, part in zip(seen.rows, found):
            value = _rows_of(whole[name]["value"], dims[name], rows)
            if (
                value.shape != part[name]["value"].shape
                or differs(value, part[name]["value"]).any()
            ):
                raise Refused(
                    f"the guide gives '{name}' other values on batches of {len(rows)} rows than "
                    f"on all {seen.program.problem.n} of them, as it looks at other rows; leave "
                    "batch_size out"
                )


def _dim_of_rows(seen: _Pass, name: str, node: Mapping[str, Any]) -> int | None:
    """The dimension of the rows in a site's value, as the model or the guide's own plate says."""
    site, own = seen.program.sites.get(name), dim_of(node, seen.whole.plate)
    plates = [plate for plate in site.plates if plate.name == seen.whole.plate] if site else []
    if plates:
        return plates[0].dim - site.event_dim
    return own and own - node["fn"].event_dim


def _random(one: Factors, other: Factors) -> bool:
    """Whether a guide is another in a second run."""
    return any(
        differs(one[name][part], other[name][part]).any()
        for name in one
        for part in ("log_prob", "value")
    )
