"""R-hat, effective sample sizes, Monte Carlo errors: the same numbers as ArviZ, and as by hand."""

from __future__ import annotations

import arviz as az
import numpy as np
import pytest
import xarray as xr

from inference.results import inference_data, mixing


def chains(seed: int, count: int, draws: int, memory: float) -> np.ndarray:
    """Autoregressive chains (chain, draw) of variance 1 / (1 - memory^2)."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, draws))
    for t in range(1, draws):
        noise[:, t] += memory * noise[:, t - 1]
    return noise


CASES = {
    "independent": chains(0, 4, 1000, 0.0),
    "slow": chains(1, 4, 1000, 0.95),
    "antithetic": chains(2, 4, 400, -0.7),
    "one chain": chains(3, 1, 500, 0.5),
    "odd": chains(4, 3, 51, 0.5),
    "four draws": chains(5, 2, 4, 0.0),
    "apart": chains(6, 4, 100, 0.3) + np.arange(4)[:, None],
    "ties": np.round(chains(7, 4, 200, 0.6)),
    "counts": (chains(8, 4, 200, 0.6) > 0).astype(int),
    "single precision": chains(9, 4, 300, 0.6).astype(np.float32),
}


@pytest.mark.parametrize("name", CASES)
def test_statistics_of_draws_are_those_of_arviz(name, recwarn):
    draws = CASES[name]
    for kind in ("bulk", "tail", "mean"):
        assert mixing.ess(draws, kind) == pytest.approx(az.ess(draws, method=kind), rel=1e-12)
    if len(draws) > 1:
        assert mixing.r_hat(draws) == pytest.approx(float(az.rhat(draws)), rel=1e-12)
    low, high = mixing.hdi(draws.reshape(-1, 1), 0.94)
    np.testing.assert_array_equal([low[0], high[0]], az.hdi(draws.ravel(), hdi_prob=0.94))


@pytest.mark.parametrize("name", ["independent", "slow", "antithetic", "four draws", "apart"])
def test_a_summary_is_that_of_arviz(name):
    posterior = {"w": np.stack([CASES[name], 3 * CASES[name] ** 2], -1), "b": CASES[name] + 1}
    idata = az.from_dict(posterior=posterior, coords={"at": ["x", "y"]}, dims={"w": ["at"]})
    ours, theirs = inference_data.summary(idata), az.summary(idata, round_to="none")
    assert list(ours.index) == list(theirs.index) == ["w[x]", "w[y]", "b"]
    names = {"hdi_3%": "hdi_low", "hdi_97%": "hdi_high"}
    theirs = theirs.rename(columns=names)[list(ours.columns)]
    if name == "four draws":  # no average of so few
        assert list(ours.columns) == ["mean", "sd"]
        ours, theirs = ours[["mean"]], theirs[["mean"]]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_the_error_of_a_mean_is_that_of_an_autoregression():
    """Effective are (1 - memory) / (1 + memory) of the draws (Geyer 1992)."""
    draws = chains(0, 4, 20_000, 0.5)
    assert mixing.ess(draws, "mean") == pytest.approx(80_000 / 3, rel=0.1)
    mean, spread = mixing.errors(draws)
    assert mean == pytest.approx(np.sqrt(4 / 3 / (80_000 / 3)), rel=0.1)
    # The squares of a normal AR(1) forget twice as fast: (1 - 1/4) / (1 + 1/4).
    assert spread == pytest.approx(np.sqrt(4 / 3 / 2 / (80_000 * 0.6)), rel=0.1)


def test_what_does_not_move_or_is_no_number_has_no_r_hat():
    fixed, broken = np.ones((4, 100)), np.full((4, 100), np.nan)
    draws = xr.Dataset(
        {"fixed": (("chain", "draw"), fixed), "broken": (("chain", "draw"), broken)}
    )
    r_hats, sizes = inference_data.r_hat(draws), inference_data.ess(draws, "bulk")
    assert np.isnan(r_hats["fixed"]) and np.isnan(r_hats["broken"])
    assert sizes["fixed"] == 400 and np.isnan(sizes["broken"])
    assert np.isnan(mixing.ess(np.ones((4, 3)), "bulk")) and np.isnan(mixing.r_hat(fixed[:1]))


def test_the_energy_is_that_of_arviz():
    energy = chains(0, 4, 200, 0.9)
    idata = az.from_dict(posterior={"x": energy}, sample_stats={"energy": energy})
    np.testing.assert_allclose(inference_data.bfmi(idata), az.bfmi(idata), rtol=1e-12)
