"""Tapes: which operations leave residuals, and what runs make of them."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from inference.program.tapes import Piece, Smooth, Tape

Y = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
U = torch.tensor([1.3, 0.2], dtype=torch.float64, requires_grad=True)


def test_a_residual_is_noted_once_with_the_line_that_it_is_on():
    with Tape() as tape:
        larger = torch.maximum(U[0], U[1])
        r = U[0] - 3
        both = r.abs() + r.relu()
    assert larger.item() == 1.3 and both.item() == pytest.approx(1.7)
    assert tape.size == 2
    assert tape.flat().tolist() == pytest.approx([1.1, -1.7])
    assert all(place.startswith("test_tapes.py, line") for place in tape.places)


def test_what_no_latent_reaches_leaves_none():
    with Tape() as tape:
        assert Y.abs().sum().item() == 8.0
    assert tape.size == 0 and not tape.residuals


def test_only_the_absolute_values_of_laplace_densities_count_among_those_of_libraries():
    with Tape() as tape:
        dist.Binomial(3, logits=U).log_prob(Y[:2])
        dist.Laplace(U[0], 1.0).log_prob(Y)
    torch.testing.assert_close(tape.flat().abs(), (Y - U[0]).abs())


def test_a_piece_takes_the_side_that_it_is_told():
    with Piece(torch.tensor([-1.0])):
        other = torch.where(U[0] > U[1], U[0], U[1])
    assert other.item() == pytest.approx(0.2)


def test_a_smooth_run_rounds_by_its_width():
    with Smooth(torch.tensor([0.5])):
        rounded = U[1].abs()
    assert rounded.item() == pytest.approx((0.2**2 + 0.5**2) ** 0.5)
