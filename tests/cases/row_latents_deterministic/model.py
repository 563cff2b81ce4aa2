import pyro
import pyro.distributions as dist
import torch
from torch.distributions import constraints


def model(y):
    s = pyro.param("s", torch.tensor(1.0), constraint=constraints.positive)
    pyro.deterministic("variance", s**2)
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, s))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def guide(y):
    a = pyro.param("a", torch.tensor(0.5))
    t = pyro.param("t", torch.tensor(0.5), constraint=constraints.positive)
    with pyro.plate("row", len(y)):
        pyro.sample("z", dist.Normal(a * y, t))
