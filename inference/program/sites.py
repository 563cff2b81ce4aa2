"""Sample sites: what is static about each, read from one run of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from torch.distributions import biject_to

from .edges import narrowed
from .sampling import base_of
from .supports import support_of


class Plate(NamedTuple):
    """A vectorised plate around a site; `dim` counts from the right of the batch shape."""

    name: str
    dim: int
    size: int


@dataclass(frozen=True)
class Site:
    """What is static about a sample site.

    `support` is that of a latent as far as the data leave it, at the start where it moves. `moves`
    says of a latent's or observed site whether its support (or the value that is observed) depends
    on other latents, and on `labels`, discrete ones. `seen` tells of an observed value which of
    its elements count; None where all do.
    """

    name: str
    role: Literal["latent", "discrete", "observed", "deterministic", "unseen"]
    fn: Any
    shape: tuple[int, ...]
    event_dim: int
    plates: tuple[Plate, ...]
    value: Tensor
    seen: Tensor | None = None
    support: Any = None
    moves: Literal["latents", "labels"] | None = None

    @property
    def unconstrained_shape(self) -> tuple[int, ...]:
        """Shape of the site's part of the unconstrained vector."""
        return tuple(biject_to(self.support).inverse_shape(self.shape))

    @property
    def data(self) -> Tensor:
        """What is observed: its value, NaN where a mask takes it out of the density."""
        if self.seen is None:
            return self.value
        return self.value.to(torch.get_default_dtype()).where(self.seen, torch.nan)

    @property
    def base(self) -> Any:
        """The distribution without `to_event`, `expand` and `mask` around it."""
        return base_of(self.fn)


def batch_shape(site: Site) -> tuple[int, ...]:
    """Shape of a site's value without its event dimensions."""
    return site.shape[: len(site.shape) - site.event_dim]


def sites_of(
    trace: poutine.Trace, moving: Mapping[str, str], bounds: Mapping[str, tuple[Tensor, Tensor]]
) -> dict[str, Site]:
    """The sample sites of a run by name, in the order of the model.

    Args:
        trace: the run.
        moving: site to what its support, or what is observed, depends on.
        bounds: latent to the least and greatest values that the observations leave it.
    """
    sites = {}
    for name, node in trace.nodes.items():
        if node["type"] != "sample" or isinstance(node["fn"], _Subsample):
            continue
        if isinstance(node["fn"], dist.Unit):  # pyro.factor: a term of the density, no quantity
            continue
        frames = [f for f in node["cond_indep_stack"] if f.vectorized]
        sites[name] = Site(
            name=name,
            role=role_of(node),
            fn=node["fn"],
            shape=tuple(node["value"].shape),
            # `pyro.deterministic` calls every dimension an event; its plates know better.
            event_dim=0 if is_deterministic(node) else getattr(node["fn"], "event_dim", 0),
            plates=tuple(Plate(f.name, f.dim, int(f.size)) for f in sorted(frames, key=_by_dim)),
            value=node["value"],
            seen=_seen(node) if node["is_observed"] else None,
            support=support_within(node, bounds) if role_of(node) == "latent" else None,
            moves=moving.get(name),
        )
    return sites


def _seen(node: Mapping[str, Any]) -> Tensor | None:
    """Which elements of an observed value no mask takes out of the density; None: all of them."""
    value, fn = node["value"], node["fn"]
    masks = [(node["mask"], getattr(fn, "event_dim", 0))]
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        masks += [(fn._mask, fn.event_dim)] if isinstance(fn, dist.MaskedDistribution) else []
        fn = fn.base_dist
    seen = torch.ones_like(value, dtype=torch.bool)
    for mask, event_dim in masks:
        if mask is not None:
            mask = torch.as_tensor(mask)
            seen = seen & mask.reshape(mask.shape + (1,) * event_dim)
    return None if seen.shape != value.shape or seen.all() else seen


def _by_dim(frame: Any) -> int:
    return frame.dim


def support_within(site: Mapping[str, Any], bounds: Mapping[str, tuple[Tensor, Tensor]]) -> Any:
    """The support of a latent (a Pyro message), as far as the data leave it."""
    support = support_of(site["fn"])
    return narrowed(support, *bounds[site["name"]]) if site["name"] in bounds else support


def role_of(node: Mapping[str, Any]) -> str:
    """What a site of a trace is (see `Site`), but for latents that stand for the unseen."""
    if is_deterministic(node):
        return "deterministic"
    if node["is_observed"]:
        return "observed"
    return "discrete" if node["fn"].support.is_discrete else "latent"


def is_deterministic(msg: Mapping[str, Any]) -> bool:
    """Whether a site reports a number (`pyro.deterministic`, `Delta`) rather than draws one."""
    return bool(msg["infer"].get("_deterministic")) or isinstance(base_of(msg["fn"]), dist.Delta)
