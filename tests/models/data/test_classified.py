"""Rows with a class: what each source gives, what lies outside it, and what each fault says."""

import numpy as np
import pytest
import torch

from models.contract import BadInput, BadSetting, Fault, MissingInput, UsageError
from models.data.classified import classified

TABLE = {
    "x": np.arange(40.0).reshape(20, 2) ** 1.1,
    "kind": np.array(["ant", "bee", "cat", "bee"] * 5),
}


def same(one, other) -> bool:
    """Whether two data sets have the same rows everywhere."""
    parts = [(d.tensors, d.test, *(d.beside[k] for k in sorted(d.beside))) for d in (one, other)]
    return all(torch.equal(a[k], b[k]) for a, b in zip(*parts) for k in a)


@pytest.mark.parametrize("source", ["digits", "moons", TABLE])
def test_the_data_seed_alone_decides(source):
    words = {"digits": "rotate,noise", "moons": "far"}
    options = {
        "labels": "random",
        "outside": words.get(source) if isinstance(source, str) else None,
        "n": 50 if isinstance(source, str) else None,
    }
    first = classified(source, **options)
    np.random.seed(1)
    assert same(first, classified(source, **options))
    assert not same(first, classified(source, **options, data_seed=1))


def test_moons_come_with_a_test_set_that_no_n_changes():
    data, more = classified("moons"), classified("moons", n=500)
    assert (data.tensors["x"].shape, data.tensors["x"].dtype) == ((200, 2), torch.float64)
    assert (data.tensors["y"].dtype, data.test["y"].dtype) == (torch.int64, torch.int64)
    assert data.tensors["y"].bincount().tolist() == [100, 100]
    assert data.test["x"].shape == (1000, 2)
    assert torch.equal(data.test["x"], more.test["x"]) and more.tensors["x"].shape == (500, 2)
    assert data.source == "moons n=200 noise=0.2 data_seed=0, 1000 points held out"
    exact = classified("moons", noise=0.0).tensors
    upper = exact["x"][exact["y"] == 0]
    torch.testing.assert_close(upper.norm(dim=1), torch.ones(100))
    new = data.new_rows({"x": [[0.5, -2.0]]})
    assert new["x"].tolist() == [[0.5, -2.0]]


def test_far_is_three_to_five_times_as_far_out():
    data = classified("moons", outside="far")
    assert set(data.beside["far"]) == {"x"}
    x = data.tensors["x"]
    reach = (x - x.mean(0)).norm(dim=1).max()
    distance = (data.beside["far"]["x"] - x.mean(0)).norm(dim=1) / reach
    assert distance.shape == (360,)
    assert (float(distance.min()), float(distance.max())) == pytest.approx((3, 5))


def test_a_table_always_has_a_test_set_and_its_classes_names():
    data = classified(TABLE)
    assert (data.tensors["x"].shape, data.test["x"].shape) == ((16, 2), (4, 2))
    assert (data.tensors["y"].dtype, data.test["y"].dtype) == (torch.int64, torch.int64)
    assert data.coords["class"] == ("ant", "bee", "cat")
    assert data.dims == {"x": ("feature",)}
    np.testing.assert_allclose(data.tensors["x"].mean(0), 0, atol=1e-12)
    assert classified(TABLE, split=0.5, standardise=False).test["y"].shape == (10,)
    assert set(data.new_rows({"x": TABLE["x"][:3]})) == {"x"}


@pytest.mark.parametrize("source", ["digits", "moons"])
def test_random_labels_say_nothing(source):
    data, true = classified(source, labels="random"), classified(source)
    classes = len(data.coords["class"])
    for random, known in ((data.tensors, true.tensors), (data.test, true.test)):
        hits = (random["y"] == known["y"]).double()
        se = np.sqrt((1 - 1 / classes) / classes / len(hits))
        assert abs(float(hits.mean()) - 1 / classes) < 4 * se
        assert torch.equal(random["x"], known["x"]) and random["y"].dtype == torch.int64
    assert data.source.endswith(", labels=random")
    assert data.notes[-1].startswith("labels are random")
    assert data.sha256 != true.sha256


