import pyro
import pyro.distributions as dist
import torch


def model(y, group):
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    loc = pyro.sample("loc", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).to_event(1))
    with pyro.plate("groups", 3):
        kind = pyro.sample("kind", dist.Bernoulli(p))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(loc[kind.long()[..., group]], 1.0), obs=y)
