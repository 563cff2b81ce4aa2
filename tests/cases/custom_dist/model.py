import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch.distributions import constraints


class CensoredExponential(TorchDistribution):
    arg_constraints = {"rate": constraints.positive}  # noqa: RUF012

    def __init__(self, rate, event):
        self.rate, self.event = torch.broadcast_tensors(rate, event)
        super().__init__(self.rate.shape, ())

    def log_prob(self, value):
        return self.event * self.rate.log() - self.rate * value


def model(time, event):
    rate = pyro.sample("rate", dist.Gamma(1.0, 1.0))
    with pyro.plate("patient", len(time)):
        pyro.sample("time", CensoredExponential(rate, event.to(rate.dtype)), obs=time)