def test_rotated_images_turn_anticlockwise_about_their_middle():
    data = classified(outside="rotate")
    assert list(data.beside) == [f"rotate {angle}" for angle in range(0, 181, 15)]
    images = {k: v["x"].numpy().reshape(-1, 8, 8) for k, v in data.beside.items()}
    plain = data.test["x"].numpy().reshape(-1, 8, 8)
    for quarter in (0, 1, 2):
        turned = np.rot90(plain, quarter, axes=(1, 2))
        np.testing.assert_allclose(images[f"rotate {90 * quarter}"], turned, atol=1e-12)
    for rows in data.beside.values():
        assert rows["x"].dtype == torch.float64 and torch.equal(rows["y"], data.test["y"])
        assert float(rows["x"].min()) >= 0 and float(rows["x"].max()) <= 1


def test_noise_is_as_large_as_said():
    data = classified(outside="noise")
    assert list(data.beside) == ["noise 0.1", "noise 0.2", "noise 0.5"]
    grey = (data.test["x"] > 0.45) & (data.test["x"] < 0.55)
    for sd in (0.1, 0.2):  # 0.5 is clipped
        rows = data.beside[f"noise {sd}"]
        assert float((rows["x"] - data.test["x"])[grey].std()) == pytest.approx(sd, rel=0.06)
        assert float(rows["x"].min()) >= 0 and float(rows["x"].max()) <= 1
        assert torch.equal(rows["y"], data.test["y"])


@pytest.mark.parametrize(
    ("source", "options", "kind", "message"),
    [
        ("mnits", {}, UsageError, "no data set 'mnits'; did you mean 'mnist'"),
        ("digits", {"outside": "rotates"}, UsageError, "'rotates' .*did you mean 'rotate'"),
        ("digits", {"outside": "mnist"}, BadInput, "mnist has 28 pixels to a side, digits has 8"),
        ("mnist", {"outside": "mnist"}, BadInput, "mnist cannot be outside itself"),
        ("digits", {"outside": "far"}, BadInput, "'far' is for moons, digits is none"),
        ("moons", {"outside": "far,noise"}, BadInput, "'noise' is for images, moons is none"),
        (TABLE, {"outside": "far"}, BadInput, "'far' is for moons, .*given in Python is none"),
        (TABLE, {"outside": "noise"}, BadInput, "given in Python is none; give nothing"),
        ("mnits", {"n": 5}, UsageError, "no data set 'mnits'; did you mean 'mnist'"),
        ("digits", {"noise": 0.2}, BadSetting, "digits has no noise of its own, yet noise=0.2"),
        ("tent", {"noise": 0.2}, BadSetting, "tent has no noise of its own"),
        (TABLE, {"noise": 0.2}, BadSetting, "has no noise of its own"),
        ("moons", {"standardise": False}, BadSetting, "moons is taken as it is"),
        ("mnist", {"split": 0.2}, BadSetting, "mnist has a test set of its own, yet split=0.2"),
        ("moons", {"split": 0.2}, BadSetting, "moons has a test set of its own"),
        ("digits", {"split": 1.0}, BadSetting, "share of test rows is 1"),
        ("digits", {"target": "y"}, BadSetting, "digits has labels of its own"),
        ("digits", {"features": "a"}, BadSetting, "digits has no columns to choose from"),
        ("moons", {"n": 0}, BadSetting, "n=0 points"),
        (TABLE, {"n": 5}, BadSetting, "is a table, which is taken whole, yet n=5"),
        ("no.csv", {}, MissingInput, "there is no file no.csv"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(source, options, kind, message):
    with pytest.raises(Fault, match=message) as caught:
        classified(source, **options)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value) and "; " in str(caught.value)
