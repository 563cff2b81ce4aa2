"""Do batches stand for all rows? Proved where a fit on batches begins, or refused.

The objective of a batch is an unbiased estimate of that of all rows only if the density is a sum
over rows, each known from its own slice of the data (Hoffman, Blei, Wang and Paisley 2013,
Stochastic variational inference, section 2.2). So at fixed latents the density of the batches of
one pass, each weighed as all rows, must average to that of all of them; and so must log q of a
guide at one draw from it.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from models.contract import Fault, Refused

from ..core import user_code
from ..core.machine import tolerance
from ..core.problem import Guide
from . import labels
from .handlers import Batch, Factors, Weighted, condition, graphless, run
from .program import Program
from .row_keys import aside, cut, differs, dim_of, fixed, rows_of, scored
from .sampling import base_of
from .sites import Message, Site, Values

# Rows and batches on which it is seen, at most.
_MOST_ROWS, _MOST_BATCHES = 256, 16
# Further values of the latents, how far from zero, where a run of the model is not long.
_WIDTHS = (1.0, 1.0, 1.0, 3.0)
# Values of a label that are tried.
_MOST_VALUES = 16


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
            epoch = _epoch(program, size)
            _prove_model(epoch)
        with _runs_on_some("guide"):
            _prove_guide(epoch, chosen)


def apart(program: Program, guide: Callable) -> bool:
    """Whether each row can be looked at without the others, in the model and in a guide."""
    try:
        if program.n > 1:
            prove(program, Guide(guide), program.n // 2)
    except Fault:
        return False
    return True


@contextmanager
def _runs_on_some(function: str) -> Iterator[None]:
    """What a model or guide raises on some of the rows, as a refusal.

    Raises:
        Refused: it does raise something.
    """
    try:
        yield
    except Fault:
        raise
    except Exception as error:
        message, line = str(error).partition("\n")[0], user_code.of_error(error)
        raise Refused(
            f"the {function} cannot run on some of the rows ({type(error).__name__}: {message})"
            f"{f', {line}' if line else ''}; leave batch_size out"
        ) from error


@dataclass(frozen=True)
class _Epoch:
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
        return graphless(self._at, function, batch, values)

    def _at(self, function: Callable, batch: Batch, values: Values) -> Factors:
        trace = run(function, batch.tensors, condition(values), Weighted(batch), self.lines)
        rows = round(self.program.n / batch.weight)
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
        return scored(trace)

    def dim_of_rows(self, node: Message) -> int | None:
        """The dimension of the rows in a site's log density; None outside of their plate."""
        return dim_of(node, self.whole.plate)

    def refuse(self, density: str, mean: Tensor, whole: Tensor, why: str) -> NoReturn:
        """Tell by how much the batches miss the density of all rows, and why.

        Raises:
            Refused: always.
        """
        raise Refused(
            f"{density} of batches of {len(self.rows[0])} rows averages to {mean:.6g}, that of "
            f"all {self.program.n} of them is {whole:.6g}: {why}; leave batch_size out"
        )


