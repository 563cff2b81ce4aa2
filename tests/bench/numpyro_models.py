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


def network(x, y):
    hidden = x
    for i, (rows, columns) in enumerate(pairwise(SIZES)):
        w = numpyro.sample(f"w{i}", dist.Normal(0.0, 1.0).expand([rows, columns]).to_event(2))
        b = numpyro.sample(f"b{i}", dist.Normal(0.0, 1.0).expand([columns]).to_event(1))
        hidden = hidden @ w + b
        hidden = jnp.tanh(hidden) if i < len(SIZES) - 2 else hidden
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Categorical(logits=hidden), obs=y)
