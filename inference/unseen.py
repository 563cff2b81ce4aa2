"""Latents under a mask: what a model has in the place of observations that are not there.

`pyro.sample(..., obs=y, obs_mask=seen)` gives the missing values a latent of the whole shape,
which has no density where the value is seen. As coordinates of the density such entries are flat,
and no sampler can settle in them. If nothing else depends on the latent, it is left out of the
density and drawn from its distribution afterwards; if something does (a covariate that is missing
in some rows), the entries that are seen, which nothing looks at, get the density of the others.
Neither changes the distribution of anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from . import discrete

# Changes of a latent by which it is seen whether anything depends on it.
_CHANGES = 3


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
        return _Aside(self)(model) if self.later or self.whole else model


class _Aside(Messenger):
    """Gives latents a fixed value and no density, or a density in all their entries."""

    def __init__(self, unseen: Unseen):
        super().__init__()
        self.unseen = unseen

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] in self.unseen.later:
            value = self.unseen.later[msg["name"]]
            value = value[tuple(slice(n) for n in msg["fn"].shape())]  # of a batch of rows
            msg.update(value=value, is_observed=True, done=True, mask=False)
        elif msg["name"] in self.unseen.whole:
            msg["mask"] = None


def unseen(
    trace: poutine.Trace,
    latents: Mapping[str, Any],
    rerun: Callable[[Mapping[str, Tensor]], poutine.Trace],
    fresh: Callable[[Mapping[str, Any]], Tensor],
) -> Unseen:
    """The latents of a model that lie under a mask and need another treatment.

    Args:
        trace: a run of the model.
        latents: its latents by name.
        rerun: a run of the model in which all latents have given values.
        fresh: another value of a latent, given its node.
    """
    later, whole = {}, set()
    values = {name: trace.nodes[name]["value"] for name in latents}
    for name in latents:
        node = trace.nodes[name]
        if name not in under_mask(trace):
            continue
        mask = torch.as_tensor(node["mask"])
        masked = ~mask.reshape(mask.shape + (1,) * node["fn"].event_dim)
        changes = [fresh(node) for _ in range(_CHANGES)]
        if not any(_matters(trace, rerun, values, name, value) for value in changes):
            later[name] = node["value"]
            continue
        changes = [torch.where(masked, value, node["value"]) for value in changes]
        if not any(_matters(trace, rerun, values, name, value) for value in changes):
            whole.add(name)
    return Unseen(later, frozenset(whole))


def under_mask(trace: poutine.Trace) -> set[str]:
    """The sites of which a mask takes away (part of) the density."""
    nodes = ((k, node.get("mask")) for k, node in trace.nodes.items() if node["type"] == "sample")
    return {k for k, mask in nodes if mask is not None and not torch.as_tensor(mask).all()}


def _matters(
    trace: poutine.Trace,
    rerun: Callable[[Mapping[str, Tensor]], poutine.Trace],
    values: Mapping[str, Tensor],
    name: str,
    value: Tensor,
) -> bool:
    """Whether another value of a latent changes the density of any other site."""
    before = discrete.factors(trace)
    after = discrete.factors(rerun({**values, name: value}))
    others = before.keys() - {name}
    return any(not torch.equal(before[k]["log_prob"], after[k]["log_prob"]) for k in others)
