import pyro
import pyro.distributions as dist
import torch

DESIGN = torch.tensor([[1.0, 0.2], [1.0, 1.1], [1.0, 1.9], [1.0, 3.2], [1.0, 4.1]])


def model(y):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(DESIGN @ w, 1.0), obs=y)
