"""Randomness and order of chains: draws depend on (seed, chain) alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

# Streams of random numbers of a run; each is independent of the others and of how many are used.
CHAIN, FIT, DRAWS, PREDICTIVE, PRIOR, DISCRETE = range(6)


def spawn(seed: int, *key: int) -> np.random.SeedSequence:
    """The seed sequence of one stream: `spawn(seed, CHAIN, 2)` is that of the third chain."""
    return np.random.SeedSequence(seed, spawn_key=key)


@contextmanager
def seeded(seed: int, *key: int) -> Iterator[None]:
    """Torch's random state set to a stream of its own; the caller's state is put back after."""
    with torch.random.fork_rng():
        torch.manual_seed(int(spawn(seed, *key).generate_state(1, np.uint64)[0] >> 1))
        yield
