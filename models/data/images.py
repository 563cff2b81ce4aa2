"""Sets of small images with a class each (digits, MNIST, Fashion-MNIST), and their files."""

import gzip
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
import torch

from ..contract import BadInput, Data, MissingInput, Rows
from . import shipped
from .columns import name_of, read_columns, simulated_rng
from .tables import split_rows

_DIGITS = tuple("0123456789")
_TIMEOUT = 20  # seconds without a word from the server


@dataclass(frozen=True, kw_only=True)
class Images:
    """How a row of pixels is an image (height, width), and of how many classes it may be."""

    height: int
    width: int
    classes: int


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """A set of square images.

    Attributes:
        side: height and width, pixels.
        white: the value of a white pixel in the set's files; black is 0.
        dtype: of the pixels in a run.
        classes: names of the classes 0, 1, ...
        urls: folders that have the files of its official training and test set; none for a set
            that comes with a library.
        sha256: of these files, by part (`train`, `t10k`) and content (`images`, `labels`).
    """

    side: int
    white: int
    dtype: Literal["float64", "float32"]
    classes: tuple[str, ...]
    urls: tuple[str, ...] = ()
    sha256: Mapping[str, str] = field(default_factory=dict)


_official_set = partial(ImageSet, side=28, white=255, dtype="float32")
SETS = {
    "digits": ImageSet(side=8, white=16, dtype="float64", classes=_DIGITS),
    "mnist": _official_set(
        classes=_DIGITS,
        urls=(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        sha256={
            "train-images": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
    ),
    "fashion-mnist": _official_set(
        classes=(
            "T-shirt", "trouser", "pullover", "dress", "coat",
            "sandal", "shirt", "sneaker", "bag", "ankle boot",
        ),
        urls=(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        sha256={
            "train-images": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
}  # fmt: skip


def image_set(name: str, *, n: int | None, split: float | None, data_seed: int) -> Data:
    """A set of images: `x` (n, pixels), white 1 and black 0, and classes `y` (n,) int64.

    Args:
        name: of the set.
        n: images to train on, chosen at random; None takes all.
        split: share held out of a set without a test set of its own; None takes a fifth.
        data_seed: what alone decides which images are chosen and held out.

    Raises:
        MissingInput: the set is not on disk and cannot be downloaded. BadInput: more images than
        there are, or a file of another content.
    """
    kind = SETS[name]
    if kind.urls:
        train, test = official(name, "train"), official(name, "t10k")
    else:
        train, test = _digits(split, data_seed)
    rows = _chosen(len(train[1]), n, name, data_seed)
    notes = [f"pixels divided by {kind.white}, so that white is 1"]
    if len(rows) < len(train[1]):
        notes.append(f"{len(rows)} of {len(train[1])} training images, chosen by data_seed")
    return Data(
        tensors=_tensors(train[0][rows], train[1][rows], kind),
        test=_tensors(*test, kind),
        rows=Rows("row", ("x", "y")),
        dtype=kind.dtype,
        coords={"class": kind.classes},
        dims={"x": ("feature",)},
        source=f"{name} n={len(rows)} data_seed={data_seed}, {len(test[1])} images held out",
        notes=tuple(notes),
        scaling=Images(height=kind.side, width=kind.side, classes=len(kind.classes)),
        new_rows=lambda new: {"x": _new_images(new, name)},
    )


def as_images(rows: Any, size: Images) -> np.ndarray:
    """Rows of pixels (m, height * width) as images (m, height, width)."""
    return np.asarray(rows).reshape(-1, size.height, size.width)


def generator(data_seed: int, purpose: str) -> np.random.Generator:
    """A generator for each purpose, independent of the others."""
    purposes = ("rows", "labels", "test labels", "noise", "moons", "binary", "binary test", "tent")
    return simulated_rng(data_seed).spawn(len(purposes))[purposes.index(purpose)]


def _tensors(x: np.ndarray, y: np.ndarray, kind: ImageSet) -> dict[str, torch.Tensor]:
    return {"x": unit_pixels(x, kind), "y": torch.as_tensor(y.astype(np.int64))}


def unit_pixels(x: np.ndarray, kind: ImageSet) -> torch.Tensor:
    """Pixels of a set's files as numbers from 0 to 1, in the set's number type."""
    pixels = x.astype(kind.dtype)
    pixels /= kind.white
    return torch.as_tensor(pixels)


def _chosen(total: int, n: int | None, name: str, data_seed: int) -> np.ndarray:
    """Sorted row numbers of the first n of a permutation: fewer are always among more."""
    if n is None:
        return np.arange(total)
    if not 1 <= n <= total:
        raise BadInput(f"n={n}, but {name} has {total} training images; give n from 1 to {total}")
    return np.sort(generator(data_seed, "rows").permutation(total)[:n])


def _digits(split: float | None, data_seed: int) -> tuple[tuple, tuple]:
    """Images (m, 64) and labels (m,) of the training and of the test set."""
    x, y = shipped.features_and_target("digits")
    share = 360 / 1797 if split is None else split  # a fifth
    return tuple((x[rows], y[rows]) for rows in split_rows(len(y), share, data_seed))


def official(name: str, part: Literal["train", "t10k"]) -> tuple[np.ndarray, np.ndarray]:
    """Images (m, side * side) and labels (m,) of a part of a set, whole numbers as in its files.

    Raises:
        MissingInput: a file is not there and cannot be downloaded. BadInput: it is another file.
    """
    kind = SETS[name]
    x, y = _idx(name, f"{part}-images", 3), _idx(name, f"{part}-labels", 1)
    if x.shape != (len(y), kind.side, kind.side) or y.ndim != 1:
        problem = f"images {x.shape} and labels {y.shape} do not fit, {name} {part}"
        raise BadInput(f"{problem}; put the original files in their place")
    return x.reshape(len(x), -1), y


def _idx(name: str, content: str, dimensions: int) -> np.ndarray:
    """An array of bytes in LeCun's idx format: 0, 0, 8, number of dimensions, sizes, values."""
    kind, file = SETS[name], f"{content}-idx{dimensions}-ubyte.gz"
    urls, sha256 = [folder + file for folder in kind.urls], kind.sha256[content]
    raw = gzip.decompress(contents(f"{name}/{file}", sha256, urls))
    start = 4 + 4 * raw[3]
    sizes = [int.from_bytes(raw[at : at + 4], "big") for at in range(4, start, 4)]
    if raw[:3] != b"\0\0\x08" or len(raw) != start + math.prod(sizes):
        raise BadInput(f"{name}/{file} is no array of bytes; put the original file in its place")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(sizes)


def _new_images(new: Any, name: str) -> torch.Tensor:
    """Images (m, k) in the pixels of a set.

    Args:
        new: a mapping or file with `x` of shape (m, k) or (m, height, width): whole numbers (and
            all where one is above 1) are divided as those of the set were, else white is 1.
        name: of the set.

    Raises:
        BadInput: no `x`, images of another size, pixels that are none.
    """
    kind = SETS[name]
    size = kind.side, kind.side
    x = checked_images(read_columns(new), name_of(new), white=kind.white, size=size)
    x = x.reshape(len(x), -1)
    if x.dtype.kind in "bf" and x.max() <= 1:
        return torch.as_tensor(x.astype(kind.dtype))
    return unit_pixels(x, kind)


def checked_images(
    columns: Mapping[str, Any], where: str, *, white: int, size: tuple[int, int] | None = None
) -> np.ndarray:
    """The images `x`, (m, height, width); square ones may come as rows of pixels.

    Args:
        columns: name to values.
        where: they came from, for messages.
        white: the largest value of a pixel; the least is 0.
        size: height and width that they must have; None takes any.

    Raises:
        BadInput: no `x`, no images, another size, or a pixel out of this range.
    """
    if "x" not in columns:
        raise BadInput(f"there is no 'x', {where}; give images, shape (m, height, width)")
    x = given = np.asarray(columns["x"])
    side = math.isqrt(x.shape[1]) if x.ndim == 2 else 0
    if side and side**2 == x.shape[1]:
        x = x.reshape(len(x), side, side)
    if x.dtype.kind not in "biuf" or x.ndim != 3 or x.size == 0:
        problem = f"'x' has shape {given.shape} and type {x.dtype}"
        raise BadInput(f"{problem}, {where}; give numbers of shape (m, height, width)")
    if size not in (None, x.shape[1:]):
        theirs, ours = (f"{height} x {width}" for height, width in (x.shape[1:], size))
        raise BadInput(f"images of {theirs} pixels, {where}; the run's have {ours}")
    wrong = ~((x >= 0) & (x <= white))  # NaN is wrong too
    if wrong.any():
        image, row, column = np.argwhere(wrong)[0] + 1
        problem = f"image {image} has a pixel of {x[wrong][0]:g} (row {row}, column {column})"
        raise BadInput(f"{problem}, {where}; give 0 to {white}, or 0 to 1 as fractions")
    return x


# -- files: in `$ZOO_DATA`, in the user's cache, or downloaded into it --------------------------


def contents(name: str, sha256: str, urls: Sequence[str]) -> bytes:
    """The content of a file of a data set, exactly the one that is meant.

    Args:
        name: path below the folder of all data sets, such as `mnist/labels.gz`.
        sha256: of the file, in hexadecimal digits.
        urls: where it can be had, the best first.

    Raises:
        MissingInput: it is not on disk and cannot be downloaded, or not read.
        BadInput: a file of that name has another content.
    """
    places = [folder / name for folder in _folders()]
    for path in places:
        if path.is_file():
            return _checked(path, sha256, urls[0])
    failures = []
    for url in urls:
        try:
            return _downloaded(url, places[-1], sha256)
        except (OSError, ValueError) as error:  # requests' errors are OSErrors
            failures.append(f"{urlsplit(url).hostname}: {_reason(error)}")
    raise MissingInput(
        f"{name} is not on disk, and no download came ({', '.join(failures)}); save {urls[0]} "
        f"(sha256 {sha256}) as {places[0]}"
    )


def _folders() -> list[Path]:
    """Where data sets are looked for; the last is the one that they are downloaded into."""
    own = os.environ.get("ZOO_DATA")
    return [*([Path(own).absolute()] if own else []), _cache() / "data"]


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root).absolute() / "bayeszoo"


def _checked(path: Path, sha256: str, url: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MissingInput(f"cannot read {path} ({error.strerror}); allow it") from None
    other = hashlib.sha256(content).hexdigest()
    if other != sha256:
        raise BadInput(
            f"{path} has the sha256 {other}, not {sha256}; delete it, or put {url} in its place"
        )
    return content


def _downloaded(url: str, path: Path, sha256: str) -> bytes:
    """The content that came, and is kept at `path`; another one never is.

    Raises:
        OSError: no answer in time, or no place to write. ValueError: another content came.
    """
    import pooch

    _cache().mkdir(mode=0o700, parents=True, exist_ok=True)  # compiled code lies there as well
    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(timeout=_TIMEOUT)
    pooch.retrieve(
        url, f"sha256:{sha256}", fname=path.name, path=path.parent, downloader=downloader
    )
    return path.read_bytes()


def _reason(error: Exception) -> str:
    """A failed download in a word or two."""
    if type(error) is ValueError:
        return "another file came"
    return getattr(error, "strerror", None) or type(error).__name__
