"""Residual network with a latent number of layers: how deep does this input need to be looked at?

The lectures' third example. Each depth has features, off which the class is read, by one layer
for all depths (`heads=shared`) or one for each; which depth speaks is a latent of each row, and
its prior prefers few layers. Learned with the weights, it says how hard a row is; at test time
the network stops once it is sure.

    w    ~ Normal(0, prior_scale / sqrt(inputs)) of weights, Normal(0, prior_scale) of biases
    z_i  ~ p(l) proportional to ratio^l,  l = 0..layers,  i = 1..n
    h_l  = h_{l-1} + [l <= z] F_l(h_{l-1}),  h_0 = stem(x)
    y_i  ~ Categorical(softmax(head(h_{z_i})))

The slide has [z <= l] where "z the number of layers to use" needs [l <= z]. And it samples z from
p(y, z | x) at test time: summed over y that is the prior, which has not seen x; so is the average
of p(z | x, y) over predicted labels. What depends on x is p(z | x, y) of the label; what q(z | x)
learns of it, p(z) exp(E[log p(y | x, z)]), y as in the data, up to a factor; and the joint mode of
(y, z), which allows an exact early exit (see `models/parts/residual.py`).

Data:   x, shape (n, k), pixels in [0, 1] or features, and y, shape (n,), classes 0..C-1; default
        `digits`; `mnist`, `fashion-mnist` (with convolutional blocks), `tent` (inputs that need a
        known number of steps), `moons`, or a file of columns with `--target`.
Priors: `ratio`, or `cost`, what a layer costs in nats (ratio = exp(-cost)), as Figurnov et al.;
        `depth=all` is the ordinary network that always runs all layers, for comparison.
Guides: weights at a point, and q(z | x), chances of stopping that are read off each layer
        and from how sure its class scores are (stick-breaking). By the ELBO: `enumerated` (exact),
        `reinforce` (with a baseline), `concrete` (relaxed). `ponder`, with a small weight of the
        prior; `marginal`, without q, by log sum_z p(z) p(y | x, z). `same`, one depth for all
        rows, and `same_marginal`, that depth summed out.
Exact:  p(z | x, y) given the weights, by enumeration.
Known failure: `same_marginal` lets one depth do all the work, before the others are learned.

References: Figurnov, Sobolev and Vetrov (2017), Probabilistic adaptive computation time,
arXiv:1712.00386; Antoran, Allingham and Hernandez-Lobato (2020), Depth uncertainty in neural
networks, arXiv:2006.08437; Banino, Balaguer and Blundell (2021), PonderNet, arXiv:2107.05407.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import log
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor

from .contract import Caveat, Data, Entry, Guide, Inference, Results, View
from .data.classified import classified
from .data.images import Images
from .parts import depths, residual
from .parts.depths import Trained
from .parts.networks import BATCHES, FALLING, bayesian, one_class, start
from .parts.residual import Residual, Rule, Stop, geometric, halting, halting_logits, once, signs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Heads = Literal["shared", "each"]
# Images of fewer pixels are rows of numbers.
_LARGE = 400
_RATIO = 0.7
# Over so many depths rows are spread where nearly all are at one.
_ONE = 1.1


class ResNet(PyroModule):
    """The model: the network, its weights given priors, and a depth for each row."""

    def __init__(
        self,
        data: Data,
        *,
        layers: Annotated[int, ">= 1"] = 6,
        width: Annotated[int, ">= 1"] = 32,
        heads: Heads = "shared",
        ratio: Annotated[float, "> 0", "<= 1"] = _RATIO,
        cost: Annotated[float | None, ">= 0", "<= 1000"] = None,
        depth: Literal["latent", "all"] = "latent",
        prior_scale: Annotated[float, "> 0"] = 4.0,
    ):
        super().__init__()
        self.all = depth == "all"
        self.net = bayesian(network(data, layers, width, heads), "normal", prior_scale)
        self.log_prior = prior_of(layers, ratio, cost)

    def forward(self, x: Tensor, y: Tensor) -> None:
        _, scores = self.net(x)  # (L + 1, n, classes)
        with pyro.plate("row", len(y)):
            if self.all:
                pyro.sample("y", dist.Categorical(logits=scores[-1]), obs=y)
                return
            among = dist.Categorical(logits=self.log_prior.to(x))
            depth = pyro.sample("depth", among, infer={"enumerate": "parallel"})
            logits = scores[depth, torch.arange(len(y), device=x.device)]
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)


def refuses(method: str, options: Mapping[str, Any], data: Data) -> str | None:
    """A latent depth has no curvature, and one prior."""
    if options["cost"] is not None and options["ratio"] != _RATIO:
        return "ratio and cost both say what a layer costs; leave one of them out"
    if options["depth"] == "latent" and method in ENTRY.inference.refused:
        return ENTRY.inference.refused[method]
    if options["depth"] == "all" and method == "svi":
        return "with depth=all z is known, and there is no q(z | x) to learn; use map, mle or nuts"
    return one_class(method, data)


def network(data: Data, layers: int, width: int, heads: Heads) -> Residual:
    """The network for these data, as plain modules of torch."""
    size, inputs = data.scaling, data.tensors["x"].shape[1]
    image = (size.height, size.width) if isinstance(size, Images) and inputs > _LARGE else None
    classes = len(data.coords["class"])
    return Residual(inputs, classes, layers=layers, width=width, image=image, heads=heads)


def prior_of(layers: int, ratio: float, cost: float | None) -> Tensor:
    """log p(z), (layers + 1,)."""
    return geometric(layers, -log(ratio) if cost is None else cost)


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
        ratio: float = _RATIO,
        cost: float | None = None,
    ):
        self.net = network(data, layers, width, heads)
        # It begins as the prior.
        self.begin = halting_logits(prior_of(layers, ratio, cost))

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
        features, scores = torch.func.functional_call(self.net, dict(weights), (x,))
        there = signs(features[:-1], scores[:-1])
        slopes = pyro.param("stop.weight", lambda: x.new_zeros(len(there), there.shape[-1]))
        bias = pyro.param("stop.bias", lambda: self.begin.clone().to(x))
        return halting((there * slopes[:, None]).sum(-1) + bias[:, None])


class Same(Halting):
    """Weights at a point, and one distribution of the depth for all rows."""

    def log_q(self, x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        bias = pyro.param("stop.bias", lambda: self.begin.clone().to(x))
        return halting(bias)[:, None].expand(-1, len(x))


class Prior(Halting):
    """Weights at a point alone; q(z | x) is the prior."""

    def log_q(self, x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        return halting(self.begin.to(x))[:, None].expand(-1, len(x))


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
    """The ELBO at relaxed decisions to stop, its KL exact: Figurnov et al. (2017)."""

    temperature = 2 / 3

    def of_rows(self, log_q: Tensor, log_z: Tensor, log_y: Tensor) -> Tensor:
        logits = halting_logits(log_q)
        uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
        relaxed = halting((logits + uniform.logit()) / self.temperature).exp()
        return (relaxed * log_y).sum() - (log_q.exp() * (log_q - log_z)).sum()


class Ponder(Enumerated):
    """E_q log p(y | x, z) - 0.01 KL(q || p): PonderNet's (Banino et al. 2021)."""

    def of_rows(self, log_q: Tensor, log_z: Tensor, log_y: Tensor) -> Tensor:
        q = log_q.exp()
        return (q * log_y).sum() - 0.01 * (q * (log_q - log_z)).sum()


