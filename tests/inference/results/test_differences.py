"""A run beside its reference: differences with their errors, and their words."""

from __future__ import annotations

import numpy as np
import pytest
from test_comparison import TRUTH, normal, row

import zoo
from inference.results import comparison
from inference.results.reference import Row
from inference.show import terminal


def test_a_planted_narrow_and_a_shifted_fit_are_named_by_their_numbers():
    rows = [row("svi", normal(0.8, seed=1)), row("laplace", normal(1.0, 0.3, seed=2))]
    table = comparison.compare([*rows, row("nuts", normal(chains=4, seed=3))], {"m": TRUTH})
    assert table.references == {"m": "exact"}
    assert table.loc["svi", "sd_low"] == pytest.approx(0.8, abs=0.03)
    assert table.loc["svi", "distance"] > 2 * table.loc["svi", "distance_floor"]
    assert table.loc["svi", "reading"].startswith("narrower (all parameters, sd down to 0.")
    assert table.loc["laplace", "mean_error"] == pytest.approx(0.3, abs=0.06)
    assert "shifted (w[" in table.loc["laplace", "reading"]
    assert table.loc["nuts", "reading"] == "agrees with the reference"
    assert table.loc["nuts", "distance"] < 1.3 * table.loc["nuts", "distance_floor"]
    assert table.loc["nuts", "ess_per_s"] == pytest.approx(table.loc["nuts", "ess"] / 2)
    assert np.isnan(table.loc["svi", "ess"])


def test_errors_are_those_of_the_draws():
    table = comparison.compare([row("svi", normal(seed=4))], {"m": TRUTH})
    each = table.parameters.loc[("svi", "w[0]")]
    draws = normal(seed=4)[0, :, 0]
    assert each["mean_error"] == pytest.approx(draws.mean())
    assert each["mean_error_se"] == pytest.approx(1 / np.sqrt(4000), rel=0.05)
    assert each["sd_ratio"] == pytest.approx(draws.std(ddof=1), rel=1e-3)
    assert each["sd_ratio_se"] == pytest.approx(1 / np.sqrt(8000), rel=0.1)


def test_what_the_reference_holds_fixed_is_no_error_and_infinity_no_value():
    fixed = normal(chains=4)
    fixed[..., 1] = 0.3 * (1 + 1e-16 * np.arange(1000))
    point = row("map", np.full((1, 1, 2), 0.3))
    table = comparison.compare([point, row("nuts", fixed)], {})
    assert table.loc["map", "worst"] == "w[0]"
    assert table.loc["map", "mean_error"] == pytest.approx(0.3, abs=0.1)
    fixed[..., 1] = 0.0
    odd = row("svi", normal(seed=3), metrics={"elbo": -np.inf, "elbo_se": np.nan})
    table = comparison.compare([odd, row("nuts", fixed)], {})
    assert "elbo" not in table.to_json_object()["rows"]["svi"]
    assert terminal.layout(table)[0]["mean error, sd"][0] != ""


def test_few_draws_tell_nothing():
    few = row("svi", normal(seed=2)[:, :60])
    table = comparison.compare([few, row("nuts", normal(chains=4, seed=3))], {})
    assert table.loc["svi", "reading"] == "too few effective draws to tell it from the reference"


def test_nuts_lies_at_the_noise_and_a_planted_narrow_fit_clearly_above():
    run = zoo.run("linear", method="nuts", noise=1.0)
    planted = run.idata.copy()
    centre = planted.posterior.mean(("chain", "draw"))
    narrow = centre + 0.8 * (planted.posterior - centre)
    planted.posterior = narrow.transpose("chain", "draw", ...)
    rows = [
        Row(label=label, posterior="m", record=run.record, idata=idata)
        for label, idata in (("nuts", run.idata), ("planted", planted))
    ]
    table = comparison.compare(rows, {"m": run.exact})
    assert table.loc["nuts", "distance"] < 1.2 * table.loc["nuts", "distance_floor"]
    assert table.loc["planted", "distance"] > 2 * table.loc["planted", "distance_floor"]
    assert table.loc["planted", "reading"].startswith("narrower (all parameters, sd down to 0.7")
