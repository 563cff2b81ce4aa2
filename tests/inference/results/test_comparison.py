"""Runs side by side: the reference, differences with their errors, words, evidence, labels."""

from __future__ import annotations

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
from scipy import stats

import zoo
from inference.results import comparison
from inference.results.comparison import Row
from inference.show import terminal
from models.contract import Exact, Refused, UsageError

DATA = {"source": "rows", "n": 3, "sha256": "a" * 64}


def record(method: str, **more) -> dict:
    plain = {"model": "m", "method": method, "guide": None, "options": {}, "settings": {}}
    plain |= {
        "seed": 0,
        "data": DATA,
        "verdict": {"status": "pass", "reasons": []},
        "metrics": {},
        "exact": {},
    }
    return plain | {"timing": {"fit_s": 2.0}} | more


def row(label: str, draws: np.ndarray, **more) -> Row:
    """A run whose only site is `w` (chain, draw, 2); of chains if its method is nuts."""
    made = record(label.partition(" ")[0].partition(":")[0], **more)
    stats_ = {"diverging": np.zeros(draws.shape[:2], bool)} if made["method"] == "nuts" else None
    idata = az.from_dict(posterior={"w": draws}, sample_stats=stats_)
    return Row(label=label, posterior="m", record=made, idata=idata)


def normal(scale: float = 1.0, shift: float = 0.0, chains: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, scale, size=(chains, 4000 // chains, 2))


TRUTH = Exact(
    sample=lambda n, rng: {"w": rng.normal(size=(n, 2))},
    marginals={"w[0]": stats.norm(0, 1), "w[1]": stats.norm(0, 1)},
    log_evidence=-3.0,
)


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


def test_the_reference_is_exact_else_nuts_that_passes_else_none():
    good, bad = (
        row("nuts", normal(chains=4)),
        {"verdict": {"status": "fail", "reasons": ["R-hat"]}},
    )
    failing = row("nuts seed=1", normal(chains=4), **bad)
    exact = row("exact", normal(), exact={}, metrics={"log_evidence": -3.0})
    other = row("svi", normal(seed=7), metrics={"elbo": -3.5, "elbo_se": 0.1})
    assert comparison.compare([good, exact], {}).references == {"m": "exact"}
    assert comparison.compare([failing, good], {}).references == {"m": "nuts"}
    none = comparison.compare([failing, other], {})
    assert none.references["m"].startswith("none")
    assert none["mean_error"].isna().all() and none["distance"].isna().all()
    assert none["reason"].tolist() == ["R-hat", ""]
    assert "R-hat" in none._repr_html_()
    assert none["mean_error"].dtype == float
    assert comparison.compare([exact, other], {}).loc["svi", "gap"] == pytest.approx(0.5)
    assert np.isnan(comparison.compare([good, other], {}).loc["svi", "gap"])


def test_a_point_has_a_place_but_no_width_and_a_refusal_only_its_reason():
    point = row("map", np.full((1, 1, 2), 0.05))
    refused = Row(label="mle", posterior="", reason="no likelihood", status="refused")
    table = comparison.compare([point, refused, row("exact", normal())], {"m": TRUTH})
    assert table.loc["map", "mean_error"] == pytest.approx(0.05, abs=0.06)
    assert table.loc["map", ["sd_low", "sd_high", "distance", "ess"]].isna().all()
    empty = table.loc["mle"].drop(["verdict", "reason", "reading"])
    assert empty.isna().all()
    assert table.loc["mle", ["verdict", "reading"]].tolist() == ["refused", "no likelihood"]


def test_runs_of_different_data_are_refused_in_words():
    other = row("svi", normal(), data={"source": "else", "n": 4, "sha256": "b" * 64})
    with pytest.raises(Refused, match=r"map has rows, n = 3 .*, svi has else, n = 4 .*same data"):
        comparison.compare([row("map", normal()), other], {})


def test_labels_say_by_what_runs_differ():
    records = [
        record("nuts", settings={"draws": 1000, "warmup": 400}),
        record("nuts", settings={"draws": 1000, "warmup": 50}),
        record("svi", guide="mvn", options={"noise": 1}),
        record("svi", guide="mvn", options={"noise": 2}, seed=3),
        record("map"),
        record("map"),
        record("exact", data={**DATA, "source": "a/rows.csv, 5 rows held out"}),
        record("exact"),
    ]
    assert comparison.labels(records) == [
        "nuts warmup=400",
        "nuts warmup=50",
        "svi:mvn noise=1 seed=0",
        "svi:mvn noise=2 seed=3",
        "map (1)",
        "map (2)",
        "exact data=rows.csv",
        "exact data=rows",
    ]


def test_bayes_factors_of_two_priors_of_the_coin():
    table = zoo.compare("coin", methods="exact,map", vary={"alpha": [1.0, 3.0]}, data="HHT")
    # log B(a + 2, b + 1) - log B(a, b) by hand: 1/12 for a = 1, and 3 * 4 * 1 / (4 * 5 * 6).
    expected = np.log(1 / 12) - np.log(12 / 120)
    found = table["log_bayes_factor"]
    assert found["exact alpha=1.0"] == pytest.approx(expected)
    assert found["exact alpha=3.0"] == 0
    assert found[["map alpha=1.0", "map alpha=3.0"]].isna().all()
    assert any("mean of pi moves" in note for note in table.notes)
    assert table.references.keys() == {"coin (alpha=1.0, beta=1.0)", "coin (alpha=3.0, beta=1.0)"}


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


def test_models_of_one_name_are_not_held_against_each_other():
    records = {
        "a": record("nuts", model_sha256="1" * 64),
        "b": record("map", model_sha256="2" * 64),
    }
    assert comparison.posterior_keys(records) == {
        "a": "m, source 11111111",
        "b": "m, source 22222222",
    }

    def model(y):
        pyro.sample("m", dist.Normal(0.0, 1.0))

    first = zoo.models.fingerprint(model)

    def model(y):
        pyro.sample("m", dist.Normal(5.0, 1.0))

    assert first != zoo.models.fingerprint(model)


def test_it_displays_and_becomes_plain_values():
    table = comparison.compare([row("svi", normal(seed=1)), row("exact", normal())], {"m": TRUTH})
    html = table._repr_html_()
    assert "held against <b>exact</b>" in html and "the reference" in html
    plain = table.to_json_object()
    assert "ess" not in plain["rows"]["svi"]
    assert plain["parameters"]["svi"]["w[0]"]["reference_sd"] == pytest.approx(1, abs=0.05)
    with pytest.raises(UsageError, match="no figure 'forrest'"):
        table.figure("forrest")


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
