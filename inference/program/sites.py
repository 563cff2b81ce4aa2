"""Sample sites: what is static about each, read from one run of the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal, NamedTuple, Protocol

import pyro.distributions as dist
import torch
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from .sampling import base_of, masks_of
from .supports import narrowed, over_events, support_of

# Data key to tensor or number; site to its value; a sample site as Pyro's handlers see it.
Tensors = Mapping[str, Any]
Values = Mapping[str, Tensor]
Message = Mapping[str, Any]
# Latent to the least and greatest values that the observations leave it, in its shape.
Bounds = Mapping[str, tuple[Tensor, Tensor]]
Role = Literal["latent", "discrete", "observed", "deterministic", "unseen"]


class Trace(Protocol):
    """A traced run of a model, as Pyro gives it.

    Attributes:
        nodes: what the run met by name, a sample site as its message.
    """

    nodes: dict[str, dict[str, Any]]

    def compute_log_prob(self) -> None:
        """Add its log density to each sample site."""


class Plate(NamedTuple):
    """A vectorised plate around a site.

    Attributes:
        name: its name in the model.
        dim: its dimension, counted from the right of the batch shape: -1, -2, ...
        size: its number of elements.
    """

    name: str
    dim: int
    size: int


@dataclass(frozen=True)
class Site:
    """What is static about a sample site.

    Attributes:
        name: its name in the model.
        role: what it is; an `unseen` latent stands for what was not observed.
        fn: its distribution in one run.
        shape: of its value, (*batch_shape, *event_shape).
        event_dim: number of dimensions of an event, the last ones of `shape`.
        plates: around it, the outermost (of the most negative `dim`) first.
        value: in that run; what is observed.
        seen: which elements of an observed value count, in its shape; None where all do.
        support: of a latent, as far as the data leave it; in that run, where it moves.
        moves: what the support, or the value that is observed, depends on: `latents`, on discrete
            ones `labels`; None where it is the same at all their values.
    """

    name: str
    role: Role
    fn: Any
    shape: tuple[int, ...]
    event_dim: int
    plates: tuple[Plate, ...]
    value: Tensor
    seen: Tensor | None = None
    support: Any = None
    moves: str | None = None

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the value without its event dimensions."""
        return self.shape[: len(self.shape) - self.event_dim]

    @property
    def choices(self) -> Tensor:
        """The values that a discrete latent can have, (k, *event_shape)."""
        return self.fn.enumerate_support(expand=False).reshape(-1, *self.fn.event_shape)

    def everywhere(self, which: Tensor) -> Tensor:
        """The k-th of the choices in all elements of the plates, for each k (n,); (n, *shape)."""
        values, ones = self.choices[which], (1,) * len(self.batch_shape)
        return values.reshape(len(which), *ones, *self.fn.event_shape).expand(-1, *self.shape)

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

    def dim_of(self, plate: str) -> int | None:
        """The dimension that a plate has in the site's value; None outside of the plate."""
        dims = (own.dim - self.event_dim for own in self.plates if own.name == plate)
        return next(dims, None)

    def is_in(self, plate: str) -> bool:
        """Whether the site stands in the plate of that name."""
        return any(own.name == plate for own in self.plates)


def batch_shape(site: Site) -> tuple[int, ...]:
    """Shape of a site's value without its event dimensions."""
    return site.batch_shape


def split(flat: Tensor, like: Values) -> dict[str, Tensor]:
    """A vector (d,) as the values whose elements it has one after the other, in their shapes."""
    parts = zip(like.items(), flat.split([value.numel() for value in like.values()]))
    return {name: part.view(value.shape) for (name, value), part in parts}


def sites_of(trace: Trace, moving: Mapping[str, str], bounds: Bounds) -> dict[str, Site]:
    """The sample sites of a run by name, in the order of the model.

    Args:
        trace: the run.
        moving: site to what its support, or what is observed, depends on.
        bounds: latent to the least and greatest values that the observations leave it.
    """
    sites = {}
    for name, node in trace.nodes.items():
        if not is_site(node):
            continue
        frames = (f for f in node["cond_indep_stack"] if f.vectorized)
        plates = (Plate(f.name, f.dim, int(f.size)) for f in frames)
        sites[name] = Site(
            name=name,
            role=role_of(node),
            fn=node["fn"],
            shape=tuple(node["value"].shape),
            # `pyro.deterministic` calls every dimension an event; its plates know better.
            event_dim=0 if is_deterministic(node) else getattr(node["fn"], "event_dim", 0),
            plates=tuple(sorted(plates, key=attrgetter("dim"))),
            value=node["value"],
            seen=_seen(node) if node["is_observed"] else None,
            support=support_within(node, bounds) if role_of(node) == "latent" else None,
            moves=moving.get(name),
        )
    return sites


def _seen(node: Message) -> Tensor | None:
    """Which elements of an observed value no mask takes out of the density; None: all of them."""
    value, fn = node["value"], node["fn"]
    masks = [(node["mask"], getattr(fn, "event_dim", 0))]
    masks += [(layer._mask, layer.event_dim) for layer in masks_of(fn)]
    seen = torch.ones_like(value, dtype=torch.bool)
    for mask, event_dim in masks:
        if mask is not None:
            seen = seen & over_events(mask, event_dim)
    return None if seen.shape != value.shape or seen.all() else seen


def support_within(site: Message, bounds: Bounds) -> Any:
    """The support of a latent (a Pyro message), as far as the data leave it."""
    support = support_of(site["fn"])
    return narrowed(support, *bounds[site["name"]]) if site["name"] in bounds else support


def is_site(node: Message) -> bool:
    """Whether a node of a trace is a sample site: no plate, and no `pyro.factor`, a mere term."""
    return node["type"] == "sample" and not isinstance(node["fn"], _Subsample | dist.Unit)


def role_of(node: Message) -> Role:
    """What a site of a trace is (see `Site`), but for latents that stand for the unseen."""
    if is_deterministic(node):
        return "deterministic"
    if node["is_observed"]:
        return "observed"
    return "discrete" if node["fn"].support.is_discrete else "latent"


def is_deterministic(msg: Message) -> bool:
    """Whether a site reports a number (`pyro.deterministic`, `Delta`) rather than draws one."""
    return bool(msg["infer"].get("_deterministic")) or isinstance(base_of(msg["fn"]), dist.Delta)
