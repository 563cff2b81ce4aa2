import pyro
import pyro.distributions as dist


def model(y, county, uranium):
    g = pyro.sample("g", dist.Normal(0.0, 5.0))
    m = pyro.sample("m", dist.Normal(0.0, 5.0))
    with pyro.plate("house", len(y)):
        pyro.sample("y", dist.Normal(m + g * uranium[county], 1.0), obs=y)
