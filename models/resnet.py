"""Residual network with a latent number of layers: how deep does this input need to be looked at?

The lectures' third example. All depths read the class off the same features by the same layer;
which of them speaks is a latent of each row, and its prior prefers few layers. Learned with the
weights, it says how hard a row is; at test time the network stops once it is sure.

    w    ~ Normal(0, prior_scale^2 / inputs) of each weight
    z_i  ~ p(l) proportional to ratio^l,  l = 0..layers,  i = 1..n
    h_l  = h_{l-1} + [l <= z] F_l(h_{l-1}),  h_0 = stem(x)
    y_i  ~ Categorical(softmax(head(h_{z_i})))

The slide has [z <= l] where "z the number of layers to use" needs [l <= z]. And it samples z from
p(y, z | x) at test time: summed over y that is the prior, which has not seen x. What depends on x
is p(z | x, y), its average over predicted labels (q(z | x) learns it), and the joint mode of
(y, z), which allows an exact early exit (see `models/_residual.py`).

Data:   x, shape (n, k), pixels in [0, 1] or features, and y, shape (n,), classes 0..C-1; default
        `digits`; `mnist`, `fashion-mnist` (with convolutional blocks), `tent` (inputs that need a
        known number of steps), `moons`, or a file of columns with `--target`.
Priors: `ratio`, or `cost`, what a layer costs in nats (ratio = exp(-cost)), as Figurnov et al.
Guides: weights at a point, and q(z | x), chances of stopping that are read off each layer
        (stick-breaking). By the ELBO: `enumerated` (exact), `reinforce` (with a baseline),
        `concrete` (relaxed). `ponder`, the same with a small weight of the prior; `marginal`,
        without q, by log sum_z p(z) p(y | x, z); `same`, one depth for all rows.
Exact:  p(z | x, y) given the weights, by enumeration.
Known failure: `marginal`, and `map`, which sum over z, are free to let one depth do all the work.

References: Figurnov, Sobolev and Vetrov (2017), Probabilistic adaptive computation time,
arXiv:1712.00386; Antoran, Allingham and Hernandez-Lobato (2020), Depth uncertainty in neural
networks, arXiv:2006.08437; Banino, Balaguer and Blundell (2021), PonderNet, arXiv:2107.05407.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import exp
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor

from ._entry import Data, Entry
from ._figure import BLUE, GREY, ORANGE, RED, SKY, captioned, grid, panels, shown
from ._images import Images, Steps, classified
from ._network import bayesian, start
from ._residual import RULES, Residual, Rule, Stop, geometric, halting, halting_logits, leave

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Heads = Literal["shared", "each"]
# Images of fewer pixels are rows of numbers.
_LARGE = 400


class ResNet(PyroModule):
    """The model: the network, its weights given priors, and a depth for each row."""

    def __init__(
        self,
        data: Data,
        *,
        layers: Annotated[int, ">= 1"] = 6,
        width: Annotated[int, ">= 1"] = 32,
        heads: Heads = "shared",
        ratio: Annotated[float, "> 0", "<= 1"] = 0.7,
        cost: Annotated[float | None, ">= 0"] = None,
        prior_scale: Annotated[float, "> 0"] = 2.0,
    ):
        super().__init__()
        self.net = bayesian(network(data, layers, width, heads), "normal", prior_scale)
        self.depths = prior_of(layers, ratio, cost)

    def forward(self, x: Tensor, y: Tensor) -> None:
        _, scores = self.net(x)  # (L + 1, n, classes)
        with pyro.plate("row", len(y)):
            among = dist.Categorical(self.depths.to(x))
            depth = pyro.sample("depth", among, infer={"enumerate": "parallel"})
            logits = scores[depth, torch.arange(len(y), device=x.device)]
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)


def refuses(method: str, options: Mapping[str, Any], data: Data) -> str | None:
    """A depth for each row has no curvature."""
    return ENTRY.refused.get(method)


def network(data: Data, layers: int, width: int, heads: Heads) -> Residual:
    """The network for these data, as plain modules of torch."""
    size, inputs = data.scaling, data.tensors["x"].shape[1]
    image = (size.height, size.width) if isinstance(size, Images) and inputs > _LARGE else None
    classes = len(data.coords["class"])
    return Residual(inputs, classes, layers=layers, width=width, image=image, heads=heads)


def prior_of(layers: int, ratio: float, cost: float | None) -> Tensor:
    """p(z), (layers + 1,)."""
    return geometric(layers, ratio if cost is None else exp(-cost))


# -- guides ------------------------------------------------------------------------------------


class Halting:
    """Weights at a point, and chances of stopping read off the features of each layer."""

    def __init__(
        self,
        data: Data,
        *,
        layers: int = 6,
        width: int = 32,
        heads: Heads = "shared",
        ratio: float = 0.7,
        cost: float | None = None,
    ):
        self.net = network(data, layers, width, heads)
        # It begins as the prior.
        self.begin = halting_logits(prior_of(layers, ratio, cost).log())

    def __call__(self, x: Tensor, y: Tensor) -> None:
        log_q = self.log_q(x, self.weights())
        with pyro.plate("row", len(x)):
            stops = dist.Categorical(logits=log_q.T, validate_args=False)
            pyro.sample("stop", stops, infer={"is_auxiliary": True})

    def weights(self) -> dict[str, Tensor]:
        """The weights, parameters, as sites of the model's names."""
        found = {}
        for name, like in self.net.named_parameters():
            shape = tuple(like.shape)
            value = pyro.param(f"net.{name}.loc", lambda s=shape, n=name: start(n, s))
            found[name] = pyro.sample(f"net.{name}", dist.Delta(value, event_dim=value.ndim))
        return found

    def log_q(self, x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """log q(z | x), (L + 1, n)."""
        features, _ = torch.func.functional_call(self.net, dict(weights), (x,))
        layers, width = len(self.begin), self.net.width
        slopes = pyro.param("stop.weight", lambda: torch.zeros(layers, width))
        bias = pyro.param("stop.bias", lambda: self.begin.clone().to(x))
        return halting((features[:-1] * slopes[:, None]).sum(-1) + bias[:, None])


class Same(Halting):
    """Weights at a point, and one distribution of the depth for all rows."""

    def log_q(self, x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        bias = pyro.param("stop.bias", lambda: self.begin.clone().to(x))
        return halting(bias)[:, None].expand(-1, len(x))


# -- what they are trained by ------------------------------------------------------------------


class Enumerated:
    """The ELBO, its expectation over q(z | x) a sum; with log p(w) at the weights' point."""

    def __init__(self, data: Data):
        self.n = data.n

    def __call__(self, model: Callable, guide: Callable, data: Mapping[str, Any]) -> Tensor:
        log_w, log_q, log_z, log_y = _terms(model, guide, data)
        return log_w + self.n / len(data["x"]) * self.of_rows(log_q, log_z, log_y)

    def of_rows(self, log_q: Tensor, log_z: Tensor, log_y: Tensor) -> Tensor:
        """What the rows add: of log q(z | x), log p(z) and log p(y | x, z), (L + 1, n) each."""
        return (log_q.exp() * (log_y + log_z - log_q)).sum()


class Reinforce(Enumerated):
    """The ELBO at one z of each row, q's gradient by its score, less a mean over other rows."""

    def of_rows(self, log_q: Tensor, log_z: Tensor, log_y: Tensor) -> Tensor:
        z = dist.Categorical(logits=log_q.detach().T, validate_args=False).sample()[None]
        at = log_q.gather(0, z)[0]
        elbo = (log_y + log_z).gather(0, z)[0] - at.detach()
        gain = elbo.detach()
        others = (gain.sum() - gain) / max(len(gain) - 1, 1)
        score = at * (gain - others)
        return (elbo + score - score.detach()).sum()


class Concrete(Enumerated):
    """The ELBO at relaxed decisions to stop, its KL exact: Figurnov et al. (2017), section 3."""

    temperature = 2 / 3

    def of_rows(self, log_q: Tensor, log_z: Tensor, log_y: Tensor) -> Tensor:
        logits = halting_logits(log_q)
        uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
        relaxed = halting((logits + uniform.logit()) / self.temperature).exp()
        return (relaxed * log_y).sum() - (log_q.exp() * (log_q - log_z)).sum()


class Ponder(Enumerated):
    """E_q log p(y | x, z) - 0.01 KL(q || p): PonderNet's (Banino et al. 2021, eq. 3)."""

    def of_rows(self, log_q: Tensor, log_z: Tensor, log_y: Tensor) -> Tensor:
        q = log_q.exp()
        return (q * log_y).sum() - 0.01 * (q * (log_q - log_z)).sum()


class Marginal(Enumerated):
    """log sum_z p(z) p(y | x, z): q is not trained."""

    def of_rows(self, log_q: Tensor, log_z: Tensor, log_y: Tensor) -> Tensor:
        return (log_z + log_y).logsumexp(0).sum()


class OfAll(Enumerated):
    """The ELBO of a depth that all rows share: Antoran et al. (2020), eq. 4."""

    def __call__(self, model: Callable, guide: Callable, data: Mapping[str, Any]) -> Tensor:
        log_w, log_q, log_z, log_y = _terms(model, guide, data)
        q, rows = log_q[:, 0].exp(), self.n / len(data["x"]) * log_y.sum(1)
        return log_w + (q * (rows + log_z[:, 0] - log_q[:, 0])).sum()


def _terms(
    model: Callable, guide: Callable, data: Mapping[str, Any]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log p(w), and log q(z | x), log p(z), log p(y | x, z) of all z, (L + 1, n) each."""
    drawn = poutine.trace(guide).get_trace(**data).nodes
    weights = {k: v["value"] for k, v in drawn.items() if k.startswith("net.") and "fn" in v}
    weights = {k: v for k, v in weights.items() if not k.endswith(".loc")}
    log_q = drawn["stop"]["fn"].logits.T
    depth = torch.arange(len(log_q), device=log_q.device)[:, None].expand_as(log_q)
    fixed = poutine.condition(model, data={**weights, "depth": depth})
    nodes = poutine.trace(fixed).get_trace(**data).nodes
    log_w = sum(nodes[name]["fn"].log_prob(value) for name, value in weights.items())
    log_z, log_y = (nodes[k]["fn"].log_prob(nodes[k]["value"]) for k in ("depth", "y"))
    return log_w, log_q, log_z, log_y


_GUIDES = {
    "enumerated": (Halting, Enumerated),
    "reinforce": (Halting, Reinforce),
    "concrete": (Halting, Concrete),
    "ponder": (Halting, Ponder),
    "marginal": (Halting, Marginal),
    "same": (Same, OfAll),
}

# -- what it is used for -----------------------------------------------------------------------


def posterior(net: Residual, x: Tensor, y: Tensor, depths: Tensor) -> Tensor:
    """p(z | x, y), (layers + 1, n), given the weights: by Bayes' rule over all depths."""
    _, scores = net(x)
    labels = y.expand(len(scores), -1)[..., None]
    log_y = scores.log_softmax(-1).gather(-1, labels)[..., 0]
    return (log_y + depths.log()[:, None]).softmax(0)


def metrics(
    data: Data,
    draws: Mapping[str, np.ndarray],
    exact: Any,
    *,
    params: Mapping[str, Any],
    layers: int,
    width: int,
    heads: Heads,
    ratio: float,
    cost: float | None,
    **options: Any,
) -> dict[str, float]:
    """Of weights at a point, what each exit rule is worth on the test rows.

    `accuracy[rule]`, `log_score[rule]` (mean log probability), `layers[rule]` (mean blocks that
    were executed) and `work[rule]` (mean multiply-adds, of those of all layers). `average` runs
    all layers and averages over p(z); `average_q` over q(z | x). `depth_train`: the mean depth of
    training rows under p(z | x, y); `depth_rank`: its rank correlation (Spearman) with the steps
    that they need, where these are known.
    """
    if data.test is None or _several(draws):
        return {}
    net, stop = fitted(data, draws, params, layers, width, heads)
    depths = prior_of(layers, ratio, cost)
    x, y = data.test["x"].to(getattr(torch, data.dtype)), data.test["y"].long()
    found = _depths_of(net, data, depths)
    with torch.no_grad():
        everywhere = _averages(net, x, depths, stop)
        rules = [rule for rule in RULES if stop is not None or rule == "joint_mode"]
        for name, chances in everywhere.items():
            found |= _scored(name, chances, y, float(layers), 1.0)
        rng = torch.Generator().manual_seed(0)
        for rule in rules:
            exits = leave(net, x, rule, log_prior=depths.log().to(x), stop=stop, generator=rng)
            work = float(_work(net, x, rule, exits.layers).mean())
            chances = exits.logits.softmax(-1)
            found |= _scored(rule, chances, y, float(exits.layers.double().mean()), work)
    return found


def fitted(
    data: Data,
    draws: Mapping[str, Any],
    params: Mapping[str, Any],
    layers: int,
    width: int,
    heads: Heads,
) -> tuple[Residual, Stop | None]:
    """The network at the first draw of its weights, and the log odds of stopping, if learned."""
    dtype = getattr(torch, data.dtype)
    net = network(data, layers, width, heads).to(dtype)
    weights = {k.removeprefix("net."): v[0] for k, v in draws.items() if k.startswith("net.")}
    net.load_state_dict({k: torch.as_tensor(np.array(v)).to(dtype) for k, v in weights.items()})
    if "stop.bias" not in params:
        return net, None
    bias = torch.as_tensor(params["stop.bias"]).to(dtype)
    slopes = torch.as_tensor(params.get("stop.weight", torch.zeros(layers, width))).to(dtype)
    return net, lambda layer, features: features @ slopes[layer] + bias[layer]


def _depths_of(net: Residual, data: Data, depths: Tensor) -> dict[str, float]:
    """What p(z | x, y) says of the training rows."""
    of_rows = _of_rows(net, data, depths)
    means = (of_rows * torch.arange(len(of_rows))[:, None]).sum(0)
    found = {"depth_train": float(means.mean())}
    if isinstance(data.scaling, Steps):
        from scipy.stats import spearmanr

        found["depth_rank"] = float(spearmanr(means.numpy(), data.scaling.train).statistic)
    return found


def _of_rows(net: Residual, data: Data, depths: Tensor) -> Tensor:
    """p(z | x, y) of the training rows, (layers + 1, n)."""
    x, y = data.tensors["x"].to(getattr(torch, data.dtype)), data.tensors["y"].long()
    parts = zip(x.split(_ROWS), y.split(_ROWS))
    with torch.no_grad():
        return torch.cat([posterior(net, a, b, depths.to(a)) for a, b in parts], 1)


def _averages(net: Residual, x: Tensor, depths: Tensor, stop: Stop | None) -> dict[str, Tensor]:
    """The predictive distribution by p(z), and by q(z | x): (n, classes) each."""
    found: dict[str, list[Tensor]] = {"average": []} | ({"average_q": []} if stop else {})
    for part in x.split(_ROWS):
        features, scores = net(part)
        chances = scores.softmax(-1)
        found["average"].append((depths.to(x)[:, None, None] * chances).sum(0))
        if stop is not None:
            logits = [stop(layer, features[layer]) for layer in range(net.layers)]
            q = halting(torch.stack(logits)).exp()
            found["average_q"].append((q[..., None] * chances).sum(0))
    return {name: torch.cat(parts) for name, parts in found.items()}


def _scored(rule: str, chances: Tensor, y: Tensor, layers: float, work: float) -> dict[str, float]:
    right = float((chances.argmax(-1) == y).double().mean())
    score = float(chances.gather(-1, y[:, None]).log().double().mean())
    values = {"accuracy": right, "log_score": score, "layers": layers, "work": work}
    return {f"{name}[{rule}]": value for name, value in values.items()}


def _work(net: Residual, x: Tensor, rule: Rule, layers: Tensor) -> Tensor:
    """Multiply-adds of rows by an exit rule, of those of all layers and one head, (n,)."""
    stem, block, head = net.multiply_adds(x)
    looks = layers.double() + 1
    read = head * looks if rule == "joint_mode" else head + net.width * looks.clamp(max=net.layers)
    return (stem + block * layers + read) / (stem + block * net.layers + head)


def depths(
    data: Data, draws: Mapping[str, Any], *, params: Mapping[str, Any], **options: Any
) -> Figure | None:
    """p(z | x, y) of the training rows, averaged by class, or by the steps that they need."""
    if _several(draws):
        return None
    of_rows = _posteriors(data, draws, params, **options)
    known = isinstance(data.scaling, Steps)
    groups = data.scaling.train if known else np.asarray(data.tensors["y"])
    names = [str(k) for k in range(groups.max() + 1)] if known else data.coords["class"]
    means = np.stack([of_rows[:, groups == k].mean(1) for k in range(len(names))])
    figure, (ax,) = panels(height=0.28 * len(names) + 0.2, margins=(1.2, 0.2, 0.5))
    ax.imshow(means, cmap="Greys", vmin=0, aspect="auto")
    middle = means @ np.arange(means.shape[1])
    ax.plot(middle, range(len(names)), "o", color=RED, ms=4)
    ax.set_yticks(range(len(names)), names, fontsize=7.5)
    ax.set(xlabel="layers", ylabel="steps needed" if known else "")
    caption = (
        "How many layers training rows need: p(z | x, y), averaged over the rows of each "
        f"{'number of steps' if known else 'class'} (grey), and its mean (red)."
    )
    return captioned(figure, caption)


def extremes(
    data: Data, draws: Mapping[str, Any], *, params: Mapping[str, Any], **options: Any
) -> Figure | None:
    """The training images that need the fewest and the most layers; None without images."""
    size = data.scaling
    if _several(draws) or not isinstance(size, Images):
        return None
    of_rows = _posteriors(data, draws, params, **options)
    order = np.argsort(np.arange(len(of_rows)) @ of_rows, kind="stable")
    chosen = np.concatenate([order[:_SHOWN], order[-_SHOWN:]])
    images = np.asarray(data.tensors["x"])[chosen].reshape(-1, size.height, size.width)
    caption = (
        "The training images whose posterior depth is least (first row) and greatest (second): "
        "what is plain needs no second look."
    )
    return shown(grid(images, _SHOWN), caption)


def exits(
    data: Data, draws: Mapping[str, Any], *, params: Mapping[str, Any], **options: Any
) -> Figure | None:
    """Accuracy and log score against multiply-adds: of each depth for all rows, of each rule."""
    if data.test is None or _several(draws):
        return None
    told = metrics(data, draws, None, params=params, **options)
    net, _ = fitted(data, draws, params, **_sizes(options))
    x, y = data.test["x"].to(getattr(torch, data.dtype)), data.test["y"].long()
    with torch.no_grad():
        chances = torch.cat([net(part)[1].softmax(-1) for part in x.split(_ROWS)], 1)
    stem, block, head = net.multiply_adds(x)
    work = [
        (stem + block * k + head) / (stem + block * net.layers + head) for k in range(len(chances))
    ]
    fixed = [_scored("", each, y, 0, 0) for each in chances]
    figure, axes = panels(2, gap=0.7)
    for ax, name in zip(axes, ("accuracy", "log_score")):
        ax.plot(
            work, [one[f"{name}[]"] for one in fixed], "-o", color=GREY, ms=3, label="each depth"
        )
        for rule, colour in zip((*RULES, "average"), (SKY, BLUE, ORANGE, RED, "k")):
            if f"{name}[{rule}]" in told:
                at = told[f"work[{rule}]"], told[f"{name}[{rule}]"]
                ax.plot(*at, "s", color=colour, ms=5, label=rule)
        ax.set(xlabel="multiply-adds, of all layers", ylabel=name.replace("_", " "))
    caption = (
        "What it is worth to look again. Grey: all test rows at one depth, by the same network. "
        "Squares: each row as deep as the rule wants it; further left and higher is better."
    )
    return captioned(figure, caption, axes[0])


def _several(draws: Mapping[str, Any]) -> bool:
    """Whether the weights are a sample, and not a point."""
    return any(len(value) > 1 for value in draws.values())


def _sizes(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("layers", "width", "heads")}


def _posteriors(
    data: Data, draws: Mapping[str, Any], params: Mapping[str, Any], **options: Any
) -> np.ndarray:
    """p(z | x, y) of the training rows, (layers + 1, n)."""
    net, _ = fitted(data, draws, params, **_sizes(options))
    prior = prior_of(options["layers"], options["ratio"], options["cost"])
    return _of_rows(net, data, prior).numpy()


_ROWS, _SHOWN = 1000, 12  # at once; images in a row
_TRAINING = {"steps": 10_000, "batch_size": 100, "lr": 1e-3}

ENTRY = Entry(
    model=ResNet,
    data=classified,
    guides={name: guide for name, (guide, _) in _GUIDES.items()},
    objectives={name: objective for name, (_, objective) in _GUIDES.items()},
    first="svi:enumerated",
    identified=False,
    start=start,
    refuses=refuses,
    refused={
        "laplace": "the Gauss-Newton matrix is of weights alone, and here the depth is latent too"
    },
    metrics=metrics,
    figures={"depths": depths, "extremes": extremes, "exits": exits},
    settings={
        "nuts": {"warmup": 300, "draws": 300},
        "svi": {**_TRAINING, "lr": 3e-3, "schedule": "linear", "particles": 1},
        "map": _TRAINING,
        "mle": _TRAINING,
    },
)
