"""Semi-supervised variational autoencoder: few labels, many images, one model of both.

The lectures' second use of a generative model: what images without labels tell about those with.
An image has a label y and a style z that are independent; a classifier q(y|x) guesses the label,
an encoder q(z|x,y) the style. Where the label is not known it is summed out (enumerated), so that
every image teaches the decoder, and through it the classifier. This is M2 of Kingma et al.

    y_i ~ Categorical(1/C, ..., 1/C),  i = 1..n;  known for some rows, a latent `label` for others
    z_i ~ Normal(0, I),  latent dimensions
    x_i ~ Bernoulli(f(y_i, z_i)) for each pixel;  f the decoder, with parameters of its own

Data:   x, shape (n, pixels), binary, and y, shape (n,), classes 0..C-1, -1 where not known; of
        `digits` (default), `mnist`, `fashion-mnist`, a folder of labelled images or a file. Of all
        labels `labels` are kept, as many of each class. `binarise` as for `vae`.
Priors: of label and style alone. The parameters have none: only svi fits them.
Guides: `own`, trained by the bound of M2 (eq. 9: its ELBO, and alpha times the log probability
        that the classifier gives the known labels); `supervised`, the same classifier trained on
        the known labels alone: its twin. `classifier=conv` looks at images by two convolutions
        before its hidden layers; `dropout` leaves out units of the classifier in training.
Exact:  nothing.
Known failure: what the decoder finds easiest to tell apart need not be the classes that are
        asked for: with too few labels, or too small an alpha, styles take the place of labels
        (with 100 labels of MNIST take 50, not 0.1; and dropout).

References: Kingma, Rezende, Mohamed and Welling (2014), Semi-supervised learning with deep
generative models, arXiv:1406.5298.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import log
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor

from .contract import BadInput, BadSetting, Data, Entry, Guide, Inference, Redrawn, Results, View
from .contract.figures import shown
from .data.images import as_images, generator
from .data.pictures import Binarise, Pictures, pictures
from .parts.networks import (
    FALLING,
    Decoder,
    convolution,
    dense,
    integers,
    learned,
    start,
    tanh_layers,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Classifier = Literal["dense", "conv"]
_LABELLED = 100  # labelled rows that a step sees
_CHANNELS = 8, 16  # of the classifier's convolutions
_SHOWN = 12  # test images in a picture


def partly_labelled(
    source: Any = None,
    *,
    labels: Annotated[int, ">= 1"] = 100,
    n: Annotated[int | None, ">= 1"] = None,
    split: Annotated[float | None, "> 0", "< 1"] = None,
    binarise: Binarise = "dynamic",
    data_seed: Annotated[int, ">= 0"] = 0,
) -> Data:
    """Images `x` (n, pixels) and labels `y` (n,), of which all but a few are -1: not known.

    Args:
        source: as `vae`'s; images of a folder are labelled by its subfolders.
        labels: how many are known, as many of each class.
        n: images to train on, chosen at random (None: all).
        split: share held out as test set, of digits or own images (None: a fifth).
        binarise: `dynamic` or `static`.
        data_seed: seed of which labels are known, of splits, subsets and binary pixels.

    Raises:
        BadInput: whatever is wrong with the images. BadSetting: more labels than there are.
    """
    if binarise == "none":
        raise BadSetting("this model's pixels are binary; use binarise=dynamic, or static")
    images = pictures(source, n=n, split=split, binarise=binarise, data_seed=data_seed)
    own: Pictures = images.scaling
    if own.labels is None:
        raise BadInput(
            f"the images have no labels ({images.source}); add y, or name subfolders by it"
        )
    y = torch.full((images.n,), -1)
    at = _balanced(own.labels, labels, generator(data_seed, "labels"))
    y[at] = torch.as_tensor(own.labels[at])
    redrawn = images.redrawn
    if redrawn is not None:
        grey, pixels = {"x": redrawn.tensors["x"], "y": y}, redrawn.draw
        redrawn = Redrawn(grey, lambda rows: {"y": rows["y"], **pixels(rows)})
    return replace(
        images,
        tensors={"x": images.tensors["x"], "y": y},
        rows=images.rows._replace(keys=("x", "y")),
        test=_without_labels(images.test),
        redrawn=redrawn,
        new_rows=lambda new: _without_labels(images.new_rows(new)),
        source=f"{images.source}, {labels} labels",
    )


def _without_labels(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"x": rows["x"], "y": torch.full((len(rows["x"]),), -1)}


def _balanced(classes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """As many rows of each class, at random; what cannot be shared out goes to the first ones."""
    if count > len(classes):
        raise BadSetting(f"labels={count}, but there are {len(classes)} images; give fewer")
    if count == len(classes):
        return np.arange(count)
    order = rng.permutation(len(classes))
    rank = np.empty(len(classes), int)
    for label in np.unique(classes):
        own = order[classes[order] == label]
        rank[own] = np.arange(len(own))
    return np.lexsort((classes, rank))[:count]


class SSVAE(Decoder):
    """The model: a label and a style, and their image through the decoder."""

    def __init__(
        self,
        data: Data,
        *,
        latent: Annotated[int, ">= 1"] = 16,
        hidden: str = "100",
        classifier: Classifier = "dense",
        dropout: Annotated[float, ">= 0", "< 1"] = 0.0,
        alpha: Annotated[float, ">= 0"] = 0.1,
    ):
        super().__init__(data, latent, hidden)
        self.classes = data.scaling.classes

    def forward(self, x: Tensor, y: Tensor) -> None:
        # Not `one_hot`, which looks at the labels, so that a step could not be recorded.
        known = (y[..., None] == torch.arange(self.classes, device=x.device)).to(x)
        chances = torch.where(y[..., None] < 0, torch.full_like(known, 1 / self.classes), known)
        with pyro.plate("row", len(x)):
            label = pyro.sample(
                "label", dist.Categorical(chances), infer={"enumerate": "parallel"}
            )
            logits = self.decoded(self.code(x), label)
            pixels = dist.Bernoulli(logits=logits, validate_args=False)
            pyro.sample("x", pixels.to_event(1), obs=x)

    def decoded(self, z: Tensor, label: Tensor) -> Tensor:
        """Log odds of the pixels, (..., pixels), of styles (..., latent) and labels (...)."""
        return self.pixels(_layers("decoder", z, label, self.classes, self.hidden[::-1]))


def _layers(name: str, x: Tensor, label: Tensor, classes: int, sizes: list[int]) -> Tensor:
    """Hidden layers of these sizes, (..., last size); a label adds to the units of the first."""
    first, *inner = sizes
    units = dense(f"{name}.0", x, first)
    units = units + pyro.param(f"{name}.label", lambda: start(name, (classes, first)))[label]
    return tanh_layers(f"{name}.inner", torch.tanh(units), inner)


class Encoder(PyroModule):
    """The guide: a guess of the label, and independent normals of the style under it."""

    def __init__(
        self,
        data: Data,
        *,
        latent: int = 16,
        hidden: str = "100",
        classifier: Classifier = "dense",
        dropout: float = 0.0,
    ):
        super().__init__()
        self.latent, self.hidden = latent, integers("hidden", hidden)
        self.classes, self.dropout = data.scaling.classes, dropout
        size = data.scaling
        self.image = (size.height, size.width) if classifier == "conv" else None

    def forward(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("row", len(x)):
            chances = dist.Categorical(logits=self.guessed(x), validate_args=False)
            guess = pyro.sample("guess", chances, infer={"is_auxiliary": True})
            loc, scale = self.style(x, torch.where(y < 0, guess, y))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def guessed(self, x: Tensor) -> Tensor:
        """Log odds of the classes of each image, up to a constant, (n, C)."""
        if self.image is not None:
            x = x.reshape(-1, 1, *self.image)
            for i, channels in enumerate(_CHANNELS):
                x = F.relu(convolution(f"classifier.conv.{i}", x, channels))
            x = self.dropped(x.flatten(1))
        for i, size in enumerate(self.hidden):
            x = self.dropped(torch.tanh(dense(f"classifier.{i}", x, size)))
        return dense("classifier.y", x, self.classes)

    def dropped(self, units: Tensor) -> Tensor:
        return F.dropout(units, self.dropout, self.training) if self.dropout else units

    def style(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and sd of the style under labels (..., n), each (..., n, latent)."""
        h = _layers("encoder", x, label, self.classes, self.hidden)
        return dense("encoder.loc", h, self.latent), dense("encoder.scale", h, self.latent).exp()


