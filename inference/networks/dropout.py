"""Dropout: units or weights of a network that are on or off at random, and its relatives.

The noise is put in at the layers, as by the guides of `weights.py`; of each class its objective
says what stands for expected log prior and entropy.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import pyro
import torch
from pyro.distributions import constraints
from torch import Tensor

from models.contract import Refused

from ..core.problem import Finding, Guide
from ..program.handlers import start_value
from ..program.program import Program
from ..program.supports import support_of
from . import weights
from .layers import Call
from .weights import SMALL_STEPS, TINY, Init, LocalNoise, Values, jittered, log_prior

# The share of a network's units that is off: by whether classes are predicted. A few dozen units
# that give a number show the noise of each (Gal and Ghahramani 2016 took 0.05 for such tables).
_RATES = {True: 0.2, False: 0.05}
# Log alpha above which a weight is removed, and to which it is clipped (Molchanov et al. 2017).
_REMOVED, _CLIP = 3.0, 8.0
# Log alpha of the starting noise, against the variance of a layer's starting weights. Noise that
# begins much smaller (the authors' log s^2 = -10) lets weights grow before it has any say.
_BEGIN = -3.0
# Share of the steps in which the weight of the KL divergence rises from 0 to 1. In a longer one
# (the authors' ends after a tenth) weights grow for which no noise is to be had afterwards.
_WARMUP = 0.02


class Dropout(LocalNoise):
    """Units of the hidden layers, or single weights, that are on or off at random.

    Gal and Ghahramani (2016), arXiv:1506.02142; Wan et al. (2013), Regularization of neural
    networks using DropConnect. Weights m z / (1 - rate), z 0 with probability `rate`: point
    masses, without a density. Objective, a surrogate: E log p(data | w) + E log p(w), both under
    the masks; the entropy of the masks, a constant, is left out. The inputs of the first layer are
    kept by units (other features are other data), not by weights.

    Args:
        program: the model.
        init: where the weights start.
        rate: probability to be off.
        by: what is dropped, `unit` or `weight`.
    """

    def __init__(self, program: Program, init: Init, rate: float, by: Literal["unit", "weight"]):
        super().__init__(program, init)
        self.rate, self.by = rate, by
        self.noisy = list(self.layers)[1 if by == "unit" else 0 :]
        if not self.noisy:
            raise Refused("dropout needs a hidden layer, the network has none; use dropconnect")

    def noise(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Noise of mean 1 for a layer: 0 with probability `rate`, else 1 / (1 - rate)."""
        on = torch.full(tuple(shape), 1 - self.rate, dtype=like.dtype, device=like.device)
        return torch.bernoulli(on) / (1 - self.rate)

    def use(self, name: str, call: Call) -> Tensor:
        if name not in self.noisy:
            return call(call.x, call.weight, call.bias)
        if self.by == "weight":
            noisy = call.weight * self.noise(name, call.weight.shape, call.weight)
            return call(call.x, noisy, call.bias)
        return call(call.x * self.noise(name, _units(call), call.x), call.weight, call.bias)

    def draw(self) -> dict[str, Tensor]:
        values = self.locs()
        for name in self.noisy:
            values[name] = values[name] * self.noise(name, self.shape(name), values[name])
        return values

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the noise of a layer's weights: all have their own, or those of a unit."""
        shape, inputs = self.start[name].shape, self.layers[name].inputs
        if self.by == "weight":
            return tuple(shape)
        return tuple(n if i == inputs else 1 for i, n in enumerate(shape))

    def terms(self, name: str, prior: Any) -> Iterator[Tensor]:
        loc = self.loc(name)
        if name not in self.noisy:
            yield log_prior(prior, loc)
            return
        yield (1 - self.rate) * log_prior(prior, loc / (1 - self.rate))
        yield self.rate * log_prior(prior, torch.zeros_like(loc))


