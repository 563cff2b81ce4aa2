"""Images to be generated: binary pixels, own images, the test set as data, and each fault."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from models.contract import BadInput, BadSetting, MissingInput, UsageError
from models.data.pictures import compressed, pictures


def test_binary_pixels_are_ones_as_often_as_they_are_grey():
    data, grey = pictures(), pictures(binarise="none")
    x, g = data.tensors["x"], grey.tensors["x"]
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert x.shape == g.shape == (1437, 64)
    assert torch.equal(x[g == 1], torch.ones(int((g == 1).sum()), dtype=x.dtype))
    assert not x[g == 0].any()
    for low, high in ((0.2, 0.4), (0.6, 0.8)):
        between = (g > low) & (g < high)
        error = 0.5 / between.sum().sqrt()
        assert abs(x[between].mean() - g[between].mean()) < 4 * error


def test_dynamic_pixels_are_drawn_anew_and_static_ones_are_not():
    data, static = pictures(n=50), pictures(n=50, binarise="static")
    assert static.redrawn is None
    assert torch.equal(data.tensors["x"], static.tensors["x"])
    assert data.source != static.source
    torch.manual_seed(0)
    first, second = (data.redrawn.draw(data.redrawn.tensors)["x"] for _ in range(2))
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(first, second)


def test_the_test_set_does_not_depend_on_how_many_are_trained_on():
    few, many = pictures(n=50), pictures(n=500)
    assert torch.equal(few.test["x"], many.test["x"])
    assert torch.equal(few.test["x"][:50], pictures(n=50, part="test").tensors["x"])


def test_the_test_set_as_data_has_none_itself():
    data = pictures(part="test", n=30)
    assert data.test is None
    assert data.redrawn is None
    assert data.n == 30
    assert data.scaling.labels.shape == (30,)
    assert data.scaling.grey.shape == (30, 64)
    with pytest.raises(BadInput, match="n=361, but there are 360 test images"):
        pictures(part="test", n=361)


def test_a_mapping_of_images_with_labels():
    x = np.random.default_rng(0).integers(0, 256, (40, 4, 6)).astype(np.uint8)
    data = pictures({"x": x, "y": np.arange(40) % 3}, binarise="none", split=0.25)
    assert data.tensors["x"].shape == (30, 24)
    assert data.test["x"].shape == (10, 24)
    assert (data.scaling.height, data.scaling.width, data.scaling.classes) == (4, 6, 3)
    assert data.scaling.labels.shape == (30,)
    assert 0.3 < data.tensors["x"].mean() < 0.7
    again = data.new_rows({"x": x[:1]})["x"]
    assert torch.allclose(again, torch.as_tensor(x[:1].reshape(1, -1) / 255).float())
    with pytest.raises(BadInput, match="images of 6 x 4 pixels"):
        data.new_rows({"x": x.transpose(0, 2, 1)})


def test_a_folder_of_images(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        for i in range(5):
            pixels = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{i}.png")
    data = pictures(str(tmp_path))
    assert data.tensors["x"].shape == (8, 64)
    assert data.scaling.classes == 2
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "dog" / "odd.png")
    with pytest.raises(BadInput, match=r"odd.png is of another size \(8 x 8 and 9 x 8 pixels\)"):
        pictures(str(tmp_path))
    (tmp_path / "dog" / "odd.png").write_text("no image")
    with pytest.raises(BadInput, match=r"odd\.png is no readable image"):
        pictures(str(tmp_path))


@pytest.mark.parametrize(
    ("source", "options", "fault", "message"),
    [
        ("digitz", {}, UsageError, "did you mean 'digits'"),
        ({"y": [1]}, {}, BadInput, "there is no 'x'"),
        ({"x": np.zeros((3, 2, 2))}, {}, BadInput, "3 images are too few"),
        ({"x": np.zeros((9, 5))}, {}, BadInput, r"'x' has shape \(9, 5\)"),
        ({"x": np.full((9, 4), np.nan)}, {}, BadInput, "image 1 has a pixel of nan"),
        ({"x": np.full((9, 4), -1)}, {}, BadInput, "image 1 has a pixel of -1"),
        ({"x": np.zeros((9, 4)), "y": [1, 2]}, {}, BadInput, r"labels of shape \(2,\)"),
        ({"x": np.zeros((9, 4))}, {"n": 20}, BadInput, "n=20, but"),
        ({"x": np.zeros((9, 4))}, {"outside": "rotate"}, BadSetting, "for digits, mnist"),
        ("no/such/file.npz", {}, MissingInput, "there is no file"),
        ("digits", {"outside": "mnist"}, BadInput, "mnist has 28 pixels to a side"),
    ],
)
def test_what_is_wrong_with_images_is_told(source, options, fault, message):
    with pytest.raises(fault, match=message):
        pictures(source, **options)


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(MissingInput, match="there are no images"):
        pictures(str(tmp_path))


@pytest.mark.parametrize("levels", [2, 256])
def test_images_are_as_long_as_they_are_complex(levels):
    rng = np.random.default_rng(0)
    noise = rng.integers(levels, size=(3, 64, 64)) / (levels - 1)
    flat, half = np.zeros((3, 64, 64)), noise * (np.arange(64) < 32)
    longest, shortest, between = compressed(noise), compressed(flat), compressed(half)
    assert (shortest < between).all()
    assert (between < longest).all()
    entropy = 64**2 * np.log(levels)
    assert (longest > entropy).all()
    assert (longest < 1.2 * entropy + 300).all()
