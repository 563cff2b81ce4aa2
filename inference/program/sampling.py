"""Sampling that `torch.func.vmap` can batch, and a density that it batches well.

Some of torch's samplers fill a tensor in place or go through an autograd function, which vmap
cannot batch; those of the common distributions are written here out of place. The distributions
are the same, and so are the gradients (implicit ones for the gamma family).
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch.distributions.gamma import _standard_gamma
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

# Elements of a batched evaluation over draws that are held in memory at once.
_CHUNK_ELEMENTS = 10_000_000
# What vmap raises for a model that it cannot batch; such a model runs draw by draw.
NOT_VECTORISED = (RuntimeError, ValueError, NotImplementedError, TypeError)
# Log odds above which exp overflows in single precision; softplus(x) is x there.
_LARGE = 80.0


class Sampling(Messenger):
    """Draws every site that no other handler has given a value, in the run's number type.

    A prior that was made before the run began may have parameters of another one.
    """

    def _pyro_sample(self, msg: dict) -> None:
        if msg["value"] is None and not msg["done"] and _is_known(msg["fn"]):
            msg["value"] = _as_in_the_run(_sample(msg["fn"]))
            msg["done"] = True

    def _pyro_post_sample(self, msg: dict) -> None:
        if not msg["is_observed"]:
            msg["value"] = _as_in_the_run(msg["value"])


def _as_in_the_run(value: Tensor) -> Tensor:
    """A value in the run's number type; whole numbers as they are."""
    return value.to(torch.get_default_dtype()) if value.is_floating_point() else value


def layers_of(fn: dist.TorchDistribution) -> Iterator[dist.TorchDistribution]:
    """A distribution and those inside of its `to_event`, `expand` and `mask`, the base last."""
    yield fn
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        fn = fn.base_dist
        yield fn


def base_of(fn: dist.TorchDistribution) -> dist.TorchDistribution:
    """A distribution without `to_event`, `expand` and `mask` around it."""
    *_, base = layers_of(fn)
    return base


def masks_of(fn: dist.TorchDistribution) -> list[dist.MaskedDistribution]:
    """The masks around a distribution, the outermost first."""
    return [layer for layer in layers_of(fn) if isinstance(layer, dist.MaskedDistribution)]


def with_base(fn: dist.TorchDistribution, change: Callable[[Any], Any]) -> Any:
    """A distribution whose base is another, in the same `to_event`, `expand` and `mask`.

    Args:
        fn: the distribution.
        change: gives the other base; where it has the expanded shape already, that stays.
    """
    if isinstance(fn, dist.Independent):
        return with_base(fn.base_dist, change).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.MaskedDistribution):
        return dist.MaskedDistribution(with_base(fn.base_dist, change), fn._mask)
    if isinstance(fn, dist.ExpandedDistribution):
        inner = with_base(fn.base_dist, change)
        return inner if inner.batch_shape == fn.batch_shape else inner.expand(fn.batch_shape)
    return change(fn)


def shape_of(fn: dist.TorchDistribution, value: Tensor) -> tuple[int, ...]:
    """The shape that a distribution gives its values; that of the value where it states none."""
    return tuple(fn.shape()) if hasattr(fn, "shape") else tuple(value.shape)


def _is_known(fn: dist.TorchDistribution) -> bool:
    """Whether there is a sampler here for a distribution, or for that which it transforms."""
    base = base_of(fn)
    if type(base) is dist.TransformedDistribution:
        return _is_known(base.base_dist)
    return type(base) in _SAMPLERS


def is_improper(fn: dist.TorchDistribution) -> bool:
    """Whether a prior cannot be sampled: a flat one, or one whose density a mask takes away."""
    outermost = (torch.as_tensor(layer._mask) for layer in masks_of(fn)[:1])
    return isinstance(base_of(fn), dist.ImproperUniform) or any(not m.all() for m in outermost)


def _sample(fn: dist.TorchDistribution) -> Tensor:
    """A draw, (*batch_shape, *event_shape), differentiable in the distribution's parameters."""
    base = base_of(fn)
    # Wrappers only add batch dimensions on the left or rename them: their shape is the wanted one.
    shape = fn.shape()[: len(fn.shape()) - len(base.event_shape)]
    return _SAMPLERS[type(base)](base, shape)


def _normal(fn: dist.Normal, shape: torch.Size) -> Tensor:
    return fn.loc + fn.scale * torch.randn(shape, dtype=fn.loc.dtype, device=fn.loc.device)


def _multivariate_normal(fn: dist.MultivariateNormal, shape: torch.Size) -> Tensor:
    noise = torch.randn(shape + fn.event_shape, dtype=fn.loc.dtype, device=fn.loc.device)
    return fn.loc + (fn._unbroadcasted_scale_tril @ noise[..., None])[..., 0]


def _gamma(concentration: Tensor, shape: torch.Size) -> Tensor:
    """Of scale one, with implicit gradients in the concentration; never zero."""
    drawn = _standard_gamma(concentration.expand(shape))
    return drawn.clamp_min(torch.finfo(drawn.dtype).tiny)


