import pyro
import pyro.distributions as dist


def model(total):
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with pyro.plate("item", 4):
        z = pyro.sample("z", dist.Bernoulli(p))
    pyro.sample("total", dist.Normal(z.sum(-1), 0.5), obs=total)
