"""Variational autoencoder: images from a few latent numbers, and an encoder that guesses them.

The lectures' generative model. A network (the decoder) turns a code z into the chances of pixels;
another (the encoder) gives a distribution over the code of an image, for all images at once:
amortised inference. Both are learned by a bound on log p(x). What it promises are samples, a
representation, and p(x) of new images; how good it is, `nuts` on the codes of given images tells.
The slide's p(x|z) carries a spurious p(z): p(x, z) = p(z) prod_d p(x_d | f(z)).

    z_i ~ Normal(0, I),  latent dimensions,  i = 1..n
    x_i ~ Bernoulli(f(z_i)) for each pixel;  f the decoder, with parameters of its own

Data:   x, shape (n, pixels), binary (or grey, for `likelihood=continuous_bernoulli`); default
        `digits` (1,797 images of 64 pixels), `mnist`, `fashion-mnist`, a folder of images or a
        file; all have a test set. `binarise=dynamic` draws the pixels anew in each step.
Priors: of the code alone. The parameters have none: only svi fits them. The others, and further
        guides, treat the codes of given images under a saved decoder (`--init RUN`).
Guides: `own`, independent normals; `full`, a full covariance; `flow`, the same bent by coupling
        layers; all amortised. `normal`, and the other shared ones, have parameters for each image
        instead.
Exact:  nothing.
Known failure: log p(x) of simple images of another kind can be above that of the images that were
        learned (Nalisnick et al. 2019, arXiv:1810.09136): what is simple is likely. `outside=`
        measures it: `auroc_log_p`, and `auroc_corrected`, less the image's own length.

References: Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114; Rezende,
Mohamed and Wierstra (2014), arXiv:1401.4082; Burda, Grosse and Salakhutdinov (2016), Importance
weighted autoencoders, arXiv:1509.00519; Loaiza-Ganem and Cunningham (2019), The continuous
Bernoulli, arXiv:1907.06845; Cremer, Li and Duvenaud (2018), Inference suboptimality in variational
autoencoders, arXiv:1801.03558.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

from .contract import BadInput, Caveat, Data, Entry, Guide, Inference, Results, View
from .contract.figures import shown
from .data.images import as_images
from .data.pictures import Pictures, compressed, pictures
from .parts.networks import FALLING, Decoder, dense, integers, learned, tanh_layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BITS = {"bernoulli": dist.Bernoulli, "continuous_bernoulli": dist.ContinuousBernoulli}


class VAE(Decoder):
    """The model: a code from a standard normal, its image through the decoder."""

    def __init__(
        self,
        data: Data,
        *,
        latent: Annotated[int, ">= 1"] = 16,
        hidden: str = "100,100",
        likelihood: Literal["bernoulli", "continuous_bernoulli"] = "bernoulli",
    ):
        super().__init__(data, latent, hidden)
        self.likelihood = likelihood

    def forward(self, x: Tensor) -> None:
        with pyro.plate("row", len(x)):
            logits = self.decoded(self.code(x))
            pixels = _BITS[self.likelihood](logits=logits, validate_args=False)
            pyro.sample("x", pixels.to_event(1), obs=x)

    def decoded(self, z: Tensor) -> Tensor:
        """Log odds of the pixels, (..., pixels), of codes (..., latent)."""
        return self.pixels(tanh_layers("decoder", z, self.hidden[::-1]))


def _encoded(x: Tensor, latent: int, hidden: str) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden units (n, width), and mean and sd of the code of each image, (n, latent) each."""
    h = tanh_layers("encoder", x, integers("hidden", hidden))
    scale = dense("encoder.log_scale", h, latent).exp()
    return h, dense("encoder.loc", h, latent), scale


def own(x: Tensor, *, latent: int = 16, hidden: str = "100,100") -> None:
    """An encoder's independent normals, one for each number of an image's code."""
    _, loc, scale = _encoded(x, latent, hidden)
    with pyro.plate("row", len(x)):
        pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def _mixing(h: Tensor, latent: int) -> Tensor:
    """Unit lower triangular matrices (n, latent, latent) of hidden units; they begin as I."""
    below = dense("encoder.below", h, latent**2, gain=0.0).unflatten(-1, (latent, latent))
    return below.tril(-1) + torch.eye(latent, dtype=h.dtype, device=h.device)


def full(x: Tensor, *, latent: int = 16, hidden: str = "100,100") -> None:
    """An encoder's normal with a covariance of its own for each image."""
    h, loc, scale = _encoded(x, latent, hidden)
    tril = scale[..., None] * _mixing(h, latent)
    with pyro.plate("row", len(x)):
        pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=tril, validate_args=False))


