"""The benchmark's models for PyMC, term by term those of the zoo."""

from itertools import pairwise

import pymc as pm

SIZES = (2, 16, 16, 2)


def coin(x):
    pi = pm.Beta("pi", 1.0, 1.0)
    pm.Bernoulli("x", pi, observed=x)


def linear(x, y):
    w = pm.Normal("w", 0.0, 1.0, shape=x.shape[1])
    b = pm.Normal("b", 0.0, 1.0)
    sigma = pm.HalfNormal("sigma", 1.0)
    pm.Normal("y", x @ w + b, sigma, observed=y)


def logistic(x, y):
    w = pm.Normal("w", 0.0, 2.5, shape=x.shape[1])
    b = pm.Normal("b", 0.0, 10.0)
    pm.Bernoulli("y", logit_p=x @ w + b, observed=y)


def schools(y, sigma):
    mu = pm.Normal("mu", 0.0, 5.0)
    tau = pm.HalfCauchy("tau", 5.0)
    eta = pm.Normal("eta", 0.0, 1.0, shape=len(y))
    theta = pm.Deterministic("theta", mu + tau * eta)
    pm.Normal("y", theta, sigma, observed=y)


def radon(floor, group, y):
    mu = pm.Normal("mu", 0.0, 2.0)
    tau = pm.HalfNormal("tau", 1.0)
    beta = pm.Normal("beta", 0.0, 1.0)
    sigma = pm.HalfNormal("sigma", 1.0)
    alpha = pm.Normal("alpha", mu, tau, shape=85)
    pm.Normal("y", alpha[group] + beta * floor, sigma, observed=y)


def network(x, y):
    hidden = x
    for i, (rows, columns) in enumerate(pairwise(SIZES)):
        w = pm.Normal(f"w{i}", 0.0, 1.0, shape=(rows, columns))
        b = pm.Normal(f"b{i}", 0.0, 1.0, shape=columns)
        hidden = pm.math.dot(hidden, w) + b
        hidden = pm.math.tanh(hidden) if i < len(SIZES) - 2 else hidden
    pm.Categorical("y", logit_p=hidden, observed=y)
