"""Guides of a network's weights, with noise where it is cheapest: at the layers' ends.

Each is a distribution of weights that can be drawn from, and an objective: the expected log
likelihood under *local* noise (of its own for each row, which has less variance than weights drawn
once for all rows: Kingma, Salimans and Welling 2015, arXiv:1506.02557), plus an expected log prior
and an entropy, of which each class says how they are had.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from torch import Tensor

from models.contract import Refused

from ..core.problem import Finding, Guide
from ..program.handlers import factors, run
from ..program.program import Program
from ..program.sampling import base_of
from ..program.supports import elementwise
from .layers import Call, Layers, layers

# Standard deviation that a weight starts with, in those of the starting values of its layer.
_SPREAD = 0.1
_TINY = 1e-10
_HALF_LOG_2_PI_E = 0.5 * (1 + math.log(2 * math.pi))

# Log alpha above which a weight is removed, and to which it is clipped (Molchanov et al. 2017).
_REMOVED, _CLIP = 3.0, 8.0
# Log alpha of the starting noise, against the variance of a layer's starting weights. Noise that
# begins much smaller (the authors' log s^2 = -10) lets weights grow before it has any say.
_BEGIN = -3.0
# Share of the steps in which the weight of the KL divergence rises from 0 to 1. In a longer one
# (the authors' ends after a tenth) weights grow for which no noise is to be had afterwards.
_WARMUP = 0.02

Values = Mapping[str, Tensor]


class Points:
    """One value of each latent: no distribution at all; a base of the others.

    Args:
        program: the model; its latents are unbounded and in no plate.
        init: where the locations start, by the site's Pyro message.
        prior: whether the objective has the log prior (MAP), or not (MLE).

    Raises:
        Refused: the model has latents of another kind.
    """

    density = False

    def __init__(self, program: Program, init: Callable[[Any], Tensor], *, prior: bool = True):
        self.program, self.prior, self.start = program, prior, {}
        for site in program.of("latent"):
            if site.plates or elementwise(site.support) is not constraints.real:
                raise Refused(
                    f"this guide is for the weights of a network, and {site.name} is bounded or "
                    "in a plate; use the guide normal"
                )
            self.start[site.name] = self.begin(partial(init, {"name": site.name, "fn": site.fn}))

    def begin(self, value: Callable[[], Tensor]) -> Tensor:
        """Where the location of a latent starts, of random values in its support."""
        return value().detach()

    def loc(self, name: str) -> Tensor:
        """The location of a latent, a parameter."""
        return pyro.param(f"{name}.loc", lambda: self.start[name].clone())

    def locs(self) -> dict[str, Tensor]:
        """The locations of all latents."""
        return {name: self.loc(name) for name in self.start}

    def draw(self) -> dict[str, Tensor]:
        """Weights as the guide draws them."""
        return self.locs()

    def __call__(self, *_: Any, **__: Any) -> None:
        for name, value in self.draw().items():
            pyro.sample(name, dist.Delta(value, event_dim=value.ndim))

    def objective(self, model: Callable, _: Callable, tensors: Mapping[str, Any]) -> Tensor:
        """What is maximised: log p(data | w), and log p(w)."""
        return self.score(model, tensors, self.locs())

    def score(self, model: Callable, tensors: Mapping[str, Any], values: Values) -> Tensor:
        """The same at given weights; discrete latents summed out."""
        if self.program.of("discrete"):
            batch = self.program.batch(tensors)
            return self.program.log_joint(values, batch, prior=self.prior)
        return log_score(model, tensors, values, prior=self.prior)

    def all(self) -> dict[str, Tensor] | None:
        """All its draws (S, *shape), where they are finitely many."""
        return {name: value[None] for name, value in self.locs().items()}

    def points(self) -> Iterable[str]:
        """The latents whose log prior is taken at points, not averaged over noise."""
        return self.start if self.prior else ()

    def guide(self, **settings: Any) -> Guide:
        """What the runner takes.

        Raises:
            Refused: at a point a prior may be infinite: it is log uniform.
        """
        bare = [name for name in self.points() if _is_log_uniform(self.program.sites[name].fn)]
        if bare:
            raise Refused(
                f"the log-uniform prior of {', '.join(bare)} is infinite at zero, where a latent "
                "without noise would end; give it a normal prior, or use the guide sparse"
            )
        return Guide(
            self,
            objective=self.objective,
            settings=settings,
            density=self.density,
            all=self.all,
        )


class Ensemble(Points):
    """Several networks, each climbed to a mode of its own from a start of its own.

    Lakshminarayanan, Pritzel and Blundell (2017), arXiv:1612.01474, with the prior's penalty; all
    members see the same batches. Not an approximation of the posterior: for comparison.

    Args:
        program: the model.
        init: where each member starts.
        members: their number.
    """

    def __init__(self, program: Program, init: Callable[[Any], Tensor], members: int):
        self.members = members
        super().__init__(program, init)

    def begin(self, value: Callable[[], Tensor]) -> Tensor:
        return torch.stack([value().detach() for _ in range(self.members)])

    def draw(self) -> dict[str, Tensor]:
        chosen = torch.randint(self.members, (1,))
        return {name: value.index_select(0, chosen)[0] for name, value in self.locs().items()}

    def objective(self, model: Callable, _: Callable, tensors: Mapping[str, Any]) -> Tensor:
        def of_member(values: Values) -> Tensor:
            return self.score(model, tensors, values)

        return torch.func.vmap(of_member)(self.locs()).mean()

    def all(self) -> dict[str, Tensor] | None:
        return self.locs()


class _Noisy(Points):
    """A guide whose noise is put in at the layers: the expected log likelihood by one draw of it.

    The layer's `use` gives its output under noise, the rest of the weights are at their values.
    """

    def __init__(self, program: Program, init: Callable[[Any], Tensor]):
        super().__init__(program, init)
        self.layers = {layer.weight: layer for layer in layers(program)}
        inside = [name for layer in self.layers.values() for name in layer.sites]
        self.outside = [name for name in self.start if name not in inside]

    def all(self) -> None:
        return None

    def use(self, name: str, call: Call) -> Tensor:
        """The output of a layer under noise."""
        raise NotImplementedError

    def values(self) -> dict[str, Tensor]:
        """The values at which the model is run: locations, those outside of layers drawn."""
        return self.locs()

    def prior_and_entropy(self, priors: Mapping[str, Any]) -> Tensor:
        """Expected log prior plus entropy, or what stands for them."""
        raise NotImplementedError

    def fit(self, model: Callable, tensors: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """The log likelihood under one draw of the noise, and the latents' priors."""
        values = self.values()
        weights = {name: values[name] for name in self.layers}
        with Layers(weights, self.use):
            trace = run(model, tensors, poutine.condition(data=values))
        scored = factors(trace)
        fitted = (n["log_prob"].sum() for name, n in scored.items() if name not in values)
        return sum(fitted, torch.zeros(())), {name: trace.nodes[name]["fn"] for name in values}

    def objective(self, model: Callable, _: Callable, tensors: Mapping[str, Any]) -> Tensor:
        fitted, priors = self.fit(model, tensors)
        return fitted + self.prior_and_entropy(priors)


