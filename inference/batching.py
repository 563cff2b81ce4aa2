"""Do batches stand for all rows? Proved where a fit on batches begins, or refused.

The objective of a batch is an unbiased estimate of that of all rows only if the density is a sum
over rows, each known from its own slice of the data (Hoffman, Blei, Wang and Paisley 2013,
Stochastic variational inference, section 2.2). So at fixed latents the density of the batches of
one pass, each weighed as all rows, must average to that of all of them; and so must log q of a
guide at one draw from it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from . import _source
from ._case import Watch
from ._problem import Fault, Guide, Refused
from .program import Batch, Program, Weighted, graphless, run
from .row_keys import Factors, aside, cut, differs, dim_of, fixed, scored, tolerance
from .sampling import base_of

# Rows and batches on which it is seen, at most.
_MOST_ROWS, _MOST_BATCHES = 256, 16

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


@contextmanager
def _runs_on_some(what: str) -> Iterator[None]:
    """What a model or guide raises on some of the rows, as a refusal."""
    try:
        yield
    except Fault:
        raise
    except Exception as error:
        said, line = str(error).partition("\n")[0], _source.of_error(error)
        raise Refused(
            f"the {what} cannot run on some of the rows ({type(error).__name__}: {said})"
            f"{f', {line}' if line else ''}; leave batch_size out"
        ) from error


@dataclass(frozen=True)
class _Pass:
    """Some rows of a problem, as if they were all, and the batches of one pass over them.

    Attributes:
        program: the model and these rows.
        rows: of each batch.
        batches: their data.
    """

    program: Program
    rows: list[Tensor]
    batches: list[Batch]

    @property
    def plate(self) -> str:
        return self.program.problem.rows[0]

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
    tensors = {key: problem.tensors[key] for key in problem.rows[1]}
    tensors = {key: value[some.to(value.device)] for key, value in tensors.items()}
    problem = replace(problem, tensors={**problem.tensors, **tensors})
    rows = list(torch.arange(len(some)).split(size))
    parts = [{key: value[at.to(value.device)] for key, value in tensors.items()} for at in rows]
    batches = [Batch.of(problem, {**problem.tensors, **part}) for part in parts]
    return _Pass(Program(problem), rows, batches)


# -- the model ---------------------------------------------------------------------------------


def _prove_model(seen: _Pass) -> None:
    """The density of each site at one value of the latents; of all, discrete ones summed out."""
    program, values = seen.program, fixed(seen.program)
    whole = graphless(lambda: program.log_joint(values))
    if not whole.isfinite():
        values |= program.constrain(program.start())
        whole = graphless(lambda: program.log_joint(values))
    parts = [cut(program, values, seen.plate, rows) for rows in seen.rows]
    sites, _ = _prove_sites(seen, "the density", program.model, values, parts)
    each = [
        graphless(lambda batch=batch, part=part: program.log_joint(part, batch))
        for batch, part in zip(seen.batches, parts)
    ]
    mean = torch.stack(each).mean()
    if not _near(mean, whole, sum(node["log_prob"].abs().sum() for node in sites.values())):
        labels = ", ".join(f"'{site.name}'" for site in program.of("discrete"))
        why = f"{labels} is summed out over all rows together, and the log of a sum is no sum"
        raise seen.refusal("the density", mean, whole, why)


def _near(mean: Tensor, whole: Tensor, size: Tensor) -> bool:
    """Whether two sums of terms are equal but for rounding; `size` sums their absolute values."""
    return bool(mean == whole) or bool((mean - whole).abs() <= tolerance(whole.dtype) * size)


def _prove_sites(
    seen: _Pass, what: str, function: Callable, values: Values, parts: list[dict[str, Tensor]]
) -> tuple[Factors, list[Factors]]:
    """Each site of a model or guide by itself, at given values: those of all rows, and of parts.

    Returns:
        The sites on all rows, and on each batch.
    """
    watch = Watch()
    whole = _at(function, seen.program.problem.tensors, values, watch)
    found = [
        _at(Weighted(batch)(function), batch.tensors, part)
        for batch, part in zip(seen.batches, parts)
    ]
    for name, node in whole.items():
        each = [part[name]["log_prob"].sum() for part in found if name in part]
        size = node["log_prob"].abs().sum()
        complete = len(each) == len(found)
        if complete and _near(torch.stack(each).mean(), node["log_prob"].sum(), size):
            continue
        line = watch.lines.get(name)
        why = _why(seen, name, node, found[0].get(name)) + (f", {line}" if line else "")
        mean = torch.stack([_total(part) for part in found]).mean()
        raise seen.refusal(what, mean, _total(whole), why)
    return whole, found


def _at(function: Callable, tensors: Mapping[str, Any], values: Values, *more: Any) -> Factors:
    """The sites of a model or guide at given values."""
    condition = poutine.condition(data=dict(values))
    return graphless(lambda: scored(run(function, tensors, condition, *more)))


def _total(factors: Factors) -> Tensor:
    return torch.stack([node["log_prob"].sum() for node in factors.values()]).sum()


def _why(seen: _Pass, name: str, node: Mapping[str, Any], part: Mapping[str, Any] | None) -> str:
    """In what a site on the first batch is not what it is among all rows."""
    if part is None:
        return f"'{name}' is not there on some of the rows"
    dim = dim_of(node, seen.plate)
    if dim is None:
        for one, other in zip(node["cond_indep_stack"], part["cond_indep_stack"]):
            if one.size != other.size:
                return f"'{name}' lies in '{one.name}', another plate as long as the rows"
        if name in seen.program.sites and _dim_of_rows(seen, name, node) is not None:
            return f"the guide draws '{name}' outside of the plate '{seen.plate}'"
        return f"'{name}' lies outside of '{seen.plate}', and looks at which rows there are"
    one, other = (at["unscaled_log_prob"] for at in (node, part))
    if one.ndim >= -dim and one.shape[dim] == seen.program.problem.n:
        one = one.index_select(dim, seen.rows[0].to(one.device))
        if one.shape == other.shape and not differs(one, other).any():
            return f"'{name}' is not weighed by the number of rows over that of the batch"
    return f"'{name}' in a row looks at other rows"


# -- the guide ---------------------------------------------------------------------------------


def _prove_guide(seen: _Pass, chosen: Guide) -> None:
    """log q of each site at one draw; an objective of its own may use that of rows alone."""
    guide, module = chosen.guide, inspect.unwrap(chosen.guide)
    drawn = _at(guide, seen.program.problem.tensors, {})
    dims = {name: _dim_of_rows(seen, name, node) for name, node in drawn.items()}
    if chosen.objective is not None and not any(dims.values()):
        return
    points = [name for name, node in drawn.items() if isinstance(base_of(node["fn"]), dist.Delta)]
    values = {name: node["value"] for name, node in drawn.items() if name not in points}
    if not _is_steady(seen, guide, values):
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
    parts = [
        {k: _rows_of(value, dims[k], rows) for k, value in values.items()} for rows in seen.rows
    ]
    whole, found = _prove_sites(seen, "log q", guide, values, parts)
    for name in points:
        for rows, part in zip(seen.rows, found):
            one = _rows_of(whole[name]["value"], dims[name], rows)
            other = part[name]["value"]
            if one.shape != other.shape or differs(one, other).any():
                raise Refused(
                    f"the guide gives '{name}' other values on batches of {len(rows)} rows than "
                    f"on all {seen.program.problem.n} of them, as it looks at other rows; leave "
                    "batch_size out"
                )


def _dim_of_rows(seen: _Pass, name: str, node: Mapping[str, Any]) -> int | None:
    """The dimension of the rows in a value of the guide's, as the model or its own plate says."""
    site = seen.program.sites.get(name)
    of_model = (
        [p.dim - site.event_dim for p in site.plates if p.name == seen.plate] if site else []
    )
    own = dim_of(node, seen.plate)
    return of_model[0] if of_model else own and own - node["fn"].event_dim


def _rows_of(value: Tensor, dim: int | None, rows: Tensor) -> Tensor:
    return value if dim is None else value.index_select(dim, rows.to(value.device))


def _is_steady(seen: _Pass, guide: Callable, values: Values) -> bool:
    """Whether the guide is the same twice at given values."""
    one, other = (_at(guide, seen.program.problem.tensors, values) for _ in range(2))
    return all(torch.equal(one[k][of], other[k][of]) for k in one for of in ("log_prob", "value"))
