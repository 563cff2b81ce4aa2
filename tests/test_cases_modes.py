"""Modes of models that people report: each right, or refused for a reason that is true."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import HERE, run_case
from conftest import QUIET, problem_from, problem_of
from pyro import poutine
from scipy import optimize, stats
from scipy.special import logsumexp

from inference.methods import point
from inference.methods.laplace import laplace
from inference.program.program import Program
from models.contract import Refused

RNG = np.random.default_rng(3)


def fit(method, model, **tensors):
    problem = problem_from(model, {k: torch.as_tensor(v) for k, v in tensors.items()})
    return method(Program(problem), seed=0, context=QUIET)


def clean(method, model, **tensors):
    """The point of a fit of which there is nothing to say."""
    found = fit(method, model, **tensors)
    assert found.findings == []
    return found.point


def absolute(x, y, below=1.0, above=1.0):
    """Coefficients by scipy's linear program, for slopes below and above zero residual."""
    n, d = x.shape
    cost = np.r_[np.zeros(2 * d), np.full(n, above), np.full(n, below)]
    both = np.hstack([x, -x, np.eye(n), -np.eye(n)])
    found = optimize.linprog(cost, A_eq=both, b_eq=y).x
    return found[:d] - found[d : 2 * d]


# -- the models of the folders -----------------------------------------------------------------

METHODS = {"map": point.map_, "mle": point.mle, "laplace": laplace}
MODES = {
    "map": ([158.634, 178.048], 3.6009),
    "laplace": ([158.607, 178.072], 3.638),
    "mle": ([158.579, 178.100], 3.6051),
}


_SLOWLY = [pytest.param(m, marks=pytest.mark.slow if m == "laplace" else ()) for m in MODES]


@pytest.mark.parametrize("method", _SLOWLY)
def test_ordered_heights(method):
    run = run_case("ordered_heights", method)
    assert run.verdict.status == "pass"
    problem = problem_of(str(HERE / "ordered_heights/model.py"), HERE / "ordered_heights/d.json")
    found = METHODS[method](Program(problem), seed=0, context=QUIET).point
    loc, s = MODES[method]
    np.testing.assert_allclose(found["loc"], loc, atol=6e-4)
    assert found["s"].item() == pytest.approx(s, abs=6e-4)
    if method == "map":
        assert run.metrics["log_joint"] == pytest.approx(-179.9272, abs=5e-5)


@pytest.mark.parametrize("method", ["map", "mle"])
def test_laplace_noise(method):
    run = run_case("laplace_noise", method)
    assert run.idata.posterior["mu"].item() == pytest.approx(1.6, rel=1e-15)
    assert run.verdict.status == "pass"


def test_laplace_noise_has_no_second_derivative():
    with pytest.raises(Refused, match="Laplace likelihood of y has no second derivative"):
        run_case("laplace_noise", "laplace")


# -- Laplace likelihoods -------------------------------------------------------------------------

X = np.column_stack([np.ones(40), 50 + 10 * RNG.normal(size=40)])
Y = X @ [2.0, 0.3] + RNG.standard_t(2, size=40)


def test_quantile_regression_is_a_linear_program():
    def model(x, y):
        b = pyro.sample("b", dist.Normal(0.0, 100.0).expand([2]).to_event(1))
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.AsymmetricLaplace(x @ b, 1.0, (1 / 9) ** 0.5), obs=y)

    expected = absolute(X, Y, below=3.0, above=1 / 3)  # asymmetry^2 is the odds of the quantile
    np.testing.assert_allclose(clean(point.mle, model, x=X, y=Y)["b"], expected, rtol=1e-8)


def test_a_latent_scale_is_the_mean_absolute_deviation_from_the_median():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 100.0))
        b = pyro.sample("b", dist.HalfNormal(10.0))
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.Laplace(mu, b), obs=y)

    y = 160 + 3 * RNG.laplace(size=21)
    found = clean(point.mle, model, y=y)
    assert found["mu"].item() == pytest.approx(np.median(y), rel=1e-12)
    assert found["b"].item() == pytest.approx(np.abs(y - np.median(y)).mean(), rel=1e-9)
    with pytest.raises(Refused, match="unbounded as b"):
        fit(point.mle, model, y=y[:1])
    rounded = np.round(y)
    found = clean(point.mle, model, y=rounded)
    assert found["mu"].item() == np.median(rounded)


