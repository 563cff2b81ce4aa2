"""What a few runs tell of a model before anything is inferred: its sites, and which of them move.

A site *moves* where its support, or the value that is observed, depends on other latents.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from .discrete import Summed
from .edges import Bounds, limits
from .handlers import Start, StartRule, condition, graphless, run, start_by, start_value
from .sites import Site, role_of, sites_of
from .supports import alike, bounds_of, elementwise, ends, numbers, over_events, support_of
from .unseen import Unseen, under_mask, unseen

# Further runs that show which latents anything depends on: the labels and the width of each.
_RUNS = ((0, 1.0), (-1, 1.0), (1, 3.0), (2, 3.0), *[(None, 1.0), (None, 3.0)] * 2)


class Prototype:
    """A run of a model at starting values of its latents, and what further runs tell of it.

    Of many rows it takes seconds.

    Args:
        model: Pyro function.
        tensors: its data.
        rule: gives starting values of latents; None draws them uniformly (see `start_by`).

    Attributes:
        trace: the run.
        moving: site to what its support, or what is observed, depends on.
        unseen: the latents that stand for what was not seen.
        summed: the discrete latents summed out, once a way is proved (see `labels`).
    """

    def __init__(self, model: Callable, tensors: Mapping[str, Any], rule: StartRule | None):
        self._model, self._tensors, self._rule = model, tensors, rule
        self.trace = self._run()
        self.moving = self._moving()
        self.unseen = self._unseen()
        self.summed: Summed | None = None

    @property
    def params(self) -> list[str]:
        """Names of the model's own parameters (`pyro.param`)."""
        return [name for name, node in self.trace.nodes.items() if node["type"] == "param"]

    @property
    def has_factor(self) -> bool:
        """Whether the model has a `pyro.factor`, a likelihood without a distribution."""
        return any(isinstance(n.get("fn"), dist.Unit) for n in self.trace.nodes.values())

    @property
    def masked(self) -> set[str]:
        """The sites of which a mask takes away density that something depends on."""
        return under_mask(self.trace) - self.unseen.whole

    def _at(self, values: Mapping[str, Tensor]) -> poutine.Trace:
        """A run at values of the latents; others are drawn."""
        return run(self._model, self._tensors, condition(values))

    def _run(self, seed: int = 0, label: int | None = None, width: float = 1.0) -> poutine.Trace:
        """A run of the model, which leaves nothing behind.

        Args:
            seed: of all that is drawn.
            label: which of their values discrete latents take (see `Start`).
            width: how far out continuous latents start.
        """
        return graphless(lambda: self._run_at_start(seed, label, width))

    def _run_at_start(self, seed: int, label: int | None, width: float) -> poutine.Trace:
        with torch.random.fork_rng(devices=[]), poutine.block(), pyro.get_param_store().scope():
            torch.manual_seed(seed)
            start = partial(start_by, self._rule, width=width)
            return run(self._model, self._tensors, Start(start, label))

    def _moving(self) -> dict[str, str]:
        """The sites whose support, or observed value, is another at other values of the latents.

        Those that depend on discrete latents are told apart, by two runs that differ in them.
        """
        data, nodes = self._tensors.values(), self.trace.nodes
        doubtful = [name for name, node in nodes.items() if _may_move(node, data)]
        if not doubtful:
            return {}
        try:
            first, last = (self._run(seed=1, label=label).nodes for label in (0, -1))
            by_labels = {name for name in doubtful if _moved(first[name], last[name])}
            moving = {name for name in doubtful if _moved(nodes[name], first[name])}
        except Exception:  # a model that fails at some values of its latents, or has other sites
            by_labels, moving = set(), set(doubtful)
        return dict.fromkeys(moving, "latents") | dict.fromkeys(by_labels, "labels")

    def _unseen(self) -> Unseen:
        """The latents that lie under a mask."""
        sites = sites_of(self.trace, {}, {})
        latents = {k: v for k, v in sites.items() if v.role in ("latent", "discrete")}
        if not latents.keys() & under_mask(self.trace):
            return Unseen({}, frozenset())
        runs = [self.trace, *(self._run(seed + 1, *how) for seed, how in enumerate(_RUNS))]
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            return unseen(runs, latents, self._at, _another)

    def bounds(self) -> Bounds:
        """What the observations leave of the latents' supports, where these are intervals.

        Anew each time: data may be replaced in place.
        """
        nodes = self.trace.nodes.items()
        edges = [n for n, v in nodes if self.moving.get(n) == "latents" and v["is_observed"]]
        latents = [n for n, v in nodes if v["type"] == "sample" and _is_line(v)]
        if not edges or not latents:
            return {}

        def slack(values: Mapping[str, Tensor]) -> Tensor:
            seen = self._at(values).nodes
            return torch.cat([_slack(seen[name]) for name in edges])

        runs = [self.trace, *(self._run(seed=seed, label=0) for seed in (1, 2))]
        try:
            return limits(slack, [{n: trace.nodes[n]["value"] for n in latents} for trace in runs])
        except Exception:  # no bounds are known of a model that has no such slopes
            return {}

    def sites(self, bounds: Bounds) -> dict[str, Site]:
        """The sites by name, latents with the supports that these bounds leave them."""
        sites = sites_of(self.trace, self.moving, bounds)
        return sites | {k: replace(sites[k], role="unseen") for k in self.unseen.later}


def _another(node: Mapping[str, Any]) -> Tensor:
    """Another value of a latent, drawn at random."""
    if node["fn"].support.is_discrete:
        return node["fn"].sample()
    return start_value(node)


def _may_move(node: Mapping[str, Any], data: Collection[Any]) -> bool:
    """Whether a site's support, or the value that is observed, can depend on latents at all.

    Not where the support has no numbers, and the value is one of the data.
    """
    if node["type"] != "sample" or isinstance(node["fn"], _Subsample | dist.Unit):
        return False
    role = role_of(node)
    if role not in ("latent", "observed"):
        return False
    given = role == "latent" or any(node["value"] is value for value in data)
    return not given or bool(_support_numbers(node))


def _support_numbers(node: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that a site's support is made of."""
    return numbers(support_of(node["fn"]))


def _moved(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether a site's support, or what is observed, differs between two runs."""
    same = alike(_support_numbers(first), _support_numbers(second))
    return not same or (first["is_observed"] and not alike(first["value"], second["value"]))


def _is_line(node: Mapping[str, Any]) -> bool:
    """Whether a site is a latent whose elements lie on the line, or on a part of it."""
    if isinstance(node["fn"], _Subsample | dist.Unit) or role_of(node) != "latent":
        return False
    return bounds_of(elementwise(support_of(node["fn"]))) is not None


def _slack(node: Mapping[str, Any]) -> Tensor:
    """By how much each observed element is inside of its support, above and below, flat.

    Negative outside, infinite where a mask takes the element out of the density.
    """
    value, fn = torch.as_tensor(node["value"]), node["fn"]
    low, high = ends(fn)
    both = torch.stack(torch.broadcast_tensors(value - low, high - value))
    for mask in [m for m in (node["mask"], getattr(fn, "_mask", None)) if isinstance(m, Tensor)]:
        both = torch.where(over_events(mask, fn.event_dim), both, torch.inf)
    return both.flatten()
