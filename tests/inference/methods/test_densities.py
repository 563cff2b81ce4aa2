"""The densities that guides are made of, against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from zuko import flows

from inference.methods.densities import Flowing, LowRankNormal

D = 4


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def tril() -> torch.Tensor:
    return torch.randn(D, D).tril(-1) + torch.diag(torch.rand(D) + 0.5)


def low_rank(rank: int) -> tuple[LowRankNormal, np.ndarray, np.ndarray]:
    """The density, its mean and its covariance."""
    loc, scale, factor = torch.randn(D), torch.rand(D) + 0.1, torch.randn(D, rank)
    root = np.column_stack([np.eye(D), factor]) * scale.numpy()[:, None]
    return LowRankNormal(loc, scale, factor), loc.numpy(), root @ root.T


@pytest.mark.parametrize("rank", [1, 2, D, 7])
def test_the_low_rank_density_is_that_of_its_covariance(rank):
    density, mean, covariance = low_rank(rank)
    u = torch.randn(10, D)
    expected = stats.multivariate_normal(mean, covariance).logpdf(u.numpy())
    np.testing.assert_allclose(density.log_prob(u), expected, rtol=1e-10)


def test_low_rank_draws_have_its_moments():
    density, mean, covariance = low_rank(2)
    draws = density.rsample((200_000,)).numpy()
    np.testing.assert_allclose(draws.mean(0), mean, atol=5 * (covariance.max() / 2e5) ** 0.5)
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.03 * covariance.max())


@pytest.mark.parametrize("kind", [flows.MAF, flows.NSF])
def test_a_flows_density_is_base_minus_log_jacobian(kind):
    flow = kind(D, transforms=2, hidden_features=(8, 8)).transform.double()
    root, loc = tril(), torch.randn(D)

    def pushed(z: torch.Tensor) -> torch.Tensor:
        return loc + root @ flow()(z)

    density = Flowing(loc, root, flow())
    u = density.rsample()
    z = flow().inv(torch.linalg.solve(root, u - loc)).detach()
    torch.testing.assert_close(pushed(z), u)
    columns = [pushed(z + s) - pushed(z - s) for s in 1e-6 * torch.eye(D)]
    jacobian = torch.stack(columns, 1) / 2e-6
    base = stats.norm.logpdf(z).sum()
    expected = base - np.linalg.slogdet(jacobian.detach().numpy())[1]
    assert density.log_prob(u).item() == pytest.approx(expected, abs=1e-6)
    # Elsewhere than at its own draw, by the inverse: the same density.
    assert density.log_prob(u.clone()).item() == pytest.approx(expected, abs=1e-6)
