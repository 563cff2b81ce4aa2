"""Pictures of how sure networks are: which can be drawn, and what is in them."""

from __future__ import annotations

import numpy as np
import pytest

import zoo
from inference.show import uncertainty


@pytest.fixture(scope="module")
def moons():
    settings = {"data": "moons", "hidden": "4", "steps": 200, "outside": "far"}
    return {
        "map": zoo.run("bnn", method="map", **settings).idata,
        "local": zoo.run("bnn", guide="local", **settings).idata,
    }


@pytest.fixture(scope="module")
def digits():
    settings = {"hidden": "4", "steps": 50, "n": 200, "outside": "rotate,noise"}
    return {"map": zoo.run("bnn", method="map", **settings).idata}


def test_each_run_knows_what_it_can_fill(moons, digits):
    assert uncertainty.kinds(moons["map"]) == ["plane", "outside"]
    assert uncertainty.kinds(digits["map"]) == ["shifted"]
    coin = zoo.run("coin", method="map").idata
    assert uncertainty.kinds(coin) == []
    for picture in uncertainty.PICTURES.values():
        with pytest.raises(ValueError, match="no run has"):
            picture({"coin": coin})


def test_the_plane_has_two_panels_a_run_and_the_data_in_each(moons):
    figure = uncertainty.plane(moons)
    panels = [ax for ax in figure.axes if ax.get_title(loc="left")]
    assert len(panels) == 4
    points = sum(len(c.get_offsets()) for c in panels[0].collections if len(c.get_offsets()) > 1)
    assert points == 200
    # A single network has nothing to disagree with.
    assert float(moons["map"]["plane"]["mutual_information"].max()) < 1e-9
    assert float(moons["local"]["plane"]["mutual_information"].max()) > 1e-3


def test_rows_of_another_kind_are_laid_beside_the_test_rows(moons):
    figure = uncertainty.outside(moons)
    assert len(figure.axes) == 2
    assert {t.get_text() for t in figure.legends[0].get_texts()} == {"test rows", "far"}


def test_shifts_are_drawn_in_their_order(digits):
    figure = uncertainty.shifted(digits)
    accuracy, entropy, *rest = figure.axes
    at = accuracy.lines[0].get_xdata()
    np.testing.assert_array_equal(at, np.arange(0, 181, 15))
    assert accuracy.get_ylabel() == "accuracy" and "entropy" in entropy.get_ylabel()
    assert len(rest) == 2
    turned = digits["map"]["beside_rotate 0"]
    assert accuracy.lines[0].get_ydata()[0] == pytest.approx(float(turned["right"].mean()))