def _beta(fn: dist.Beta, shape: torch.Size) -> Tensor:
    ones, zeros = _gamma(fn.concentration1, shape), _gamma(fn.concentration0, shape)
    return ones / (ones + zeros)


def _dirichlet(fn: dist.Dirichlet, shape: torch.Size) -> Tensor:
    parts = _gamma(fn.concentration, shape + fn.event_shape)
    return parts / parts.sum(-1, keepdim=True)


def _exponential(fn: dist.Exponential, shape: torch.Size) -> Tensor:
    return -torch.log1p(-_uniform(fn.rate, shape)) / fn.rate


def _binomial(fn: dist.Binomial, shape: torch.Size) -> Tensor:
    # Counts of the batched kind: torch would resize a result that has the shape of fixed counts.
    probs = fn.probs.expand(shape)
    return torch.binomial(fn.total_count + 0 * probs, probs)


def _cauchy(fn: dist.Cauchy, shape: torch.Size) -> Tensor:
    return fn.loc + fn.scale * torch.tan(torch.pi * (_uniform(fn.loc, shape) - 0.5))


def _student(fn: dist.StudentT, shape: torch.Size) -> Tensor:
    noise = torch.randn(shape, dtype=fn.loc.dtype, device=fn.loc.device)
    return fn.loc + fn.scale * noise * (0.5 * fn.df / _gamma(0.5 * fn.df, shape)).sqrt()


def _uniform(like: Tensor, shape: torch.Size) -> Tensor:
    return torch.rand(shape, dtype=like.dtype, device=like.device)


def _half_normal(fn: dist.HalfNormal, shape: torch.Size) -> Tensor:
    return fn.scale * torch.randn(shape, dtype=fn.scale.dtype, device=fn.scale.device).abs()


def _half_cauchy(fn: dist.HalfCauchy, shape: torch.Size) -> Tensor:
    return fn.scale * torch.tan(0.5 * torch.pi * _uniform(fn.scale, shape))


def _log_normal(fn: dist.LogNormal, shape: torch.Size) -> Tensor:
    return _normal(fn, shape).exp()


def _transformed(fn: dist.TransformedDistribution, shape: torch.Size) -> Tensor:
    value = _sample(fn.base_dist if shape == fn.batch_shape else fn.base_dist.expand(shape))
    for transform in fn.transforms:
        value = transform(value)
    return value


_SAMPLERS: dict[type, Callable[..., Tensor]] = {
    dist.Normal: _normal,
    dist.MultivariateNormal: _multivariate_normal,
    dist.Beta: _beta,
    dist.Dirichlet: _dirichlet,
    dist.Exponential: _exponential,
    dist.Binomial: _binomial,
    dist.Cauchy: _cauchy,
    dist.StudentT: _student,
    dist.HalfNormal: _half_normal,
    dist.HalfCauchy: _half_cauchy,
    dist.LogNormal: _log_normal,
    dist.TransformedDistribution: _transformed,
}


def vectorises(function: Callable[[Any], Any], draws: Mapping[str, Tensor]) -> bool:
    """Whether a function of one draw can be computed at all draws (S, *shape) together."""
    try:
        _batched(function, draws)
    except NOT_VECTORISED:
        return False
    return True


def over_draws(function: Callable[[Any], Any], draws: Any, size: int = 1) -> Any:
    """A function of one draw at all draws, vectorised where the model allows.

    `torch.func.vmap` shows the model shapes without the draw dimension, so that models need not
    broadcast; what it cannot do (a branch on a value, some samplers) is done draw by draw.

    Args:
        function: of the same tree as `draws`, without their first dimension; gives a tensor, or a
            tree of tensors.
        draws: a tensor, or a tree of tensors (name to tensor), the draws first: (S, *shape).
        size: elements that one evaluation holds, to bound the memory of a chunk.

    Returns:
        What the function gives, with the draws first.
    """
    n = len(tree_leaves(draws)[0])
    try:
        return _batched(function, draws, max(1, min(n, _CHUNK_ELEMENTS // max(size, 1))))
    except NOT_VECTORISED:
        with torch.no_grad():
            each = [function(tree_map(itemgetter(i), draws)) for i in range(n)]
    return tree_map(lambda *values: torch.stack(values), *each)


def _batched(function: Callable[[Any], Any], draws: Any, chunk: int | None = None) -> Any:
    """A function of one draw at all draws, so many of them at once."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        return torch.func.vmap(function, randomness="different", chunk_size=chunk)(draws)


class QuickBernoulli(TorchFunctionMode):
    """While it is on, the log probability of b, 0 or 1, at log odds l costs softplus(l) - l b.

    Where `torch.func.vmap` batches it: of torch's single operation it makes 25, four times as slow
    (10 x 100 x 784 of them). Elsewhere torch's own is as fast, and stays.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        kwargs = kwargs or {}
        if function is F.binary_cross_entropy_with_logits and any(map(is_batchedtensor, args)):
            given = {name: value for name, value in kwargs.items() if value is not None}
            if given == {"reduction": "none"}:  # each element is wanted, no weights are given
                logits, value = args
                return F.softplus(logits, threshold=_LARGE) - logits * value
        return function(*args, **kwargs)