def _epoch(program: Program, size: int) -> _Epoch:
    """Some rows drawn at random, in batches of about `size`, with the labels summed as in all."""
    most = min(program.n, _MOST_ROWS)
    size = min(size, most // 2)  # of several batches, whatever was asked for
    some = torch.randperm(program.n)[: min(most // size, _MOST_BATCHES) * size]
    tensors = {key: rows_of(value, 0, some) for key, value in program.row_data.items()}
    of_some = program.changed(tensors={**program.tensors, **tensors})
    labels.share(program.summed, of_some)
    rows = list(torch.randperm(len(some)).split(size))
    parts = [{key: rows_of(value, 0, at) for key, value in tensors.items()} for at in rows]
    batches = [Batch.of(of_some.problem, {**of_some.tensors, **part}) for part in parts]
    return _Epoch(of_some, Batch.of(of_some.problem, of_some.tensors), rows, batches)


# -- the model ---------------------------------------------------------------------------------


def _prove_model(epoch: _Epoch) -> None:
    """The density at several values of the latents: rows may look at others at some alone."""
    program, values = epoch.program, fixed(epoch.program)
    if not graphless(program.log_joint, values).isfinite():
        values |= program.constrain(program.start())
    _prove_model_at(epoch, values)
    for width in () if program.is_large else _WIDTHS:
        nodes = program.trace_at(program.random_start() * width).nodes
        values = {name: nodes[name]["value"].detach() for name in values}
        if graphless(program.log_joint, values).isfinite():
            _prove_model_at(epoch, values)


def _prove_model_at(epoch: _Epoch, values: Values) -> None:
    """The density of each site at one value of the latents; of all, discrete ones summed out.

    Raises:
        Refused: they are not those of all rows.
    """
    program = epoch.program
    whole = graphless(program.log_joint, values)
    sites = epoch.at(program.model, epoch.whole, values)
    parts = [cut(program, values, epoch.whole.plate, rows) for rows in epoch.rows]
    _prove_sites(epoch, "the density", program.model, sites, parts)
    for site in program.of("discrete"):
        if epoch.dim_of_rows(sites[site.name]) is None:
            _prove_apart(epoch, site, sites, values)
    each = [graphless(program.log_joint, *both) for both in zip(parts, epoch.batches)]
    mean = torch.stack(each).mean()
    if not _near(mean, whole, sum(node["log_prob"].abs().sum() for node in sites.values())):
        epoch.refuse("the density", mean, whole, "what is summed out is not that of the rows")


def _prove_apart(epoch: _Epoch, site: Site, sites: Factors, values: Values) -> None:
    """Refuse a label that is not of the rows, and reaches them.

    The log of a sum over its values is no sum over rows: log sum_k p(k) prod_i p(y_i | k).
    """
    for value in site.choices[:: -(-len(site.choices) // _MOST_VALUES)]:
        other = {**values, site.name: value.expand(site.shape).to(site.value)}
        changed = epoch.at(epoch.program.model, epoch.whole, other)
        for name, node in sites.items():
            of_rows = epoch.dim_of_rows(node) is not None
            if of_rows and differs(node["log_prob"], changed[name]["log_prob"]).any():
                raise Refused(
                    f"'{name}' depends on '{site.name}', which is summed out over all rows "
                    "together, so that the density of batches does not average to that of all "
                    f"rows{epoch.lines.of(name)}; leave batch_size out"
                )


def _near(mean: Tensor, whole: Tensor, size: Tensor | float) -> bool:
    """Whether two sums of terms are equal but for rounding; `size` sums their absolute values."""
    return bool(mean == whole) or bool((mean - whole).abs() <= tolerance(whole.dtype) * size)


def _prove_sites(
    epoch: _Epoch, density: str, function: Callable, whole: Factors, parts: Sequence[Values]
) -> list[Factors]:
    """Each site of a model or guide by itself.

    Args:
        epoch: the rows and their batches.
        density: what the function's is called.
        function: model or guide.
        whole: its sites on all rows.
        parts: the values of its sites for each batch.

    Returns:
        The sites on each batch.

    Raises:
        Refused: one of them averages to another density than that of all rows.
    """
    of_batches = [epoch.at(function, *both) for both in zip(epoch.batches, parts)]
    for name, node in whole.items():
        each = [part[name]["log_prob"].sum() for part in of_batches if name in part]
        size = node["log_prob"].abs().sum()
        complete = len(each) == len(of_batches)
        if complete and _near(torch.stack(each).mean(), node["log_prob"].sum(), size):
            continue
        why = _why(epoch, name, node, of_batches[0].get(name)) + epoch.lines.of(name)
        mean = torch.stack([_total(part) for part in of_batches]).mean()
        epoch.refuse(density, mean, _total(whole), why)
    return of_batches


def _total(factors: Factors) -> Tensor:
    return torch.stack([node["log_prob"].sum() for node in factors.values()]).sum()


def _why(epoch: _Epoch, name: str, node: Message, part: Message | None) -> str:
    """In what a site on the first batch (None: it is not there) is not what it is in all rows."""
    if part is None:
        return f"'{name}' is not there on some of the rows"
    plate, inside = epoch.whole.plate, epoch.dim_of_rows(node) is not None
    ratio = torch.as_tensor(part["scale"] / torch.as_tensor(node["scale"])).max()
    asked = epoch.batches[0].weight if inside else 1.0
    if abs(ratio / asked - 1) > tolerance(torch.float32):
        return f"'{name}' weighs {ratio:g} times as much as among all rows, not {asked:g} times"
    if inside:
        return f"'{name}' in a row looks at other rows"
    for frame, other in zip(node["cond_indep_stack"], part["cond_indep_stack"]):
        if frame.size != other.size:
            return f"'{name}' lies in '{frame.name}', another plate as long as the rows"
    if _dim_of_value(epoch, name, node) is not None:
        return f"the guide draws '{name}' outside of the plate '{plate}'"
    return f"'{name}' lies outside of '{plate}', and looks at which rows there are"


# -- the guide ---------------------------------------------------------------------------------


def _prove_guide(epoch: _Epoch, chosen: Guide) -> None:
    """log q of each site at one draw; an objective of its own may use that of rows alone.

    Raises:
        Refused: log q is random, or not that of all rows; a point mass lies elsewhere on a batch.
    """
    guide = chosen.guide
    drawn = epoch.at(guide, epoch.whole, {})
    dims = {name: _dim_of_value(epoch, name, node) for name, node in drawn.items()}
    if chosen.objective is not None and not any(dims.values()):
        return
    points = [name for name, node in drawn.items() if isinstance(base_of(node["fn"]), dist.Delta)]
    values = {name: node["value"] for name, node in drawn.items() if name not in points}
    whole = epoch.at(guide, epoch.whole, values)
    if _random(drawn, whole) and _random(whole, epoch.at(guide, epoch.whole, values)):
        return _prove_random_guide(epoch, chosen)
    parts = [{k: rows_of(v, dims[k], rows) for k, v in values.items()} for rows in epoch.rows]
    of_batches = _prove_sites(epoch, "log q", guide, whole, parts)
    for name in points:
        for rows, part in zip(epoch.rows, of_batches):
            value, other = rows_of(whole[name]["value"], dims[name], rows), part[name]["value"]
            if value.shape != other.shape or differs(value, other).any():
                raise Refused(
                    f"the guide gives '{name}' other values on batches of {len(rows)} rows than "
                    f"on all {epoch.program.n} of them, as it looks at other rows; leave "
                    "batch_size out"
                )


def _prove_random_guide(epoch: _Epoch, chosen: Guide) -> None:
    """A network that drops units in training alone is looked at as it is used afterwards.

    Raises:
        Refused: log q is another in each run then too.
    """
    module = inspect.unwrap(chosen.guide)
    if not (isinstance(module, nn.Module) and module.training):
        raise Refused(
            "log q of the guide at given values is another in each run, so that nothing shows "
            "whether batches stand for all rows; draw what is random by pyro.sample, or leave "
            "batch_size out"
        )
    module.eval()
    try:
        _prove_guide(epoch, chosen)
    finally:
        module.train()


def _dim_of_value(epoch: _Epoch, name: str, node: Message) -> int | None:
    """The dimension of the rows in a site's value, as the model or the guide's own plate says."""
    site, own = epoch.program.sites.get(name), epoch.dim_of_rows(node)
    dim = None if site is None else site.dim_of(epoch.whole.plate)
    if dim is None and own is not None:
        return own - node["fn"].event_dim
    return dim


def _random(first: Factors, second: Factors) -> bool:
    """Whether two runs of a guide at the same values differ."""
    return any(
        differs(first[name][part], second[name][part]).any()
        for name in first
        for part in ("log_prob", "value")
    )
