import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule, PyroSample
from torch import nn


class Line(PyroModule):
    def __init__(self):
        super().__init__()
        self.linear = PyroModule[nn.Linear](2, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 3.0).expand([1, 2]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 3.0).expand([1]).to_event(1))

    def forward(self, x, y=None):
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("row", len(x)):
            pyro.sample("obs", dist.Normal(mean, 1.0), obs=y)
        return mean


model = Line()
