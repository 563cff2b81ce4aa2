"""Distributions and transforms of two arrays of numbers, (..., 3) each, for comparisons."""

from __future__ import annotations

from collections.abc import Callable

import pyro.distributions as dist
import torch
from pyro.distributions import constraints, transforms
from torch import Tensor
from torch.distributions import biject_to, transform_to

Made = Callable[[Tensor, Tensor], dist.Distribution]


def root(a: Tensor) -> Tensor:
    """A lower factor (..., 3, 3) with a positive diagonal."""
    below = (a[..., :, None] * a[..., None, :]).tril(-1)
    return below + torch.diag_embed(a.exp())


def spread(a: Tensor) -> Tensor:
    """A positive definite matrix (..., 3, 3)."""
    return root(a) @ root(a).mT


def weights(a: Tensor) -> Tensor:
    """Probabilities (..., 3)."""
    return a.softmax(-1)


def chain(a: Tensor, b: Tensor) -> dist.GaussianHMM:
    """A linear dynamic system of three states, seen at four times."""
    steps = (*a.shape[:-1], 4)
    state = dist.MultivariateNormal(a, scale_tril=root(b))
    noise = dist.MultivariateNormal(a[..., None, :], scale_tril=root(b)[..., None, :, :])
    seen = dist.Normal(a[..., None, :], b.exp()[..., None, :]).expand((*steps, 3)).to_event(1)
    move, seen_by = (root(x)[..., None, :, :].expand(*steps, 3, 3) for x in (a, b))
    return dist.GaussianHMM(state, 0.3 * move, noise.expand(steps), seen_by, seen)


SMOOTH: dict[str, Made] = {
    "AffineBeta": lambda a, b: dist.AffineBeta(a.exp(), b.exp(), a, b.exp()),
    "AsymmetricLaplace": lambda a, b: dist.AsymmetricLaplace(a, b.exp(), a.exp()),
    "Beta": lambda a, b: dist.Beta(a.exp(), b.exp()),
    "Cauchy": lambda a, b: dist.Cauchy(a, b.exp()),
    "Chi2": lambda a, b: dist.Chi2(a.exp()),
    "ContinuousBernoulli": lambda a, b: dist.ContinuousBernoulli(logits=a),
    "Dirichlet": lambda a, b: dist.Dirichlet(a.exp()),
    "Exponential": lambda a, b: dist.Exponential(a.exp()),
    "FisherSnedecor": lambda a, b: dist.FisherSnedecor(a.exp() + 1, b.exp() + 1),
    "FoldedDistribution": lambda a, b: dist.FoldedDistribution(dist.Normal(a, b.exp())),
    "Gamma": lambda a, b: dist.Gamma(a.exp(), b.exp()),
    "GeneralizedPareto": lambda a, b: dist.GeneralizedPareto(a, b.exp(), a.exp()),
    "Gumbel": lambda a, b: dist.Gumbel(a, b.exp()),
    "HalfCauchy": lambda a, b: dist.HalfCauchy(b.exp()),
    "HalfNormal": lambda a, b: dist.HalfNormal(b.exp()),
    "InverseGamma": lambda a, b: dist.InverseGamma(a.exp(), b.exp()),
    "Kumaraswamy": lambda a, b: dist.Kumaraswamy(a.exp(), b.exp()),
    "LKJ": lambda a, b: dist.LKJ(3, a.exp()),
    "LKJCholesky": lambda a, b: dist.LKJCholesky(3, a.exp()),
    "Laplace": lambda a, b: dist.Laplace(a, b.exp()),
    "LogNormal": lambda a, b: dist.LogNormal(a, b.exp()),
    "Logistic": lambda a, b: dist.Logistic(a, b.exp()),
    "LogisticNormal": lambda a, b: dist.LogisticNormal(a, b.exp()),
    "LowRankMultivariateNormal": lambda a, b: dist.LowRankMultivariateNormal(
        a, b[..., None] * torch.tensor([1.0, -0.5]), b.exp()
    ),
    "MixtureSameFamily": lambda a, b: dist.MixtureSameFamily(
        dist.Categorical(logits=a), dist.Normal(a, b.exp())
    ),
    "MixtureOfDiagNormals": lambda a, b: dist.MixtureOfDiagNormals(
        a[..., None] * torch.ones(2), b.exp()[..., None] * torch.ones(2), a
    ),
    "MixtureOfDiagNormalsSharedCovariance": (
        lambda a, b: dist.MixtureOfDiagNormalsSharedCovariance(
            a[..., None] * torch.ones(2), b.exp()[..., :2], a
        )
    ),
    "MaskedMixture": lambda a, b: dist.MaskedMixture(
        torch.tensor([True, False, True]), dist.Normal(a, 1.0), dist.Cauchy(a, b.exp())
    ),
    "MultivariateNormal": lambda a, b: dist.MultivariateNormal(a, scale_tril=root(b)),
    "MultivariateNormal_covariance": lambda a, b: dist.MultivariateNormal(a, spread(b)),
    "MultivariateNormal_precision": lambda a, b: dist.MultivariateNormal(
        a, precision_matrix=spread(b)
    ),
    "MultivariateStudentT": lambda a, b: dist.MultivariateStudentT(
        3.0 + a[..., 0].exp(), a, root(b)
    ),
    "Normal": lambda a, b: dist.Normal(a, b.exp()),
    "OMTMultivariateNormal": lambda a, b: dist.OMTMultivariateNormal(a, root(b)),
    "Pareto": lambda a, b: dist.Pareto(a.exp(), b.exp()),
    "ProjectedNormal": lambda a, b: dist.ProjectedNormal(a),
    "RelaxedBernoulli": lambda a, b: dist.RelaxedBernoulli(b.exp(), logits=a),
    "RelaxedOneHotCategorical": lambda a, b: dist.RelaxedOneHotCategorical(
        torch.tensor(0.7), logits=a
    ),
    "SkewLogistic": lambda a, b: dist.SkewLogistic(a, b.exp(), a.exp()),
    "SoftAsymmetricLaplace": lambda a, b: dist.SoftAsymmetricLaplace(a, b.exp(), a.exp()),
    "SoftLaplace": lambda a, b: dist.SoftLaplace(a, b.exp()),
    "StudentT": lambda a, b: dist.StudentT(1 + a.exp(), a, b.exp()),
    "TruncatedPolyaGamma": lambda a, b: dist.TruncatedPolyaGamma(a[..., :1].exp()),
    "Uniform": lambda a, b: dist.Uniform(a, a + b.exp()),
    "VonMises": lambda a, b: dist.VonMises(a, b.exp()),
    "VonMises3D": lambda a, b: dist.VonMises3D(a),
    "Weibull": lambda a, b: dist.Weibull(a.exp(), b.exp()),
    "log_MultivariateNormal": lambda a, b: dist.TransformedDistribution(
        dist.MultivariateNormal(a, scale_tril=root(b)), [transforms.ExpTransform()]
    ),
    "GaussianHMM": lambda a, b: chain(a, b),
}

