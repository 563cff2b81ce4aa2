import pyro
import pyro.distributions as dist


def model(y):
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    top = pyro.sample("top", dist.Bernoulli(p), infer={"enumerate": "sequential"})
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Bernoulli(0.2 + 0.6 * top), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(2.0 * z, 1.0), obs=y)
