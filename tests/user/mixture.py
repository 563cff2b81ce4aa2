"""Two normal components of unit scale with an enumerated label per row."""

import pyro
import pyro.distributions as dist
import torch


def model(y):
    weight = pyro.sample("weight", dist.Beta(2.0, 2.0))
    low = pyro.sample("low", dist.Normal(0.0, 5.0))
    gap = pyro.sample("gap", dist.HalfNormal(5.0))
    locs = torch.stack([low, low + gap], -1)
    with pyro.plate("row", len(y)):
        label = pyro.sample("label", dist.Bernoulli(weight), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(locs[label.long()], 1.0), obs=y)
