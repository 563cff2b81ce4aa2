"""Runs side by side: what has no run, different data, evidence, labels, plain values."""

from __future__ import annotations

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
from scipy import stats

import zoo
from inference.results import comparison
from inference.results.reference import Row
from inference.show import report
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


def test_models_of_one_name_are_not_compared():
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
    table.html = report.comparison_html
    html = table._repr_html_()
    assert "compared with <b>exact</b>" in html and "the reference" in html
    plain = table.to_json_object()
    assert "ess" not in plain["rows"]["svi"]
    assert plain["parameters"]["svi"]["w[0]"]["reference_sd"] == pytest.approx(1, abs=0.05)
    with pytest.raises(UsageError, match="no figure 'forrest'"):
        table.figure("forrest")