class Marginal(Enumerated):
    """log sum_z p(z) p(y | x, z), without q."""

    def of_rows(self, log_q: Tensor, log_z: Tensor, log_y: Tensor) -> Tensor:
        return (log_z + log_y).logsumexp(0).sum()


class OfAll(Enumerated):
    """The ELBO of a depth that all rows share: Antoran et al. (2020)."""

    def __call__(self, model: Callable, guide: Callable, data: Mapping[str, Any]) -> Tensor:
        log_w, log_q, log_z, log_y = _terms(model, guide, data)
        q, rows = log_q[:, 0].exp(), self.n / len(data["x"]) * log_y.sum(1)
        return log_w + (q * (rows + log_z[:, 0] - log_q[:, 0])).sum()


class MarginalOfAll(Enumerated):
    """log sum_z p(z) prod_i p(y_i | x_i, z): the same without q.

    Of a batch, for all, it is no unbiased estimate, as the logarithm is outside of the sum.
    """

    def __call__(self, model: Callable, guide: Callable, data: Mapping[str, Any]) -> Tensor:
        log_w, _, log_z, log_y = _terms(model, guide, data)
        rows = self.n / len(data["x"]) * log_y.sum(1)
        return log_w + (log_z[:, 0] + rows).logsumexp(0)