class Known:
    """The labelled rows, of which each step sees some; trains the classifier on them alone."""

    def __init__(self, data: Data):
        grey = data.tensors if data.redrawn is None else data.redrawn.tensors
        at = torch.nonzero(grey["y"] >= 0)[:, 0]
        self.n, self.x, self.y = len(grey["y"]), grey["x"][at], grey["y"][at]
        self.drawn = dict if data.redrawn is None else data.redrawn.draw

    def __call__(self, model: Callable, guide: Callable, data: Mapping[str, Any]) -> Tensor:
        x, y = self.some(data["x"])
        log_q, _ = _by_row(model, guide, x, y)
        return self.n * _score(log_q, y)

    def some(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Labelled rows, at random as many as a step sees, their pixels drawn anew."""
        x, y = self.x, self.y
        if len(y) > _LABELLED:
            at = torch.randint(len(y), (_LABELLED,))
            x, y = x[at], y[at]
        return self.drawn({"x": x.to(like), "y": y})["x"], y


class Bound(Known):
    """What `own` is trained by: M2's bound, and the classifier's log score of known labels.

    Sum over rows with a label of L(x, y), over the others of sum_y q(y|x) (L(x, y) - log q(y|x)),
    and alpha n times the mean log q(y|x) of the known labels: Kingma et al. (2014), eq. 6, 7, 9;
    L(x, y) = log p(y) + log p(x | y, z) + log p(z) - log q(z | x, y) at one z.
    """

    def __init__(self, data: Data, *, alpha: float = 0.1):
        super().__init__(data)
        self.alpha = alpha

    def __call__(self, model: Callable, guide: Callable, data: Mapping[str, Any]) -> Tensor:
        x, y = self.some(data["x"])
        log_q, bound = _by_row(model, guide, x, y)
        known = len(self.y) * bound.mean() + self.alpha * self.n * _score(log_q, y)
        if len(self.y) == self.n:
            return known
        unknown = _unlabelled(model, guide, log_q.shape[-1], data["x"], data["y"])
        return known + self.n / len(data["x"]) * unknown


def _score(log_q: Tensor, y: Tensor) -> Tensor:
    """The mean log probability of the labels."""
    return log_q.gather(-1, y[:, None]).mean()


def _unlabelled(model: Callable, guide: Callable, classes: int, x: Tensor, y: Tensor) -> Tensor:
    """The bound of those rows that have no label, summed."""
    labels = torch.arange(classes, device=x.device)[:, None]
    log_q, bound = _by_row(model, guide, x, labels.expand(-1, len(x)))
    each = log_q.T.exp() * (bound - log_q.T)  # (C, rows)
    return (each.sum(0) * (y < 0)).sum()


def _by_row(model: Callable, guide: Callable, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """log q(y|x), (rows, C), and L(x, y) under labels (..., rows), at one style each."""
    drawn = poutine.trace(guide).get_trace(x=x, y=label).nodes
    values = {"z": drawn["z"]["value"], "label": label}
    trace = poutine.trace(poutine.condition(model, data=values)).get_trace(x=x, y=label).nodes
    log_p = sum(trace[k]["fn"].log_prob(trace[k]["value"]) for k in ("z", "x"))
    log_guess = drawn["guess"]["fn"].logits.log_softmax(-1)
    log_q = drawn["z"]["fn"].log_prob(values["z"])
    return log_guess, log_p - log_q - log(log_guess.shape[-1])


# -- what it is used for -----------------------------------------------------------------------


def metrics(view: View) -> dict[str, float]:
    """`accuracy` and `log_score` (mean log probability) of the classifier on the test images."""
    if not _has_classifier(view):
        return {}
    data = view.data
    x, labels = data.test["x"].to(getattr(torch, data.dtype)), data.scaling.test_labels
    with learned(view):
        logs = _trained(data, **view.options).guessed(x).log_softmax(-1).numpy()
    right = logs.argmax(1) == labels
    return {
        "accuracy": float(right.mean()),
        "log_score": float(logs[np.arange(len(labels)), labels].mean()),
    }


def _trained(data: Data, *, alpha: float, **options: Any) -> Encoder:
    """The guide as it is after training: nothing is dropped."""
    return Encoder(data, **options).eval()


def _has_classifier(view: View) -> bool:
    """Whether the guide is one of the model's own."""
    return any(name.startswith("classifier") for name in view.params)


def analogies(view: View) -> Figure | None:
    """Test images (top), and below each its style under all of the labels in turn.

    The style is as the encoder sees it: style and label are apart if each row shows one class
    throughout.
    """
    if not _has_classifier(view):
        return None
    data = view.data
    encoder, model = _trained(data, **view.options), SSVAE(data, **view.options)
    x = data.test["x"][:_SHOWN].to(getattr(torch, data.dtype))
    labels = torch.arange(encoder.classes)[:, None].expand(-1, len(x))
    with learned(view):
        style, _ = encoder.style(x, encoder.guessed(x).argmax(-1))
        images = model.decoded(style.expand(encoder.classes, *style.shape), labels).sigmoid()
    rows = np.concatenate([as_images(part, data.scaling) for part in (x, *images)])
    return shown(rows, len(x), analogies.__doc__)


ENTRY = Entry(
    model=SSVAE,
    data=partly_labelled,
    has_parameters=True,
    inference=Inference(
        guides={"own": Guide(Encoder, Bound), "supervised": Guide(Encoder, Known)},
        first="svi:own",
        settings={"svi": {**FALLING, "lr": 2e-3, "draws": 200, "rows": 64}},
    ),
    results=Results(metrics=metrics, figures={"analogies": analogies}),
)
