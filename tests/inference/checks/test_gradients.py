"""Gradient estimators: the same mean, variances in the order that theory gives."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import QUIET, problem_of

import zoo
from inference.checks import gradients
from inference.methods.ascent import AscentSettings
from inference.program.program import Program
from models.contract import Refused, UsageError

SETTINGS = AscentSettings(steps=300, batch_size=50, lr=1e-2, schedule="linear")


@pytest.fixture(scope="module")
def table():
    problem = problem_of("bnn", "moons", hidden="4")
    return gradients.variances(
        Program(problem), seed=0, context=QUIET, settings=SETTINGS, draws=600
    )


def test_the_order_of_the_variances_is_beyond_their_errors(table):
    for layer, part in table.groupby(level="layer"):
        part = part.droplevel("layer")
        assert list(part.index) == list(gradients.ESTIMATORS), layer
        for noisier, quieter in zip(gradients.ESTIMATORS, gradients.ESTIMATORS[1:]):
            gap = part["variance"][noisier] - part["variance"][quieter]
            error = np.hypot(part["variance_se"][noisier], part["variance_se"][quieter])
            assert gap > 3 * error, (layer, noisier, quieter)
    assert (table["times_local"].xs("local", level="estimator") == 1).all()


def test_all_estimate_the_same_gradient(table):
    """The squared norm of a mean of n draws is that of the gradient, plus variance / n."""
    for _, part in table.groupby(level="layer"):
        part = part.droplevel("layer")
        unbiased = part["mean_squared_norm"] - part["variance"] / 1200
        both = unbiased[["reparameterised", "local"]]
        errors = 2 * np.sqrt(part["mean_squared_norm"] * part["variance"] / 1200)
        bound = 4 * np.hypot(*errors[["reparameterised", "local"]])
        assert abs(both["reparameterised"] - both["local"]) < bound


def test_the_verb_makes_a_table_and_a_picture(tmp_path):
    found = zoo.gradients("bnn", draws=10, data="moons", hidden="3", steps=20, out=tmp_path)
    assert list(found.index.names) == ["layer", "estimator"] and len(found) == 8
    assert found.figures() == ["gradients"]
    assert found.figure("gradients").axes[0].get_yscale() == "log"
    (folder,) = tmp_path.iterdir()
    assert {p.name for p in folder.iterdir()} == {"table.csv", "figures"}


def test_own_guides_are_held_against_the_one_without_noise():
    """REINFORCE has no bias beyond its noise; relaxed decisions have."""
    found = zoo.gradients("resnet", draws=400, data="moons", layers=3, width=4, steps=200)
    assert list(found.columns)[-3:] == ["norm", "bias", "bias_of_noise"]
    for group in ("net", "stop"):
        part = found.xs(group, level="layer")
        assert list(part.index) == ["enumerated", "reinforce", "concrete"]
        assert part.loc["enumerated", "variance"] < 1e-20 * part.loc["enumerated", "norm"] ** 2
        assert part.loc["reinforce", "bias"] < 2 * part.loc["reinforce", "bias_of_noise"]
        assert part.loc["concrete", "variance"] < part.loc["reinforce", "variance"]
    relaxed = found.loc[("stop", "concrete")]
    assert relaxed["bias"] > 4 * relaxed["bias_of_noise"]
    (said,) = [note for note in found.notes if note.startswith("biased: ")]
    assert "concrete (" in said and "stop" in said and "reinforce" not in said
    unbiased = gradients.readings(found.drop("concrete", level="estimator"))
    assert unbiased == ["biased: none of them, as far as the noise lets see"]


def test_the_same_seed_gives_the_same_numbers_and_another_others():
    asked = {"data": "moons", "hidden": "4", "steps": 20, "draws": 10}
    first = zoo.gradients("bnn", **asked)
    assert first.equals(zoo.gradients("bnn", **asked))
    assert not first.equals(zoo.gradients("bnn", seed=1, **asked))


def test_what_has_no_layers_or_too_few_draws_is_refused():
    with pytest.raises(Refused, match="for the weights of a network"):
        zoo.gradients("coin", draws=10)
    with pytest.raises(UsageError, match="10 or more"):
        zoo.gradients("bnn", draws=3)
