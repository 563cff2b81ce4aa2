"""Guides of a network's weights, with noise where it is cheapest: at the layers' ends.

Each is a distribution of weights that can be drawn from, and an objective: the expected log
likelihood under *local* noise (of its own for each row, which has less variance than weights drawn
once for all rows: Kingma, Salimans and Welling 2015, arXiv:1506.02557), plus an expected log prior
and an entropy, of which each class says how they are had. Dropout is in `dropout.py`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Annotated, Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from models.contract import Refused

from ..core.problem import Guide
from ..methods.guides import Init
from ..program.handlers import Batch, condition, factors, run, start_value
from ..program.program import Program
from ..program.sampling import base_of
from ..program.sites import Tensors, Values, split
from ..program.supports import elementwise
from .layers import Call, Layers, layers

# Standard deviation that a weight starts with, in those of the starting values of its layer.
_SPREAD = 0.1
# What keeps a variance of zero from having a root without a slope.
TINY = 1e-10
# Networks are trained by small steps that end.
SMALL_STEPS = {"lr": 1e-3, "schedule": "linear"}
_HALF_LOG_2_PI_E = 0.5 * (1 + math.log(2 * math.pi))


# -- without noise -----------------------------------------------------------------------------


class Points:
    """One value of each latent: no distribution at all; a base of the others.

    Args:
        program: the model; its latents are unbounded and in no plate.
        init: where the locations start.
        prior: whether the objective has the log prior (MAP), or not (MLE).

    Raises:
        Refused: the model has latents of another kind.
    """

    density = False

    def __init__(self, program: Program, init: Init, *, prior: bool = True):
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

    def objective(self, model: Callable, _: Callable, tensors: Tensors) -> Tensor:
        """What is maximised, a scalar in nats: log p(data | w), and log p(w).

        Args:
            model: the model, its factors weighed as the batch is.
            tensors: the data keys, those of the rows of the batch.
        """
        return self.score(model, tensors, self.locs())

    def score(self, model: Callable, tensors: Tensors, values: Values) -> Tensor:
        """The same at given weights; discrete latents summed out."""
        if self.program.of("discrete"):
            batch = Batch.of(self.program.problem, tensors)
            return self.program.log_joint(values, batch, prior=self.prior)
        return log_score(model, tensors, values, prior=self.prior)

    def all(self) -> dict[str, Tensor] | None:
        """All its draws (S, *shape), where they are finitely many."""
        return {name: value[None] for name, value in self.locs().items()}

    def points(self) -> Iterable[str]:
        """The latents whose log prior is taken at points, not averaged over noise."""
        return self.start if self.prior else ()

    def guide(self, **settings: Any) -> Guide:
        """The guide as it is trained.

        Args:
            settings: of svi, that suit it.

        Raises:
            Refused: at a point a prior may be infinite: it is log uniform.
        """
        bare = [name for name in self.points() if is_log_uniform(self.program.sites[name].fn)]
        if bare:
            raise Refused(
                f"the log-uniform prior of {', '.join(bare)} is infinite at zero, where a latent "
                "without noise would end; give it a normal prior, or use the guide sparse"
            )
        draws = {"density": self.density, "all": self.all}
        return Guide(self, objective=self.objective, settings=settings, **draws)


class Ensemble(Points):
    """Several networks, each climbed to a mode of its own from a start of its own.

    Lakshminarayanan, Pritzel and Blundell (2017), arXiv:1612.01474, with the prior's penalty; all
    members see the same batches. Not an approximation of the posterior: for comparison.

    Args:
        program: the model.
        init: where each member starts.
        members: their number.
    """

    def __init__(self, program: Program, init: Init, members: int):
        self.members = members
        super().__init__(program, init)

    def begin(self, value: Callable[[], Tensor]) -> Tensor:
        return torch.stack([value().detach() for _ in range(self.members)])

    def draw(self) -> dict[str, Tensor]:
        chosen = torch.randint(self.members, (1,))
        return {name: value.index_select(0, chosen)[0] for name, value in self.locs().items()}

    def objective(self, model: Callable, _: Callable, tensors: Tensors) -> Tensor:
        return torch.func.vmap(partial(self.score, model, tensors))(self.locs()).mean()

    def all(self) -> dict[str, Tensor] | None:
        return self.locs()


# -- with noise at the layers ------------------------------------------------------------------


class LocalNoise(Points):
    """A guide whose noise is put in at the layers: the expected log likelihood by one draw of it.

    The layer's `use` gives its output under noise, the rest of the weights are at their values.
    """

    def __init__(self, program: Program, init: Init):
        super().__init__(program, init)
        self.layers = {layer.weight: layer for layer in layers(program)}
        inside = [name for layer in self.layers.values() for name in layer.sites]
        self.outside = [name for name in self.start if name not in inside]

    def all(self) -> None:
        return None

    def use(self, name: str, call: Call) -> Tensor:
        """The output of a layer under noise.

        Args:
            name: site of the layer's weights.
            call: the layer's computation, with its inputs.
        """
        raise NotImplementedError

    def values(self) -> dict[str, Tensor]:
        """The values at which the model is run: locations, those outside of layers drawn."""
        return self.locs()

    def terms(self, name: str, prior: Any) -> Iterator[Tensor]:
        """Expected log prior and entropy of a latent, or what stands for them, nats."""
        raise NotImplementedError

    def prior_and_entropy(self, priors: Mapping[str, Any]) -> Tensor:
        """Their sum over latents."""
        terms = (term for name, prior in priors.items() for term in self.terms(name, prior))
        return sum(terms, torch.zeros(()))

    def fit(self, model: Callable, tensors: Tensors) -> tuple[Tensor, dict[str, Any]]:
        """The log likelihood under one draw of the noise, and the latents' priors."""
        values = self.values()
        weights = {name: values[name] for name in self.layers}
        with Layers(weights, self.use):
            trace = run(model, tensors, condition(values))
        scored = factors(trace)
        fitted = (n["log_prob"].sum() for name, n in scored.items() if name not in values)
        return sum(fitted, torch.zeros(())), {name: trace.nodes[name]["fn"] for name in values}

    def objective(self, model: Callable, _: Callable, tensors: Tensors) -> Tensor:
        fitted, priors = self.fit(model, tensors)
        return fitted + self.prior_and_entropy(priors)