class Flow(PyroModule):
    """An encoder's normal, bent by four coupling layers that know the image (zuko).

    z = loc + scale T(L e) with e standard normal, T that of Dinh et al. (2017), Density estimation
    using Real NVP, arXiv:1605.08803. T and L begin as the identity, so that the flow begins as
    `own`; with T the identity it is `full`.
    """

    def __init__(self, data: Data, *, latent: int = 16, hidden: str = "100,100"):
        super().__init__()
        try:
            from zuko.flows import MAF
        except ImportError:
            raise BadInput('the guide flow needs zuko; pip install "bayeszoo[flows]"') from None
        self.latent, self.hidden = latent, hidden
        context = integers("hidden", hidden)[-1]
        made = MAF(latent, context, transforms=4, passes=2, hidden_features=(64, 64))
        with torch.no_grad():
            for layer in made.modules():
                for parameter in layer.hyper[-1].parameters() if hasattr(layer, "hyper") else ():
                    parameter.zero_()
        self.flow = made.transform.to(torch.get_default_dtype())

    def forward(self, x: Tensor) -> None:
        h, loc, scale = _encoded(x, self.latent, self.hidden)
        bent = self.flow(h).inv
        moved = dist.transforms.AffineTransform(loc, scale, event_dim=1)
        mixed = _mixing(h, self.latent)
        noise = dist.MultivariateNormal(
            torch.zeros_like(loc), scale_tril=mixed, validate_args=False
        )
        with pyro.plate("row", len(x)):
            pyro.sample("z", dist.TransformedDistribution(noise, [bent, moved]))


def refuses(method: str, options: Mapping[str, Any], data: Data) -> str | None:
    """Binary pixels for the one likelihood, grey ones for the other."""
    x = torch.as_tensor(data.tensors["x"])
    binary = bool(((x == 0) | (x == 1)).all())
    if options["likelihood"] == "bernoulli" and not binary:
        return "bernoulli takes binary pixels; use binarise=dynamic, or continuous_bernoulli"
    if options["likelihood"] == "continuous_bernoulli" and binary:
        return "continuous_bernoulli takes grey pixels; use binarise=none, or bernoulli"
    return None


# -- what it is used for -----------------------------------------------------------------------

# A number of the code is active if its mean varies by more than this over images: Burda et al.
# (2016), section 5.2.
_ACTIVE = 0.01
# How far, of its size, the bound may be above that of images held out.
_MEMORISED = 0.05
# Neighbours that vote on a label; images in a row of a picture.
_NEIGHBOURS, _SHOWN = 5, 12


def metrics(view: View) -> dict[str, float]:
    """`active_units`, and how well a code tells what an image shows, beside its pixels.

    `knn`: accuracy on test images of the vote of the five nearest training codes; `probe`: of a
    logistic regression on the codes; `knn_pixels`, `probe_pixels`: the same on grey pixels. For
    images of another kind `auroc_corrected[name]`, see `_outside`.
    """
    data, groups = view.data, view.groups
    if "held_out_rows" not in groups:
        return {}
    test, train = groups["held_out_rows"]["z"], groups["coded_rows"]["z"]
    numbers = {"active_units": float((test.var(0) > _ACTIVE).sum())} | _outside(data, groups)
    own: Pictures = data.scaling
    if own.labels is None or len(np.unique(own.labels)) < 2:
        return numbers
    labels = own.labels[: len(train)], own.test_labels[: len(test)]
    as_they_came = (data.tensors if data.redrawn is None else data.redrawn.tensors)["x"].numpy()
    grey = as_they_came[: len(train)], own.grey[: len(test)].numpy()
    for suffix, inputs in (("", (train, test)), ("_pixels", grey)):
        numbers |= {f"{k}{suffix}": v for k, v in _separated(*inputs, *labels).items()}
    return numbers


def caveats(view: View) -> list[Caveat]:
    """A code too short for the images, or a fit to the very images that were seen."""
    metrics, latent, caveats = view.metrics, view.options["latent"], []
    if metrics.get("active_units") == latent:
        reason = f"every number of the code ({latent}) is in use: more would tell more"
        caveats.append(Caveat(reason, f"give more (--set latent={2 * latent})"))
    if "elbo_test" in metrics:
        above = metrics["elbo_train"] - metrics["elbo_test"]
        if above > _MEMORISED * -metrics["elbo_test"]:
            reason = f"images that were learned from score {above:.1f} nats above those held out"
            fix = "it knows them by heart: give more of them, or fewer units"
            caveats.append(Caveat(reason, fix))
    return caveats


