"""Samplers that vmap can batch draw from the same distributions as torch's own."""

import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from inference.program.record import record
from inference.program.sampling import _SAMPLERS, QuickBernoulli, Sampling, _sample

CASES = {
    "normal": (dist.Normal(1.0, 2.0), stats.norm(1, 2)),
    "beta": (dist.Beta(0.5, 2.0), stats.beta(0.5, 2)),
    "exponential": (dist.Exponential(3.0), stats.expon(scale=1 / 3)),
    "cauchy": (dist.Cauchy(1.0, 2.0), stats.cauchy(1, 2)),
    "student": (dist.StudentT(3.0, 1.0, 2.0), stats.t(3, 1, 2)),
    "half normal": (dist.HalfNormal(2.0), stats.halfnorm(scale=2)),
    "half cauchy": (dist.HalfCauchy(2.0), stats.halfcauchy(scale=2)),
    "log normal": (dist.LogNormal(0.3, 0.5), stats.lognorm(0.5, scale=2.718281828**0.3)),
    "transformed": (
        dist.TransformedDistribution(
            dist.Normal(0.0, 1.0),
            [dist.transforms.AffineTransform(0.3, 0.5), dist.transforms.ExpTransform()],
        ),
        stats.lognorm(0.5, scale=2.718281828**0.3),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_scalar_samplers_pass_kolmogorov_and_smirnov(case):
    ours, theirs = CASES[case]
    torch.manual_seed(0)
    draws = torch.func.vmap(lambda _: _sample(ours), randomness="different")(torch.arange(5000))
    assert stats.kstest(draws.numpy(), theirs.cdf).pvalue > 1e-4


def test_binomials_of_several_counts_are_drawn_without_a_warning():
    counts = torch.tensor([3.0, 10.0, 40.0])
    binomial = dist.Binomial(counts, logits=torch.tensor(-0.5))
    torch.manual_seed(0)
    shifts = torch.zeros(20_000)

    def one(shift):
        return _sample(dist.Binomial(counts, logits=shift - 0.5))

    draws = torch.func.vmap(one, randomness="different")(shifts)
    error = 5 * (binomial.variance / len(shifts)).sqrt()
    assert (draws.mean(0) - binomial.mean).abs().lt(error).all()
    assert torch.allclose(draws.var(0), binomial.variance, rtol=0.05)
    assert torch.corrcoef(draws.T)[0, 2].abs() < 5 / len(shifts) ** 0.5


def test_vector_samplers_have_the_right_moments():
    covariance = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    loc = torch.tensor([1.0, 2.0], dtype=torch.float64)
    torch.manual_seed(0)
    index = torch.arange(40_000)
    normal = dist.MultivariateNormal(loc, covariance)
    draws = torch.func.vmap(lambda _: _sample(normal), randomness="different")(index)
    assert torch.allclose(torch.cov(draws.T), covariance, atol=0.08)
    simplex = dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0]))
    shares = torch.func.vmap(lambda _: _sample(simplex), randomness="different")(index)
    assert torch.allclose(shares.sum(-1), torch.ones(40_000, dtype=shares.dtype))
    assert shares.mean(0).tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6], abs=0.01)


def test_every_distribution_of_the_table_is_covered_and_shapes_are_kept():
    covered = {type(ours) for ours, _ in CASES.values()} | {
        dist.MultivariateNormal,
        dist.Dirichlet,
        dist.Binomial,
    }
    assert covered == set(_SAMPLERS)
    assert _sample(dist.Normal(torch.zeros(3), 1.0).expand([4, 3]).to_event(1)).shape == (4, 3)


def test_gradients_flow_through_the_beta():
    concentration = torch.tensor(2.0, requires_grad=True, dtype=torch.float64)
    torch.manual_seed(0)
    mean = torch.stack([_sample(dist.Beta(concentration, 3.0)) for _ in range(4000)]).mean()
    mean.backward()
    assert concentration.grad.item() == pytest.approx(3 / 25, abs=0.02)  # d/da of a / (a + b)


def test_values_given_by_others_are_left_alone():
    message = {"fn": dist.Normal(0.0, 1.0), "value": torch.tensor(5.0), "done": False}
    Sampling()._pyro_sample(message)
    assert message["value"].item() == 5


# -- bits --------------------------------------------------------------------------------------


def example(dtype, n=2000):
    torch.manual_seed(0)
    logits = (torch.randn(n, dtype=dtype) * 20).requires_grad_()
    return logits, (torch.rand(n) > 0.5).to(dtype)


def log_prob(logits, bits):
    return torch.func.vmap(lambda odds, b: dist.Bernoulli(logits=odds).log_prob(b))(logits, bits)


def value_and_slope(logits, bits, weights):
    value = (weights * log_prob(logits, bits)).sum()
    return value, torch.autograd.grad(value, logits)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_slopes_are_those_of_torch(dtype):
    logits, bits = example(dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    weights = torch.linspace(-1, 1, len(bits), dtype=dtype)
    own = value_and_slope(logits, bits, weights)
    with QuickBernoulli():
        ours = value_and_slope(logits, bits, weights)
    assert torch.allclose(ours[0], own[0], rtol=tolerance)
    assert torch.allclose(ours[1], own[1], atol=tolerance)


def test_log_odds_of_any_size():
    logits = torch.tensor([-1000.0, -90.0, 0.0, 90.0, 1000.0]).repeat(500)
    for bit in (0.0, 1.0):
        bits = torch.full_like(logits, bit)
        with QuickBernoulli():
            ours = log_prob(logits, bits)
        assert torch.allclose(ours, dist.Bernoulli(logits=logits).log_prob(bits), atol=1e-5)


def operations(logits, bits):
    def density(bits):
        with QuickBernoulli():
            batched = torch.func.vmap(lambda b: dist.Bernoulli(logits=logits).log_prob(b).sum())
            return (batched(bits),)

    nodes = record(density, [bits], live=[logits]).graph.nodes
    return [node for node in nodes if node.op == "call_function"]


def test_batched_by_vmap_they_stay_few():
    logits = torch.randn(10)
    assert len(operations(logits, (torch.rand(4, 10) > 0.5).float())) < 8


def test_what_is_not_asked_for_is_left_alone():
    logits, bits = example(torch.float64)
    mean = F.binary_cross_entropy_with_logits(logits, bits)
    weighted = F.binary_cross_entropy_with_logits(logits, bits, weight=bits, reduction="none")
    with QuickBernoulli():
        assert mean == F.binary_cross_entropy_with_logits(logits, bits)
        again = F.binary_cross_entropy_with_logits(logits, bits, weight=bits, reduction="none")
    assert torch.equal(again, weighted)
