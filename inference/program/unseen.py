"""Latents under a mask: what a model has in the place of observations that are not there.

`pyro.sample(..., obs=y, obs_mask=seen)` gives the missing values a latent of the whole shape,
which has no density where the value is seen. As coordinates of the density such entries are flat,
and no sampler can settle in them. If nothing else depends on the latent, it is left out of the
density and drawn from its distribution afterwards; if something does (a covariate that is missing
in some rows), the entries that are seen, which nothing looks at, get the density of the others.
Neither changes the distribution of anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from .handlers import OnSites, factors
from .supports import over_events


class Unseen(NamedTuple):
    """Latents under a mask.

    Attributes:
        later: those that nothing depends on, with a value that they have meanwhile.
        whole: those whose masked entries nothing depends on, and whose mask is taken away.
    """

    later: Mapping[str, Tensor]
    whole: frozenset[str]

    def without(self, model: Callable) -> Callable:
        """The model whose density has these latents no more, or whole."""
        names = {*self.later, *self.whole}
        return OnSites(names, self._set_aside)(model) if names else model

    def _set_aside(self, msg: Mapping[str, Any]) -> dict[str, Any]:
        """A fixed value without a density, or a density in all entries."""
        if msg["name"] in self.whole:
            return {"mask": None}
        value = self.later[msg["name"]]
        shape = msg["fn"].shape()[-value.ndim :]  # of a batch of rows, beside labels' values
        value = value[tuple(slice(n) for n in shape)] if value.ndim else value
        return {"value": value, "is_observed": True, "mask": False}


def unseen(
    runs: Sequence[poutine.Trace],
    latents: Mapping[str, Any],
    rerun: Callable[[Mapping[str, Tensor]], poutine.Trace],
    fresh: Callable[[Mapping[str, Any]], Tensor],
) -> Unseen:
    """The latents of a model that lie under a mask and need another treatment.

    Args:
        runs: of the model; a latent may matter at some values of the others alone.
        latents: its latents by name.
        rerun: a run of the model in which all latents have given values.
        fresh: another value of a latent, given its node.
    """
    later, whole = {}, set()
    points = [{name: trace.nodes[name]["value"] for name in latents} for trace in runs]
    before = [factors(trace) for trace in runs]

    def matters(name: str, changes: Sequence[Tensor]) -> bool:
        """Whether another value of a latent changes the density of any other site in a run."""
        changed = ({**point, name: value} for point, value in zip(points, changes))
        pairs = zip(before, changed)
        return any(_differ(scored, factors(rerun(point)), name) for scored, point in pairs)

    for name in (k for k in latents if k in under_mask(runs[0])):
        nodes = [trace.nodes[name] for trace in runs]
        changes = [fresh(node) for node in nodes]
        if not matters(name, changes):
            later[name] = nodes[0]["value"]
            continue
        changes = [torch.where(_masked(n), new, n["value"]) for n, new in zip(nodes, changes)]
        if not matters(name, changes):
            whole.add(name)
    return Unseen(later, frozenset(whole))


def _masked(node: Mapping[str, Any]) -> Tensor:
    """Which elements of a latent a mask takes out of the density."""
    return ~over_events(node["mask"], node["fn"].event_dim)


def under_mask(trace: poutine.Trace) -> set[str]:
    """The sites of which a mask takes away (part of) the density."""
    nodes = ((k, node.get("mask")) for k, node in trace.nodes.items() if node["type"] == "sample")
    return {k for k, mask in nodes if mask is not None and not torch.as_tensor(mask).all()}


def _differ(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]], name: str
) -> bool:
    """Whether the density of a site other than the named one differs between two runs."""
    pairs = [(before[k]["log_prob"], after[k]["log_prob"]) for k in before.keys() - {name}]
    return not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)