class GaussianDropout(Dropout):
    """Dropout with normal noise of mean 1 and a variance alpha that each layer learns.

    The relaxation of dropout by the central limit theorem (Wang and Manning 2013), alpha being
    rate / (1 - rate) (Kingma et al. 2015). By weights it is a mean field with one relative
    variance for a layer, and its objective the ELBO. By units each unit has a scale s of
    log-uniform prior and posterior Normal(s, alpha s^2), and a direction, a point: the objective
    has the log prior at the points and, for each unit, the KL divergence `log_uniform_kl`, known
    up to a constant.
    """

    def points(self) -> Iterable[str]:
        return [k for k in self.start if self.by == "unit" or k not in self.noisy]

    def alpha(self, name: str) -> Tensor:
        """The variance of a layer's noise, a parameter."""
        start = torch.tensor(self.rate / (1 - self.rate))
        return pyro.param(f"{name}.alpha", lambda: start.clone(), constraints.positive)

    def noise(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        normal = torch.randn(shape, dtype=like.dtype, device=like.device)
        return 1 + self.alpha(name).sqrt() * normal

    def use(self, name: str, call: Call) -> Tensor:
        if self.by == "weight":  # at the outputs: less variance than one draw of the weights
            return weights.with_noise(call, self.alpha(name) * call.weight**2, None)
        return super().use(name, call)

    def terms(self, name: str, prior: Any) -> Iterator[Tensor]:
        loc = self.loc(name)
        if name in self.noisy and self.by == "weight":
            spread = self.alpha(name).sqrt() * (loc.abs() + TINY)
            yield weights.expected_log_prior(prior, loc, spread)
            yield weights.entropy(spread)
            return
        yield log_prior(prior, loc)
        if name in self.noisy:
            units = loc.shape[self.layers[name].inputs]
            yield -units * log_uniform_kl(self.alpha(name).log())


class Sparse(LocalNoise):
    """Sparse variational dropout: normals of relative variance alpha, removed where it is large.

    Molchanov, Ashukha and Vetrov (2017), arXiv:1701.05369: q(w) = Normal(m, s^2) with s^2 a
    parameter of its own (their additive noise), alpha = s^2 / m^2, the prior log uniform. The KL
    divergence from it is known up to a constant, and by their eq. 14; so is the objective. Biases
    have no noise. The weight of the KL divergence rises from 0 to 1 over the first 2 % of the
    steps. In the end weights of log alpha above 3 are removed, which is what they are: noise.
    """

    def __init__(self, program: Program, init: Init):
        super().__init__(program, init)
        for name in self.layers:
            if not weights.is_log_uniform(program.sites[name].fn):
                raise Refused(
                    f"the guide sparse needs a log-uniform prior, that of {name} is another; "
                    "give it the density 1/|w| (--set prior=log_uniform)"
                )
        self.left: dict[str, Tensor] = {}
        self.weight = torch.ones(())

    def points(self) -> Iterable[str]:
        return [name for name in self.start if name not in self.layers]

    def log_variance(self, name: str) -> Tensor:
        """log s^2 of a layer's weights, a parameter."""
        start = self.start[name]
        first = start.square().mean().log() + _BEGIN
        return pyro.param(f"{name}.log_variance", lambda: first.expand_as(start).clone())

    def log_alpha(self, name: str) -> Tensor:
        """log s^2 / m^2 of a layer's weights, clipped to +-8."""
        ratio = self.log_variance(name) - (self.loc(name).square() + 1e-16).log()
        return ratio.clamp(-_CLIP, _CLIP)

    def use(self, name: str, call: Call) -> Tensor:
        return weights.with_noise(call, self.log_variance(name).exp(), None)

    def terms(self, name: str, prior: Any) -> Iterator[Tensor]:
        if name in self.layers:
            yield -self.weight * log_uniform_kl(self.log_alpha(name)).sum()
        else:
            yield log_prior(prior, self.loc(name))

    def draw(self) -> dict[str, Tensor]:
        values = self.locs()
        for name in self.layers:
            drawn = jittered(values[name], (0.5 * self.log_variance(name)).exp())
            left = self.left.get(name)
            values[name] = drawn if left is None else torch.where(left, drawn, 0.0)
        return values

    def remove(self) -> tuple[dict[str, float], list[Finding]]:
        """Remove the weights that are noise; what is left of each layer.

        Returns:
            Metrics `weights`, `weights_kept` and `compression`, and a note.
        """
        before = self._score(self.locs())
        for name in self.layers:
            self.left[name] = (self.log_alpha(name) < _REMOVED).detach()
        locs = self.locs()
        after = self._score(locs | {k: locs[k] * left for k, left in self.left.items()})
        sizes = {name: (int(left.sum()), left.numel()) for name, left in self.left.items()}
        count, whole = (sum(column) for column in zip(*sizes.values()))
        shares = ", ".join(f"{some / of:.2%} of {name}" for name, (some, of) in sizes.items())
        text = (
            f"{count} of {whole} weights are left ({shares}); mean log likelihood of the rows at "
            f"the mean weights {before:.4f} with the others, {after:.4f} without; the KL "
            "divergence, and so the objective, is known up to a constant"
        )
        metrics = {"weights": float(whole), "weights_kept": float(count)}
        return metrics | {"compression": whole / max(count, 1)}, [Finding("note", text)]

    def _score(self, values: Values) -> float:
        """Mean log likelihood of the rows at weights, nats."""
        with torch.no_grad():
            scores = self.program.log_likelihood(values).values()
        return float(torch.cat([score.flatten() for score in scores]).mean())

    def packed(self, params: Values) -> dict[str, Tensor]:
        """The parameters of the weights that are left alone, with their places."""
        small = dict(params)
        for name, left in self.left.items():
            small[f"{name}.index"] = left.flatten().nonzero()[:, 0].to(torch.int32)
            for part in ("loc", "log_variance"):
                small[f"{name}.{part}"] = small[f"{name}.{part}"][left]
        return small

    def guide(self, **settings: Any) -> Guide:
        live = [(self.weight, lambda share: min(1.0, share / _WARMUP))]
        ending = {"finish": self.remove, "packed": self.packed}
        return replace(super().guide(**settings), live=live, **ending)


def log_uniform_kl(log_alpha: Tensor) -> Tensor:
    """KL divergence of Normal(m, alpha m^2) from the log-uniform prior, up to a constant, nats.

    Molchanov et al. (2017), eq. 14, a fit to the integral; it tends to 0 for large alpha.
    """
    k1, k2, k3 = 0.63576, 1.8732, 1.48695
    smooth = k1 * torch.sigmoid(k2 + k3 * log_alpha)
    return k1 - smooth + 0.5 * torch.nn.functional.softplus(-log_alpha)


def _units(call: Call) -> tuple[int, ...]:
    """The shape of a noise for each row and unit of a layer's inputs (channel, in images)."""
    if call.x.ndim == 4:
        return (*call.x.shape[:2], 1, 1)
    return tuple(call.x.shape)


# -- as they are asked for ---------------------------------------------------------------------

Rate = Annotated[float | Literal["learned"] | None, "> 0", "< 1"]


def dropout(program: Program, init: Init = start_value, *, rate: Rate = None) -> Guide:
    """Hidden units of a network on or off at random: point masses, a surrogate objective.

    See `Dropout`, and `GaussianDropout` for a rate that is learned.

    Args:
        program: the model and its data.
        init: where the weights start.
        rate: probability of a unit to be off; `learned` begins at 0.2; None takes 0.2, or 0.05
            where numbers are predicted.
    """
    return _dropped(program, init, rate, "unit")


def dropconnect(program: Program, init: Init = start_value, *, rate: Rate = None) -> Guide:
    """Weights of a network on or off at random: point masses, a surrogate objective.

    As `dropout`, of single weights.
    """
    return _dropped(program, init, rate, "weight")


def sparse(program: Program, init: Init = start_value) -> Guide:
    """Sparse variational dropout: a network whose needless weights are removed."""
    return Sparse(program, init).guide(**SMALL_STEPS)


def _dropped(
    program: Program, init: Init, rate: float | str | None, by: Literal["unit", "weight"]
) -> Guide:
    """A guide that drops units or weights, by a rate that is given or learned."""
    kind = GaussianDropout if rate == "learned" else Dropout
    rate = _RATES[_predicts_classes(program)] if rate is None else rate
    return kind(program, init, 0.2 if rate == "learned" else rate, by).guide(**SMALL_STEPS)


def _predicts_classes(program: Program) -> bool:
    """Whether all that is observed is discrete."""
    supports = [support_of(site.fn) for site in program.of("observed")]
    return all(support is not None and support.is_discrete for support in supports)
