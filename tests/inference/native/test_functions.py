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
    ("function", "truth", "low", "high"),
    [
        (torch.special.i0, special.i0, -700, 700),
        (torch.special.i0e, special.i0e, -1e300, 1e300),
        (torch.special.i1, special.i1, -700, 700),
        (torch.special.i1e, special.i1e, -1e300, 1e300),
        (torch.special.erfcx, special.erfcx, -26, 1e300),
        (torch.special.erfinv, special.erfinv, -1, 1),
        (torch.special.log_ndtr, special.log_ndtr, -1e100, 1e300),
        (torch.special.ndtri, special.ndtri, 0, 1),
        (torch.special.modified_bessel_k0, special.k0, 0, 700),
        (torch.special.modified_bessel_k1, special.k1, 0, 700),
        (lambda x: torch.special.zeta(x, 3 + 0 * x), lambda x: special.zeta(x, 3), 1.01, 300),
        (lambda x: torch.special.zeta(3 + 0 * x, x), lambda x: special.zeta(3, x), 1e-90, 1e90),
        (lambda x: torch.polygamma(2, x), lambda x: special.polygamma(2, x), 1e-90, 1e90),
        (lambda x: torch.polygamma(5, x), lambda x: special.polygamma(5, x), 1e-40, 1e40),
        (
            lambda x: torch.special.gammainc(x, x * 1.5),
            lambda x: special.gammainc(x, x * 1.5),
            0,
            1e9,
        ),
        (
            lambda x: torch.special.gammaincc(x, 0 * x + 2),
            lambda x: special.gammaincc(x, 2),
            1e-9,
            1e3,
        ),
    ],
)
def test_special_functions(function, truth, low, high):
    x = np.unique(np.concatenate([RANGE, np.linspace(-1, 1, 501), [low, high]]))
    x = x[(x >= low) & (x <= high)]
    expected, ours = truth(x), in_double(function, x)
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-300)
    theirs = function(torch.as_tensor(x)).numpy()
    np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(theirs))


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
