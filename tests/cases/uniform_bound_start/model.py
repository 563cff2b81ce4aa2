import pyro
import pyro.distributions as dist


def model(y):
    top = pyro.sample("top", dist.Pareto(1.0, 2.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Uniform(0.0, top), obs=y)
