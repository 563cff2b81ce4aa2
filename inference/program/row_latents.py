"""Rows with latents of their own: the weight of a draw for each row, and the evidence of rows.

Where all latents belong to rows (the code of an image), p(data) is a product over rows, and draws
z from a guide q give each row's factor apart: with w = p(x, z) / q(z),

    E log w <= E log mean_k w_k <= log p(x),

the ELBO, the bound of Burda, Grosse and Salakhutdinov (2016), arXiv:1509.00519, eq. 8, for k
draws, and what it tends to as k grows: the estimate of log p(x) by importance sampling.
"""

from collections.abc import Callable, Collection

import torch
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from . import batching
from .handlers import Batch, condition, factors, run
from .program import Program
from .sampling import over_draws
from .sites import Trace, Values


def is_of_rows(program: Program) -> bool:
    """Whether every latent belongs to a row, so that rows are independent."""
    sites = program.of("latent", "discrete", "observed")
    if not program.size or program.has_factor:
        return False
    return all(site.is_in(program.plate) for site in sites)


def has_weights(program: Program) -> bool:
    """Whether that is so, and a draw of a row's latents has a weight: none of them is discrete."""
    return is_of_rows(program) and not program.of("discrete")


def log_weights(program: Program, guide: Callable, batch: Batch) -> Tensor:
    """log p(x, z) - log q(z) of each row of a batch, (rows,), at one draw z from the guide."""
    return weighted(program, guide, batch)[0]


def weighted(program: Program, guide: Callable, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """A draw z from the guide, and its log weights.

    Returns:
        log p(x, z) - log q(z) of each row, (rows,), nats, in the user's units; and z by latent.
    """
    drawn = run(guide, batch.tensors)
    values = {name: drawn.nodes[name]["value"] for name in program.layout}
    trace = run(program.model, batch.tensors, condition(values))
    plate, units = program.plate, program.log_units_of_row
    return _of_rows(trace, plate) - _of_rows(drawn, plate) - units, values


def _of_rows(trace: Trace, plate: str, names: Collection[str] | None = None) -> Tensor:
    """The log density of a run (of the sites named), summed over all but the rows.

    What lies outside the rows has none: a number that the model reports (`pyro.deterministic`).
    """
    total = torch.zeros(())
    for name, node in factors(trace).items():
        dims = [f.dim for f in node["cond_indep_stack"] if f.name == plate]
        if dims and (names is None or name in names):
            by_row = node["log_prob"].movedim(dims[0], -1)
            total = total + by_row.reshape(-1, by_row.shape[-1]).sum(0)
    return total


def log_prior_and_likelihood(program: Program, values: Values) -> tuple[Tensor, Tensor]:
    """log p(z) and log p(x | z) of each row, (rows,) each, nats, at its latents.

    Args:
        program: the model and its data.
        values: latent to its value for all rows.
    """
    trace = run(program.model, program.tensors, condition(values))
    plate = program.plate
    both = _of_rows(trace, plate) - program.log_units_of_row
    prior = _of_rows(trace, plate, program.layout)
    return prior, both - prior


def draws_by_row(program: Program, guide: Callable) -> bool:
    """Whether a guide draws the latents of each row apart from those of others."""
    nodes = run(guide, program.tensors).nodes.values()
    drawn = [n for n in nodes if n["type"] == "sample" and not isinstance(n["fn"], _Subsample)]
    return all(program.plate in {f.name for f in node["cond_indep_stack"]} for node in drawn)


def encodes(program: Program, guide: Callable) -> bool:
    """Whether a guide gives the latents of any rows, not of those alone that it was fitted to.

    And those of each row from its own data: rows are encoded some at a time.
    """
    count = 2 if program.n == 1 else 1  # another number than that of the rows
    rows = {k: v[:1].expand(count, *v.shape[1:]) for k, v in program.row_data.items()}
    try:
        drawn = run(guide, {**program.tensors, **rows})
    except (RuntimeError, ValueError):  # shapes of all rows
        return False
    shapes = {name: tuple(drawn.nodes[name]["value"].shape) for name in program.layout}
    own = all(shape[:1] == (count,) for shape in shapes.values())
    return own and batching.apart(program, guide)


def at_draws(program: Program, guide: Callable, draws: int) -> Tensor:
    """The log weights of all rows at draws from the guide, (draws, rows)."""
    rows = Batch(program.tensors)
    each = torch.arange(draws)
    return over_draws(lambda _: log_weights(program, guide, rows), each, program.elements)
