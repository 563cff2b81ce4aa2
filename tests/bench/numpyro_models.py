"""The benchmark's models for NumPyro, term by term those of the zoo."""

from itertools import pairwise

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

SIZES = (2, 16, 16, 2)


def coin(x):
    pi = numpyro.sample("pi", dist.Beta(1.0, 1.0))
    with numpyro.plate("flip", len(x)):
        numpyro.sample("x", dist.Bernoulli(pi), obs=x)


def linear(x, y):
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(x @ w + b, sigma), obs=y)


def logistic(x, y):
    w = numpyro.sample("w", dist.Normal(0.0, 2.5).expand([x.shape[1]]).to_event(1))
    b = numpyro.sample("b", dist.Normal(0.0, 10.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=x @ w + b), obs=y)


def schools(y, sigma):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", len(y)):
        eta = numpyro.sample("eta", dist.Normal(0.0, 1.0))
        theta = numpyro.deterministic("theta", mu + tau * eta)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def radon(floor, group, y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("county", 85):
        alpha = numpyro.sample("alpha", dist.Normal(mu, tau))
    with numpyro.plate("home", len(y)):
        numpyro.sample("y", dist.Normal(alpha[group] + beta * floor, sigma), obs=y)


def network(x, y):
    hidden = x
    for i, (rows, columns) in enumerate(pairwise(SIZES)):
        w = numpyro.sample(f"w{i}", dist.Normal(0.0, 1.0).expand([rows, columns]).to_event(2))
        b = numpyro.sample(f"b{i}", dist.Normal(0.0, 1.0).expand([columns]).to_event(1))
        hidden = hidden @ w + b
        hidden = jnp.tanh(hidden) if i < len(SIZES) - 2 else hidden
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Categorical(logits=hidden), obs=y)
