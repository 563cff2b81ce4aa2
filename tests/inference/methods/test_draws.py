"""Draws of guides: their density, those that are all alike, guides that do not fit the model."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import QUIET, problem_from
from scipy import stats
from test_svi import DATA, mixture, regression
from zuko import flows

from inference.core.problem import Guide
from inference.methods.draws import (
    Flowing,
    LowRankNormal,
    all_draws,
    draw,
    draw_one,
    draws_labels,
    one_chain,
)
from inference.methods.svi import svi
from inference.program.handlers import Batch
from inference.program.program import Program
from models.contract import Refused


def rows(y):
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def guide(y):
    with pyro.plate("row", len(y)):
        pyro.sample("z", dist.Normal(y, 0.5))


Y = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
ROWS = {"y": Y}


def test_the_density_of_a_draw_is_scipys_and_that_of_a_batch_weighs_more():
    program = Program(problem_from(rows, ROWS))
    values, log_q = draw(program, guide, 50)
    assert values["z"].shape == (50, 3)
    expected = stats.norm.logpdf(values["z"], Y, 0.5).sum(1)
    torch.testing.assert_close(log_q, torch.as_tensor(expected))
    batch = Batch.of(program.problem, {"y": Y[:1]})
    values, log_q = draw_one(program, guide, batch)
    assert abs(float(log_q) - 3 * stats.norm.logpdf(values["z"].item(), 1.0, 0.5)) < 1e-9


def test_a_guide_that_gives_the_same_each_time_has_one_draw():
    def point(y):
        with pyro.plate("row", len(y)):
            pyro.sample("z", dist.Delta(2 * y))

    def jittered(y):
        with pyro.plate("row", len(y)):
            pyro.sample("z", dist.Delta(y + torch.randn(len(y))))

    program = Program(problem_from(rows, ROWS))
    assert torch.equal(all_draws(program, Guide(point), 0)["z"], 2 * Y[None])
    assert all_draws(program, Guide(jittered), 0) is None
    assert all_draws(program, Guide(guide), 0) is None


def test_a_mixture_over_labels_of_the_guides_own_is_seen():
    def mixed(y):
        label = pyro.sample("which", dist.Bernoulli(0.5), infer={"is_auxiliary": True})
        with pyro.plate("row", len(y)):
            pyro.sample("z", dist.Normal(label, 1.0))

    program = Program(problem_from(rows, ROWS))
    assert draws_labels(program, Guide(mixed), 0)
    assert not draws_labels(program, Guide(guide), 0)


def test_discrete_latents_of_a_chain_are_those_of_the_seed():
    program = Program(problem_from(mixture, {"y": DATA["y"]}))
    values = {"loc": torch.tensor([[-1.0, 1.0]]).expand(40, 2)}
    first, again, other = (one_chain(program, values, seed) for seed in (0, 0, 1))
    assert first["label"].shape == (1, 40, len(DATA["y"]))
    assert torch.equal(first["label"], again["label"])
    assert not torch.equal(first["label"], other["label"])


# -- guides that do not fit their models -------------------------------------------------------


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (lambda x, y: pyro.param("a", torch.zeros(1)) and None, "no site 'w'"),
        (
            lambda x, y: pyro.sample("w", dist.Normal(pyro.param("a", torch.zeros(3)), 1.0)),
            r"has shape \(3,\), the model's \(2,\)",
        ),
        (
            lambda x, y: pyro.sample("w", dist.Normal(torch.zeros(2), 1.0)),
            "no parameters to learn",
        ),
    ],
)
def test_a_guide_that_does_not_fit_the_model_is_told(guide, message):
    with pytest.raises(Refused, match=message):
        svi(Program(problem_from(regression, DATA)), seed=0, context=QUIET, guide=guide)


def test_a_guide_with_plates_is_welcome_and_one_with_a_summed_latent_is_not():
    def model(y):
        with pyro.plate("row", len(y)):
            m = pyro.sample("m", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    def guide(y):
        loc = pyro.param("loc", torch.zeros(len(y)))
        with pyro.plate("row", len(y)):
            pyro.sample("m", dist.Normal(loc, 0.7))

    y = torch.tensor([1.0, -2.0])
    fit = svi(Program(problem_from(model, {"y": y})), seed=0, context=QUIET, guide=guide, draws=50)
    assert fit.params["loc"].tolist() == pytest.approx([0.5, -1.0], abs=0.05)

    def labelled(y):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(m + z, 1.0), obs=y)

    def both(y):
        pyro.sample("z", dist.Bernoulli(pyro.param("p", torch.tensor(0.5))))
        pyro.sample("m", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    problem = problem_from(labelled, {"y": torch.tensor(1.0)})
    with pytest.raises(Refused, match="'z' is discrete and summed out"):
        svi(Program(problem), seed=0, context=QUIET, guide=both)


# -- densities, against independent computations -----------------------------------------------


SIZE = 4


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def tril() -> torch.Tensor:
    return torch.randn(SIZE, SIZE).tril(-1) + torch.diag(torch.rand(SIZE) + 0.5)


def low_rank(rank: int) -> tuple[LowRankNormal, np.ndarray, np.ndarray]:
    """The density, its mean and its covariance."""
    loc, scale, factor = torch.randn(SIZE), torch.rand(SIZE) + 0.1, torch.randn(SIZE, rank)
    root = np.column_stack([np.eye(SIZE), factor]) * scale.numpy()[:, None]
    return LowRankNormal(loc, scale, factor), loc.numpy(), root @ root.T


@pytest.mark.parametrize("rank", [1, 2, SIZE, 7])
def test_the_low_rank_density_is_that_of_its_covariance(rank):
    density, mean, covariance = low_rank(rank)
    u = torch.randn(10, SIZE)
    expected = stats.multivariate_normal(mean, covariance).logpdf(u.numpy())
    np.testing.assert_allclose(density.log_prob(u), expected, rtol=1e-10)


def test_low_rank_draws_have_its_moments():
    density, mean, covariance = low_rank(2)
    draws = density.rsample((200_000,)).numpy()
    np.testing.assert_allclose(draws.mean(0), mean, atol=5 * (covariance.max() / 2e5) ** 0.5)
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.03 * covariance.max())


@pytest.mark.parametrize("kind", [flows.MAF, flows.NSF])
def test_a_flows_density_is_base_minus_log_jacobian(kind):
    flow = kind(SIZE, transforms=2, hidden_features=(8, 8)).transform.double()
    root, loc = tril(), torch.randn(SIZE)

    def pushed(z: torch.Tensor) -> torch.Tensor:
        return loc + root @ flow()(z)

    density = Flowing(loc, root, flow())
    u = density.rsample()
    z = flow().inv(torch.linalg.solve(root, u - loc)).detach()
    torch.testing.assert_close(pushed(z), u)
    columns = [pushed(z + s) - pushed(z - s) for s in 1e-6 * torch.eye(SIZE)]
    jacobian = torch.stack(columns, 1) / 2e-6
    base = stats.norm.logpdf(z).sum()
    expected = base - np.linalg.slogdet(jacobian.detach().numpy())[1]
    assert density.log_prob(u).item() == pytest.approx(expected, abs=1e-6)
    # Elsewhere than at its own draw, by the inverse: the same density.
    assert density.log_prob(u.clone()).item() == pytest.approx(expected, abs=1e-6)