def _outside(data: Data, groups: Mapping[str, Any]) -> dict[str, float]:
    """`auroc_corrected[name]`: chance that an image of another kind is known by log p and length.

    A compressed image's length is what any model of images has to say of it; so the score is
    log p(x) + length: Serra et al. (2020), arXiv:1909.11480, eq. 3.
    """
    from sklearn.metrics import roc_auc_score

    def score(x: Tensor, group: str) -> np.ndarray:
        log_p = groups[group]["log_p"]
        return log_p + compressed(as_images(x[: len(log_p)], data.scaling))

    areas, own = {}, score(data.test["x"], "held_out_rows")
    for name, rows in data.beside.items():
        other = score(rows["x"], f"beside_rows_{name}")
        outside = np.repeat([0, 1], [len(own), len(other)])
        area = roc_auc_score(outside, -np.concatenate([own, other]))
        areas[f"auroc_corrected[{name}]"] = float(area)
    return areas


def _separated(
    train: np.ndarray, test: np.ndarray, labels: np.ndarray, truth: np.ndarray
) -> dict[str, float]:
    """Accuracy of two simple classifiers of standardised rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    loc, scale = train.mean(0), train.std() + 1e-12
    train, test = (train - loc) / scale, (test - loc) / scale
    knn = KNeighborsClassifier(_NEIGHBOURS).fit(train, labels)
    probe = LogisticRegression(max_iter=2000).fit(train, labels)
    return {"knn": float(knn.score(test, truth)), "probe": float(probe.score(test, truth))}


def _chances(view: View, codes: np.ndarray) -> np.ndarray:
    """Mean images (n, height, width) of codes (n, latent)."""
    model = VAE(view.data, **view.options)
    with learned(view):
        logits = model.decoded(torch.as_tensor(codes).to(getattr(torch, view.data.dtype)))
        mean = _BITS[model.likelihood](logits=logits, validate_args=False).mean
    return as_images(mean, view.data.scaling)


def samples(view: View) -> Figure:
    """What the model thinks of as images: chances of pixels under codes drawn from the prior.

    Half of one thing and half of another: codes that no image has.
    """
    codes = np.random.default_rng(0).standard_normal((6 * _SHOWN, view.options["latent"]))
    return shown(_chances(view, codes), _SHOWN, samples.__doc__)


def reconstructions(view: View) -> Figure | None:
    """Test images as they came (top), and what the model made of them (below).

    In the middle the pixels that the model was given, at the bottom what is decoded from the mean
    of what the encoder makes of them.
    """
    if "held_out_rows" not in view.groups:
        return None
    own: Pictures = view.data.scaling
    codes = view.groups["held_out_rows"]["z"][:_SHOWN]
    grey, seen = (as_images(x[:_SHOWN], own) for x in (own.grey, view.data.test["x"]))
    rows = np.concatenate([grey, seen, _chances(view, codes)])
    return shown(rows, len(codes), reconstructions.__doc__)


def manifold(view: View) -> Figure | None:
    """The images of all codes: first number to the right, second upwards.

    Each step is the same share of the prior. Neighbours look alike, or the code has torn what
    belongs together.
    """
    if view.options["latent"] != 2:
        return None
    from scipy.stats import norm

    side = norm.ppf((np.arange(20) + 0.5) / 20)
    codes = np.stack(np.meshgrid(side, -side), -1).reshape(-1, 2)
    return shown(_chances(view, codes), 20, manifold.__doc__)


def interpolation(view: View) -> Figure | None:
    """From one test image to another (left, right) along a straight line of codes.

    A good representation has an image at every step, not two at once.
    """
    if "held_out_rows" not in view.groups:
        return None
    codes = view.groups["held_out_rows"]["z"][:12]
    share = np.linspace(0, 1, _SHOWN)[:, None]
    lines = [(1 - share) * a + share * b for a, b in zip(codes[::2], codes[1::2])]
    return shown(_chances(view, np.concatenate(lines)), _SHOWN, interpolation.__doc__)


# Guides with parameters for each image have no batches: all images are in each step.
_FOR_EACH = {"steps": 3000, "batch_size": None, "lr": 1e-2}
_SHARED = ("normal", "mvn", "lowrank", "structured", "maf", "nsf")

ENTRY = Entry(
    model=VAE,
    data=pictures,
    has_parameters=True,
    inference=Inference(
        guides={"own": Guide(own), "full": Guide(full), "flow": Guide(Flow)},
        first="svi:own",
        refuses=refuses,
        settings={
            "svi": {**FALLING, "steps": 15_000, "lr": 2e-3, "draws": 500, "rows": 64},
            **{f"svi:{guide}": _FOR_EACH for guide in _SHARED},
        },
    ),
    results=Results(
        metrics=metrics,
        caveats=caveats,
        figures={
            "samples": samples,
            "reconstructions": reconstructions,
            "manifold": manifold,
            "interpolation": interpolation,
        },
    ),
)
