"""Streams of random numbers: of seed and key alone, beside those of the caller."""

from __future__ import annotations

import torch

from inference.core.seeds import CHAIN, FIT, seeded, spawn


def draw(*key):
    with seeded(*key):
        return torch.rand(3).tolist()


def test_streams_are_functions_of_seed_and_key():
    assert draw(1, CHAIN, 0) == draw(1, CHAIN, 0)
    keys = [(seed, CHAIN, chain) for seed in range(10) for chain in range(4)]
    keys += [(seed, FIT) for seed in range(10)]
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)
    assert spawn(1, CHAIN, 0).entropy == 1


def test_the_callers_state_is_put_back():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    draw(0, FIT)
    assert torch.equal(before, torch.get_rng_state())