class MeanField(_Noisy):
    """Independent normals, the noise of a layer drawn at its outputs (local reparameterisation).

    The outputs x w + b of a layer under independent normal weights are normal: mean x m + m_b,
    variance x^2 s^2 + s_b^2 (Kingma et al. 2015, eq. 6). Objective: the ELBO; the KL divergence is
    exact for normal priors, else of one draw. (Of a convolution the noise is drawn position by
    position, which leaves out that they share their weights.)
    """

    density = True

    def points(self) -> Iterable[str]:
        return ()

    def scale(self, name: str) -> Tensor:
        """The standard deviation of a latent, a parameter."""
        start = self.start[name]
        typical = start.std() if start.numel() > 1 else torch.zeros(())
        typical = _SPREAD * (typical if typical > 0 else torch.tensor(0.1))
        return pyro.param(
            f"{name}.scale", lambda: typical.expand_as(start).clone(), constraints.positive
        )

    def __call__(self, *_: Any, **__: Any) -> None:
        for name, loc in self.locs().items():
            pyro.sample(name, dist.Normal(loc, self.scale(name)).to_event(loc.ndim))

    def values(self) -> dict[str, Tensor]:
        drawn = {k: _jittered(self.loc(k), self.scale(k)) for k in self.outside}
        return self.locs() | drawn

    def use(self, name: str, call: Call) -> Tensor:
        bias = self.layers[name].bias
        variance = None if bias is None else self.scale(bias) ** 2
        return _with_noise(call, self.scale(name) ** 2, variance)

    def prior_and_entropy(self, priors: Mapping[str, Any]) -> Tensor:
        total = torch.zeros(())
        for name, prior in priors.items():
            loc, scale = self.loc(name), self.scale(name)
            total = total + _expected(prior, loc, scale) + _entropy(scale)
        return total


