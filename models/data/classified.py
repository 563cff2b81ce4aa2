"""Rows with a class each: sets of images, two moons, tables; and what lies outside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch

from ..contract import BadInput, BadSetting, Data, UsageError, nearest
from .columns import name_of
from .images import SETS, Images, as_images, generator, image_set, official, unit_pixels
from .tabular import Builtin, tabular

_ANGLES = range(0, 181, 15)  # degrees
_NOISES = (0.1, 0.2, 0.5)  # sd, where white is 1
_SIDE = 61  # points to a side of the plane that is drawn
_SHIFTED = 1000  # test images that are rotated or get noise
_STEPS, _FOLDED = 3, 3  # of the tent map at most, and numbers of a row
_OUTSIDE = (*SETS, "rotate", "noise", "far")


@dataclass(frozen=True)
class Steps:
    """How many steps each training row needs, by construction, (n,)."""

    train: np.ndarray


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
    named = source if isinstance(source, str) else ""
    if named in SETS:
        _refuse(named, noise=noise, **of_tables)
        _refuse(named, split=split if SETS[named].urls else None)
        data = image_set(named, n=n, split=split, data_seed=data_seed)
    elif named == "tent":
        _refuse(named, split=split, noise=noise, **of_tables)
        data = _tent(20_000 if n is None else n, data_seed)
    elif named == "moons":
        _refuse(named, split=split, **of_tables)
        data = _moons(200 if n is None else n, 0.2 if noise is None else noise, data_seed)
    else:
        of_tables["standardise"] = standardise is not False
        split = 0.2 if split is None else split
        data = _table(source, split=split, data_seed=data_seed, **of_tables)
        _refuse(name_of(source), n=n, noise=noise)  # once it is known that there is such a table
    if labels == "random":
        data = _at_random(data, data_seed)
    return replace(data, beside=_beside(data, words, data_seed), plane=_plane(data))


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


def _table(source: Any, **options: Any) -> Data:
    """A table with its classes as whole numbers."""
    names = dict.fromkeys((*SETS, "moons", "tent"))  # to suggest
    table = tabular(source, builtin=names, classes=True, **options)

    def whole(tensors: Mapping[str, Any]) -> dict[str, Any]:
        return {**tensors, "y": tensors["y"].long()}

    test = table.test and whole(table.test)
    return replace(table, tensors=whole(table.tensors), test=test, dims={"x": ("feature",)})


def _moons(n: int, noise: float, data_seed: int) -> Data:
    """Points of two half circles, and a test set of 1000 that is the same for any n."""
    from sklearn.datasets import make_moons

    if n < 1:
        raise BadSetting(f"n={n} points of the moons; give 1 or more")
    seeds = generator(data_seed, "moons").integers(2**31, size=2)
    sizes = (1000, n)
    parts = [make_moons(m, noise=noise, random_state=int(s)) for m, s in zip(sizes, seeds)]
    test, train = ({"x": x, "y": y} for x, y in parts)
    source = f"moons n={n} noise={noise:g} data_seed={data_seed}, 1000 points held out"
    moons = Builtin(columns=train, test=test, target="y", source=source)
    return _table(moons, standardise=False)


def _tent(n: int, data_seed: int) -> Data:
    """Numbers in [0, 1], and how often (0 to 3 times) the tent map is applied to each of them.

    T(u) = 1 - |2 u - 1| folds the interval in two, so that k folds have 2^k pieces, and a network
    of narrow layers wants a layer for each fold or two. The class tells which of three numbers end
    above 1/2, so that few rows are right by luck. The test set of 2000 is the same for any n.
    """
    rng = generator(data_seed, "tent")

    def drawn(size: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        part = rng.spawn(1)[0]
        u = part.random((_FOLDED, size))
        steps = part.integers(0, _STEPS + 1, size)
        end = u.copy()
        for step in range(_STEPS):
            end = np.where(steps > step, 1 - np.abs(2 * end - 1), end)
        columns = {f"u{i}": 2 * value - 1 for i, value in enumerate(u)}
        columns |= {f"k{k}": (steps == k) * 1.0 for k in range(_STEPS + 1)}
        return {**columns, "y": 2 ** np.arange(_FOLDED) @ (end > 0.5)}, steps

    (test, _), (train, steps) = drawn(2000), drawn(n)
    source = f"tent n={n} data_seed={data_seed}, 2000 points held out"
    classes = tuple(map(str, range(2**_FOLDED)))
    tent = Builtin(columns=train, test=test, target="y", source=source, classes=classes)
    data = _table(tent, standardise=False)
    # That just one of four numbers is 1 needs no telling.
    return replace(data, notes=(), scaling=Steps(steps))


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
            beside[word] = {"x": unit_pixels(official(word, "t10k")[0], SETS[word])}
    return beside


def _rotated(test: Mapping[str, Any], shape: Images) -> dict[str, dict[str, Any]]:
    from scipy import ndimage

    x, y = test["x"][:_SHIFTED].numpy(), test["y"][:_SHIFTED]
    shifted = {}
    for angle in _ANGLES:
        turned = ndimage.rotate(as_images(x, shape), angle, axes=(1, 2), reshape=False, order=1)
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