class MeanField(LocalNoise):
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
        drawn = {k: jittered(self.loc(k), self.scale(k)) for k in self.outside}
        return self.locs() | drawn

    def use(self, name: str, call: Call) -> Tensor:
        bias = self.layers[name].bias
        variance = None if bias is None else self.scale(bias) ** 2
        return with_noise(call, self.scale(name) ** 2, variance)

    def terms(self, name: str, prior: Any) -> Iterator[Tensor]:
        loc, scale = self.loc(name), self.scale(name)
        yield expected_log_prior(prior, loc, scale)
        yield entropy(scale)


class LastLayer(MeanField):
    """A full covariance over the last layer's weights and biases, the rest independent normals.

    Objective: the ELBO, the noise of the other layers drawn at their outputs.
    """

    def __init__(self, program: Program, init: Init):
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
        """The last layer's latents out of one vector (k,)."""
        return split(flat, {name: self.start[name] for name in self.last})

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
            total = total + expected_log_prior(priors[name], self.loc(name), spread[name])
        return total + entropy(root.diagonal())


# -- densities and noise -----------------------------------------------------------------------


def log_score(model: Callable, tensors: Tensors, values: Values, *, prior: bool = True) -> Tensor:
    """log p(data | w) at weights, as the batch is weighed, with log p(w) unless not `prior`, nats.

    Args:
        model: the model, its factors weighed as the batch is.
        tensors: the data keys, those of the rows of the batch.
        values: all latents.
        prior: whether the log prior is part of it.
    """
    scored = factors(run(model, tensors, condition(values)))
    counted = (node for name, node in scored.items() if prior or name not in values)
    return sum((node["log_prob"].sum() for node in counted), torch.zeros(()))


def is_log_uniform(fn: Any) -> bool:
    """Whether a density is 1/|w|, by its values at a few points."""
    at = torch.tensor([-10.0, -0.1, 0.01, 1.0, 100.0])
    logs = torch.stack([fn.log_prob(x.expand(fn.shape())).flatten()[0] for x in at])
    scale = fn.shape().numel() if fn.event_dim else 1
    return bool(torch.allclose(logs - logs[3], -scale * at.abs().log(), rtol=1e-3, atol=1e-3))


def with_noise(call: Call, variance: Tensor, of_bias: Tensor | None) -> Tensor:
    """The output of a layer under independent normal weights of those variances."""
    mean = call(call.x, call.weight, call.bias)
    spread = (call(call.x**2, variance, of_bias) + TINY).sqrt()
    return jittered(mean, spread)


def jittered(loc: Tensor, scale: Tensor) -> Tensor:
    """A draw from independent normals."""
    return loc + scale * torch.randn_like(loc)


def log_prior(prior: Any, value: Tensor) -> Tensor:
    """The log density of all elements of a latent, nats."""
    return prior.log_prob(value).sum()


def expected_log_prior(prior: Any, loc: Tensor, scale: Tensor) -> Tensor:
    """E log p(w) for w ~ Normal(loc, scale^2): exact for a normal prior, else at one draw."""
    base = base_of(prior)
    if isinstance(base, dist.Normal):
        return log_prior(prior, loc) - 0.5 * (scale / base.scale).square().sum()
    return log_prior(prior, jittered(loc, scale))


def entropy(scale: Tensor) -> Tensor:
    """Entropy of independent normals, nats."""
    return scale.log().sum() + _HALF_LOG_2_PI_E * scale.numel()


# -- as they are asked for ---------------------------------------------------------------------


def local(program: Program, init: Init = start_value) -> Guide:
    """Mean field over a network's weights, by noise at the layers' outputs: less variance.

    See `MeanField`; the family is that of `normal`, the gradient's variance is not.
    """
    return MeanField(program, init).guide(**SMALL_STEPS)


def lastlayer(program: Program, init: Init = start_value) -> Guide:
    """A full covariance over a network's last layer, mean field over the rest."""
    return LastLayer(program, init).guide(**SMALL_STEPS)


def ensemble(
    program: Program, init: Init = start_value, *, members: Annotated[int, ">= 2"] = 5
) -> Guide:
    """Several modes, from several starts: no posterior, for comparison.

    Args:
        program: the model and its data.
        init: where the members start.
        members: their number.
    """
    return Ensemble(program, init, members).guide(**SMALL_STEPS)
