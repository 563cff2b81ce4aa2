"""Rows with a class each: sets of small images, two moons, tables; and what lies outside them."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch

from ..contract import BadInput, BadSetting, Data, Rows, UsageError, nearest
from .columns import name_of, read_columns, simulated_rng
from .download import contents
from .tables import split_rows
from .tabular import tabular

_ANGLES = range(0, 181, 15)  # degrees
_NOISES = (0.1, 0.2, 0.5)  # sd, where white is 1
_SIDE = 61  # points to a side of the plane that is drawn
_SHIFTED = 1000  # test images that are rotated or get noise
_DIGITS = tuple("0123456789")


@dataclass(frozen=True, kw_only=True)
class Images:
    """How a row of pixels is an image (height, width), and of how many classes it may be."""

    height: int
    width: int
    classes: int


@dataclass(frozen=True, kw_only=True)
class _Set:
    """A set of square images.

    Attributes:
        side: height and width, pixels.
        white: the value of a white pixel in the set's files; black is 0.
        dtype: of the pixels in a run.
        classes: names of the classes 0, 1, ...
        urls: folders that have the files of its official training and test set.
        sha256: of these files, by name; none for a set that comes with a library.
    """

    side: int
    white: int
    dtype: Literal["float64", "float32"]
    classes: tuple[str, ...]
    urls: tuple[str, ...] = ()
    sha256: Mapping[str, str] = field(default_factory=dict)


SETS = {
    "digits": _Set(side=8, white=16, dtype="float64", classes=_DIGITS),
    "mnist": _Set(
        side=28,
        white=255,
        dtype="float32",
        classes=_DIGITS,
        urls=(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        sha256={
            "train-images-idx3-ubyte.gz": (
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
            ),
            "train-labels-idx1-ubyte.gz": (
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
            ),
            "t10k-images-idx3-ubyte.gz": (
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
            ),
        },
    ),
    "fashion-mnist": _Set(
        side=28,
        white=255,
        dtype="float32",
        classes=(
            "T-shirt", "trouser", "pullover", "dress", "coat",
            "sandal", "shirt", "sneaker", "bag", "ankle boot",
        ),
        urls=(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        sha256={
            "train-images-idx3-ubyte.gz": (
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
            ),
            "train-labels-idx1-ubyte.gz": (
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
            ),
            "t10k-images-idx3-ubyte.gz": (
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
            ),
        },
    ),
}  # fmt: skip
_OUTSIDE = (*SETS, "rotate", "noise", "far")


def classified(
    source: Any = None,
    *,
    target: str | None = None,
    features: str | None = None,
    standardise: bool | None = None,
    split: Annotated[float | None, "> 0", "< 1"] = None,
    n: Annotated[int | None, ">= 1"] = None,
    noise: Annotated[float | None, ">= 0"] = None,
    labels: Literal["true", "random"] = "true",
    outside: str | None = None,
    data_seed: Annotated[int, ">= 0"] = 0,
) -> Data:
    """Data with `x` (n, k) and classes `y` (n,) int64 in the plate `row`, and a test set.

    Pixels are divided so that white is 1; a row of `x` is an image, row by row of pixels, and
    `scaling` its `Images`. The names of the classes 0, 1, ... are `coords["class"]`.

    Args:
        source: `digits` (the default: 1797 images, 8 x 8), `mnist` or `fashion-mnist` (70,000,
            28 x 28, of which 10,000 are the official test set), `moons` (two half circles in the
            plane), `tent` (a map applied 0 to 3 times), a file or mapping of columns.
        target: name of a table's target column.
        features: names of a table's feature columns, separated by commas.
        standardise: a table's features to mean 0 and sd 1 (None: yes).
        split: share held out as test set, of digits or a table (None: a fifth).
        n: images to train on, chosen at random (None: all); points of the moons (None: 200), of
            the tent (None: 20,000).
        noise: sd of the noise of the moons (None: 0.2).
        labels: `random` gives the rows, and the test rows, any class with equal chance.
        outside: what else predictions are looked at on, words separated by commas: an image set's
            name (its test images), `rotate` (test images, by 0, 15, ..., 180 degrees
            anticlockwise), `noise` (test images, with normal noise of sd 0.1, 0.2 and 0.5), `far`
            (a grid around the moons, 3 to 5 times as far out as they reach).
        data_seed: what alone decides all that is random here.

    Raises:
        UsageError: no such set, or nothing of that name outside. MissingInput: a set is not on
        disk and cannot be downloaded. BadSetting: an option that the set cannot take.
        BadInput: more images than there are, or of another size; whatever is wrong with a table.
    """
    source = "digits" if source is None else source
    words = _words(outside, source)
    of_tables = {"target": target, "features": features, "standardise": standardise}
    if isinstance(source, str) and source in SETS:
        _refuse(source, noise=noise, **of_tables)
        found = _images(source, n=n, split=split, data_seed=data_seed)
    elif isinstance(source, str) and source == "tent":
        _refuse(source, split=split, noise=noise, **of_tables)
        found = _tent(n=20_000 if n is None else n, data_seed=data_seed)
    elif isinstance(source, str) and source == "moons":
        _refuse(source, split=split, **of_tables)
        noise = 0.2 if noise is None else noise
        found = _moons(n=200 if n is None else n, noise=noise, data_seed=data_seed)
    else:
        of_tables["standardise"] = standardise is not False
        found = _table(source, split=split, data_seed=data_seed, **of_tables)
        _refuse(name_of(source), n=n, noise=noise)  # once it is known that there is such a table
    if labels == "random":
        found = _at_random(found, data_seed)
    return replace(found, beside=_beside(found, words, data_seed), plane=_plane(found))


def _plane(data: Data) -> dict[str, torch.Tensor] | None:
    """A grid over twice the range of two features; None for more of them."""
    x = data.tensors["x"]
    if x.shape[1] != 2:
        return None
    middle, half = (x.amax(0) + x.amin(0)) / 2, x.amax(0) - x.amin(0)
    half[half == 0] = 1.0  # of a feature that is constant
    axes = [torch.linspace(float(m - h), float(m + h), _SIDE) for m, h in zip(middle, half)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="xy"), -1).reshape(-1, 2)
    return {"x": grid.to(x.dtype)}


def _refuse(source: str, **options: Any) -> None:
    """No option is silently dropped."""
    why = {
        "n": "is a table, which is taken whole",
        "split": "has a test set of its own",
        "target": "has labels of its own",
        "features": "has no columns to choose from",
        "standardise": "is taken as it is",
        "noise": "has no noise of its own",
    }
    for name, value in options.items():
        if value is not None:
            raise BadSetting(f"{source} {why[name]}, yet {name}={value}; leave {name} out")


def generator(data_seed: int, purpose: str) -> np.random.Generator:
    """A generator for each purpose, independent of the others."""
    purposes = ("rows", "labels", "test labels", "noise", "moons", "binary", "binary test", "tent")
    return simulated_rng(data_seed).spawn(len(purposes))[purposes.index(purpose)]


def _images(name: str, *, n: int | None, split: float | None, data_seed: int) -> Data:
    kind = SETS[name]
    if kind.urls:
        _refuse(name, split=split)
        train, test = _official(name, "train"), _official(name, "t10k")
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


def _tensors(x: np.ndarray, y: np.ndarray, kind: _Set) -> dict[str, torch.Tensor]:
    return {"x": _pixels(x, kind), "y": torch.as_tensor(y.astype(np.int64))}


def _pixels(x: np.ndarray, kind: _Set) -> torch.Tensor:
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
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    share = 360 / 1797 if split is None else split  # a fifth
    return tuple((x[rows], y[rows]) for rows in split_rows(len(y), share, data_seed))


def _official(name: str, part: Literal["train", "t10k"]) -> tuple[np.ndarray, np.ndarray]:
    """Images (m, side * side) and labels (m,) of a part of a set, whole numbers as in its files.

    Raises:
        MissingInput: a file is not there and cannot be downloaded. BadInput: it is another file.
    """
    kind = SETS[name]
    x = _idx(name, f"{part}-images-idx3-ubyte.gz")
    y = _idx(name, f"{part}-labels-idx1-ubyte.gz")
    if x.shape != (len(y), kind.side, kind.side) or y.ndim != 1:
        found = f"images {x.shape} and labels {y.shape}"
        raise BadInput(f"{found} do not fit, {name} {part}; put the original files in their place")
    return x.reshape(len(x), -1), y


def _idx(name: str, file: str) -> np.ndarray:
    """An array of bytes in LeCun's idx format: 0, 0, 8, number of dimensions, sizes, values."""
    kind = SETS[name]
    urls = [folder + file for folder in kind.urls]
    raw = gzip.decompress(contents(f"{name}/{file}", kind.sha256[file], urls))
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
    kind, where = SETS[name], name_of(new)
    columns = dict(new) if isinstance(new, Mapping) else read_columns(new)
    if "x" not in columns:
        raise BadInput(
            f"there is no 'x', {where}; give images, shape (m, {kind.side}, {kind.side})"
        )
    x = np.asarray(columns["x"])
    shapes = (kind.side**2,), (kind.side, kind.side)
    if x.dtype.kind not in "iuf" or x.shape[1:] not in shapes or len(x) == 0:
        found = f"'x' has shape {x.shape} and type {x.dtype}"
        raise BadInput(
            f"{found}, {where}; give numbers (m, {kind.side}, {kind.side}) as {name} has"
        )
    x = x.reshape(len(x), -1)
    wrong = ~((x >= 0) & (x <= kind.white))  # NaN is wrong too
    if wrong.any():
        row, pixel = np.argwhere(wrong)[0]
        found = f"pixel {pixel + 1} of row {row + 1} is {x[row, pixel]:g}"
        raise BadInput(f"{found}, {where}; {name} has 0 to {kind.white}, or 0 to 1 as fractions")
    if x.dtype.kind == "f" and x.max() <= 1:
        return torch.as_tensor(x.astype(kind.dtype))
    return _pixels(x, kind)


