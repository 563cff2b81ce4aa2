"""Sets of images: what each gives, read as it is, and what each fault says."""

import dataclasses
import gzip
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HOUSE

from models.contract import BadInput, MissingInput
from models.data import images
from models.data.classified import classified

OWN = Path(os.environ.get("ZOO_DATA", "nowhere"))


def on_disk(name: str):
    """Skips a test where the real files are not in `$ZOO_DATA`."""
    there = (OWN / name / "train-images-idx3-ubyte.gz").is_file()
    return pytest.mark.skipif(not there, reason=f"ZOO_DATA has no files of {name}")


def idx(array: np.ndarray) -> bytes:
    """An array in the format of the files."""
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(head + array.astype(np.uint8).tobytes(), mtime=0)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """`mnist` and `fashion-mnist` of 50 and 20 random images, in `ZOO_DATA`; gives the folder."""
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    rng = np.random.default_rng(3)
    for name in ("mnist", "fashion-mnist"):
        files = {}
        for part, n in (("train", 50), ("t10k", 20)):
            files[f"{part}-images-idx3-ubyte.gz"] = idx(rng.integers(0, 256, (n, 28, 28)))
            files[f"{part}-labels-idx1-ubyte.gz"] = idx(np.arange(n) % 10)
        monkeypatch.setitem(images.SETS, name, plant(tmp_path, name, files))
    return tmp_path


def plant(folder, name, files):
    """The files in their place, and the set with their hashes pinned."""
    (folder / name).mkdir(exist_ok=True)
    for file, content in files.items():
        (folder / name / file).write_bytes(content)
    old = images.SETS[name]
    hashes = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    pinned = {file.partition("-idx")[0]: sha256 for file, sha256 in hashes.items()}
    return dataclasses.replace(old, sha256={**old.sha256, **pinned})


def same(one, other) -> bool:
    """Whether two data sets have the same rows everywhere."""
    parts = [(d.tensors, d.test, *(d.beside[k] for k in sorted(d.beside))) for d in (one, other)]
    return all(torch.equal(a[k], b[k]) for a, b in zip(*parts) for k in a)


def test_digits_need_no_network(monkeypatch):
    monkeypatch.setattr(images, "contents", None)
    data = classified()
    x, y = data.tensors["x"], data.tensors["y"]
    assert (x.shape, x.dtype) == ((1437, 64), torch.float64)
    assert (y.shape, y.dtype) == ((1437,), torch.int64)
    assert (data.test["x"].shape, data.test["y"].shape) == ((360, 64), (360,))
    assert (float(x.min()), float(x.max())) == (0, 1)
    assert data.scaling == images.Images(height=8, width=8, classes=10)
    assert data.coords["class"] == tuple("0123456789")
    assert data.source == "digits n=1437 data_seed=0, 360 images held out"
    assert data.dtype == "float64"


def test_digits_held_out_are_not_trained_on_and_none_is_lost():
    from sklearn.datasets import load_digits

    data = classified(split=0.3)
    assert data.test["y"].shape == (539,)
    both = np.concatenate([data.tensors["x"], data.test["x"]])
    whole = load_digits().data / 16
    np.testing.assert_array_equal(both[np.lexsort(both.T)], whole[np.lexsort(whole.T)])


def test_fewer_images_are_among_more_and_the_test_set_stays():
    few, more, every = (classified(n=n) for n in (10, 100, 1437))
    rows = [{image.tobytes() for image in d.tensors["x"].numpy()} for d in (few, more, every)]
    assert len(rows[0]) == 10 and rows[0] < rows[1] < rows[2]
    assert torch.equal(few.test["x"], every.test["x"])
    assert same(every, classified())
    assert "10 of 1437 training images, chosen by data_seed" in few.notes
    assert few.source == "digits n=10 data_seed=0, 360 images held out"


@pytest.mark.parametrize("n", [0, 1438])
def test_images_that_are_not_there_cannot_be_chosen(n):
    with pytest.raises(BadInput, match=f"n={n}, but digits has 1437 training images") as caught:
        classified(n=n)
    assert caught.value.exit_code == 65


def test_official_sets_are_read_as_they_are(tiny):
    data = classified("mnist")
    assert (data.tensors["x"].shape, data.test["x"].shape) == ((50, 784), (20, 784))
    assert {data.tensors["x"].dtype, data.test["x"].dtype} == {torch.float32}
    assert data.dtype == "float32"
    assert data.tensors["y"].tolist() == [i % 10 for i in range(50)]
    raw = gzip.decompress((tiny / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    np.testing.assert_allclose(data.test["x"].ravel() * 255, list(raw[16:]), atol=1e-4)
    assert classified("fashion-mnist").coords["class"][9] == "ankle boot"


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=on_disk(n)) for n in images.SETS if n != "digits"]
)
def test_the_real_sets(name):
    start = time.process_time()
    data = classified(name)
    assert time.process_time() - start < 10  # about a second, on a machine at rest
    x, y = data.tensors["x"], data.tensors["y"]
    assert (x.shape, data.test["x"].shape) == ((60000, 784), (10000, 784))
    assert (float(x.min()), float(x.max())) == (0, 1)
    assert y.bincount().numel() == data.test["y"].bincount().numel() == 10
    mean = {"mnist": 0.1307, "fashion-mnist": 0.2860}[name]  # as published
    assert float(x.mean()) == pytest.approx(mean, abs=1e-4)
    assert data.source == f"{name} n=60000 data_seed=0, 10000 images held out"