@pytest.mark.slow
def test_wild_scales_of_a_regression():
    x = np.column_stack([np.ones(60), 1e5 * RNG.normal(size=60), 1e-4 * RNG.normal(size=60)])
    y = x @ [3e3, 0.02, 1e7] + 500 * RNG.laplace(size=60)

    def model(x, y):
        b = pyro.sample("b", dist.Normal(0.0, 1e9).expand([3]).to_event(1))
        s = pyro.sample("s", dist.HalfNormal(1e4))
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.Laplace(x @ b, s), obs=y)

    found = clean(point.mle, model, x=x, y=y)
    np.testing.assert_allclose(found["b"], absolute(x, y), rtol=1e-6)


def test_rows_that_are_met_exactly():
    x = np.column_stack([np.ones(7), np.arange(7.0)])
    y = x @ [1.0, 2.0] + [1.0, 0.0, 0.0, 5.0, 0.0, -3.0, 0.0]

    def model(x, y):
        b = pyro.sample("b", dist.Normal(0.0, 100.0).expand([2]).to_event(1))
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.Laplace(x @ b, 1.0), obs=y)

    np.testing.assert_allclose(clean(point.map_, model, x=x, y=y)["b"], [1, 2], rtol=1e-9)


def test_masked_rows_and_plates_of_vectors():
    def masked(y, seen):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("n", len(y)), poutine.mask(mask=seen > 0):
            pyro.sample("y", dist.Laplace(mu, 1.0), obs=y)

    y, seen = [1.0, 2.0, 3.0, 90.0, 91.0], [1.0, 1.0, 1.0, 0.0, 0.0]
    found = clean(point.map_, masked, y=y, seen=seen)
    assert found["mu"].item() == 2.0

    def vectors(y):
        with pyro.plate("g", 3):
            mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.Laplace(mu, 1.0).to_event(1), obs=y)

    y = RNG.normal(size=(5, 3))
    found = clean(point.mle, vectors, y=y)
    np.testing.assert_allclose(found["mu"], np.median(y, 0), rtol=1e-14)


def test_a_mixture_of_two_by_brute_force():
    y = np.r_[RNG.laplace(size=15) - 4, RNG.laplace(size=16) + 4]

    def model(y):
        mu = pyro.sample("mu", dist.Normal(torch.tensor([-5.0, 5.0]), 5.0).to_event(1))
        with pyro.plate("n", len(y)):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.5, 0.5])))
            pyro.sample("y", dist.Laplace(mu[k], 1.0), obs=y)

    def log_joint(mu):
        parts = stats.laplace.logpdf(y[:, None], mu) + np.log(0.5)
        return logsumexp(parts, axis=1).sum() + stats.norm.logpdf(mu, [-5, 5], 5).sum()

    best = max(([a, b] for a in y for b in y), key=log_joint)
    np.testing.assert_allclose(clean(point.map_, model, y=y)["mu"], best, rtol=1e-10)


# -- Laplace priors ------------------------------------------------------------------------------

NARROW = RNG.normal(size=(30, 5))
NOISY = NARROW @ [2.0, 0.0, 0.0, -1.0, 0.0] + RNG.normal(size=30)