def _moons(*, n: int, noise: float, data_seed: int) -> Data:
    """Points of two half circles, and a test set of 1000 that is the same for any n."""
    from sklearn.datasets import make_moons

    if n < 1:
        raise BadSetting(f"n={n} points of the moons; give 1 or more")
    seeds = generator(data_seed, "moons").integers(2**31, size=2)

    def drawn(size: int, seed: int) -> dict[str, np.ndarray]:
        x, y = make_moons(size, noise=noise, random_state=int(seed))
        return {"x": x, "y": y}

    words = f"moons n={n} noise={noise:g} data_seed={data_seed}"
    found = _table(
        "moons",
        builtin={"moons": lambda: (drawn(n, seeds[1]), words, "y")},
        split=None,
        data_seed=data_seed,
        target=None,
        features=None,
        standardise=False,
    )
    test = {key: torch.as_tensor(value) for key, value in drawn(1000, seeds[0]).items()}
    return replace(found, test=test, source=f"{words}, 1000 points held out")


@dataclass(frozen=True)
class Steps:
    """How many steps each training row needs, by construction, (n,)."""

    train: np.ndarray


_STEPS = 3  # at most
_FOLDED = 3  # numbers of a row


def _tent(*, n: int, data_seed: int) -> Data:
    """Numbers in [0, 1], and how often (0 to 3 times) the tent map is applied to each of them.

    T(u) = 1 - |2 u - 1| folds the interval in two, so that k folds have 2^k pieces, and a network
    of narrow layers wants a layer for each fold or two. The class tells which of three numbers end
    above 1/2, so that few rows are right by luck. The test set of 2000 is the same for any n.
    """
    rng = generator(data_seed, "tent")
    parts = {name: rng.spawn(1)[0] for name in ("test", "train")}

    def drawn(name: str, size: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        u = parts[name].random((_FOLDED, size))
        steps = parts[name].integers(0, _STEPS + 1, size)
        end = u.copy()
        for step in range(_STEPS):
            end = np.where(steps > step, 1 - np.abs(2 * end - 1), end)
        numbers = {f"u{i}": 2 * value - 1 for i, value in enumerate(u)}
        wanted = {f"k{k}": (steps == k) * 1.0 for k in range(_STEPS + 1)}
        return numbers | wanted | {"y": 2 ** np.arange(_FOLDED) @ (end > 0.5)}, steps

    train, steps = drawn("train", n)
    words = f"tent n={n} data_seed={data_seed}"
    found = _table(
        "tent",
        builtin={"tent": lambda: (train, words, "y")},
        split=None,
        data_seed=data_seed,
        target=None,
        features=None,
        standardise=False,
    )

    def tensors(columns: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        x = np.stack([columns[name] for name in columns if name != "y"], 1)
        return {"x": torch.as_tensor(x), "y": torch.as_tensor(columns["y"])}

    return replace(
        found,
        tensors=tensors(train),
        test=tensors(drawn("test", 2000)[0]),
        coords={**found.coords, "class": tuple(map(str, range(2**_FOLDED)))},
        source=f"{words}, 2000 points held out",
        notes=(),  # that just one of four numbers is 1 needs no telling
        scaling=Steps(steps),
    )


def _table(
    source: Any,
    *,
    split: float | None,
    data_seed: int,
    builtin: Mapping[str, Callable] | None = None,
    **options: Any,
) -> Data:
    """A table with its classes as whole numbers, a fifth held out unless it is built in."""
    found = tabular(
        source,
        builtin=builtin or dict.fromkeys((*SETS, "moons", "tent")),  # names to suggest
        default="",
        classes=True,
        split=0.2 if split is None and builtin is None else split,
        data_seed=data_seed,
        **options,
    )

    def whole(tensors: Mapping[str, Any]) -> dict[str, Any]:
        return {**tensors, "y": tensors["y"].long()}

    return replace(
        found,
        tensors=whole(found.tensors),
        test=None if found.test is None else whole(found.test),
        dims={"x": ("feature",)},
    )


def _at_random(data: Data, data_seed: int) -> Data:
    """The same rows under labels that say nothing about them."""
    classes = len(data.coords["class"])

    def relabelled(tensors: Mapping[str, Any], purpose: str) -> dict[str, Any]:
        drawn = generator(data_seed, purpose).integers(classes, size=len(tensors["y"]))
        return {**tensors, "y": torch.as_tensor(drawn)}

    return replace(
        data,
        tensors=relabelled(data.tensors, "labels"),
        test=relabelled(data.test, "test labels"),
        source=f"{data.source}, labels=random",
        notes=(*data.notes, "labels are random, also those held out: there is nothing to learn"),
    )


def _words(outside: str | None, source: Any) -> list[str]:
    """What is asked for outside, each once, if the source can have it."""
    words = [word.strip() for word in (outside or "").split(",")]
    words = list(dict.fromkeys(filter(None, words)))
    for word in words:
        if word not in _OUTSIDE:
            known = nearest(word, _OUTSIDE)
            raise UsageError(f"nothing called '{word}' is known to look at outside; {known}")
        _check_fits(word, source)
    return words


def _check_fits(word: str, source: Any) -> None:
    kind = SETS.get(source) if isinstance(source, str) else None
    if word == "far" and source != "moons":
        raise BadInput(
            f"'far' is for moons, {name_of(source)} is none; give another word, or none"
        )
    if kind is None and (source != "moons" or word != "far"):
        better = "'far'" if source == "moons" else "nothing"
        raise BadInput(
            f"'{word}' is for images, {name_of(source)} is none; give {better} as outside"
        )
    if word == source:
        raise BadInput(f"{word} cannot be outside itself; name another set of images")
    if word in SETS and SETS[word].side != kind.side:
        sides = f"{word} has {SETS[word].side} pixels to a side, {source} has {kind.side}"
        raise BadInput(f"{sides}; name a set of the same size, 'rotate' or 'noise'")


def _beside(data: Data, words: Sequence[str], data_seed: int) -> dict[str, dict[str, Any]]:
    """The rows that predictions are looked at on, by name, in the order of the words."""
    beside = {}
    for word in words:
        if word == "rotate":
            beside |= _rotated(data.test, data.scaling)
        elif word == "noise":
            beside |= _noisy(data.test, data_seed)
        elif word == "far":
            beside[word] = {"x": _far(data.tensors["x"].numpy())}
        else:
            beside[word] = {"x": _pixels(_official(word, "t10k")[0], SETS[word])}
    return beside


def _rotated(test: Mapping[str, Any], shape: Images) -> dict[str, dict[str, Any]]:
    from scipy import ndimage

    x, y = test["x"][:_SHIFTED].numpy(), test["y"][:_SHIFTED]
    images = x.reshape(-1, shape.height, shape.width)
    shifted = {}
    for angle in _ANGLES:
        turned = ndimage.rotate(images, angle, axes=(1, 2), reshape=False, order=1)
        pixels = turned.clip(0, 1).reshape(x.shape)
        shifted[f"rotate {angle}"] = {"x": torch.as_tensor(pixels), "y": y}
    return shifted


def _noisy(test: Mapping[str, Any], data_seed: int) -> dict[str, dict[str, Any]]:
    """The same noise at each level, but for its size."""
    x, y = test["x"][:_SHIFTED], test["y"][:_SHIFTED]
    normal = torch.as_tensor(generator(data_seed, "noise").normal(size=x.shape), dtype=x.dtype)
    return {f"noise {sd}": {"x": (x + sd * normal).clip(0, 1), "y": y} for sd in _NOISES}


def _far(x: np.ndarray) -> torch.Tensor:
    """Points (360, 2) on five circles, 3 to 5 times as far from the centre as any of x is."""
    centre = x.mean(0)
    reach = np.linalg.norm(x - centre, axis=1).max()
    radii = reach * np.linspace(3, 5, 5)[:, None]  # (5, 1)
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    circles = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=-1)  # (5, 72, 2)
    return torch.as_tensor(centre + circles.reshape(-1, 2))