def test_a_damaged_file_of_a_set_is_told(tiny):
    path = tiny / "mnist" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput, match=f"^{path} has the sha256") as caught:
        classified("mnist")
    assert caught.value.exit_code == 65


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x09seven", mtime=0), "is no array of bytes"),
        (gzip.compress(b"<html>Welcome</html>", mtime=0), "is no array of bytes"),
        (idx(np.arange(19) % 10), r"images \(20, 28, 28\) and labels \(19,\) do not fit"),
    ],
)
def test_a_file_of_another_make_is_told(content, message, tiny, monkeypatch):
    planted = plant(tiny, "mnist", {"t10k-labels-idx1-ubyte.gz": content})
    monkeypatch.setitem(images.SETS, "mnist", planted)
    with pytest.raises(BadInput, match=message):
        classified("mnist")


def test_a_set_that_cannot_be_had_is_asked_for_in_one_line(tmp_path, monkeypatch):
    def refuse(url, *_, **__):
        raise OSError(None, "Network is unreachable")

    monkeypatch.setattr("pooch.retrieve", refuse)
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(MissingInput) as caught:
        classified("fashion-mnist")
    said = str(caught.value)
    file = "train-images-idx3-ubyte.gz"
    assert "\n" not in said and "Network is unreachable" in said
    assert f"master/data/fashion/{file} (sha256 3aede38d61863908ad78613f6a32ed27" in said
    assert said.endswith(f"as {tmp_path}/fashion-mnist/{file}")
    assert caught.value.exit_code == 66


def test_every_pinned_file_is_named():
    for name in ("mnist", "fashion-mnist"):
        hashes = images.SETS[name].sha256.values()
        assert len(set(hashes)) == 4 and all(len(sha256) == 64 for sha256 in hashes)


def test_of_many_test_images_the_first_are_shifted(tiny, monkeypatch):
    monkeypatch.setattr("models.data.classified._SHIFTED", 5)
    data = classified("mnist", outside="noise,rotate,noise", labels="random")
    assert list(data.beside)[2:4] == ["noise 0.5", "rotate 0"]
    for rows in data.beside.values():
        assert (rows["x"].shape, rows["x"].dtype) == ((5, 784), torch.float32)
        assert torch.equal(rows["y"], data.test["y"][:5])
    assert torch.equal(data.beside["rotate 0"]["x"], data.test["x"][:5])


def test_another_set_is_looked_at_without_its_labels(tiny):
    data = classified("mnist", outside="fashion-mnist", n=10)
    assert set(data.beside) == {"fashion-mnist"}
    other = data.beside["fashion-mnist"]
    assert set(other) == {"x"}
    assert torch.equal(other["x"], classified("fashion-mnist").test["x"])


def test_new_images_are_coded_as_the_old_ones(tmp_path):
    from sklearn.datasets import load_digits

    data, images = classified(), load_digits().images[:3]
    rows = torch.as_tensor(images.reshape(3, 64) / 16)
    np.savez(tmp_path / "new.npz", x=images, y=[0, 0, 0])
    for new in (
        {"x": images},
        {"x": images.astype(int)},
        {"x": images.reshape(3, 64)},
        {"x": images / 16},
        tmp_path / "new.npz",
    ):
        found = data.new_rows(new)
        assert set(found) == {"x"} and torch.equal(found["x"], rows)
    assert float(data.new_rows({"x": np.eye(8, dtype=int)[None]})["x"].max()) == 1 / 16


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ({"y": [1]}, "there is no 'x'"),
        ({"x": np.zeros((2, 784))}, r"images of 28 x 28 pixels"),
        ({"x": np.zeros((0, 64))}, r"'x' has shape \(0, 64\)"),
        ({"x": [["a"] * 64]}, "type <U1"),
        ({"x": np.full((2, 64), 17)}, "image 1 has a pixel of 17"),
        ({"x": np.full((1, 8, 8), np.nan)}, "image 1 has a pixel of nan"),
    ],
)
def test_new_rows_that_are_no_such_images_are_told(new, message):
    with pytest.raises(BadInput, match=message):
        classified(n=10).new_rows(new)


def test_importing_loads_neither_sklearn_nor_pooch():
    heavy = {"sklearn", "pooch", "scipy.ndimage"}
    code = f"import sys, models.data.classified; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=HOUSE, check=True)
