"""What a network of latent depth is used for: depths of rows, scores of early exits, pictures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..contract import Data
from ..contract.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    captioned,
    panels,
    shown,
)
from ..data.classified import Steps
from ..data.images import Images, as_images
from .residual import RULES, SURENESS, WITHOUT_Q, Residual, Rule, Stop, halting, leave, signs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS, _SHOWN = 1000, 12  # at once; images in a row of a picture
_BINS = 15  # of the calibration error
_LEAST = 1e-45  # what single precision can tell from zero


@dataclass(frozen=True)
class Trained:
    """A network with its weights at a point, and the data that it was trained on.

    Attributes:
        net: the network.
        log_prior: log p(z), (layers + 1,).
        stop: the log odds of stopping by which q(z | x) is built; None where there is no q.
        data: of the run.
        rules: by which it may be left early.
        of_all: whether one depth is that of all rows.
    """

    net: Residual
    log_prior: Tensor
    stop: Stop | None
    data: Data
    rules: tuple[Rule, ...] = WITHOUT_Q
    of_all: bool = False

    @cached_property
    def posterior(self) -> Tensor:
        """p(z | x, y) of the training rows, (layers + 1, n): Bayes' rule over all depths.

        Of a depth that is that of all rows, z given all of them, the same in each column.
        """
        x, y = self.rows(self.data.tensors)
        parts = [self._log_y(*part) for part in zip(x.split(_ROWS), y.split(_ROWS))]
        log_y = torch.cat(parts, 1)
        if self.of_all:
            log_y = log_y.double().sum(1, keepdim=True).expand_as(log_y)
        return (log_y + self.log_prior[:, None]).softmax(0).to(x)

    @torch.no_grad()
    def _log_y(self, x: Tensor, y: Tensor) -> Tensor:
        """log p(y | x, z), (layers + 1, n)."""
        log_y = self.net(x)[1].log_softmax(-1)
        return log_y.gather(-1, y.expand(len(log_y), -1)[..., None])[..., 0]

    def rows(self, tensors: dict) -> tuple[Tensor, Tensor]:
        """Inputs and classes of rows, as the network takes them."""
        return tensors["x"].to(getattr(torch, self.data.dtype)), tensors["y"].long()

    @torch.no_grad()
    def chances(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """p(y | x, z) of all depths, (layers + 1, n, classes), and q(z | x), (layers + 1, n)."""
        parts = zip(*map(self.net, x.split(_ROWS)))
        features, scores = (torch.cat(part, 1) for part in parts)
        if self.stop is None:
            return scores.softmax(-1), None
        seen = signs(features, scores)
        logits = [self.stop(layer, seen[layer]) for layer in range(self.net.layers)]
        return scores.softmax(-1), halting(torch.stack(logits)).exp()

    @cached_property
    def _counts(self) -> tuple[float, float, float]:
        return self.net.multiply_adds(self.rows(self.data.tensors)[0])

    def work(self, layers: Tensor, rule: str | None = None) -> Tensor:
        """Multiply-adds of rows that ran so many layers, of those of all layers and one head.

        Args:
            layers: blocks that were executed, (n,).
            rule: by which they were left, or an `average`: it looked at the scores after each of
                them. None of a network of that depth.
        """
        stem, block, head = self._counts
        read = head * torch.ones(len(layers), dtype=torch.float64)
        if rule is not None:
            read = head * (layers.double() + 1)
            if rule not in (*WITHOUT_Q, "average", "average_posterior"):
                read += (self.net.units + SURENESS) * (layers + 1).clamp(max=self.net.layers)
        return (stem + block * layers + read) / (stem + block * self.net.layers + head)


def scores(trained: Trained) -> dict[str, float]:
    """What each way of stopping is worth on the test rows, and how deep training rows are.

    `accuracy[rule]`, `log_score[rule]` (mean log probability), `ece[rule]` (top label, 15 bins),
    `layers[rule]` (mean blocks that were executed) and `work[rule]` (mean multiply-adds, of those
    of all layers), by the rules of `leave`. `average` runs all layers and averages over p(z);
    `average_q` over q(z | x); `average_posterior`, of a depth that all rows share, over what the
    training rows tell of it. `depth_train`: the mean depth of training rows by p(z | x, y);
    `depth_used`: over how many depths they are spread (exp of the entropy of the mean of these);
    `depth_rank`: the rank correlation (Spearman) with the steps that they need, where known.
    """
    numbers = _depths(trained)
    if trained.data.test is None:
        return numbers
    x, y = trained.rows(trained.data.test)
    chances, q = trained.chances(x)
    everywhere = {"average": trained.log_prior.to(x).exp()[:, None]}
    everywhere |= {} if q is None else {"average_q": q}
    everywhere |= {"average_posterior": trained.posterior[:, :1]} if trained.of_all else {}
    layers = trained.net.layers
    for name, weights in everywhere.items():
        mean = (weights[..., None] * chances).sum(0)
        work = trained.work(torch.tensor([layers]), name)
        numbers |= _scored(name, mean, y, layers=layers, work=work)
    for rule in trained.rules:
        numbers |= _of_rule(trained, rule, x, y)
    return numbers


def _depths(trained: Trained) -> dict[str, float]:
    """The scores that are of training rows."""
    of_rows = trained.posterior
    means = (of_rows * torch.arange(len(of_rows))[:, None]).sum(0)
    shares = of_rows.double().mean(1)
    used = torch.special.entr(shares).sum().exp()
    numbers = {"depth_train": float(means.mean()), "depth_used": float(used)}
    if isinstance(trained.data.scaling, Steps):
        from scipy.stats import spearmanr

        steps = trained.data.scaling.train
        if means.std() > 0 and steps.std() > 0:
            numbers["depth_rank"] = float(spearmanr(means.numpy(), steps).statistic)
    return numbers


@torch.no_grad()
def _of_rule(trained: Trained, rule: Rule, x: Tensor, y: Tensor) -> dict[str, float]:
    """The scores of the test rows x (n, k), each as deep as a rule wants it."""
    rng = torch.Generator().manual_seed(0)
    prior = trained.log_prior.to(x)
    exits = leave(trained.net, x, rule, log_prior=prior, stop=trained.stop, generator=rng)
    layers, work = exits.layers.double().mean(), trained.work(exits.layers, rule).mean()
    return _scored(rule, exits.logits.softmax(-1), y, layers=layers, work=work)


def _scored(name: str, chances: Tensor, y: Tensor, **more: Any) -> dict[str, float]:
    """Scores, by names that bear `[name]`.

    Args:
        name: of what predicts.
        chances: its probabilities of the classes, (n, classes).
        y: the classes, (n,).
        more: further scores, as they are.
    """
    sure, guess = chances.max(-1)
    right = (guess == y).double()
    bins = (sure.double() * _BINS).long().clamp(max=_BINS - 1)
    apart = torch.zeros(_BINS, dtype=torch.float64).index_add(0, bins, right - sure.double())
    values = {
        "accuracy": right.mean(),
        "log_score": chances.gather(-1, y[:, None]).clamp(min=_LEAST).log().double().mean(),
        "ece": apart.abs().sum() / len(y),
        **more,
    }
    return {f"{score}[{name}]": float(value) for score, value in values.items()}


# -- pictures ----------------------------------------------------------------------------------


def by_class(trained: Trained) -> Figure | None:
    """p(z | x, y) of the training rows, averaged by class, or by the steps that they need."""
    if trained.of_all:
        return None
    data, of_rows = trained.data, trained.posterior.numpy()
    known = isinstance(data.scaling, Steps)
    groups = data.scaling.train if known else np.asarray(data.tensors["y"])
    labels = np.unique(groups)
    names = [str(k) if known else data.coords["class"][k] for k in labels]
    means = np.stack([of_rows[:, groups == k].mean(1) for k in labels])
    figure, (ax,) = panels(height=0.28 * len(names) + 0.2, margins=(1.2, 0.2, 0.5))
    ax.imshow(means, cmap="Greys", aspect="auto")  # from the least to the most of these
    ax.plot(means @ np.arange(means.shape[1]), range(len(names)), "o", color=RED, ms=4)
    ax.set_yticks(range(len(names)), names, fontsize=7.5)
    ax.set(xlabel="layers", ylabel="steps needed" if known else "")
    caption = (
        "How many layers training rows need: p(z | x, y), averaged over the rows of each "
        f"{'number of steps' if known else 'class'} (the darker, the more), and its mean (red)."
    )
    return captioned(figure, caption)


def extremes(trained: Trained) -> Figure | None:
    """The training images that need the fewest layers (first row) and the most (second).

    By their mean depth under p(z | x, y).
    """
    size, of_rows = trained.data.scaling, trained.posterior.numpy()
    each = min(_SHOWN, of_rows.shape[1] // 2)
    if not isinstance(size, Images) or not each or trained.of_all:
        return None
    order = np.argsort(np.arange(len(of_rows)) @ of_rows, kind="stable")
    chosen = np.concatenate([order[:each], order[-each:]])
    images = as_images(trained.data.tensors["x"][chosen], size)
    return shown(images, each, extremes.__doc__)


def against_work(trained: Trained) -> Figure | None:
    """What it is worth to look again.

    Grey: all test rows at one depth, by the same network. Squares: each row as deep as the rule
    wants it; further left and higher is better.
    """
    if trained.data.test is None:
        return None
    of_rules, (x, y) = scores(trained), trained.rows(trained.data.test)
    fixed = [_scored("", chances, y) for chances in trained.chances(x)[0]]
    work = trained.work(torch.arange(trained.net.layers + 1))
    figure, axes = panels(2, gap=0.7)
    for ax, name in zip(axes, ("accuracy", "log_score")):
        values = [of_depth[f"{name}[]"] for of_depth in fixed]
        ax.plot(work, values, "-o", color=GREY, ms=3, label="each depth")
        for rule, colour in zip((*RULES, "average"), (SKY, BLUE, ORANGE, GREEN, RED, PURPLE, "k")):
            if f"{name}[{rule}]" in of_rules:
                at = of_rules[f"work[{rule}]"], of_rules[f"{name}[{rule}]"]
                ax.plot(*at, "s", color=colour, ms=5, label=rule)
        ax.set(xlabel="multiply-adds, of all layers", ylabel=name.replace("_", " "))
    return captioned(figure, against_work.__doc__, axes[0])
