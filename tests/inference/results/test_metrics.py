"""ELBO, k-hat and log evidence of weights whose tail is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inference.core.problem import Fit
from inference.results import diagnostics
from inference.results.inference_data import from_groups
from inference.results.metrics import metrics


@pytest.mark.parametrize(("k", "trusted"), [(0.3, True), (0.5, True), (0.9, False), (1.2, False)])
def test_khat_finds_the_known_tail_of_the_weights(k, trusted):
    # exp(k E) with E standard exponential is Pareto, and its tail index is k.
    log_ratios = torch.as_tensor(k * np.random.default_rng(3).exponential(size=20_000))
    found, judged = _khat_and_verdict(log_ratios)
    assert found == pytest.approx(k, abs=0.1)
    assert (judged == "pass") is trusted
    # The other sign has a bounded tail: a bad guide would pass (the trap of the sign).
    assert _khat_and_verdict(-log_ratios)[0] < 0.1


def _khat_and_verdict(log_ratios):
    """Of a fit with those log p - log q."""
    fit = Fit(draws={"w": torch.randn(1, 100)}, kind="independent", log_ratios=log_ratios)
    groups = {"posterior": {"w": fit.draws["w"].numpy()}}
    idata = from_groups(groups, coords={}, dims={})
    found = metrics(fit, idata)
    return found["khat"], diagnostics.verdict(fit, idata, found).status


def test_weights_that_are_equal_up_to_rounding_have_no_tail():
    draws = np.random.default_rng(0).standard_t(1, size=4000).clip(-100, 100)
    noise = torch.as_tensor(draws)
    assert _khat_and_verdict(-500 + 1e-10 * noise) == (0.0, "pass")
    assert _khat_and_verdict(-500 + 0.1 * noise)[0] > 0.7