COUNTED: dict[str, Made] = {
    "Bernoulli": lambda a, b: dist.Bernoulli(logits=a),
    "Bernoulli_probs": lambda a, b: dist.Bernoulli(a.sigmoid()),
    "BetaBinomial": lambda a, b: dist.BetaBinomial(a.exp(), b.exp(), torch.tensor(9)),
    "Binomial": lambda a, b: dist.Binomial(9, logits=a),
    "Binomial_probs": lambda a, b: dist.Binomial(torch.tensor(9), a.sigmoid()),
    "Categorical": lambda a, b: dist.Categorical(logits=a),
    "Categorical_probs": lambda a, b: dist.Categorical(weights(a)),
    "Delta": lambda a, b: dist.Delta(torch.ones_like(a), log_density=a),
    "DirichletMultinomial": lambda a, b: dist.DirichletMultinomial(a.exp(), 7),
    "DiscreteHMM": lambda a, b: dist.DiscreteHMM(
        a,
        (a[..., :, None] + b[..., None, :])[..., None, :, :],
        dist.Normal(a[..., None, :], b.exp()[..., None, :]),
        duration=5,
    ),
    "GammaPoisson": lambda a, b: dist.GammaPoisson(a.exp(), b.exp()),
    "Geometric": lambda a, b: dist.Geometric(logits=a),
    "Geometric_probs": lambda a, b: dist.Geometric(a.sigmoid()),
    "Independent": lambda a, b: dist.Poisson(a.exp()).to_event(1),
    "LogNormalNegativeBinomial": lambda a, b: dist.LogNormalNegativeBinomial(
        a.exp(), logits=b, multiplicative_noise_scale=b.exp()
    ),
    "MaskedDistribution": lambda a, b: dist.Normal(a, b.exp()).mask(
        torch.tensor([True, False, True])
    ),
    "Multinomial": lambda a, b: dist.Multinomial(7, logits=a),
    "Multinomial_probs": lambda a, b: dist.Multinomial(7, weights(a)),
    "NegativeBinomial": lambda a, b: dist.NegativeBinomial(a.exp(), logits=b),
    "NegativeBinomial_probs": lambda a, b: dist.NegativeBinomial(a.exp(), b.sigmoid()),
    "OneHotCategorical": lambda a, b: dist.OneHotCategorical(logits=a),
    "OrderedLogistic": lambda a, b: dist.OrderedLogistic(
        a, torch.tensor([-1.0, 0.2, 1.0]) + b.mean()
    ),
    "Poisson": lambda a, b: dist.Poisson(a.exp()),
    "ZeroInflatedPoisson": lambda a, b: dist.ZeroInflatedPoisson(a.exp(), gate=b.sigmoid()),
    "ZeroInflatedPoisson_logits": lambda a, b: dist.ZeroInflatedPoisson(a.exp(), gate_logits=b),
    "ZeroInflatedNegativeBinomial": lambda a, b: dist.ZeroInflatedNegativeBinomial(
        a.exp(), logits=b, gate=b.sigmoid()
    ),
    "ExtendedBinomial": lambda a, b: dist.ExtendedBinomial(torch.tensor(9), logits=a),
    "ExtendedBetaBinomial": lambda a, b: dist.ExtendedBetaBinomial(
        a.exp(), b.exp(), torch.tensor(9)
    ),
}


