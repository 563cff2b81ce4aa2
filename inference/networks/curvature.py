"""The curvature of a network's log density in its weights: Gauss-Newton matrix, prior's precision.

The generalised Gauss-Newton matrix is the sum over rows of J^T F J, J the Jacobian of the outputs
in the weights and F = R R^T the Fisher information in the outputs (Martens 2020, arXiv:1412.1193,
eq. 6). It is the Hessian of minus the log likelihood less the second derivatives of the network.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import NamedTuple

import torch
from torch import Tensor

from models.contract import Refused

from ..program.handlers import condition, run
from ..program.predictors import fisher_root, predictor
from ..program.program import Program
from ..program.sampling import over_draws
from ..program.sites import Values, split
from .layers import Call, Layer, Layers, layers

# Numbers that are held at once.
_MOST_ELEMENTS = 20_000_000
# Rows on which the two ways to the matrix are compared, and how near they must be.
_FEW, _NEAR = 2, 1e-4


def gauss_newton(
    program: Program, at: Values, names: Sequence[str], *, diagonal: bool = False
) -> Tensor:
    """The generalised Gauss-Newton matrix of all rows, (d, d), or its diagonal (d,), in float64.

    Where the weights are those of dense layers, it is had from the layers' inputs and the slopes
    of the outputs in theirs, as many times faster as there are outputs. Whether that is right is
    seen on a few rows.

    Args:
        program: the network and its data; its observations have predictors.
        at: site to weights, of all sites.
        names: the sites in whose weights to differentiate, in order.
        diagonal: the diagonal alone.
    """
    observed = program.of("observed")
    inside = all(site.is_in(program.plate) for site in observed)
    rows = program.row_data if inside else {}
    way = _ByWeights(program, at, names, diagonal)
    if not rows:
        return way.of(rows)
    dense = _dense(program, at, names)
    if dense:
        quick = _ByLayers(program, at, names, diagonal, dense)
        few = {key: value[:_FEW] for key, value in rows.items()}
        way = quick if _agree(quick, way, few) else way
    # In place: the matrix is held once.
    return reduce(Tensor.add_, map(way.of, _some_at_a_time(rows, _MOST_ELEMENTS // way.held)))


def _some_at_a_time(rows: Values, size: int) -> Iterator[dict[str, Tensor]]:
    """The rows, some at a time."""
    for parts in zip(*(value.split(max(size, 1)) for value in rows.values())):
        yield dict(zip(rows, parts))


def _whitened(program: Program, values: Values, rows: Values) -> Tensor:
    """R^T times the predictors, R held fixed, of all that is observed of rows, (rows, outputs)."""
    tensors = {**program.tensors, **rows}
    trace = run(program.model, tensors, condition(values))
    n = len(next(iter(rows.values()))) if rows else 1
    whitened = []
    for site in program.of("observed"):
        given = predictor(trace.nodes[site.name]["fn"])
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


@dataclass(frozen=True)
class _ByWeights:
    """The matrix from Jacobians in single weights, whatever the network is."""

    program: Program
    at: Values
    names: Sequence[str]
    diagonal: bool

    @property
    def outs(self) -> int:
        """Outputs of a row."""
        observed = self.program.of("observed")
        return sum(predictor(site.fn).numel() for site in observed) // self.program.n

    @property
    def held(self) -> int:
        """Numbers that are held for each row."""
        return self.outs * sum(self.at[name].numel() for name in self.names)

    def of(self, rows: Values) -> Tensor:
        """The matrix of some rows, or its diagonal."""
        slopes = _jacobian(self.program, self.at, self.names, rows)
        if self.diagonal:
            return slopes.square().sum(0, dtype=torch.float64)
        return (slopes.T @ slopes).double()


# -- by dense layers ---------------------------------------------------------------------------


class _Dense(NamedTuple):
    """What passes through a dense layer x w + b.

    Attributes:
        x: its inputs, and a one where it has biases, (rows, k).
        slopes: R^T times the derivative of the outputs in the layer's, (rows, outputs, m).
    """

    x: Tensor
    slopes: Tensor


def _dense(program: Program, at: Values, names: Sequence[str]) -> list[Layer]:
    """The layers that the named sites are the weights of; none if they are not all of that."""
    try:
        dense = [layer for layer in layers(program) if layer.weight in names]
    except Refused:
        return []
    sites = [name for layer in dense for name in layer.sites]
    matrices = all(at[layer.weight].ndim == 2 for layer in dense)
    return dense if matrices and sorted(sites) == sorted(names) else []


@dataclass(frozen=True)
class _ByLayers(_ByWeights):
    """The matrix from what passes through dense layers, whose weights the sites are."""

    dense: Sequence[Layer]

    @property
    def held(self) -> int:
        shapes = [_shape(self.at, layer) for layer in self.dense]
        if self.diagonal:
            return sum(self.outs * m + k for m, k in shapes)
        return max(m * m * (k + 1) for m, k in shapes)

    def of(self, rows: Values) -> Tensor:
        passed = _passed(self.program, self.at, self.dense, rows)
        order = _order(self.at, self.dense, self.names)
        if self.diagonal:
            return _diagonal(passed).double()[order]
        return _matrix(passed).double()[order][:, order]


def _agree(quick: _ByWeights, exact: _ByWeights, rows: Values) -> bool:
    """Whether a quick way is right on these rows: not where weights are used in two places."""
    try:
        ours = quick.of(rows)
    except (RuntimeError, NotImplementedError):
        return False
    expected = exact.of(rows)
    return bool((ours - expected).abs().max() <= _NEAR * expected.abs().max())


def _diagonal(passed: Sequence[_Dense]) -> Tensor:
    """The diagonal, layer after layer, (m k) each."""
    squares = [(layer.slopes.square().sum(1), layer.x.square()) for layer in passed]
    return torch.cat([(slopes.T @ x).flatten() for slopes, x in squares])


def _matrix(passed: Sequence[_Dense]) -> Tensor:
    """The matrix, layer after layer, (m k) each."""
    several = range(len(passed))
    blocks = {(i, j): _block(passed[i], passed[j]) for i in several for j in several if i <= j}
    blocks |= {(j, i): block.T for (i, j), block in blocks.items() if i < j}
    return torch.cat([torch.cat([blocks[i, j] for j in several], 1) for i in several])


def _block(first: _Dense, second: _Dense) -> Tensor:
    """The matrix between two layers, (m k, m' k'): the outputs are summed over first."""
    both = torch.einsum("nci,ncj->nij", first.slopes, second.slopes)
    _, m, of_second = both.shape
    left = (both[..., None] * first.x[:, None, None, :]).flatten(1)
    block = (left.T @ second.x).view(m, of_second, first.x.shape[1], -1)
    return block.transpose(1, 2).reshape(m * first.x.shape[1], -1)


def _order(at: Values, dense: Sequence[Layer], names: Sequence[str]) -> Tensor:
    """Where the weights, as they lie in the named sites, are among the layers' (m, k) matrices."""
    places, start = {}, 0
    for layer in dense:
        m, k = _shape(at, layer)
        width = k + (layer.bias is not None)
        index = torch.arange(start, start + m * width).view(m, width)
        weight = index[:, :k] if layer.inputs == 1 else index[:, :k].T
        places |= {layer.weight: weight.flatten(), layer.bias: index[:, k:].flatten()}
        start += m * width
    return torch.cat([places[name] for name in names])


