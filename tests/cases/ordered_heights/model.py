import pyro
import pyro.distributions as dist
import torch


def model(height):
    base = dist.Normal(torch.tensor([160.0, 2.0]), torch.tensor([20.0, 1.0])).to_event(1)
    loc = pyro.sample(
        "loc", dist.TransformedDistribution(base, [dist.transforms.OrderedTransform()])
    )
    s = pyro.sample("s", dist.HalfNormal(10.0))
    with pyro.plate("row", len(height)):
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.5, 0.5])))
        pyro.sample("height", dist.Normal(loc[k], s), obs=height)
