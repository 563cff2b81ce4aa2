"""Predictors of the observed distributions, and models made linear in their latents.

The predictor of a distribution, as in generalised linear models, is the vector of its parameters
that a network gives, unbounded: logits; a location and the log of a scale. Where it is linear in
the weights, a Gaussian of the weights is one of the predictor.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from models.contract import Refused

from .handlers import OnSites, condition, run
from .sampling import base_of, with_base
from .sites import Tensors, Trace, Values, is_site


class _Family(NamedTuple):
    """A distribution as a function of its predictor.

    Attributes:
        predictor: of a distribution, (*shape, k).
        made: the distribution of a predictor.
        root: R of a predictor, (*shape, k, k); R R^T is the Fisher information in it.
    """

    predictor: Callable[[Any], Tensor]
    made: Callable[[Tensor], Any]
    root: Callable[[Tensor], Tensor]


def _root_of_logits(logits: Tensor) -> Tensor:
    """diag(p) - p p^T = R R^T with R = diag(sqrt p) - p sqrt(p)^T."""
    p = logits.softmax(-1)
    return p.sqrt().diag_embed() - p[..., :, None] * p.sqrt()[..., None, :]


def _root_of_normal(predictor: Tensor) -> Tensor:
    """The Fisher information in (loc, log scale) is diag(1 / scale^2, 2)."""
    of_loc = (-predictor[..., 1]).exp()
    return torch.stack([of_loc, torch.full_like(of_loc, 2**0.5)], -1).diag_embed()


_FAMILIES: dict[type, _Family] = {
    dist.Categorical: _Family(
        lambda fn: fn.logits, lambda f: dist.Categorical(logits=f), _root_of_logits
    ),
    dist.Bernoulli: _Family(
        lambda fn: fn.logits[..., None],
        lambda f: dist.Bernoulli(logits=f[..., 0]),
        lambda f: (f.sigmoid() * (-f).sigmoid()).sqrt()[..., None],
    ),
    dist.Normal: _Family(
        lambda fn: torch.stack([fn.loc, fn.scale.log()], -1),
        lambda f: dist.Normal(f[..., 0], f[..., 1].exp()),
        _root_of_normal,
    ),
}


def has_predictor(fn: Any) -> bool:
    """Whether the predictor of a distribution is known."""
    return type(base_of(fn)) in _FAMILIES


def predictor(fn: Any) -> Tensor:
    """The predictor of a distribution: logits; loc and log scale of a normal one. (*shape, k)."""
    base = base_of(fn)
    values = _FAMILIES[type(base)].predictor(base)
    shape = fn.shape()[: len(fn.shape()) - len(base.event_shape)]
    return values.expand(*shape, values.shape[-1])


def with_predictor(fn: Any, values: Tensor) -> Any:
    """A distribution like `fn`, with another predictor (*shape, k)."""
    return with_base(fn, lambda base: _FAMILIES[type(base)].made(values))


def fisher_root(fn: Any, values: Tensor) -> Tensor:
    """R (*shape, k, k) with R R^T the Fisher information of `fn` in its predictor (*shape, k)."""
    return _FAMILIES[type(base_of(fn))].root(values)


# -- linear in the latents ---------------------------------------------------------------------


def linearised(model: Callable, at: Values) -> Callable:
    """The model with its predictors linear in the latents: f(x, w*) + J(x) (w - w*).

    Immer, Korzepa and Bauer (2021), arXiv:2008.08646, eq. 7. To handlers it is a model like any
    other: its latents w are drawn, or given, as ever.

    Args:
        model: a Pyro function whose latents are all in `at`, and in no plate.
        at: latent to value, w*.
    """

    def at_point(values: Values, tensors: Tensors) -> Trace:
        """A run that no handler outside hears of."""
        with poutine.block():
            return run(model, tensors, condition(values))

    def linearised_model(**tensors: Any) -> None:
        prototype = at_point(at, tensors)
        drawn = {k: pyro.sample(k, prototype.nodes[k]["fn"]) for k in at}
        others = [(k, n) for k, n in prototype.nodes.items() if is_site(n) and k not in at]
        observed = [name for name, node in others if has_predictor(node["fn"])]

        def of(values: Values) -> dict[str, Tensor]:
            nodes = at_point(values, tensors).nodes
            return {name: predictor(nodes[name]["fn"]) for name in observed}

        moved = {name: drawn[name] - value for name, value in at.items()}
        values, slopes, *_ = torch.func.jvp(of, (dict(at),), (moved,))
        linear = {name: values[name] + slopes[name] for name in observed}
        changed = OnSites(linear, lambda m: {"fn": with_predictor(m["fn"], linear[m["name"]])})
        poutine.block(condition(at)(changed(model)), hide=list(at))(**tensors)

    return linearised_model


def check_predictors(sites: Mapping[str, Any]) -> None:
    """Refuse observations whose predictors are not known.

    Args:
        sites: observed site to its distribution.

    Raises:
        Refused: naming the site and its distribution.
    """
    for name, fn in sites.items():
        if not has_predictor(fn):
            known = ", ".join(family.__name__ for family in _FAMILIES)
            raise Refused(
                f"laplace of a network is for observations that are {known}, and {name} is "
                f"{type(base_of(fn)).__name__}; use svi or nuts"
            )