def _shape(at: Values, layer: Layer) -> tuple[int, int]:
    """Numbers of a layer's outputs and inputs, m and k."""
    shape = at[layer.weight].shape
    return shape[1 - layer.inputs], shape[layer.inputs]


def _passed(program: Program, at: Values, dense: Sequence[Layer], rows: Values) -> list[_Dense]:
    """What passes through the layers, of some rows.

    Raises:
        NotImplementedError: a layer's inputs are no vectors.
    """
    n = len(next(iter(rows.values())))
    weights = {layer.weight: at[layer.weight] for layer in dense}

    def of(shifts: Values) -> tuple[Tensor, dict[str, Tensor]]:
        inputs = {}

        def use(name: str, call: Call) -> Tensor:
            if call.x.ndim != 2:
                raise NotImplementedError
            inputs[name] = call.x
            return call(call.x, call.weight, call.bias) + shifts[name]

        with Layers(weights, use):
            # Rows do not see each other, so the derivative of a sum over them is that of each.
            return _whitened(program, at, rows).sum(0), inputs

    shifts = {k.weight: at[k.weight].new_zeros(n, _shape(at, k)[0]) for k in dense}
    slopes, inputs = torch.func.jacrev(of, has_aux=True)(shifts)
    passed = []
    for layer in dense:
        x = inputs[layer.weight]
        x = x if layer.bias is None else torch.cat([x, x.new_ones(n, 1)], 1)
        passed.append(_Dense(x, slopes[layer.weight].transpose(0, 1)))
    return passed


# -- of the prior ------------------------------------------------------------------------------


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
