"""The curvature of a network's log density in its weights: Gauss-Newton matrix, prior's precision.

The generalised Gauss-Newton matrix is the sum over rows of J^T F J, J the Jacobian of the outputs
in the weights and F = R R^T the Fisher information in the outputs (Martens 2020, arXiv:1412.1193,
eq. 6). It is the Hessian of minus the log likelihood less the second derivatives of the network.
"""

from collections.abc import Iterator, Sequence
from functools import partial, reduce

import torch
from torch import Tensor

from models.contract import Refused

from ..program.handlers import condition, run
from ..program.outputs import fisher_root, outputs
from ..program.program import Program
from ..program.sampling import over_draws
from ..program.sites import Values, split

# Numbers that are held at once.
_MOST_ELEMENTS = 20_000_000


def gauss_newton(
    program: Program, at: Values, names: Sequence[str], *, diagonal: bool = False
) -> Tensor:
    """The generalised Gauss-Newton matrix of all rows, (d, d), or its diagonal (d,), in float64.

    Args:
        program: the network and its data; its observations have outputs.
        at: site to weights, of all sites.
        names: the sites in whose weights to differentiate, in order.
        diagonal: the diagonal alone.
    """

    def of(rows: Values) -> Tensor:
        slopes = _jacobian(program, at, names, rows)
        if diagonal:
            return slopes.square().sum(0, dtype=torch.float64)
        return (slopes.T @ slopes).double()

    observed = program.of("observed")
    if not program.row_data or not all(site.is_in(program.plate) for site in observed):
        return of({})
    outs = sum(outputs(site.fn).numel() for site in observed) // program.n
    slopes_of_row = outs * sum(at[name].numel() for name in names)
    # In place: the matrix is held once.
    return reduce(Tensor.add_, map(of, _split(program.row_data, _MOST_ELEMENTS // slopes_of_row)))


def _split(rows: Values, size: int) -> Iterator[dict[str, Tensor]]:
    """The rows, some at a time."""
    for parts in zip(*(value.split(max(size, 1)) for value in rows.values())):
        yield dict(zip(rows, parts))


def _whitened(program: Program, values: Values, rows: Values) -> Tensor:
    """R^T times the outputs, R held fixed, of all that is observed of rows, (rows, outputs)."""
    tensors = {**program.tensors, **rows}
    trace = run(program.model, tensors, condition(values))
    n = len(next(iter(rows.values()))) if rows else 1
    whitened = []
    for site in program.of("observed"):
        given = outputs(trace.nodes[site.name]["fn"])
        root = fisher_root(site.fn, given.detach())
        whitened.append((root.mT @ given[..., None]).reshape(n, -1))
    return torch.cat(whitened, 1)


def _jacobian(program: Program, at: Values, names: Sequence[str], rows: Values) -> Tensor:
    """R^T J in the weights of the named sites, row by row, (rows times outputs, d)."""

    def of_row(row: Values) -> Tensor:
        alone = {key: value[None] for key, value in row.items()}
        weights = {name: at[name] for name in names}
        slopes = torch.func.jacrev(lambda w: _whitened(program, {**at, **w}, alone)[0])(weights)
        return torch.cat([slopes[name].flatten(1) for name in names], 1)

    return over_draws(of_row, rows).flatten(0, 1) if rows else of_row({})


def prior_precision(program: Program, at: Values, names: Sequence[str]) -> Tensor:
    """Second derivatives of minus the log prior in the named sites, (d,); there are no mixed ones.

    Args:
        program: the network and its data.
        at: site to weights, of all sites.
        names: the sites in whose weights to differentiate, in order.

    Raises:
        Refused: one is not positive, or the priors of weights depend on each other.
    """
    flat = torch.cat([at[name].detach().flatten() for name in names])
    slope = torch.func.grad(partial(_prior_energy, program, at, names))

    def product(direction: Tensor) -> Tensor:
        """Hessian times a vector."""
        return torch.func.jvp(slope, (flat,), (direction,))[1]

    precision = product(torch.ones_like(flat))
    # A matrix whose product with another vector is that of its row sums is diagonal.
    other = torch.linspace(1.0, 2.0, len(flat)).to(flat)
    if not torch.allclose(product(other), precision * other, rtol=1e-4):
        raise Refused(
            "the priors of the weights depend on each other, which laplace of a network does not "
            "know; use independent ones (prior=normal), svi or nuts"
        )
    wrong = int((~(precision > 0)).sum())
    if wrong:
        raise Refused(
            f"the prior is not log-concave at {wrong} of {len(flat)} weights, so that it and the "
            "Gauss-Newton matrix make no Gaussian; use a normal prior (prior=normal), svi or nuts"
        )
    return precision


def _prior_energy(program: Program, at: Values, names: Sequence[str], flat: Tensor) -> Tensor:
    """Minus the log prior, the named sites' weights out of one vector (d,), nats."""
    values = {**at, **split(flat, {name: at[name] for name in names})}
    nodes = run(program.model, program.tensors, condition(values)).nodes
    # Of all sites: the prior of one may depend on another.
    return -sum(nodes[k]["fn"].log_prob(nodes[k]["value"]).sum() for k in program.layout)
