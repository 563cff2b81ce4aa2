import pyro
import pyro.distributions as dist


def model(y):
    top = pyro.sample("top", dist.Gamma(3.0, 0.2))
    mu = pyro.sample("mu", dist.Uniform(0.0, top))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
