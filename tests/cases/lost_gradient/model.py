import pyro
import pyro.distributions as dist
import torch


def model(y):
    a = pyro.sample("a", dist.Normal(0.0, 10.0))
    b = pyro.sample("b", dist.Normal(0.0, 10.0))
    loc = torch.tensor([a, b])
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(loc, 1.0).to_event(1), obs=y)
