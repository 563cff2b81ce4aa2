"""Random numbers: each use has a stream of its own, which the seed of a run alone decides."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

# Streams of random numbers of a run; each is independent of the others and of how many are used.
CHAIN, FIT, DRAWS, PREDICTIVE, PRIOR, DISCRETE, SIMULATED, VOUCH = range(8)


def spawn(seed: int, *key: int) -> np.random.SeedSequence:
    """The seed sequence of one stream: `spawn(seed, CHAIN, 2)` is that of the third chain."""
    return np.random.SeedSequence(seed, spawn_key=key)


@contextmanager
def seeded(seed: int, *key: int) -> Iterator[None]:
    """Torch's random state set to a stream of its own; the caller's state is put back after."""
    # Asking the GPUs for their state would start them, and a forked chain could not.
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(spawn(seed, *key).generate_state(1, np.uint64)[0] >> 1))
        yield
