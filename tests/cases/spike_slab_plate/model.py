import pyro
import pyro.distributions as dist


def model(x, y):
    n, d = x.shape
    with pyro.plate("feature", d):
        pi = pyro.sample("pi", dist.Beta(2.0, 2.0))
        on = pyro.sample("on", dist.Bernoulli(pi))
        w = pyro.sample("w", dist.Normal(0.0, 3.0))
    mean = (x @ (w * on)[..., None]).squeeze(-1)
    with pyro.plate("row", n):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
