"""Where a distribution has its mass: supports as they are, not as torch declares them.

Validation is off while a density is computed, and then torch's log densities are right inside the
support alone: an exponential below zero has a finite, growing one. And what torch declares may be
too wide: an exponential shifted by `AffineTransform` is said to live on the whole line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import biject_to, transforms

from .sampling import base_of, with_base

# Share of the range of some values by which `violation` wants them inside of their support.
_MARGIN = 0.05
_LINE = (-math.inf, math.inf)
# The least distance of a value from a bound, where it is mapped onto the line.
_TINY = 1e-300


class Image(constraints.Constraint):
    """What increasing or decreasing functions make of an interval, element by element.

    Args:
        base: the interval.
        parts: the functions (torch's transforms), the first to be applied first.
    """

    def __init__(self, base: Any, parts: Sequence[transforms.Transform]):
        self.base, self.parts = base, list(parts)

    def back(self, value: Any) -> Any:
        """Values as they were before the functions."""
        for part in reversed(self.parts):
            value = part.inv(value)
        return value

    def check(self, value: Tensor) -> Tensor:
        return self.base.check(self.back(value))


biject_to.register(
    Image, lambda image: transforms.ComposeTransform([biject_to(image.base), *image.parts])
)


class _OntoPositiveDefinite(transforms.Transform):
    """From a vector to L L^T, whose factor L has the exponential of the vector on its diagonal.

    Volume: 2^d times the product of L[i, i]^(d + 1 - i) over i = 1..d (Muirhead 1982, Aspects of
    Multivariate Statistical Theory, theorem 2.1.9), and of another L[i, i] by the exponential.
    """

    domain = constraints.real_vector
    codomain = constraints.positive_definite
    bijective = True

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        size = (math.isqrt(8 * shape[-1] + 1) - 1) // 2
        return torch.Size([*shape[:-1], size, size])

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size([*shape[:-2], shape[-1] * (shape[-1] + 1) // 2])

    def _call(self, x: Tensor) -> Tensor:
        size = self.forward_shape(x.shape)[-1]
        row, column = torch.tril_indices(size, size)
        place = torch.full((size, size), len(row))  # of zero, in the upper triangle
        place[row, column] = torch.arange(len(row))
        factor = F.pad(x, (0, 1))[..., place]
        factor = factor.tril(-1) + factor.diagonal(dim1=-2, dim2=-1).exp().diag_embed()
        return factor @ factor.mT

    def _inverse(self, y: Tensor) -> Tensor:
        factor = torch.linalg.cholesky(y)
        factor = factor.tril(-1) + factor.diagonal(dim1=-2, dim2=-1).log().diag_embed()
        row, column = torch.tril_indices(y.shape[-1], y.shape[-1])
        return factor[..., row, column]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        size = y.shape[-1]
        ends = torch.arange(1, size + 1).cumsum(0) - 1  # of the rows of the lower triangle
        powers = torch.arange(size + 1, 1, -1).to(x)
        return size * math.log(2) + (powers * x[..., ends]).sum(-1)


biject_to.register(type(constraints.positive_definite), lambda _: _OntoPositiveDefinite())


class Union(constraints.Constraint):
    """What lies in the support of a mixture's component, or of another.

    Args:
        base: the supports of all components, the last of their dimensions.
    """

    def __init__(self, base: Any):
        self.base, self.is_discrete, self.event_dim = base, base.is_discrete, base.event_dim
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return self.base.check(value.unsqueeze(-1 - self.event_dim)).any(-1)


def shape_before(transform: transforms.Transform, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of what a transform maps to that shape; of scalars it is the same.

    Asked for it, torch's own affine transform imports sympy, a third of a second.
    """
    if not transform.codomain.event_dim:
        return tuple(shape)
    return tuple(transform.inverse_shape(torch.Size(shape)))


def elementwise(support: Any) -> Any:
    """The constraint on single elements, out of its `independent` wrappers; else itself."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def support_of(fn: Any) -> Any:
    """The support of a distribution; of a transformed one the image of its base's support.

    None where it states none, as an observed one need not.
    """
    if isinstance(fn, Supported):
        return fn.within
    try:
        base, declared = base_of(fn), fn.support
    except (NotImplementedError, AttributeError):
        return None
    if isinstance(base, dist.MixtureSameFamily):
        support = support_of(base.component_distribution)
        support = Union(support) if numbers(support) else support
    else:
        support = _elements(base)
        if not isinstance(support, Image):
            return declared
    more = declared.event_dim - support.event_dim
    return constraints.independent(support, more) if more > 0 else support


def _elements(fn: Any) -> Any:
    """The support of single elements; None where a function is not of single elements.

    Of what torch derives from the last transform alone it is an `Image`, unless each function has
    all of its domain for arguments.
    """
    base = base_of(fn)
    if type(base).support is not dist.TransformedDistribution.support:
        return elementwise(base.support)
    support = _elements(base.base_dist)
    for part in _plain(base.transforms):
        if support is None or part.bijective is False or part.domain.event_dim:
            return None
        if isinstance(support, Image):
            support = Image(support.base, [*support.parts, part])
        elif not numbers(support) and bounds_of(support) == bounds_of(part.domain):
            support = part.codomain
        else:
            support = Image(support, [part])
    return support


def _plain(parts: Sequence[transforms.Transform]) -> Iterator[transforms.Transform]:
    """The functions one by one, out of what composes them or says what an event is."""
    for part in parts:
        if isinstance(part, transforms.ComposeTransform):
            yield from _plain(part.parts)
        elif isinstance(part, transforms.IndependentTransform):
            yield from _plain([part.base_transform])
        else:
            yield part


def bounds_of(support: Any) -> tuple[Any, Any] | None:
    """The ends of an interval, numbers or tensors, infinite where there is none.

    None of supports of another kind.
    """
    if support is constraints.real:
        return _LINE
    low, high = (getattr(support, f"{end}_bound", None) for end in ("lower", "upper"))
    if low is None and high is None:
        return None
    return -math.inf if low is None else low, math.inf if high is None else high


# -- intervals of tensors ------------------------------------------------------------------------


class Between(constraints.Constraint):
    """Numbers from `lower_bound` to `upper_bound`, tensors whose elements may be infinite.

    Torch's own interval has two finite ends, the same kind of end for all elements.
    """

    def __init__(self, lower_bound: Tensor, upper_bound: Tensor):
        self.lower_bound, self.upper_bound = torch.broadcast_tensors(lower_bound, upper_bound)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return (value >= self.lower_bound) & (value <= self.upper_bound)


class _OntoBetween(transforms.Transform):
    """From the line to an interval: by a logistic function, an exponential one, or as it is.

    With both ends x -> low + (high - low) sigmoid(x), with one low + exp(x) or high - exp(-x),
    with none x itself; always increasing.

    Args:
        codomain: the interval; each element has its own map.
    """

    domain = constraints.real
    bijective = True

    def __init__(self, codomain: Between):
        super().__init__()
        self.codomain = codomain
        low, high = codomain.lower_bound, codomain.upper_bound
        self.has = low > -torch.inf, high < torch.inf
        self.low = torch.where(self.has[0], low, 0.0)
        self.high = torch.where(self.has[1], high, 0.0)

    def _choose(self, both: Tensor, above: Tensor, below: Tensor, free: Tensor) -> Tensor:
        """Of four values each element's, by which ends it has."""
        low, high = self.has
        one_end = torch.where(low, above, below)
        return torch.where(low & high, both, torch.where(low | high, one_end, free))

    def _call(self, x: Tensor) -> Tensor:
        both = self.low + (self.high - self.low) * x.sigmoid()
        return self._choose(both, self.low + x.exp(), self.high - (-x).exp(), x)

    def _inverse(self, y: Tensor) -> Tensor:
        above, below = (y - self.low).clamp(min=_TINY), (self.high - y).clamp(min=_TINY)
        return self._choose(above.log() - below.log(), above.log(), -below.log(), y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        width = torch.where(self.has[0] & self.has[1], self.high - self.low, 1.0)
        both = width.log() + F.logsigmoid(x) + F.logsigmoid(-x)
        return self._choose(both, x, -x, torch.zeros_like(x))


biject_to.register(Between, _OntoBetween)


def narrowed(support: Any, low: Tensor, high: Tensor) -> Any:
    """A support of single elements, an interval or the line, cut to an interval.

    Args:
        support: torch's constraint.
        low: the least value of each element, in the latent's shape; minus infinity leaves it.
        high: the greatest.
    """
    own_low, own_high = bounds_of(elementwise(support)) or _LINE
    between = Between(
        torch.maximum(torch.as_tensor(own_low).to(low), low),
        torch.minimum(torch.as_tensor(own_high).to(high), high),
    )
    return constraints.independent(between, support.event_dim) if support.event_dim else between


# -- supports that move ------------------------------------------------------------------------


def numbers(part: Any) -> list[Tensor]:
    """The tensors that a support is made of, which may depend on latents.

    Args:
        part: a constraint, a transform, a tensor, or a list of these; other values have none.
    """
    if isinstance(part, Tensor):
        return [part]
    if isinstance(part, list | tuple):
        return [tensor for inner in part for tensor in numbers(inner)]
    if isinstance(part, constraints.Constraint | transforms.Transform):
        return [t for k, v in sorted(vars(part).items()) if k != "_inv" for t in numbers(v)]
    return []


# -- outside -----------------------------------------------------------------------------------


class Within(dist.MaskedDistribution):
    """A distribution whose density is zero outside of its support, with validation off too.

    Args:
        fn: the distribution as torch has it.
    """

    def __init__(self, fn: Any):
        super().__init__(fn, True)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Within:
        return Within(self.base_dist.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        support = support_of(self.base_dist)
        inside = support.check(value)
        events = over_events(inside, self.event_dim)
        # At a value inside: a gradient that is no number spoils what is chosen by `where`.
        log_prob = self.base_dist.log_prob(torch.where(events, value, _inner(support, value)))
        return torch.where(inside, log_prob, -torch.inf)


class Supported(dist.MaskedDistribution):
    """A distribution that tells a support of ours in the place of its own.

    Args:
        fn: the distribution.
        support: the constraint that it tells.
    """

    def __init__(self, fn: Any, support: Any):
        super().__init__(fn, True)
        self.within = support

    @property
    def support(self) -> Any:
        return self.within


def over_events(mask: Tensor | bool, event_dim: int) -> Tensor:
    """A mask of a batch shape, with dimensions of size one for those of an event."""
    mask = torch.as_tensor(mask)
    return mask.reshape(mask.shape + (1,) * event_dim)


def within(fn: Any) -> Any:
    """The distribution with a density of zero outside its support, or its components' supports."""

    def change(base: Any) -> Any:
        if isinstance(base, dist.Uniform):
            return base  # torch's own is right
        if isinstance(base, dist.MixtureSameFamily):
            parts = base.mixture_distribution, within(base.component_distribution)
            return dist.MixtureSameFamily(*parts, validate_args=False)
        return Within(base)

    return with_base(fn, change)


def _inner(support: Any, like: Tensor) -> Tensor:
    """Values inside a support, of a shape that broadcasts with the given ones."""
    support = elementwise(support)
    try:
        return biject_to(support)(torch.zeros_like(like))
    except NotImplementedError:
        return torch.as_tensor(getattr(support, "lower_bound", 0)).to(like)


def outside(fn: Any, value: Tensor, key: str, missing: Tensor | bool = False) -> str | None:
    """The first value that a distribution cannot give, in words with its row; None: all inside.

    Args:
        fn: the distribution.
        value: the values.
        key: what they are called.
        missing: which of them are none.
    """
    support = support_of(fn)
    inside = torch.tensor(True) if support is None else support.check(value) | missing
    if inside.all():
        return None
    row = int(torch.nonzero(~inside)[0][0]) if inside.ndim else 0
    cell = value.reshape(inside.numel(), -1)[int(torch.nonzero(~inside.reshape(-1))[0])]
    if cell.numel() > 1:
        return f"{key} is {cell.tolist()} in row {row + 1}, outside the support"
    name = type(base_of(fn)).__name__
    return f"{key} is {cell.item():g} in row {row + 1}, outside the support of {name}"


def is_inside(fn: Any, value: Tensor) -> Tensor:
    """Whether all of a value lies in the support, ends included: draws are rounded onto them."""
    support = elementwise(support_of(fn))
    if isinstance(support, Image) or bounds_of(support) is not None:
        low, high = ends(fn)
        return ((value >= low) & (value <= high)).all()
    return support.check(value).all()


def ends(fn: Any) -> tuple[Tensor, Tensor]:
    """The least and the greatest value of single elements, infinite where there is none.

    Tensors that broadcast with the value of the distribution.
    """
    support = elementwise(support_of(fn))
    base = support.base if isinstance(support, Image) else support
    low, high = (torch.as_tensor(end) for end in bounds_of(base) or _LINE)
    for part in getattr(support, "parts", ()):
        low, high = part(low.to(torch.get_default_dtype())), part(high.to(low))
        if (torch.as_tensor(part.sign) < 0).all():
            low, high = high, low
    return low, high


def violation(fn: Any, value: Tensor) -> Tensor:
    """How far values are outside of an interval, or less than a margin inside.

    The sum of squares, relative to the range of the values, so that a descent of it ends inside;
    zero for supports of other kinds.

    Args:
        fn: the distribution, of single elements.
        value: of any shape that broadcasts with its ends.
    """
    low, high = ends(fn)
    sizes = [value.max() - value.min(), value.abs().max(), torch.ones(())]
    scale = next(size.detach() for size in sizes if size > 0)
    below, above = (low - value) / scale + _MARGIN, (value - high) / scale + _MARGIN
    return (below.clamp(min=0) ** 2).sum() + (above.clamp(min=0) ** 2).sum()