class LastLayer(MeanField):
    """A full covariance over the last layer's weights and biases, the rest independent normals.

    Objective: the ELBO, the noise of the other layers drawn at their outputs.
    """

    def __init__(self, program: Program, init: Callable[[Any], Tensor]):
        super().__init__(program, init)
        name = list(self.layers)[-1]
        self.last = self.layers.pop(name).sites
        self.size = sum(self.start[name].numel() for name in self.last)

    def joint(self) -> tuple[Tensor, Tensor]:
        """Location (k,) and lower triangular root (k, k) of the last layer."""
        loc = torch.cat([self.loc(name).flatten() for name in self.last])
        scale = torch.cat([self.scale(name).flatten() for name in self.last])
        corr = pyro.param(
            "last.tril", lambda: torch.eye(self.size), constraints.unit_lower_cholesky
        )
        return loc, scale[:, None] * corr

    def cut(self, flat: Tensor) -> dict[str, Tensor]:
        """The last layer's latents out of one vector."""
        sizes = [self.start[name].numel() for name in self.last]
        parts = zip(self.last, flat.split(sizes))
        return {name: part.view(self.start[name].shape) for name, part in parts}

    def __call__(self, *_: Any, **__: Any) -> None:
        for name in self.start:
            if name not in self.last:
                loc = self.loc(name)
                pyro.sample(name, dist.Normal(loc, self.scale(name)).to_event(loc.ndim))
        loc, root = self.joint()
        normal = dist.MultivariateNormal(loc, scale_tril=root)
        flat = pyro.sample("last", normal, infer={"is_auxiliary": True})
        for name, value in self.cut(flat).items():
            pyro.sample(name, dist.Delta(value, event_dim=value.ndim))

    def values(self) -> dict[str, Tensor]:
        loc, root = self.joint()
        return super().values() | self.cut(loc + root @ torch.randn_like(loc))

    def prior_and_entropy(self, priors: Mapping[str, Any]) -> Tensor:
        rest = {name: prior for name, prior in priors.items() if name not in self.last}
        total = super().prior_and_entropy(rest)
        # The expected log prior is a sum over weights: their variances alone count in it.
        _, root = self.joint()
        spread = self.cut((root**2).sum(1).sqrt())
        for name in self.last:
            total = total + _expected(priors[name], self.loc(name), spread[name])
        return total + _entropy(root.diagonal())


