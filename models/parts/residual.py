"""Residual networks that can be left after any block: outputs of all depths, and early exits.

h_0 = stem(x), h_l = h_{l-1} + F_l(h_{l-1}), and class scores are read off h_0 ... h_L. An exit
rule says after which block to stop, and whose scores to take, from what was computed so far;
blocks past the exit are not executed, the rows that go on are gathered for them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Rule = Literal["sample", "quantile", "mode", "gain", "joint_mode", "sure"]
RULES: tuple[Rule, ...] = ("sample", "quantile", "mode", "gain", "joint_mode", "sure")
# Those that need no q(z | x).
WITHOUT_Q: tuple[Rule, ...] = ("joint_mode", "sure")


class Dense(nn.Module):
    """A block for rows of numbers: F(h) = W_2 relu(W_1 relu(h))."""

    def __init__(self, width: int):
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        return self.outer(F.relu(self.inner(F.relu(h))))


class Conv(nn.Module):
    """A block for images (n, channels, height, width): two 3 x 3 convolutions."""

    def __init__(self, channels: int):
        super().__init__()
        self.inner = nn.Conv2d(channels, channels, 3, padding=1)
        self.outer = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        return self.outer(F.relu(self.inner(F.relu(h))))


class Residual(nn.Module):
    """The network, as plain modules of torch.

    Args:
        inputs: numbers in a row.
        classes: number of classes.
        layers: L, the number of blocks.
        width: units of a block, or channels.
        image: (height, width) of rows that are images, for convolutional blocks; the stem, of
            patches of 4 x 4, leaves a quarter of both (rounded up). None for dense ones.
        heads: of class scores: one, `shared` by all depths, or one for `each`.

    Attributes:
        units: numbers that class scores are read off: the width, of images for each quarter.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        layers: int,
        width: int,
        image: tuple[int, int] | None = None,
        heads: Literal["shared", "each"] = "shared",
    ):
        super().__init__()
        self.image, self.layers, self.classes = image, layers, classes
        if image is None:
            self.stem = nn.Linear(inputs, width)
        else:
            # A stem of more layers does most of the work, and leaves little to the blocks.
            self.stem = nn.Conv2d(1, width, 4, stride=4)
        block = Dense if image is None else Conv
        self.blocks = nn.ModuleList(block(width) for _ in range(layers))
        self.units = width if image is None else 4 * width
        count = 1 if heads == "shared" else layers + 1
        self.heads = nn.ModuleList(nn.Linear(self.units, classes) for _ in range(count))

    def begin(self, x: Tensor) -> Tensor:
        """h_0 of rows (n, inputs): (n, width), or (n, channels, height, width)."""
        if self.image is not None:
            height, width = self.image
            x = F.pad(x.reshape(-1, 1, height, width), (0, -width % 4, 0, -height % 4))
        return self.stem(x)

    def step(self, layer: int, h: Tensor) -> Tensor:
        """h_l from h_{l-1}, l = 1..L."""
        return h + self.blocks[layer - 1](h)

    def features(self, h: Tensor) -> Tensor:
        """What class scores are read off, (n, units)."""
        h = F.relu(h)
        return h if self.image is None else F.adaptive_avg_pool2d(h, 2).flatten(1)

    def scores(self, layer: int, features: Tensor) -> Tensor:
        """Log odds of the classes after a layer, (n, classes)."""
        return self.heads[layer if len(self.heads) > 1 else 0](features)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (L + 1, n, units) and scores (L + 1, n, classes) of all depths, in one pass."""
        if _passes is None:
            return self._passed(x)
        given = x, *self._weights()
        key = tuple(map(id, given))
        if key not in _passes:
            _passes[key] = given, self._passed(x)
        return _passes[key][1]

    def _weights(self) -> list[Tensor]:
        layers = [m for m in self.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        return [value for layer in layers for value in (layer.weight, layer.bias)]

    def _passed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.begin(x)
        features = [self.features(h)]
        for layer in range(1, self.layers + 1):
            h = self.step(layer, h)
            features.append(self.features(h))
        scores = [self.scores(layer, f) for layer, f in enumerate(features)]
        return torch.stack(features), torch.stack(scores)

    def multiply_adds(self, x: Tensor) -> tuple[float, float, float]:
        """Of a row (counted while it runs): the stem, a block, and a head."""
        with torch.no_grad():
            stem, h = _counted(self.begin, x[:1])
            block, _ = _counted(self.blocks[0], h)
            head, _ = _counted(lambda f: self.scores(0, f), self.features(h))
        return stem, block, head


# What passes gave, by the identity of rows and weights, which are kept with it.
_passes: dict[tuple[int, ...], tuple[tuple[Tensor, ...], tuple[Tensor, Tensor]]] | None = None


@contextmanager
def once() -> Iterator[None]:
    """Within it networks of the same weights (tensors) pass over the same rows but once.

    A guide and a model each run the network; their gradients are half of the work together.
    """
    global _passes
    _passes = {}
    try:
        yield
    finally:
        _passes = None


def _counted(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[float, Tensor]:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        out = function(x)
    return counter.get_total_flops() / 2, out


# -- the number of layers ----------------------------------------------------------------------


def geometric(layers: int, cost: float) -> Tensor:
    """log p(z = l), l = 0..L, of the geometric distribution of ratio exp(-cost), cut off after L.

    In float64, and by logs, as the ratio of a dear layer is no number of float32.
    """
    return (-cost * torch.arange(layers + 1, dtype=torch.float64)).log_softmax(0)


def halting(logits: Tensor) -> Tensor:
    """log q(z = l), (L + 1, ...), from the log odds of stopping after layers 0..L-1, (L, ...).

    Stick breaking: q(z = l) = s_l prod_{k<l} (1 - s_k), s = sigmoid(logits), and s_L = 1.
    """
    going = F.logsigmoid(-logits).cumsum(0)
    before = torch.cat([torch.zeros_like(logits[:1]), going])
    return before + torch.cat([F.logsigmoid(logits), torch.zeros_like(logits[:1])])


def halting_logits(log_q: Tensor) -> Tensor:
    """The log odds of stopping, (L, ...), that `halting` turns into log q (L + 1, ...)."""
    left = log_q.flip(0).logcumsumexp(0).flip(0)
    return log_q[:-1] - left[1:]


# -- early exits -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exits:
    """What an exit rule did with rows, (n,) each.

    Attributes:
        logits: the class scores that it took, (n, classes).
        depth: the depth whose scores they are.
        layers: blocks that were executed.
    """

    logits: Tensor
    depth: Tensor
    layers: Tensor


# Log odds of stopping after a layer, (m,), from the layer's number and the `signs` there.
Stop = Callable[[int, Tensor], Tensor]
SURENESS = 3  # numbers of `signs` beside the features


def signs(features: Tensor, scores: Tensor) -> Tensor:
    """What stopping is decided by: features, and how sure the scores are, (..., units + 3).

    The latter are the chances of the two likeliest classes, and the entropy of all.
    """
    log_p = scores.log_softmax(-1)
    first = log_p.topk(min(2, log_p.shape[-1]), -1).values.exp()
    first = F.pad(first, (0, 2 - first.shape[-1]))  # of one class there is no second
    entropy = -(log_p.exp() * log_p).sum(-1, keepdim=True)
    return torch.cat([features, first, entropy], -1)


# Which rows are better off with this depth than with those before, and which go no further.
Look = tuple[Tensor, Tensor]


class _Rules:
    """The exit rules, asked after every layer about the rows that are not out yet.

    The method of a rule's name is given a layer, the features h_l of these rows (m, units), the
    class scores read off them (m, classes), and the rows' numbers among all, (m,).

    Args:
        x: all rows (n, inputs).
        log_prior: log p(z), (L + 1,).
        stop: the log odds of stopping by which q is built; None for a rule `WITHOUT_Q`.
        generator: of random numbers.

    Attributes:
        left: what of q's mass follows, (n,).
        best: the largest of what a rule compares, so far, (n,).
    """

    def __init__(
        self, x: Tensor, log_prior: Tensor, stop: Stop | None, generator: torch.Generator | None
    ):
        self.log_prior, self.stop, self.generator = log_prior, stop, generator
        self.last = len(log_prior) - 1
        self.left, self.best = x.new_ones(len(x)), x.new_full((len(x),), -torch.inf)

    def sample(self, layer: int, features: Tensor, scores: Tensor, going: Tensor) -> Look:
        """Stops with the probability that q gives."""
        share = self._share(layer, features, scores)
        ends = share > torch.rand(len(features), generator=self.generator)
        return ends, ends

    def quantile(self, layer: int, features: Tensor, scores: Tensor, going: Tensor) -> Look:
        """Stops once half of q lies behind."""
        self._mass(layer, features, scores, going)
        ends = self.left[going] <= 0.5
        return ends, ends

    def mode(self, layer: int, features: Tensor, scores: Tensor, going: Tensor) -> Look:
        """Takes the mode of q; stops once it has as much as all depths that are left."""
        better = self._better(self._mass(layer, features, scores, going), going)
        return better, self.best[going] >= self.left[going]

    def gain(self, layer: int, features: Tensor, scores: Tensor, going: Tensor) -> Look:
        """Stops once going on is not expected to gain, in log score, what the next layer costs.

        Where the ELBO is greatest, q(z | x) is p(z) exp(E[log p(y | x, z)]) up to a factor, and so
        its log odds of stopping are the prior's, less by what those that follow are expected to
        gain: the log of the mean of exp(E[log p(y | x, z) - log p(y | x, l)]) over the prior of
        the depths that are left. A layer costs log p(l) / p(l + 1).
        """
        if layer == self.last:
            ends = torch.ones(len(features), dtype=torch.bool)
        else:
            least = halting_logits(self.log_prior) + self.log_prior[1:] - self.log_prior[:-1]
            ends = self.stop(layer, signs(features, scores)) >= least[layer]
        return ends, ends

    def sure(self, layer: int, features: Tensor, scores: Tensor, going: Tensor) -> Look:
        """Stops once its class at this depth is at least as likely as any at the next could be.

        That is once max_y p(y | x, l) p(l) >= p(l + 1); of a geometric prior of ratio r, once the
        network is sure by r.
        """
        ends = self._likeliest(layer, scores) >= self._after(layer)
        return ends, ends

    def joint_mode(self, layer: int, features: Tensor, scores: Tensor, going: Tensor) -> Look:
        """Takes the mode of p(y, z | x); stops once no later depth can beat it.

        That is once max_{k <= l, y} p(y | x, k) p(k) >= p(l + 1), for p(y | x, k) <= 1 and p(z)
        does not increase.
        """
        better = self._better(self._likeliest(layer, scores), going)
        return better, self.best[going] >= self._after(layer)

    def _share(self, layer: int, features: Tensor, scores: Tensor) -> Tensor:
        """Of q's mass at this depth and those that follow, the part at this one, (m,)."""
        if layer == self.last:
            return features.new_ones(len(features))
        return torch.sigmoid(self.stop(layer, signs(features, scores)))

    def _mass(self, layer: int, features: Tensor, scores: Tensor, going: Tensor) -> Tensor:
        """q of this depth, (m,); `left` is what follows."""
        share, before = self._share(layer, features, scores), self.left[going]
        self.left[going] = before * (1 - share)
        return before * share

    def _likeliest(self, layer: int, scores: Tensor) -> Tensor:
        """max_y log p(y, z = l | x), (m,)."""
        return scores.log_softmax(-1).amax(-1) + self.log_prior[layer]

    def _after(self, layer: int) -> Tensor | float:
        """What `_likeliest` cannot be above at depths that follow, as p(z) does not increase."""
        return self.log_prior[layer + 1] if layer < self.last else -torch.inf

    def _better(self, here: Tensor, going: Tensor) -> Tensor:
        """Whether this depth is the best so far; it is remembered."""
        better = here > self.best[going]
        self.best[going] = torch.maximum(here, self.best[going])
        return better


