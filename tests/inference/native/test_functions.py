"""Our own special functions: over all of their range, against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special

from inference.native.parts import in_c
from inference.program.record import record

RANGE = np.concatenate(
    [np.logspace(-300, 300, 601), -np.logspace(-10, 2, 500), np.linspace(-20.5, 20.5, 500)]
)


def in_double(function, values):
    x = torch.as_tensor(values, dtype=torch.float64)
    native = in_c(record(lambda x: (function(x),), (x,)), (x,)).whole
    return native(x)[0].numpy()


@pytest.mark.parametrize(
    ("function", "truth", "within"),
    [
        (torch.lgamma, special.gammaln, 1e-13),
        (torch.digamma, special.digamma, 1e-12),
        # Torch's own number of terms, so that a model's gradient is what torch says it is.
        (lambda x: torch.polygamma(1, x), lambda x: special.polygamma(1, x), 1e-9),
    ],
)
def test_gamma_functions(function, truth, within):
    wild = RANGE[RANGE > 0] if within == 1e-9 else RANGE
    expected, ours = truth(wild), in_double(function, wild)
    assert np.array_equal(np.isfinite(ours), np.isfinite(expected))
    finite = np.isfinite(expected)
    error = np.abs(ours[finite] - expected[finite])
    # Near a zero of the function terms of size one cancel.
    assert np.all(error <= within * np.maximum(np.abs(expected[finite]), 0.1))


def test_the_vector_functions_keep_odd_numbers():
    odd = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-320, 710.0, -746.0, -1.0])
    with np.errstate(all="ignore"):
        for ours, theirs in ((torch.exp, np.exp), (torch.log1p, np.log1p), (torch.tanh, np.tanh)):
            np.testing.assert_allclose(
                in_double(ours, np.tile(odd, 99)), np.tile(theirs(odd), 99), rtol=4e-16
            )