CONSTRAINTS = {
    "positive": constraints.positive,
    "nonnegative": constraints.nonnegative,
    "greater_than": constraints.greater_than(1.5),
    "less_than": constraints.less_than(1.5),
    "interval": constraints.interval(-1.0, 3.0),
    "half_open_interval": constraints.half_open_interval(-1.0, 3.0),
    "unit_interval": constraints.unit_interval,
    "simplex": constraints.simplex,
    "ordered_vector": constraints.ordered_vector,
    "positive_ordered_vector": constraints.positive_ordered_vector,
    "lower_cholesky": constraints.lower_cholesky,
    "softplus_lower_cholesky": constraints.softplus_lower_cholesky,
    "unit_lower_cholesky": constraints.unit_lower_cholesky,
    "softplus_positive": constraints.softplus_positive,
    "corr_cholesky": constraints.corr_cholesky,
    "corr_matrix": constraints.corr_matrix,
    "positive_definite": constraints.positive_definite,
    "positive_semidefinite": constraints.positive_semidefinite,
    "real_vector": constraints.real_vector,
    "cat": constraints.cat([constraints.positive, constraints.real], -1, [2, 1]),
    "stack": constraints.stack(
        [constraints.positive, constraints.unit_interval, constraints.real], -1
    ),
}

MATRICES = {k for k in CONSTRAINTS if ("cholesky" in k or "definite" in k) and k[:4] != "corr"}

TRANSFORMS = {
    "affine": lambda a, b: transforms.AffineTransform(a, b.exp()),
    "exp": lambda a, b: transforms.ExpTransform(),
    "sigmoid": lambda a, b: transforms.SigmoidTransform(),
    "tanh": lambda a, b: transforms.TanhTransform(),
    "softplus": lambda a, b: transforms.SoftplusTransform(),
    "power": lambda a, b: transforms.ComposeTransform(
        [transforms.ExpTransform(), transforms.PowerTransform(b.exp())]
    ),
    "leaky_relu": lambda a, b: transforms.LeakyReLUTransform(),
    "elu": lambda a, b: transforms.ELUTransform(),
    "stick": lambda a, b: transforms.StickBreakingTransform(),
    "lower_affine": lambda a, b: transforms.LowerCholeskyAffine(a, root(b)),
    "permute": lambda a, b: transforms.Permute(torch.tensor([2, 0, 1])),
    "cdf": lambda a, b: transforms.CumulativeDistributionTransform(dist.Normal(a, b.exp())),
    "haar": lambda a, b: transforms.HaarTransform(),
}


def value(distribution: dist.Distribution) -> Tensor:
    """A draw; of what cannot be drawn, numbers between 0 and 1."""
    try:
        return distribution.sample()
    except NotImplementedError:
        return torch.rand(distribution.shape())


def constrained(name: str) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A constraint's values, and the logarithm of the volume, of unconstrained numbers.

    Of matrices that are no latents of a model's, the volume is not known.
    """
    if name in MATRICES:
        return lambda x: (transform_to(CONSTRAINTS[name])(x), 0 * x)
    transform = biject_to(CONSTRAINTS[name])

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        y = transform(x)
        return y, transform.log_abs_det_jacobian(x, y)

    return function
