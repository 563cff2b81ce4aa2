"""A tanh network 2-16-16-2 with 354 weights, standard normal priors: a user's model file."""

from itertools import pairwise

import pyro
import pyro.distributions as dist
import torch

SIZES = (2, 16, 16, 2)


def model(x, y):
    hidden = x
    for i, (rows, columns) in enumerate(pairwise(SIZES)):
        w = pyro.sample(f"w{i}", dist.Normal(0.0, 1.0).expand([rows, columns]).to_event(2))
        b = pyro.sample(f"b{i}", dist.Normal(0.0, 1.0).expand([columns]).to_event(1))
        hidden = hidden @ w + b
        if i < len(SIZES) - 2:
            hidden = torch.tanh(hidden)
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Categorical(logits=hidden), obs=y)  # (n,)