class Dropout(_Noisy):
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

    def __init__(
        self,
        program: Program,
        init: Callable[[Any], Tensor],
        rate: float,
        by: Literal["unit", "weight"],
    ):
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

    def prior_and_entropy(self, priors: Mapping[str, Any]) -> Tensor:
        total = torch.zeros(())
        for name, prior in priors.items():
            loc = self.loc(name)
            if name in self.noisy:
                on = _log_prior(prior, loc / (1 - self.rate))
                off = _log_prior(prior, torch.zeros_like(loc))
                total = total + (1 - self.rate) * on + self.rate * off
            else:
                total = total + _log_prior(prior, loc)
        return total


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
        return 1 + self.alpha(name).sqrt() * _noise(shape, like)

    def use(self, name: str, call: Call) -> Tensor:
        if self.by == "weight":  # at the outputs: less variance than one draw of the weights
            return _with_noise(call, self.alpha(name) * call.weight**2, None)
        return super().use(name, call)

    def prior_and_entropy(self, priors: Mapping[str, Any]) -> Tensor:
        total = torch.zeros(())
        for name, prior in priors.items():
            loc = self.loc(name)
            if name not in self.noisy:
                total = total + _log_prior(prior, loc)
                continue
            if self.by == "weight":
                spread = self.alpha(name).sqrt() * (loc.abs() + _TINY)
                total = total + _expected(prior, loc, spread) + _entropy(spread)
            else:
                units = loc.shape[self.layers[name].inputs]
                divergence = units * log_uniform_kl(self.alpha(name).log())
                total = total + _log_prior(prior, loc) - divergence
        return total


class Sparse(_Noisy):
    """Sparse variational dropout: normals of relative variance alpha, removed where it is large.

    Molchanov, Ashukha and Vetrov (2017), arXiv:1701.05369: q(w) = Normal(m, s^2) with s^2 a
    parameter of its own (their additive noise), alpha = s^2 / m^2, the prior log uniform. The KL
    divergence from it is known up to a constant, and by their eq. 14; so is the objective. Biases
    have no noise. The weight of the KL divergence rises from 0 to 1 over the first 2 % of the
    steps. In the end weights of log alpha above 3 are removed, which is what they are: noise.
    """

    def __init__(self, program: Program, init: Callable[[Any], Tensor]):
        super().__init__(program, init)
        for name in self.layers:
            if not _is_log_uniform(program.sites[name].fn):
                raise Refused(
                    f"the guide sparse needs a log-uniform prior, that of {name} is another; "
                    "give it the density 1/|w| (--set prior=log_uniform)"
                )
        self.kept: dict[str, Tensor] = {}
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
        return _with_noise(call, self.log_variance(name).exp(), None)

    def prior_and_entropy(self, priors: Mapping[str, Any]) -> Tensor:
        total = torch.zeros(())
        for name, prior in priors.items():
            if name in self.layers:
                total = total - self.weight * log_uniform_kl(self.log_alpha(name)).sum()
            else:
                total = total + _log_prior(prior, self.loc(name))
        return total

    def draw(self) -> dict[str, Tensor]:
        values = self.locs()
        for name in self.layers:
            drawn = _jittered(values[name], (0.5 * self.log_variance(name)).exp())
            kept = self.kept.get(name)
            values[name] = drawn if kept is None else torch.where(kept, drawn, 0.0)
        return values

    def remove(self) -> tuple[dict[str, float], list[Finding]]:
        """Remove the weights that are noise; what is left of each layer."""
        before = self._score(self.locs())
        for name in self.layers:
            self.kept[name] = (self.log_alpha(name) < _REMOVED).detach()
        locs = self.locs()
        after = self._score(locs | {k: locs[k] * kept for k, kept in self.kept.items()})
        sizes = {name: (int(kept.sum()), kept.numel()) for name, kept in self.kept.items()}
        left, whole = (sum(column) for column in zip(*sizes.values()))
        said = ", ".join(f"{kept / of:.2%} of {name}" for name, (kept, of) in sizes.items())
        what = (
            f"{left} of {whole} weights are left ({said}); mean log likelihood of the rows at the "
            f"mean weights {before:.4f} with the others, {after:.4f} without; the KL divergence, "
            "and so the objective, is known up to a constant"
        )
        metrics = {"weights": float(whole), "weights_kept": float(left)}
        return metrics | {"compression": whole / max(left, 1)}, [Finding("note", what)]

    def _score(self, values: Values) -> float:
        with torch.no_grad():
            scores = self.program.log_likelihood(values).values()
        return float(torch.cat([score.flatten() for score in scores]).mean())

    def packed(self, params: Values) -> dict[str, Tensor]:
        """The parameters of the weights that are left alone, with their places."""
        small = dict(params)
        for name, kept in self.kept.items():
            small[f"{name}.index"] = kept.flatten().nonzero()[:, 0].to(torch.int32)
            for part in ("loc", "log_variance"):
                small[f"{name}.{part}"] = small[f"{name}.{part}"][kept]
        return small

    def guide(self, **settings: Any) -> Guide:
        def warmup(share: float) -> float:
            return min(1.0, share / _WARMUP)

        more = {"live": [(self.weight, warmup)], "finish": self.remove, "packed": self.packed}
        return replace(super().guide(**settings), **more)


