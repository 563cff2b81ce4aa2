"""A level for each of 85 counties and an effect of the floor, centred: a user's model file."""

import pyro
import pyro.distributions as dist


def model(floor, group, y):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("county", 85):
        alpha = pyro.sample("alpha", dist.Normal(mu, tau))
    with pyro.plate("home", len(y)):
        pyro.sample("y", dist.Normal(alpha[group] + beta * floor, sigma), obs=y)
