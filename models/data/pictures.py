"""Images to be generated: binary or grey rows of pixels, from a set, a folder or a file."""

import io
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..contract import BadInput, BadSetting, Data, MissingInput, Redrawn, Rows, UsageError, nearest
from .classified import classified
from .columns import name_of, read_columns
from .images import SETS, Images, checked_images, generator
from .reading import check_size, content, reading, size_of
from .tables import split_rows

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff")
# What such a file may hold: Pillow hands some other formats to programs of their own.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF")

Binarise = Literal["dynamic", "static", "none"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures(Images):
    """How a row of pixels is an image, and what the images show.

    Attributes:
        labels: class of each training image, (n,); None where it is not known.
        test_labels: of each test image.
        grey: the test images as they came, before they were made binary (m, pixels).
    """

    labels: np.ndarray | None
    test_labels: np.ndarray | None
    grey: Tensor


def pictures(
    source: Any = None,
    *,
    n: Annotated[int | None, ">= 1"] = None,
    split: Annotated[float | None, "> 0", "< 1"] = None,
    binarise: Binarise = "dynamic",
    outside: str | None = None,
    part: Literal["train", "test"] = "train",
    data_seed: Annotated[int, ">= 0"] = 0,
) -> Data:
    """Images `x` (n, pixels) in the plate `row`, with a test set; their labels in `scaling`.

    A pixel of grey g is 1 with probability g: once for all in test images and wherever a result
    is judged, and, if `dynamic`, drawn anew in each step of training.

    Args:
        source: `digits` (the default), `mnist`, `fashion-mnist`, a folder of images (those in
            subfolders have their names as labels), or a file or mapping with `x` of shape (n,
            height, width) and, if known, labels `y`.
        n: images to train on, chosen at random (None: all).
        split: share held out as test set, of digits or own images (None: a fifth).
        binarise: `dynamic`, `static` or `none`, which leaves grey pixels.
        outside: what else is looked at beside the test set, separated by commas: an image set's
            name, `rotate`, `noise`.
        part: `test` makes the first n test images the data, with no others held out: images that
            a saved decoder has not seen.
        data_seed: seed of splits, subsets, noise and binary pixels.

    Raises:
        BadInput: whatever is wrong with the images. BadSetting: an option that they cannot take.
    """
    source = "digits" if source is None else source
    whole = n if part == "train" else None
    if isinstance(source, str) and source in SETS:
        data = classified(source, n=whole, split=split, outside=outside, data_seed=data_seed)
    elif outside is not None:
        raise BadSetting(f"outside={outside} is for digits, mnist and fashion-mnist alone")
    else:
        data = _own(source, whole, split, data_seed)
    parts = (data.tensors, data.test)
    labels, test_labels = (np.asarray(rows["y"]) if "y" in rows else None for rows in parts)
    grey = data.test["x"]
    data = replace(
        data,
        tensors={"x": data.tensors["x"]},
        test={"x": grey},
        beside={name: {"x": rows["x"]} for name, rows in data.beside.items()},
        rows=Rows("row", ("x",)),
        coords={},
        dims={"x": ("pixel",)},
        dtype="float32",
        scaling=Pictures(**vars(data.scaling), labels=labels, test_labels=test_labels, grey=grey),
    )
    data = data if binarise == "none" else _binary(data, binarise, data_seed)
    return data if part == "train" else _test_alone(data, n)


def _test_alone(data: Data, n: int | None) -> Data:
    """The first test images as the data."""
    count = len(data.test["x"])
    if n is not None and n > count:
        raise BadInput(f"n={n}, but there are {count} test images; give fewer")
    shown: Pictures = data.scaling
    labels = None if shown.test_labels is None else shown.test_labels[:n]
    return replace(
        data,
        tensors={"x": data.test["x"][:n]},
        test=None,
        redrawn=None,
        source=f"{data.source}: the first {n or count} of these",
        scaling=replace(shown, labels=labels, test_labels=None, grey=shown.grey[:n]),
    )


def _binary(data: Data, binarise: Binarise, data_seed: int) -> Data:
    """The same images with pixels that are 0 or 1, each set by random numbers of its own."""
    grey = data.tensors["x"]
    binary = {"x": _drawn(grey, generator(data_seed, "binary"))}
    rng, named = generator(data_seed, "binary test"), {"": data.test, **data.beside}
    others = {name: {"x": _drawn(rows["x"], rng)} for name, rows in named.items()}

    def new_rows(new: Any) -> dict[str, Tensor]:
        return {"x": _drawn(data.new_rows(new)["x"], generator(data_seed, "binary test"))}

    note = "pixels are 1 with a probability of their grey"
    if binarise == "dynamic":
        note += ", drawn anew in each step of training, once where the result is judged"
    return replace(
        data,
        tensors=binary,
        test=others.pop(""),
        beside=others,
        redrawn=Redrawn({"x": grey}, _redraw) if binarise == "dynamic" else None,
        source=f"{data.source}, binarise={binarise}",
        notes=(*data.notes, note),
        new_rows=new_rows,
    )


def _drawn(grey: Tensor, rng: np.random.Generator) -> Tensor:
    """1 with the probability of the grey, else 0."""
    below = rng.random(grey.shape, np.float32) < grey.numpy()
    return torch.as_tensor(below).to(grey.dtype)


def _redraw(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Binary pixels of grey ones, by torch's random numbers."""
    return {"x": torch.bernoulli(rows["x"])}


def compressed(images: np.ndarray) -> np.ndarray:
    """How long each image is when compressed, nats (m,): what there is to tell of it at all.

    The shortest of zlib's (bytes, and bits eight in a byte where pixels are 0 or 1) and of PNG;
    what is the same for all images, as a file's head, does not matter.

    Args:
        images: from 0 to 1, (m, height, width).
    """
    return np.log(256) * np.array([min(map(len, _packed(image))) for image in images])


def _packed(image: np.ndarray) -> list[bytes]:
    from PIL import Image

    grey = np.round(255 * image).astype(np.uint8)
    binary = bool(((image == 0) | (image == 1)).all())
    picture, file = Image.fromarray(grey), io.BytesIO()
    (picture.convert("1") if binary else picture).save(file, "PNG", optimize=True)
    bits = [zlib.compress(np.packbits(grey > 0).tobytes(), 9)] if binary else []
    return [file.getvalue(), zlib.compress(grey.tobytes(), 9), *bits]


# -- images of the user's own ------------------------------------------------------------------


def _own(source: Any, n: int | None, split: float | None, data_seed: int) -> Data:
    """Images of a folder, file or mapping, and their labels if known; some are held out."""
    where, columns = name_of(source), _columns(source)
    x = _pixels(columns, where)
    rows, names = {"x": x.reshape(len(x), -1)}, ()
    if len(x) < 5:
        raise BadInput(f"{len(x)} images are too few, {where}; give 5 or more")
    if "y" in columns:
        names, rows["y"] = np.unique(np.asarray(columns["y"]), return_inverse=True)
        if rows["y"].shape != (len(x),):
            raise BadInput(f"{len(x)} images have labels of shape {rows['y'].shape}, {where}")
    train, test = split_rows(len(x), 0.2 if split is None else split, data_seed)
    if n is not None and n > len(train):
        raise BadInput(f"n={n}, but {where} has {len(train)} training images; give fewer")

    def tensors(numbers: np.ndarray) -> dict[str, Tensor]:
        return {key: torch.as_tensor(values[numbers]) for key, values in rows.items()}

    def new_rows(new: Any) -> dict[str, Tensor]:
        images = _pixels(_columns(new), name_of(new), x.shape[1:])
        return {"x": torch.as_tensor(images.reshape(len(images), -1))}

    return Data(
        tensors=tensors(train[:n]),
        test=tensors(test),
        rows=Rows("row", tuple(rows)),
        dtype="float32",
        source=f"{where} n={len(train[:n])}, {len(test)} images held out",
        scaling=Images(height=x.shape[1], width=x.shape[2], classes=len(names)),
        new_rows=new_rows,
    )


def _columns(source: Any) -> Mapping[str, Any]:
    """Images `x` and, if known, labels `y` of a folder, a file or a mapping."""
    if not isinstance(source, Mapping):
        path = Path(source)
        if path.is_dir():
            return _folder(path)
        if isinstance(source, str) and not path.suffix and not path.exists():
            raise UsageError(f"there is no image set '{source}'; {nearest(source, SETS)}")
    return read_columns(source)


def _folder(path: Path) -> dict[str, Any]:
    """The images of a folder as bytes of grey, (m, height, width), labelled by subfolder."""
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in _SUFFIXES)
    if not files:
        raise MissingInput(
            f"there are no images ({', '.join(_SUFFIXES)}) in {path}; check the name"
        )
    images = []
    for file in files:
        with reading(file, "image", "remove it"):
            images.append(_grey(file, len(files)))
        if images[-1].shape != images[0].shape:
            sizes = " and ".join(f"{i.shape[0]} x {i.shape[1]}" for i in (images[0], images[-1]))
            raise BadInput(f"{file} is of another size ({sizes} pixels); scale all to one size")
    columns = {"x": np.stack(images)}
    if all(file.parent != path for file in files):
        columns["y"] = np.array([file.relative_to(path).parts[0] for file in files])
    return columns


def _grey(file: Path, count: int) -> np.ndarray:
    """An image as bytes of grey (height, width); `count` of its size must fit into memory."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # its size is looked at
        with Image.open(io.BytesIO(content(file)), formats=_FORMATS) as image:
            width, height = image.size
            check_size(size_of((count, height, width)), f"{file}, {height} x {width} pixels,")
            return np.asarray(image.convert("L"))


def _pixels(columns: Mapping[str, Any], where: str, size: Any = None) -> np.ndarray:
    """Images (m, height, width), grey from 0 to 1; whole numbers above 1 are of 255."""
    x = checked_images(columns, where, white=255, size=size).astype(np.float32)
    return x / 255 if x.max() > 1 else x