def log_score(
    model: Callable, tensors: Mapping[str, Any], values: Values, *, prior: bool = True
) -> Tensor:
    """log p(data | w) at weights, as the batch is weighed, with log p(w) unless not `prior`."""
    scored = factors(run(model, tensors, poutine.condition(data=dict(values))))
    kept = (node for name, node in scored.items() if prior or name not in values)
    return sum((node["log_prob"].sum() for node in kept), torch.zeros(()))


def log_uniform_kl(log_alpha: Tensor) -> Tensor:
    """KL divergence of Normal(m, alpha m^2) from the log-uniform prior, up to a constant, nats.

    Molchanov et al. (2017), eq. 14, a fit to the integral; it tends to 0 for large alpha.
    """
    k1, k2, k3 = 0.63576, 1.8732, 1.48695
    smooth = k1 * torch.sigmoid(k2 + k3 * log_alpha)
    return k1 - smooth + 0.5 * torch.nn.functional.softplus(-log_alpha)


def _is_log_uniform(fn: Any) -> bool:
    """Whether a density is 1/|w|, by its values."""
    at = torch.tensor([-10.0, -0.1, 0.01, 1.0, 100.0])
    logs = torch.stack([fn.log_prob(x.expand(fn.shape())).flatten()[0] for x in at])
    scale = fn.shape().numel() if fn.event_dim else 1
    return bool(torch.allclose(logs - logs[3], -scale * at.abs().log(), rtol=1e-3, atol=1e-3))


def _with_noise(call: Call, variance: Tensor, of_bias: Tensor | None) -> Tensor:
    """The output of a layer under independent normal weights of those variances."""
    mean = call(call.x, call.weight, call.bias)
    spread = (call(call.x**2, variance, of_bias) + _TINY).sqrt()
    return mean + spread * torch.randn_like(mean)


def _units(call: Call) -> tuple[int, ...]:
    """The shape of a noise for each row and unit of a layer's inputs (channel, in images)."""
    if call.x.ndim == 4:
        return (*call.x.shape[:2], 1, 1)
    return tuple(call.x.shape)


def _noise(shape: Sequence[int], like: Tensor) -> Tensor:
    return torch.randn(shape, dtype=like.dtype, device=like.device)


def _jittered(loc: Tensor, scale: Tensor) -> Tensor:
    return loc + scale * torch.randn_like(loc)


def _log_prior(prior: Any, value: Tensor) -> Tensor:
    return prior.log_prob(value).sum()


def _expected(prior: Any, loc: Tensor, scale: Tensor) -> Tensor:
    """E log p(w) for w ~ Normal(loc, scale^2): exact for a normal prior, else at one draw."""
    base = base_of(prior)
    if isinstance(base, dist.Normal):
        return _log_prior(prior, loc) - 0.5 * (scale / base.scale).square().sum()
    return _log_prior(prior, _jittered(loc, scale))


def _entropy(scale: Tensor) -> Tensor:
    """Entropy of independent normals, nats."""
    return scale.log().sum() + _HALF_LOG_2_PI_E * scale.numel()