def leave(
    net: Residual,
    x: Tensor,
    rule: Rule,
    *,
    log_prior: Tensor,
    stop: Stop | None,
    generator: torch.Generator | None = None,
) -> Exits:
    """Run a network on rows, each as deep as an exit rule wants it.

    Args:
        net: the network, its weights set.
        x: rows (n, inputs).
        rule: `sample`, `quantile`, `mode` and `gain` go by q(z | x), `joint_mode` and `sure` by
            p(y, z | x).
        log_prior: log p(z), (L + 1,), not increasing.
        stop: the log odds of stopping by which q is built, see `halting`; None for a rule
            `WITHOUT_Q`.
        generator: of the random numbers of `sample`.
    """
    look, n = getattr(_Rules(x, log_prior, stop, generator), rule), len(x)
    depth, layers = torch.zeros(n, dtype=torch.long), torch.zeros(n, dtype=torch.long)
    logits, going, h = x.new_zeros(n, net.classes), torch.arange(n), net.begin(x)
    for layer in range(net.layers + 1):
        if layer:
            h = net.step(layer, h)
            layers[going] = layer
        features = net.features(h)
        scores = net.scores(layer, features)
        better, ends = look(layer, features, scores, going)
        depth[going[better]], logits[going[better]] = layer, scores[better]
        if layer == net.layers or ends.all():
            break
        going, h = going[~ends], h[~ends]
    return Exits(logits, depth, layers)
