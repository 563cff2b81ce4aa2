import pyro
import pyro.distributions as dist


def model(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Laplace(mu, 1.0), obs=y)
