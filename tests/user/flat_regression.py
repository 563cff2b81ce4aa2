"""Linear regression with flat priors on the coefficients and two observed sites."""

import pyro
import pyro.distributions as dist
from pyro.distributions import constraints


def model(x, y, count, offset):
    b = pyro.sample("b", dist.ImproperUniform(constraints.real, (), (2,)))
    log_rate = pyro.sample("log_rate", dist.ImproperUniform(constraints.real, (), ()))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(b[0] + b[1] * x + offset, 0.5), obs=y)
        pyro.sample("count", dist.Poisson(log_rate.exp()), obs=count)