def lasso(x, y, *, prior):
    tau = pyro.sample("tau", prior) if prior else 0.1
    b = pyro.sample("b", dist.Laplace(0.0, tau).expand([5]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(x @ b, sigma), obs=y)


def test_lasso_with_unknown_noise():
    def loss(v):
        """Minus the log joint at b = p - q and log sigma; p, q >= 0 make the penalty smooth."""
        b, sigma = v[:5] - v[5:10], np.exp(v[10])
        likelihood = stats.norm.logpdf(NOISY, NARROW @ b, sigma).sum()
        return v[:10].sum() / 0.1 - likelihood - stats.halfnorm.logpdf(sigma, scale=2)

    bounds = [(0, None)] * 10 + [(None, None)]
    options = {"ftol": 1e-15, "gtol": 1e-10, "maxfun": 100_000}
    best = optimize.minimize(loss, np.full(11, 0.1), bounds=bounds, options=options).x
    found = clean(point.map_, lambda x, y: lasso(x, y, prior=None), x=NARROW, y=NOISY)
    np.testing.assert_allclose(found["b"], best[:5] - best[5:10], atol=2e-5)
    assert found["sigma"].item() == pytest.approx(np.exp(best[10]), abs=2e-5)
    assert ((found["b"] == 0).numpy() == (np.abs(best[:5] - best[5:10]) < 1e-6)).all()


def test_a_hierarchical_lasso_has_no_mode_and_says_so():
    def model(x, y):
        return lasso(x, y, prior=dist.HalfCauchy(1.0))

    with pytest.raises(Refused, match="unbounded as tau"):
        fit(point.map_, model, x=NARROW, y=NOISY)
    with pytest.raises(Refused, match="Laplace prior of b"):
        fit(laplace, model, x=NARROW, y=NOISY)

    def vanishing(x, y):
        return lasso(x, y, prior=dist.InverseGamma(3.0, 1.0))

    found = clean(point.map_, vanishing, x=NARROW, y=NOISY)
    sum_of_sizes = found["b"].abs().sum().item()
    # At the mode of tau given b: (a + 1 + 5) / tau = (1 + sum |b|) / tau^2 with a = 3.
    assert found["tau"].item() == pytest.approx((1 + sum_of_sizes) / 9, rel=1e-8)


# -- kinks that no site declares -----------------------------------------------------------------


def bend(t, y, *, sigma):
    a = pyro.sample("a", dist.Normal(0.0, 10.0))
    b = pyro.sample("b", dist.Normal(0.0, 10.0))
    tau = pyro.sample("tau", dist.Uniform(0.0, 20.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(a + b * torch.relu(t - tau), sigma), obs=y)


def best_bend(t, y):
    """a, b and tau of least squares, by a fine grid of tau and its refinement."""

    def at(tau):
        x = np.column_stack([np.ones(len(t)), np.maximum(t - tau, 0)])
        coefficients, *_ = np.linalg.lstsq(x, y, rcond=None)
        return ((y - x @ coefficients) ** 2).sum(), *coefficients, tau

    grid = np.linspace(0.01, 19, 2000)
    best = grid[np.argmin([at(tau)[0] for tau in grid])]
    found = optimize.minimize_scalar(
        lambda tau: at(tau)[0], bounds=(best - 0.01, best + 0.01), options={"xatol": 1e-12}
    )
    return at(found.x)[1:]


@pytest.mark.parametrize("truth", [8.3, 12.0])
def test_a_change_of_slope(truth):
    t = np.arange(21.0)
    y = 1 + 0.5 * np.maximum(t - truth, 0) + 0.05 * np.random.default_rng(0).normal(size=21)
    found = clean(point.mle, lambda t, y: bend(t, y, sigma=0.05), t=t, y=y)
    got = [found[name].item() for name in ("a", "b", "tau")]
    np.testing.assert_allclose(got, best_bend(t, y), rtol=1e-5)


def test_a_change_of_slope_at_a_row():
    t = np.arange(21.0)
    y = 1 + 0.5 * np.maximum(t - 10, 0)
    y[10] -= 0.3

    def model(t, y):
        bend(t, y, sigma=0.3)

    assert clean(point.mle, model, t=t, y=y)["tau"].item() == pytest.approx(10, abs=1e-12)
    with pytest.raises(Refused, match="the mode lies on a kink"):
        fit(laplace, model, t=t, y=y)


def test_laplace_refuses_kinks_within_its_reach_and_no_others():
    def near(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        pyro.factor("f", -0.5 * ((y - mu) ** 2).sum() - 2 * torch.relu(mu - 2.0))

    with pytest.raises(Refused, match=r"kinks within reach .*test_cases_modes.py, line"):
        fit(laplace, near, y=[1.0, 2.0])
    assert fit(laplace, near, y=[-9.0, -10.0]).point["mu"] < -9


def test_penalties_written_by_hand():
    y = np.array([0.3, 1.1, 1.6, 2.9, 7.0])

    def pinball(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0).mask(False))
        r = y - mu
        pyro.factor("f", -torch.where(r > 0, 0.7 * r, -0.3 * r).sum())

    assert clean(point.map_, pinball, y=y)["mu"].item() == pytest.approx(2.9, rel=1e-15)

    def hinge(x, y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        pyro.factor("f", -torch.clamp(1 - y * (x @ w), min=0).sum())

    x = RNG.normal(size=(20, 2))
    y = np.sign(x[:, 0] + 0.5 * RNG.normal(size=20))
    found = clean(point.map_, hinge, x=x, y=y)["w"].numpy()

    def dual(a):
        """The support vector machine's dual: w = sum a y x with 0 <= a <= 1."""
        w = (a * y) @ x
        return 0.5 * w @ w - a.sum(), y * (x @ w) - 1

    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 20_000}
    start = np.full(20, 0.5)
    a = optimize.minimize(dual, start, jac=True, bounds=[(0, 1)] * 20, options=options).x
    np.testing.assert_allclose(found, (a * y) @ x, atol=1e-4)


# -- supports of several dimensions --------------------------------------------------------------


def test_three_ordered_heights():
    y = np.concatenate([RNG.normal(m, 2.0, size=30) for m in (158, 168, 178)])

    def model(y):
        base = dist.Normal(torch.tensor([160.0, 2, 2]), torch.tensor([20.0, 1, 1])).to_event(1)
        ordered = dist.TransformedDistribution(base, [dist.transforms.OrderedTransform()])
        loc = pyro.sample("loc", ordered)
        with pyro.plate("n", len(y)):
            k = pyro.sample("k", dist.Categorical(torch.ones(3) / 3))
            pyro.sample("y", dist.Normal(loc[k], 2.0), obs=y)

    def loss(v):
        loc = np.r_[v[0], v[0] + np.exp(v[1]), v[0] + np.exp(v[1]) + np.exp(v[2])]
        parts = stats.norm.logpdf(y[:, None], loc, 2) - np.log(3)
        prior = stats.norm.logpdf(v, [160, 2, 2], [20, 1, 1]).sum() - v[1] - v[2]
        return -logsumexp(parts, axis=1).sum() - prior

    options = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 20_000}
    v = optimize.minimize(loss, [158, 2.3, 2.3], method="Nelder-Mead", options=options).x
    expected = np.cumsum(np.r_[v[0], np.exp(v[1:])])
    found = fit(point.map_, model, y=y)
    np.testing.assert_allclose(found.point["loc"], expected, rtol=1e-7)
    assert found.metrics["log_joint"] == pytest.approx(-loss(v), abs=1e-8)


def test_a_correlation_matrix():
    z = RNG.normal(size=(50, 3)) @ np.array([[1, 0, 0], [0.5, 0.8, 0], [0.2, -0.4, 0.9]]).T

    def model(y):
        root = pyro.sample("root", dist.LKJCholesky(3, 2.0))
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.MultivariateNormal(torch.zeros(3), scale_tril=root), obs=y)

    def loss(v):
        """Minus the log joint at partial correlations tanh(v), rows of the root of norm one."""
        r = np.tanh(v)
        root = np.array([[1, 0, 0], [r[0], (1 - r[0] ** 2) ** 0.5, 0], [r[1], 0, 0]])
        root[2, 1] = r[2] * (1 - r[1] ** 2) ** 0.5
        root[2, 2] = (1 - r[1] ** 2 - root[2, 1] ** 2) ** 0.5
        # Density of the root: diagonal to the powers d - i + 2 (eta - 1) - ..., Stan manual 24.1.
        prior = (3 - 2 + 2) * np.log(root[1, 1]) + (3 - 3 + 2) * np.log(root[2, 2])
        return -stats.multivariate_normal.logpdf(z, cov=root @ root.T).sum() - prior

    options = {"xatol": 1e-10, "fatol": 1e-12, "maxiter": 20_000}
    v = optimize.minimize(loss, np.zeros(3), method="Nelder-Mead", options=options).x
    root = clean(point.map_, model, y=z)["root"]
    np.testing.assert_allclose([root[1, 0], root[2, 0]], np.tanh(v[:2]), atol=1e-7)
    fraction = (root[2, 1] / (1 - root[2, 0] ** 2).sqrt()).item()
    assert fraction == pytest.approx(np.tanh(v[2]), abs=1e-7)


def test_a_simplex_inside_and_at_its_border():
    def model(y):
        p = pyro.sample("p", dist.Dirichlet(torch.tensor([2.0, 3.0, 1.5])))
        pyro.sample("y", dist.Multinomial(10, p), obs=y)

    y = np.array([3.0, 7.0, 0.0])
    expected = (np.array([1, 2, 0.5]) + y) / 13.5
    np.testing.assert_allclose(clean(point.map_, model, y=y)["p"], expected, rtol=1e-8)
    border = fit(point.mle, model, y=y)
    np.testing.assert_allclose(border.point["p"], y / 10, atol=1e-8)
    assert border.findings[0].level == "warn" and "at the border" in border.findings[0].what
