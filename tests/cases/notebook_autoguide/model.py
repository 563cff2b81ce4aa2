import pyro
import pyro.distributions as dist
from pyro.infer.autoguide import AutoNormal


def model(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


guide = AutoNormal(model)