def _terms(
    model: Callable, guide: Callable, data: Mapping[str, Any]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log p(w), and log q(z | x), log p(z), log p(y | x, z) of all z, (L + 1, n) each."""
    with once():
        drawn = poutine.trace(guide).get_trace(**data).nodes
        samples = {k: v["value"] for k, v in drawn.items() if v["type"] == "sample"}
        weights = {k: value for k, value in samples.items() if k.startswith("net.")}
        log_q = drawn["stop"]["fn"].logits.T
        depth = torch.arange(len(log_q), device=log_q.device)[:, None].expand_as(log_q)
        fixed = poutine.condition(model, data={**weights, "depth": depth})
        nodes = poutine.trace(fixed).get_trace(**data).nodes
    log_w = sum(nodes[name]["fn"].log_prob(value) for name, value in weights.items())
    log_z, log_y = (nodes[k]["fn"].log_prob(nodes[k]["value"]) for k in ("depth", "y"))
    return log_w, log_q, log_z, log_y


# What q has learned that going on is worth is in nats where the ELBO of each row has trained it.
_RULES: dict[str, tuple[Rule, ...]] = {
    **dict.fromkeys(("enumerated", "reinforce", "concrete"), residual.RULES),
    **dict.fromkeys(("ponder", "same"), tuple(rule for rule in residual.RULES if rule != "gain")),
}
_OF_ALL = ("same", "same_marginal")

# -- what it is used for -----------------------------------------------------------------------


def trained(view: View) -> Trained | None:
    """The network at the point where its weights are; None of a sample, or of a known depth."""
    options, data, draws, params = view.options, view.data, view.draws, view.params
    if options["depth"] == "all" or any(len(value) > 1 for value in draws.values()):
        return None
    dtype, layers = getattr(torch, data.dtype), options["layers"]
    net = network(data, layers, options["width"], options["heads"]).to(dtype)
    weights = {k.removeprefix("net."): v[0] for k, v in draws.items() if k.startswith("net.")}
    net.load_state_dict({k: torch.as_tensor(np.array(v)).to(dtype) for k, v in weights.items()})
    stop: Stop | None = None
    if "stop.bias" in params:
        bias = torch.as_tensor(params["stop.bias"]).to(dtype)
        flat = torch.zeros(layers, net.units + residual.SURENESS)
        slopes = torch.as_tensor(params.get("stop.weight", flat)).to(dtype)

        def stop(layer: int, there: Tensor) -> Tensor:
            return there @ slopes[layer] + bias[layer]

    log_prior = prior_of(layers, options["ratio"], options["cost"])
    rules = _RULES.get(view.guide, residual.WITHOUT_Q)
    return Trained(net, log_prior, stop, data, rules, view.guide in _OF_ALL)


def of_run(run: Any) -> Trained | None:
    """The trained network of a `zoo.Run`, for a closer look: depths, chances, early exits."""
    draws = {name: value.values[0] for name, value in run.idata["posterior"].data_vars.items()}
    guide, options = run.record["guide"] or "", run.record["options"]
    view = View(data=run.data, draws=draws, params=run.params, guide=guide, options=options)
    return trained(view)


def metrics(view: View) -> dict[str, float]:
    """Of weights at a point: see `depths.scores`."""
    at_point = trained(view)
    return {} if at_point is None else depths.scores(at_point)


def caveats(view: View) -> list[Caveat]:
    """All rows at one depth, by what was learned or by the guide: nothing depends on the row."""
    used, depth = view.metrics.get("depth_used"), view.metrics.get("depth_train", 0.0)
    if view.guide in _OF_ALL:
        reason = (
            "the predictive has a depth for each row, by its prior, this guide one for all rows "
            f"({depth:.2f} layers)"
        )
        fix = "read average_posterior, look at the figure `exits`, or use --guide enumerated"
        return [Caveat(reason, fix)]
    if used is None or used > _ONE:
        return []
    reason = f"all rows are at one depth (a mean of {depth:.2f} layers), whatever they look like"
    name = "ratio" if view.options["cost"] is None else "cost"
    other = ", or use --guide enumerated" if view.guide in ("marginal", "ponder") else ""
    price = f"{name} (now {view.options[name]:g})"
    return [Caveat(reason, f"change the prior by --set {price}, or give more steps{other}")]


def _picture(draw: Callable[[Trained], Figure | None]) -> Callable[[View], Figure | None]:
    """A picture of weights at a point."""

    def picture(view: View) -> Figure | None:
        at_point = trained(view)
        return None if at_point is None else draw(at_point)

    picture.__doc__ = draw.__doc__
    return picture


ENTRY = Entry(
    model=ResNet,
    data=classified,
    identified=False,
    inference=Inference(
        guides={
            "enumerated": Guide(Halting, Enumerated, estimator=True),
            "reinforce": Guide(Halting, Reinforce, estimator=True),
            "concrete": Guide(Halting, Concrete, estimator=True),
            "ponder": Guide(Halting, Ponder),
            "marginal": Guide(Prior, Marginal),
            "same": Guide(Same, OfAll),
            "same_marginal": Guide(Prior, MarginalOfAll),
        },
        first="svi:enumerated",
        start=start,
        refuses=refuses,
        refused={
            "laplace": (
                "the Gauss-Newton matrix is of weights alone, and here the depth is latent too"
            )
        },
        settings={
            "nuts": {"warmup": 300, "draws": 600},
            "svi": {**FALLING, "lr": 3e-3},
            "map": BATCHES,
            "mle": BATCHES,
        },
    ),
    results=Results(
        metrics=metrics,
        caveats=caveats,
        figures={
            "depths": _picture(depths.by_class),
            "extremes": _picture(depths.extremes),
            "exits": _picture(depths.against_work),
        },
    ),
)
